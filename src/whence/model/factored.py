"""Models in which linear layers are products of two smaller ones: made of a model, saved, and loaded again.

A directory of such a model (a *proxy*) holds what ``save_pretrained`` writes and a ``proxy.json`` that says which
modules are products, of which rank. ``load_proxy`` gives a transformers model of the target's own class, in which each
of them is a module with two ordinary linear layers, ``down`` [I to r] and ``up`` [r to O], so that hooks, optimizers
and whence see two layers. GPT-2's ``Conv1D``, which stores weights [in, out], becomes the same two.

transformers knows nothing of ``proxy.json``: its own ``from_pretrained`` would draw the missing weights at random.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from whence.errors import InputError, ModelError, StorageError
from whence.interfaces import PROXY_FILE, ProxyCard, Site
from whence.model.blocks import blocks_of
from whence.model.layers import EMBEDDING, layer_of
from whence.runs import read_json

__all__ = ["FactoredLinear", "decomposable", "factored", "factored_copy", "is_proxy", "load_proxy", "read_proxy_card"]

Pair = tuple[Tensor, Tensor, Tensor | None]
"""up [O, r], down [r, I], and the bias [O] if there is one."""


class FactoredLinear(nn.Module):
    """``up(down(x))``: a linear layer whose weight is a product.

    Args:
        inputs: I.
        rank: r.
        outputs: O.
        bias: Whether it adds one.
    """

    def __init__(self, inputs: int, rank: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=bias)

    @property
    def weight(self) -> Tensor:
        """The product [O, I], for code that asks a linear layer for its weight; changing it changes nothing."""
        return self.up.weight @ self.down.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        out: Tensor = self.up(self.down(inputs))
        return out


def decomposable(model: nn.Module, sites: Sequence[Site]) -> tuple[list[Site], dict[str, str]]:
    """The linear layers inside a model's blocks, and what else there is in them, with why it stays as it is.

    Args:
        model: A transformers model.
        sites: Those that it was fitted at.
    """
    inside = {name for block in blocks_of(model) or [model] for name in _names_in(model, block)}
    found, kept = [], {}
    for site in sites:
        if site.uses[0].module not in inside or site.head or site.vocabulary is not None or site.elementwise:
            continue
        if reason := _kept(model, site):
            kept[site.name] = reason
        else:
            found.append(site)
    return found, kept


def _names_in(model: nn.Module, block: nn.Module) -> list[str]:
    ids = {id(module) for module in block.modules()}
    return [name for name, module in model.named_modules() if id(module) in ids]


def _kept(model: nn.Module, site: Site) -> str:
    if site.experts:
        return "a stack of experts"
    if len(site.uses) > 1:
        return "shared by several layers"
    if site.uses[0].way != "layer" or layer_of(model.get_submodule(site.uses[0].module)) in (None, EMBEDDING):
        return "no linear layer"
    return ""


def factored_copy(model: nn.Module, pairs: Mapping[str, Pair]) -> nn.Module:
    """A model with linear layers replaced by products; everything else is copied, the replaced weights are not.

    Args:
        model: Stays as it is.
        pairs: Module -> its factors.
    """
    memo: dict[int, Any] = {}
    for name, (up, down, bias) in pairs.items():
        old = model.get_submodule(name)
        weight = old.get_parameter("weight")
        with torch.device("meta"):  # nothing is drawn
            new = FactoredLinear(down.shape[1], len(down), len(up), bias is not None)
        new = new.to_empty(device=weight.device).to(weight.dtype)
        with torch.no_grad():
            new.up.weight.copy_(up)
            new.down.weight.copy_(down)
            if bias is not None:
                new.up.bias.copy_(bias)
        memo[id(old)] = new.train(old.training)
    return copy.deepcopy(model, memo)


def factored(model: nn.Module) -> dict[str, FactoredLinear]:
    """The products in a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FactoredLinear)}


# ------------------------------------------------------------------ directories


def is_proxy(reference: str | Path) -> bool:
    """Whether a directory holds a proxy."""
    return (Path(reference) / PROXY_FILE).is_file()


def read_proxy_card(reference: str | Path) -> ProxyCard:
    """What ``proxy.json`` says.

    Raises:
        ModelError: It is damaged, or none of ours.
    """
    path = Path(reference) / PROXY_FILE
    try:
        return ProxyCard.model_validate(read_json(path))
    except (StorageError, ValidationError) as error:
        said = str(error).splitlines()[0] if isinstance(error, StorageError) else _complaint(error)
        raise ModelError(
            f"{path} cannot be used: {said}. It says which layers of the model are products, so the model cannot be "
            "loaded without it; make the proxy again with whence proxy."
        ) from error


def _complaint(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:4])


def load_proxy(directory: str | Path, **settings: Any) -> Any:
    """A proxy as a transformers model, in evaluation mode.

    Args:
        directory: What ``whence proxy`` wrote.
        **settings: As transformers' ``from_pretrained`` takes them: ``dtype``, ``attn_implementation``, ``device_map``.

    Raises:
        ModelError: ``proxy.json`` is damaged, belongs to another architecture, or does not fit the weights.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    card = read_proxy_card(directory)
    if "distributed_config" in settings:
        raise InputError(f"{directory} is a proxy, which is small enough for one process; run it without torchrun.")
    config = AutoConfig.from_pretrained(directory)
    base = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if base is None or base.__name__ != card.architecture:
        raise ModelError(
            f"{Path(directory) / PROXY_FILE} belongs to a {card.architecture}, and config.json beside it describes "
            f"{'no causal language model' if base is None else f'a {base.__name__}'}; they are not of one proxy."
        )

    def build(self: Any, config: Any, *args: Any, **others: Any) -> None:
        base.__init__(self, config, *args, **others)
        _factor(self, card.ranks, directory)

    kind: Any = type(base.__name__, (base,), {"__init__": build, "__module__": base.__module__})
    with torch.random.fork_rng(devices=[]):  # some classes draw weights that they then load
        model, told = kind.from_pretrained(  # mismatches are told below, in words
            directory, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
    wrong = [
        *sorted(told["missing_keys"]),
        *sorted(map(str, told["mismatched_keys"])),
        *sorted(told["unexpected_keys"]),
    ]
    if wrong:
        raise ModelError(
            f"the weights in {directory} are not those that its {PROXY_FILE} describes: {', '.join(wrong[:4])} "
            f"{'are' if len(wrong) > 1 else 'is'} missing, of another shape, or in excess. Make the proxy again."
        )
    return model.eval()


def _factor(model: nn.Module, ranks: Mapping[str, int], directory: str | Path) -> None:
    """Replace modules by products of these ranks, their weights still to be loaded."""
    for name, rank in ranks.items():
        path, _, last = name.rpartition(".")
        try:
            old, parent = model.get_submodule(name), model.get_submodule(path)
        except AttributeError:
            old = parent = model
        layer = layer_of(old)
        if layer is None or layer is EMBEDDING:
            raise ModelError(
                f"{Path(directory) / PROXY_FILE} names {name!r}, which is no linear layer of a {type(model).__name__}."
            )
        outputs, inputs = layer.shape(old)
        setattr(parent, last, FactoredLinear(inputs, rank, outputs, getattr(old, "bias", None) is not None))

"""What an optimizer remembers of each parameter at a checkpoint, as blocks of sites.

whence's own files name the parameters. The Trainer's ``optimizer.pt`` numbers them through its parameter groups: first
the parameters that decay, then the others, each in the order of ``named_parameters``. Which those are is the version's
choice: all but biases and norms, found by names and by modules in transformers 5, by modules alone before. Every such
rule is tried; the one whose group sizes and shapes are those of the file counts. If none does, or two do and would name
the parameters differently, the file is refused: moments of the wrong matrix of the right shape look like any others.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from whence.attributor.checkpoints import Checkpoint, open_pickle
from whence.errors import InputError
from whence.model import OPTIMIZER_FILE, block_of

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["Moments", "optimizer_moments"]

_NAMED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")


@dataclass(frozen=True, slots=True)
class Moments:
    """Adam's running means at a checkpoint, without bias correction, on the CPU.

    Attributes:
        mean: Site -> running mean of the gradient, a block [O, I] (of a stack [E, O, I]).
        square: Site -> running mean of its square.
    """

    mean: Mapping[str, Tensor]
    square: Mapping[str, Tensor]


def optimizer_moments(checkpoint: Checkpoint, owner: "Attributor") -> Moments:
    """Adam's moments of every site at a checkpoint.

    Args:
        checkpoint: With the optimizer's state.
        owner: A run of a model of the same architecture.

    Raises:
        InputError: The optimizer's state was not kept, is not Adam's for some site, or does not fit the model.
    """
    model = owner.loaded.model
    stored = _by_name(checkpoint, model, owner.loaded.trained)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for kind, values in stored.items():
        for name, value in values.items():
            if shapes.get(name) != value.shape:
                raise InputError(
                    f"{checkpoint.optimizer} has {kind} of {name} as {tuple(value.shape)}; in the model it is "
                    f"{tuple(shapes.get(name, ())) or 'absent'}. It belongs to another model."
                )
    _refuse_absent(checkpoint, owner, stored)
    made: dict[str, dict[str, Tensor]] = {}
    for kind in ("exp_avg", "exp_avg_sq"):
        made[kind] = {site.name: block_of(site, model, stored[kind]) for site in owner.sites}
    return Moments(made["exp_avg"], made["exp_avg_sq"])


def _by_name(checkpoint: Checkpoint, model: nn.Module, trained: frozenset[str] | None) -> dict[str, dict[str, Tensor]]:
    """Moments by kind and parameter name."""
    file = checkpoint.optimizer
    if file is None:
        raise InputError(
            f"the checkpoint {checkpoint.path} has no state of its optimizer ({OPTIMIZER_FILE} or optimizer.pt), and "
            "this method follows Adam; keep it when training (save_only_model=False), or choose another method."
        )
    return _own(file) if file.name == OPTIMIZER_FILE else _trainers(file, model, trained)


def _own(file: Path) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}}
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                kind, _, name = key.partition(":")
                if kind in found:
                    found[kind][name] = opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged ({error}); copy the checkpoint again.") from error
    return found


def _refuse_absent(checkpoint: Checkpoint, owner: "Attributor", stored: Mapping[str, Mapping[str, Tensor]]) -> None:
    lacking = [
        site.name for site in owner.sites if not all(n in kept for kept in stored.values() for n in site.parameters)
    ]
    if lacking:
        raise InputError(
            f"{checkpoint.optimizer} has no moments of Adam for {len(lacking)} of {len(owner.sites)} sites "
            f"({', '.join(lacking[:4])}{', …' if len(lacking) > 4 else ''}): another optimizer trained them (SGD, Muon "
            "on hidden matrices). Leave them out with --sites, or choose a method that does not follow Adam."
        )


# ------------------------------------------------------------------ the Trainer's order


def _trainers(file: Path, model: nn.Module, trained: frozenset[str] | None) -> dict[str, dict[str, Tensor]]:
    content = open_pickle(file)
    state, groups = content["state"], [list(group["params"]) for group in content["param_groups"]]
    kinds = sorted({key for each in state.values() for key in each})
    if not {"exp_avg", "exp_avg_sq"} <= set(kinds):
        raise InputError(
            f"{file} holds {', '.join(kinds) or 'nothing'} of each parameter, not Adam's exp_avg and exp_avg_sq; "
            "choose a method that does not follow Adam."
        )
    parameters = {name: parameter for name, parameter in model.named_parameters() if trained is None or name in trained}
    names = _fitting(file, parameters, model, groups, state)
    out: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}}
    for number, name in names.items():
        for kind, values in out.items():  # a parameter that never had a gradient (an unused expert) has no state
            kept = state.get(number, {}).get(kind)
            values[name] = torch.zeros_like(parameters[name], device="cpu") if kept is None else kept
    return out


def _fitting(
    file: Path,
    parameters: Mapping[str, nn.Parameter],
    model: nn.Module,
    groups: list[list[int]],
    state: Mapping[int, Mapping[str, Any]],
) -> dict[int, str]:
    """The name of every numbered parameter, by the one rule that fits."""
    fits: list[dict[int, str]] = []
    for decaying in _rules(model):
        split = [[n for n in parameters if n in decaying], [n for n in parameters if n not in decaying]]
        for named in (split, [list(parameters)]):
            kept = [names for names in named if names] if len(named) != len(groups) else named
            if [len(names) for names in kept] != [len(numbers) for numbers in groups]:
                continue
            pairs = [
                pair for names, numbers in zip(kept, groups, strict=True) for pair in zip(numbers, names, strict=True)
            ]
            shaped = all(
                "exp_avg" not in state.get(number, {}) or state[number]["exp_avg"].shape == parameters[name].shape
                for number, name in pairs
            )
            if shaped and dict(pairs) not in fits:
                fits.append(dict(pairs))
    if len(fits) != 1:
        raise InputError(
            f"{file} has {sum(map(len, groups))} parameters in groups of {', '.join(str(len(g)) for g in groups)}; "
            + (
                f"no order in which transformers' Trainer lays out this model's {len(parameters)} fits their shapes. "
                "It belongs to another model, or was written by another trainer"
                if not fits
                else "two orders fit, and they name them differently"
            )
            + f": write {OPTIMIZER_FILE} with exp_avg:<parameter> and exp_avg_sq:<parameter> instead."
        )
    return fits[0]


def _rules(model: nn.Module) -> Iterator[set[str]]:
    """Names of the parameters that decay, by each version's rule."""
    every = [name for name, _ in model.named_parameters()]
    layer_norms = _within(model, lambda module: isinstance(module, nn.LayerNorm))
    norms = _within(model, lambda module: type(module).__name__.endswith(("LayerNorm", "RMSNorm")))
    patterns = [re.compile(pattern) for pattern in _NAMED]
    yield {n for n in every if n not in layer_norms and not any(p.search(n.lower()) for p in patterns)}
    yield {n for n in every if n not in norms | layer_norms and "bias" not in n}
    yield {n for n in every if n not in layer_norms and "bias" not in n}


def _within(model: nn.Module, chosen: Callable[[nn.Module], bool]) -> set[str]:
    """Names of the parameters that modules of some kind own."""
    return {
        f"{name}.{short}" if name else short
        for name, module in model.named_modules()
        if chosen(module)
        for short, _ in module.named_parameters(recurse=False)
    }

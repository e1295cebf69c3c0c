"""Stacks of experts: weights of all experts in one tensor, read through transformers' own extension point.

transformers keeps the experts of a mixture as 3-D parameters and lets libraries register an implementation of their
forward pass (``ExpertsInterface``). Ours sorts the tokens by expert, multiplies in groups, and shows whoever watches
the rows that went into each projection, the rows that came out, and which token and expert each belongs to. It is
switched on for a captured run only. The routing weight is applied after the last projection, so that the gradient of a
projection's output holds it exactly. Load-balancing losses are not part of what is attributed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whence.factors import group_ends, grouped_product
from whence.interfaces import Site, Use

__all__ = ["Rows", "block_of", "find", "is_experts", "parameters_of", "routed_by_us", "watched"]

_NAME = "whence"
_PROJECTIONS = ("gate_up_proj", "up_proj", "down_proj")
_DECORATED = ("num_experts", "has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "_is_expert_parallel")


@dataclass(frozen=True, slots=True)
class Rows:
    """What a projection was given and put out: one row for every token and expert it went to, sorted by expert.

    Attributes:
        inputs: [S, I].
        outputs: [S, O].
        expert: int64 [S], ascending.
        token: int64 [S], the token's number among all that the module was given.
        tokens: How many tokens that is.
    """

    inputs: Tensor
    outputs: Tensor
    expert: Tensor
    token: Tensor
    tokens: int


Watch = Callable[[Rows], Tensor]
_watches: dict[tuple[int, str], Watch] = {}


def is_experts(module: nn.Module) -> bool:
    """Whether a module's class dispatches its forward pass through the interface, and so can be read."""
    return all(hasattr(module, name) for name in _DECORATED) and hasattr(module, "config")


def find(name: str, module: nn.Module) -> Iterator[Site]:
    """One site for each projection of a module of experts.

    Args:
        name: The module's name in the model.
        module: The module.
    """
    for projection in _PROJECTIONS:
        weight = getattr(module, projection, None)
        if not isinstance(weight, nn.Parameter) or weight.ndim != 3:
            continue
        count, outputs, inputs = _oriented(module, weight).shape
        bias = isinstance(getattr(module, f"{projection}_bias", None), nn.Parameter)
        whole = f"{name}.{projection}" if name else projection
        parameters = (whole, f"{whole}_bias") if bias else (whole,)
        use = Use(name, bias=bias, way="experts")
        yield Site(whole, outputs, inputs + bias, bias, (use,), None, parameters, group=whole, experts=count)


def _oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """A stack as [E, O, I], from how the class stores it; its own inverse."""
    return weight.mT if module.is_transposed else weight


def block_of(module: nn.Module, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weight and bias of a stack as one block [E, O, I]."""
    block = _oriented(module, weight)
    return block if bias is None else torch.cat([block, bias[..., None]], -1)


def parameters_of(site: Site, module: nn.Module, block: Tensor) -> dict[str, Tensor]:
    """A block [E, O, I] as the model stores it, by parameter name; the inverse of `block_of`."""
    weight = block[..., :-1] if site.bias else block
    out = {site.parameters[0]: _oriented(module, weight)}
    if site.bias:
        out[site.parameters[1]] = block[..., -1]
    return out


# ------------------------------------------------------------------ the forward pass


def _forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Experts of a class that transformers' interface dispatches: [tokens, H] to [tokens, H]."""
    tokens, chosen = top_k_index.shape
    expert, order = torch.sort(top_k_index.reshape(-1), stable=True)
    if self._is_expert_parallel:  # numbers beyond the experts are those of other processes
        here = int((expert < self.num_experts).sum())
        expert, order = expert[:here], order[:here]
    token = order // chosen
    ends = group_ends(expert, self.num_experts)
    rows = hidden_states[token]
    rows = _project(self, "gate_up_proj" if self.has_gate else "up_proj", rows, expert, token, ends, tokens)
    rows = self._apply_gate(rows) if self.has_gate else self.act_fn(rows)
    rows = _project(self, "down_proj", rows, expert, token, ends, tokens)
    if self.has_post_expert_norm:
        rows = self.post_expert_norm(rows)
    weighted = rows * top_k_weights.reshape(-1)[order][:, None]
    spread = weighted.new_zeros(tokens * chosen, weighted.shape[-1]).index_copy(0, order, weighted)
    return spread.view(tokens, chosen, spread.shape[-1]).sum(1).to(hidden_states.dtype)


def _project(
    self: Any, projection: str, rows: Tensor, expert: Tensor, token: Tensor, ends: Tensor, tokens: int
) -> Tensor:
    weight = getattr(self, projection)
    out = grouped_product(rows, weight if self.is_transposed else weight.mT, ends).to(rows.dtype)
    if self.has_bias:
        out = out + getattr(self, f"{projection}_bias")[expert]
    watch = _watches.get((id(self), projection))
    return out if watch is None else watch(Rows(rows, out, expert, token, tokens))


# ------------------------------------------------------------------ switching and watching


@contextmanager
def routed_by_us(model: nn.Module, sites: Sequence[Site]) -> Iterator[None]:
    """Experts of these sites run our forward pass in here; afterwards what was configured before."""
    modules: list[Any] = [model.get_submodule(site.uses[0].module) for site in sites if site.experts]
    configs = {id(module.config): module.config for module in modules}.values()
    if not modules:
        yield
        return
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(_NAME, _forward)
    before = [(config, config._experts_implementation_internal) for config in configs]
    try:
        for config in configs:
            config._experts_implementation_internal = _NAME  # the public setter also reaches into other parts' configs
        yield
    finally:
        for config, value in before:
            config._experts_implementation_internal = value


@contextmanager
def watched(model: nn.Module, watches: Sequence[tuple[Site, Watch]]) -> Iterator[None]:
    """Show the rows of stacks, as they run, to whoever watches; what it returns goes on in place of the outputs."""
    keys = [(id(model.get_submodule(site.uses[0].module)), site.name.rpartition(".")[2]) for site, _ in watches]
    try:
        _watches.update(zip(keys, (watch for _, watch in watches), strict=True))
        yield
    finally:
        for key in keys:
            _watches.pop(key, None)

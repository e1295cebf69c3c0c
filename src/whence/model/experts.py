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

__all__ = ["Rows", "block_of", "eager", "find", "is_experts", "parameters_of", "routed_by_us", "watched"]

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
    """Whether a module's class dispatches its forward pass through the interface, and it has all of its experts."""
    decorated = all(hasattr(module, name) for name in _DECORATED) and hasattr(module, "config")
    return decorated and not module._is_expert_parallel


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


class _Spread(torch.autograd.Function):
    """A row for every token and expert it goes to, sorted by expert: x[token]; gradients add up in a fixed order."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, token: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return hidden[token]

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return grads[place.reshape(-1)].view(*place.shape, grads.shape[-1]).sum(1), None, None


class _Gather(torch.autograd.Function):
    """Rows back at their tokens, weighted: sum_k w_tk x[place_tk]; no row is copied twice."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, order, place)
        chosen = rows[place.reshape(-1)].view(*place.shape, rows.shape[-1])
        return torch.bmm(weights[:, None], chosen).squeeze(1)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        rows, weights, order, place = ctx.saved_tensors
        spread = grads[order // place.shape[1]]
        by_weight = (rows * spread).sum(-1)[place] if ctx.needs_input_grad[1] else None
        return spread.mul_(weights.reshape(-1)[order][:, None]), by_weight, None, None


def _forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Experts of a class that transformers' interface dispatches: [tokens, H] to [tokens, H]."""
    tokens, chosen = top_k_index.shape
    expert, order = torch.sort(top_k_index.reshape(-1), stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    place = place.view(tokens, chosen)
    token = order // chosen
    ends = group_ends(expert, self.num_experts)
    rows = _Spread.apply(hidden_states, token, place)  # type: ignore[no-untyped-call]
    rows = _project(self, "gate_up_proj" if self.has_gate else "up_proj", rows, expert, token, ends, tokens)
    rows = self._apply_gate(rows) if self.has_gate else self.act_fn(rows)
    rows = _project(self, "down_proj", rows, expert, token, ends, tokens)
    if self.has_post_expert_norm:
        rows = self.post_expert_norm(rows)
    wide = torch.promote_types(rows.dtype, top_k_weights.dtype)
    out: Tensor = _Gather.apply(rows.to(wide), top_k_weights.to(wide), order, place)  # type: ignore[no-untyped-call]
    return out.to(hidden_states.dtype)


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
    if not modules:
        yield
        return
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(_NAME, _forward)
    with _dispatching(modules, _NAME):
        yield


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Experts run their class's own loop in here, which any transform of torch.func can differentiate."""
    with _dispatching([module for module in model.modules() if is_experts(module)], "eager"):
        yield


@contextmanager
def _dispatching(modules: Sequence[Any], name: str) -> Iterator[None]:
    configs = {id(module.config): module.config for module in modules}.values()
    before = [(config, config._experts_implementation_internal) for config in configs]
    try:
        for config in configs:
            config._experts_implementation_internal = name  # the public setter also reaches into other parts' configs
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

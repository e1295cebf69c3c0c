"""Per-example gradients of parameters that act without a layer of their own, by running a little of a module again.

While a loss runs, a `Replay` keeps what the module was given, what its linear layers put out, and the gradient that
arrives at the input of its last one. Afterwards it runs the module once more per example with the linear layers
answered from the record, so that only the middle is computed, and takes the vector-Jacobian product.

Knows nothing of what kinds of modules there are. That the last linear layer's output is all that a module gives is not
checked here: `mixers` compares the gradients with autograd's on a small batch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from whence.errors import ModelError
from whence.factors import Factors
from whence.interfaces import Site
from whence.model.checkpointing import rehearsing

__all__ = ["Replay", "linear_children"]

_CLOSE = {torch.float64: 1e-5, torch.float32: 1e-3}
_HALF = 0.1
"""Largest relative difference between an example's norm alone and in its batch, by dtype."""


@dataclass(slots=True)
class _Call:
    """One call of a mixer: what it was given and what its linear layers did.

    Attributes:
        args: Positional arguments, detached.
        kwargs: Arguments by name, detached.
        outputs: Outputs of the linear children by name, in the order of their calls.
        last: Name of the linear child that was called last.
        cut: What that one was given, until the gradient by it has arrived.
        gradient: That gradient, [N, ...].
        norms: Norm of each example's part of `cut`, [N].
        over: Whether the mixer has returned.
    """

    args: Any
    kwargs: Any
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    last: str = ""
    cut: Tensor | None = None
    gradient: Tensor | None = None
    norms: Tensor | None = None
    over: bool = False


def _detached(value: Any) -> Any:
    return tree_map(lambda each: each.detach() if isinstance(each, Tensor) else each, value)


def _row(value: Any, row: int, rows: int) -> Any:
    """An argument's part for one example: of tensors that have one, the row."""

    def pick(each: Any) -> Any:
        return each[row : row + 1] if isinstance(each, Tensor) and each.ndim and len(each) == rows else each

    return tree_map(pick, value)


def linear_children(module: nn.Module) -> dict[str, nn.Module]:
    """Direct children that are linear layers, by name."""
    return {name: child for name, child in module.named_children() if isinstance(child, nn.Linear)}


class Replay:
    """One module whose parameters are read by running it again.

    Args:
        model: The model.
        name: Name of the module.
        sites: Parameter name within the module -> its site.
        rows: Batch rows N; each holds one example.
    """

    def __init__(self, model: nn.Module, name: str, sites: Mapping[str, Site], rows: int) -> None:
        self.name, self.module, self.sites, self.rows = name, model.get_submodule(name), sites, rows
        self.calls: list[_Call] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the model in here, forward and backward."""
        handles = [
            self.module.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.module.register_forward_hook(self._leave),
        ]
        for name, child in linear_children(self.module).items():
            handles.append(child.register_forward_hook(self._linear(name), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not rehearsing():
            self.calls.append(_Call(_detached(args), _detached(kwargs)))

    def _linear(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            call = self.calls[-1] if self.calls else None
            if call is None or call.over or rehearsing():  # called from outside of the mixer
                return output
            out = output if output.requires_grad else output.detach().requires_grad_(True).clone()
            call.outputs.setdefault(name, []).append(out.detach())
            call.last, call.cut = name, args[0] if args else next(iter(kwargs.values()))
            return out

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if rehearsing():
            return
        call = self.calls[-1]
        call.over = True
        if call.cut is None or not call.cut.requires_grad:
            return
        call.outputs[call.last].pop()
        call.norms = _norms(call.cut)

        def arrived(gradient: Tensor) -> None:
            call.gradient = gradient

        call.cut.register_hook(arrived)
        call.cut = None

    def factors(self) -> Iterator[tuple[Site, Factors]]:
        """Factors of every site, if the module had a say: one constant input and one gradient [1, P] per example."""
        calls = [call for call in self.calls if call.gradient is not None]
        found = [self._of_call(call) for call in calls]
        for name, site in self.sites.items():
            if found:
                values = torch.stack([each[name] for each in found]).sum(0)
                wide = values if values.dtype == torch.float64 else values.float()
                yield site, Factors(wide.new_ones(self.rows, 1, 1), wide[:, None])
        self.calls.clear()

    def _of_call(self, call: _Call) -> dict[str, Tensor]:
        """Per-example gradients [N, P] of the parameters, by name within the module."""
        assert call.gradient is not None
        assert call.norms is not None
        parts = zip(call.gradient.split(1), call.norms, strict=True)
        each = [self._of_example(call, row, *part) for row, part in enumerate(parts)]
        return {name: torch.stack([values[name] for values in each]) for name in self.sites}

    def _of_example(self, call: _Call, row: int, gradient: Tensor, norm: Tensor) -> dict[str, Tensor]:
        leaves = {name: self.module.get_parameter(name).detach().requires_grad_(True) for name in self.sites}
        reached = self._again(call, leaves, row)
        if not torch.allclose(_norms(reached)[0], norm, rtol=_close(reached.dtype)):
            raise ModelError(
                f"{self.name} computed something else for an example alone than in its batch, so the gradients of "
                + ", ".join(site.name for site in self.sites.values())
                + " cannot be told apart by example. Leave them out with --sites."
            )
        got = torch.autograd.grad(reached, list(leaves.values()), gradient, allow_unused=True)
        return {
            name: (torch.zeros_like(leaf) if grad is None else grad).reshape(-1)
            for (name, leaf), grad in zip(leaves.items(), got, strict=True)
        }

    def _again(self, call: _Call, leaves: Mapping[str, Tensor], row: int) -> Tensor:
        """What the last linear layer is given when one example runs alone, as a function of the parameters."""
        cell: list[Tensor] = []
        rows = self.rows
        with torch.enable_grad(), _answered(self.module, call, row, rows, cell):
            functional_call(self.module, dict(leaves), _row(call.args, row, rows), _row(call.kwargs, row, rows))
        return cell[0]  # never empty: the call that was recorded ended in it


def _norms(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.detach().flatten(1).float(), dim=1)
    return norms


def _close(dtype: torch.dtype) -> float:
    return _CLOSE.get(dtype, _HALF)


@contextmanager
def _answered(module: nn.Module, call: _Call, row: int, rows: int, cell: list[Tensor]) -> Iterator[None]:
    """The linear children answer from the record; those that come after a replayed parameter still compute."""
    children = linear_children(module)
    before = {name: child.__dict__.get("forward") for name, child in children.items()}
    counts = dict.fromkeys(children, 0)

    def answer(name: str, child: nn.Module, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(input: Tensor) -> Tensor:
            recorded = call.outputs.get(name, [])
            number = counts[name]
            counts[name] += 1
            if number == len(recorded):
                cell.append(input)
                return input.new_zeros(*input.shape[:-1], child.out_features)  # type: ignore[call-overload,no-any-return]
            if input.requires_grad:
                return compute(input)
            return _row(recorded[number], row, rows)  # type: ignore[no-any-return]

        return forward

    try:
        for name, child in children.items():
            child.forward = answer(name, child, child.forward)
        yield
    finally:
        for name, child in children.items():
            if before[name] is None:
                child.__dict__.pop("forward", None)
            else:
                child.__dict__["forward"] = before[name]

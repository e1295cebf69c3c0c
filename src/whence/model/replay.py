"""Exact per-example gradients of parameters that act without a layer of their own, by running a little of it again.

A mixer (Mamba-2, a gated delta net) has small parameters, its decays, time steps and depthwise convolution, which its
forward uses directly, where no hook sees them. While a loss runs, a `Recorder` keeps what the mixer was given, what its
linear layers put out, and the gradient that arrives at the input of its last one. Afterwards it runs the mixer once
more per example with the linear layers answered from the record, so that only the middle is computed, and takes the
vector-Jacobian product. Each parameter is an elementwise site whose factors are one "token" per example.

Knows nothing of what kinds of mixers there are: whatever owns such parameters and has linear layers is tried on a small
batch, and taken only if the gradients are autograd's.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from whence.errors import ModelError
from whence.factors import Factors
from whence.interfaces import Site, Use

__all__ = ["Recorder", "agreeing", "candidates"]

_CLOSE = {torch.float64: 1e-5, torch.float32: 1e-3}
_HALF = 0.1
"""Largest relative difference to autograd, by dtype; classes that cast to float32 inside do so in float64 too."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FAILURES = (ModelError, RuntimeError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError)


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


@dataclass(slots=True)
class _Mixer:
    """A module whose parameters are read by replaying it.

    Attributes:
        name: Its name in the model.
        module: The module.
        sites: Parameter name within the module -> its site.
        calls: What was recorded.
    """

    name: str
    module: nn.Module
    sites: dict[str, Site]
    calls: list[_Call] = field(default_factory=list)

    def hooks(self) -> list[RemovableHandle]:
        """Start recording."""
        handles = [
            self.module.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.module.register_forward_hook(self._leave),
        ]
        for name, child in linear_children(self.module).items():
            handles.append(child.register_forward_hook(self._linear(name), with_kwargs=True))
        return handles

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.calls.append(_Call(_detached(args), _detached(kwargs)))

    def _linear(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            call = self.calls[-1] if self.calls else None
            if call is None or call.over:  # called from outside of the mixer
                return output
            out = output if output.requires_grad else output.detach().requires_grad_(True).clone()
            call.outputs.setdefault(name, []).append(out.detach())
            call.last, call.cut = name, args[0] if args else next(iter(kwargs.values()))
            return out

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
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

    def gradients(self, rows: int) -> dict[str, Tensor]:
        """Per-example gradients [N, P] of the parameters, by name within the module; none if it had no say."""
        out: dict[str, Tensor] = {}
        for call in self.calls:
            if call.gradient is None or call.norms is None:
                continue  # its output went unused
            given = zip(call.gradient.split(1), call.norms, strict=True)
            each = [self._of_example(call, row, rows, *parts) for row, parts in enumerate(given)]
            for name in self.sites:
                values = torch.stack([parts[name] for parts in each])
                out[name] = out[name] + values if name in out else values
        return out

    def _of_example(self, call: _Call, row: int, rows: int, gradient: Tensor, norm: Tensor) -> dict[str, Tensor]:
        leaves = {name: self.module.get_parameter(name).detach().requires_grad_(True) for name in self.sites}
        reached = self._again(call, leaves, row, rows)
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

    def _again(self, call: _Call, leaves: Mapping[str, Tensor], row: int, rows: int) -> Tensor:
        """What the last linear layer is given when one example runs alone, as a function of the parameters."""
        cell: list[Tensor] = []
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


class Recorder:
    """Records the mixers of the replayed sites while a loss runs, and replays them afterwards.

    Args:
        model: The model.
        sites: All sites; those whose uses say so are replayed.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        self.mixers: list[_Mixer] = []
        by_module: dict[str, dict[str, Site]] = {}
        for site in sites:
            for use in site.uses:
                if use.replayed:
                    within = site.parameters[0].removeprefix(f"{use.module}.")
                    by_module.setdefault(use.module, {})[within] = site
        self.mixers = [_Mixer(name, model.get_submodule(name), named) for name, named in by_module.items()]

    def hooks(self) -> list[RemovableHandle]:
        """Start recording; the caller removes the hooks."""
        return [handle for mixer in self.mixers for handle in mixer.hooks()]

    def replay(self, rows: int) -> Iterator[tuple[Site, Factors]]:
        """Factors of every replayed site, one constant input and one gradient [1, P] per example.

        Args:
            rows: Batch rows N; each holds one example.
        """
        for mixer in reversed(self.mixers):
            for name, gradients in mixer.gradients(rows).items():
                wide = gradients.float() if gradients.dtype != torch.float64 else gradients
                yield mixer.sites[name], Factors(wide.new_ones(rows, 1, 1), wide[:, None])
            mixer.calls.clear()


def candidates(model: nn.Module, taken: frozenset[str]) -> list[Site]:
    """Parameters that are perhaps read by replaying a module, as elementwise sites.

    They belong to a module with linear children, or to a convolution that is its child; with them go those of its other
    children without children, a gated norm's, that are not attributed otherwise.

    Args:
        model: The model.
        taken: Names of the parameters that are attributed otherwise.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    out = []
    for owner, module in model.named_modules():
        if isinstance(module, _CONTAINERS) or not linear_children(module):
            continue
        prefix = f"{owner}." if owner else ""
        left = {
            prefix + name: parameter
            for name, parameter in _own_parameters(module)
            if prefix + name not in taken and owners[id(parameter)] == 1
        }
        if any(_used_directly(module, name.removeprefix(prefix)) for name in left):
            out += [_site(name, owner, parameter.numel()) for name, parameter in left.items()]
    return out


def _used_directly(module: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to the module itself, or to a convolution in it."""
    child = name.rpartition(".")[0]
    return not child or isinstance(module.get_submodule(child), nn.Conv1d)


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of a module and of its childless children that are no linear layers or embeddings."""
    yield from module.named_parameters(recurse=False)
    for name, child in module.named_children():
        if not isinstance(child, nn.Linear | nn.Embedding) and not any(True for _ in child.children()):
            yield from child.named_parameters(prefix=name, recurse=False)


def _site(name: str, owner: str, size: int) -> Site:
    short = name.removesuffix(".weight")
    use = Use(owner, replayed=True)
    return Site(short, size, 1, False, (use,), None, (name,), group=short, elementwise=True)


def agreeing(model: nn.Module, sites: Sequence[Site], losses: Callable[[], Tensor], rows: int) -> list[Site]:
    """The replayed sites whose gradients, summed over a small batch, are those that autograd finds.

    Args:
        model: The model, frozen.
        sites: Candidates.
        losses: Runs the model on a small batch, with gradients enabled.
        rows: Its batch rows.
    """
    if not sites:
        return []
    recorder = Recorder(model, sites)
    parameters = {site.name: model.get_parameter(site.parameters[0]) for site in sites}
    handles = recorder.hooks()
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        found = torch.autograd.grad(losses().sum(), list(parameters.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters.values():
            parameter.requires_grad_(False)
    totals = dict(zip(parameters, found, strict=True))
    return [site for mixer in recorder.mixers for site in _agreeing(mixer, totals, rows)]


def _agreeing(mixer: _Mixer, totals: Mapping[str, Tensor | None], rows: int) -> list[Site]:
    try:
        got = mixer.gradients(rows)
    except _FAILURES:
        return []
    return [site for name, site in mixer.sites.items() if name in got and _agrees(got[name].sum(0), totals[site.name])]


def _agrees(got: Tensor, wanted: Tensor | None) -> bool:
    if wanted is None:
        return not got.any()
    error = (got.double() - wanted.reshape(-1).double()).norm()
    return bool(error <= _close(got.dtype) * wanted.double().norm())

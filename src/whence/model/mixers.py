"""Parameters that act without a layer of their own: which there are, and how each module's are read.

A mixer (Mamba-2, a gated delta net) has small parameters, its decays, time steps and depthwise convolution, which its
forward uses directly, where no hook sees them. They are read by giving each example copies of them (`copies`) or, where
a module does not take copies, by running its middle again for each example (`replay`). Which of the two it is, is tried
on a small batch, and a parameter is attributed only if its gradients are autograd's.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from whence.errors import ModelError
from whence.factors import Factors
from whence.interfaces import Site, Use, Way
from whence.model import parallel
from whence.model.copies import Copies
from whence.model.replay import Replay, linear_children

__all__ = ["Mixers", "agreeing", "candidates", "refusal"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FAILURES = (ModelError, RuntimeError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError)
_CLOSE = {torch.float64: 1e-5, torch.float32: 1e-3}
_HALF = 0.1
"""Largest relative difference to autograd, by dtype; classes that cast to float32 inside do so in float64 too."""


def candidates(model: nn.Module, taken: frozenset[str]) -> list[Site]:
    """Parameters that can perhaps be read without a layer, as elementwise sites.

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
            if prefix + name not in taken and owners[id(parameter)] == 1 and parameter.is_floating_point()
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
    use = Use(owner, way="replay")
    return Site(short, size, 1, False, (use,), None, (name,), group=short, elementwise=True)


def _by_module(sites: Sequence[Site], way: Way) -> dict[str, dict[str, Site]]:
    """Module name -> parameter name within it -> the site that is read this way."""
    out: dict[str, dict[str, Site]] = {}
    for site in sites:
        use = site.uses[0]
        if use.way == way:
            out.setdefault(use.module, {})[site.parameters[0].removeprefix(f"{use.module}.")] = site
    return out


class Mixers:
    """Reads the sites that act without a layer, for one run of a loss.

    Args:
        model: The model.
        sites: All sites; those that are read from a layer are left alone.
        rows: Batch rows N; each holds one example.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], rows: int) -> None:
        copied, replayed = _by_module(sites, "copies").items(), _by_module(sites, "replay").items()
        self.parts: list[Copies | Replay] = [Copies(model, name, named, rows) for name, named in copied]
        self.parts += [Replay(model, name, named, rows) for name, named in replayed]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the model, forward and backward, in here."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.watching())
            yield

    def factors(self) -> Iterator[tuple[Site, Factors]]:
        """Factors of every such site: one constant input and one gradient [1, P] per example."""
        for part in reversed(self.parts):
            yield from part.factors()


def agreeing(model: nn.Module, sites: Sequence[Site], losses: Callable[[], Tensor], rows: int) -> list[Site]:
    """The candidates whose gradients, summed over a small batch, are those that autograd finds, and how they are read.

    Args:
        model: The model, frozen.
        sites: Candidates.
        losses: Runs the model on a small batch, with gradients enabled.
        rows: Its batch rows.
    """
    if not sites or parallel.leads():  # other processes would not follow a module that is called alone
        return []
    totals = _totals(model, sites, losses)
    copied = _agreeing(model, [_read(site, "copies") for site in sites], losses, rows, totals)
    incomplete = {site.uses[0].module for site in sites if site.name not in copied}
    found = {name: site for name, site in copied.items() if site.uses[0].module not in incomplete}
    left = [site for site in sites if site.name not in found]
    found |= _agreeing(model, left, losses, rows, totals)
    return [found[site.name] for site in sites if site.name in found]


def refusal(kind: str) -> str:
    """Why a candidate of a module of some class is not attributed."""
    if parallel.leads():
        return f"{kind} uses it without a layer, which is not read where the processes of torchrun share a model"
    return f"{kind} uses it without a layer, in a way that neither copies nor a second run can tell apart by example"


def _read(site: Site, way: Way) -> Site:
    return replace(site, uses=(replace(site.uses[0], way=way),))


def _totals(model: nn.Module, sites: Sequence[Site], losses: Callable[[], Tensor]) -> dict[str, Tensor | None]:
    """Gradients of the summed loss by site name, by autograd; None where a parameter has no say."""
    parameters = [model.get_parameter(site.parameters[0]) for site in sites]
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        losses().sum().backward()  # not autograd.grad, which does not see into a checkpointed block
        return {site.name: parameter.grad for site, parameter in zip(sites, parameters, strict=True)}
    finally:
        for parameter, grad in zip(parameters, before, strict=True):
            parameter.requires_grad_(False)
            parameter.grad = grad


def _agreeing(
    model: nn.Module,
    sites: Sequence[Site],
    losses: Callable[[], Tensor],
    rows: int,
    totals: Mapping[str, Tensor | None],
) -> dict[str, Site]:
    """The sites, by name, whose gradients agree if they are read as they say."""
    if not sites:
        return {}
    mixers = Mixers(model, sites, rows)
    try:
        with mixers.watching():
            losses().sum().backward()
    except _FAILURES:
        return {}
    out: dict[str, Site] = {}
    for part in mixers.parts:
        try:
            got = list(part.factors())
        except _FAILURES:
            continue
        out |= {site.name: site for site, factors in got if _agrees(factors.blocks().sum(0), totals[site.name])}
    return out


def _agrees(got: Tensor, wanted: Tensor | None) -> bool:
    if wanted is None:
        return not got.any()
    error = (got.reshape(-1).double() - wanted.reshape(-1).double()).norm()
    return bool(error <= _CLOSE.get(wanted.dtype, _HALF) * wanted.double().norm())

"""Which share of the parameters is attributed, what is not, and why."""

import fnmatch
from collections.abc import Sequence

from torch import nn

from whence.interfaces import Coverage, Site, SiteCoverage
from whence.model import experts, mixers, norms, parallel, routers
from whence.model.layers import refusal, supported

__all__ = ["coverage"]


def coverage(
    model: nn.Module, sites: Sequence[Site], trained: frozenset[str] | None = None, patterns: Sequence[str] = ()
) -> Coverage:
    """Which share of the parameters is attributed, what is not, and why.

    Args:
        model: The model.
        sites: The sites in use.
        trained: Names of the parameters that training changed; the others are not counted.
        patterns: The shell patterns that narrowed the sites, if any.
    """
    covered = {name: site for site in sites for name in site.parameters}
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(module)
    weights = {site.parameters[0] for site in sites}
    without_layer = {
        name: site.name for site in mixers.candidates(model, frozenset(covered)) for name in site.parameters
    }
    lines = []
    for name, parameter in model.named_parameters(remove_duplicate=True):
        if trained is not None and name not in trained:
            continue
        kind = type(owners[id(parameter)][-1]).__name__
        if name in covered:
            lines.append(SiteCoverage(name=name, parameters=parameter.numel(), attributed=True, kind=kind))
            continue
        if name in without_layer:
            reason = _left_out(without_layer[name], patterns) or mixers.refusal(kind)
        else:
            reason = _why_not(parameter, owners[id(parameter)], weights, model, patterns)
        lines.append(SiteCoverage(name=name, parameters=parameter.numel(), attributed=False, kind=kind, reason=reason))
    return Coverage(
        parameters=sum(line.parameters for line in lines),
        attributed=sum(line.parameters for line in lines if line.attributed),
        sites=tuple(lines),
    )


def _why_not(
    parameter: nn.Parameter,
    owners: Sequence[nn.Module],
    weights: set[str],
    model: nn.Module,
    patterns: Sequence[str],
) -> str:
    """Why a parameter is not attributed."""
    name = next(name for name, each in model.named_parameters() if each is parameter)
    if _of_known_kind(owners) and (left_out := _left_out(name, patterns)):
        return left_out
    for owner in owners:
        if supported(owner) is None:
            return _why_not_in(owner, parameter, len(owners))
    read = {id(model.get_parameter(name)) for name in weights}
    if any(owner.weight is not parameter and id(owner.weight) in read for owner in owners):
        return "its weight acts through several layers, which do not share one bias"
    split = parallel.unreadable(model, name.rpartition(".")[0])
    return split or "its module was not called on one row per token"


def _left_out(name: str, patterns: Sequence[str]) -> str:
    """Why no pattern chose the site of a parameter; empty if one did."""
    names = {name, name.rpartition(".")[0], name.removesuffix("_bias")}
    chosen = not patterns or any(fnmatch.fnmatchcase(each, pattern) for pattern in patterns for each in names)
    return "" if chosen else "left out by --sites"


def _of_known_kind(owners: Sequence[nn.Module]) -> bool:
    """Whether the modules of a parameter are of kinds that can be read, so that a pattern alone leaves it out."""
    kinds = (experts.is_experts, routers.may_be, norms.may_be)
    return all(supported(owner) is not None or any(kind(owner) for kind in kinds) for owner in owners)


def _why_not_in(owner: nn.Module, parameter: nn.Parameter, owners: int) -> str:
    """Why a parameter of a module that is no layer is not attributed."""
    kind = type(owner).__name__
    if owners > 1:
        return f"{kind} shares it with another module"
    if experts.is_experts(owner) and parameter.ndim == 3:
        return f"{kind} was not called on one row per token"
    if parameter.ndim == 3 and not isinstance(owner, nn.Conv1d):
        return f"{kind} keeps a stack of matrices and does not run through transformers' experts interface"
    if routers.may_be(owner):
        return f"{kind} is no linear layer, and its first output is not the product of input and weight"
    if norms.may_be(owner):
        return (
            f"{kind} does not act as a scale and a shift, element by element, on rows that belong to tokens, or its "
            "input is changed in place afterwards"
        )
    return refusal(owner)

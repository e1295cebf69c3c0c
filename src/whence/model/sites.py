"""Which weights can be attributed, and how a site's block lies in the model's parameters.

A weight reached through several modules (a head tied to its embedding) is one site with several uses. What kinds of
modules there are, and how each is read, is said by layers.py, experts.py, routers.py, norms.py and mixers.py.
"""

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whence.errors import ModelError
from whence.interfaces import Site, Use, Vocabulary
from whence.model import experts, norms, routers
from whence.model.layers import CONV1D, EMBEDDING, Layer, layer_of, supported
from whence.model.mixers import candidates

__all__ = ["block_of", "find_sites", "parameters_of"]


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    module: nn.Module
    layer: Layer


def find_sites(model: nn.Module, patterns: Sequence[str] = (), trained: frozenset[str] | None = None) -> list[Site]:
    """All weights of a model that can be attributed, in the model's own order.

    Args:
        model: Any torch module.
        patterns: Keep only sites whose name matches one of these shell patterns (``*.mlp.*``); all if empty.
        trained: Names of the parameters that training changed (an adapter's); all if None.

    Raises:
        ModelError: A pattern matches no site, or there is no site at all.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=True)}
    by_weight: dict[int, list[_Found]] = {}
    unreadable: set[int] = set()  # a weight that also acts through a module of another kind would be half read
    others: list[Site] = []
    for name, module in model.named_modules(remove_duplicate=True):
        layer = supported(module)
        weight = getattr(module, "weight", None)
        if layer is None:
            unreadable.update(id(parameter) for parameter in module.parameters(recurse=False))
            others += _without_layer(name, module)
        elif isinstance(weight, nn.Parameter) and id(weight) in names:
            by_weight.setdefault(id(weight), []).append(_Found(name, module, layer))
    sites = [_site(names[key], found, names) for key, found in by_weight.items() if key not in unreadable]
    sites += _owned_once(model, others)
    sites += candidates(model, frozenset(name for site in sites for name in site.parameters))
    order = {name: place for place, name in enumerate(names.values())}
    sites.sort(key=lambda site: order[site.parameters[0]])
    if trained is not None:
        sites = [site for site in sites if site.parameters[0] in trained]
    kept = _select(sites, patterns)
    if not kept:
        raise ModelError(
            f"nothing in this {type(model).__name__} can be attributed: no linear layer, embedding, experts or norm"
            + (" among the trained parameters." if trained is not None else ".")
        )
    return kept


def _without_layer(name: str, module: nn.Module) -> list[Site]:
    """Candidates in a module that is no layer: experts, a router, a norm; what it really is shows when it runs."""
    if experts.is_experts(module):
        return list(experts.find(name, module))
    if routers.may_be(module):
        return list(routers.find(name, module))
    return list(norms.find(name, module)) if norms.may_be(module) else []


def _owned_once(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """Without those whose parameters also belong to another module, through which they would not be read."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    known = dict(model.named_parameters())
    return [site for site in sites if all(n in known and owners[id(known[n])] == 1 for n in site.parameters)]


def _select(sites: list[Site], patterns: Sequence[str]) -> list[Site]:
    if not patterns:
        return sites
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(site.name, pattern) for site in sites):
            shown = ", ".join(site.name for site in sites[:12]) + (", …" if len(sites) > 12 else "")
            raise ModelError(f"--sites {pattern!r} matches no site; the sites are: {shown}")
    return [site for site in sites if any(fnmatch.fnmatchcase(site.name, pattern) for pattern in patterns)]


def _site(weight_name: str, found: list[_Found], names: dict[int, str]) -> Site:
    """One site from all modules that share its weight; a linear use fixes the orientation."""
    main = next((each for each in found if each.layer is not EMBEDDING), found[0])
    outputs, inputs = main.layer.shape(main.module)
    with_bias = [each for each in found if getattr(each.module, "bias", None) is not None]
    bias = len(with_bias) > 0 and len({id(each.module.bias) for each in with_bias}) == 1
    uses = tuple(
        Use(each.name, flipped=each.layer.kind != main.layer.kind, bias=bias and each in with_bias) for each in found
    )
    covered = [weight_name] + ([names[id(with_bias[0].module.bias)]] if bias else [])
    tied = any(use.flipped for use in uses)
    vocabulary: Vocabulary = "inputs" if main.layer is EMBEDDING else ("outputs" if tied else None)
    name = main.name if len(found) == 1 or tied else weight_name.removesuffix(".weight")
    return Site(
        name or "weight", outputs, inputs + bias, bias, uses, vocabulary, tuple(covered), group=name or "weight"
    )


def _stored_transposed(site: Site, model: nn.Module) -> bool:
    """Whether the site's parameter is stored [inputs, outputs]."""
    use = next(use for use in site.uses if not use.flipped)
    return use.way == "layer" and layer_of(model.get_submodule(use.module)) in (CONV1D, EMBEDDING)


def block_of(site: Site, model: nn.Module, values: Mapping[str, Tensor] | None = None) -> Tensor:
    """The site's weight, and its bias as last column, as one block [O, I] (of a stack of experts [E, O, I]).

    Args:
        site: The site.
        model: The model.
        values: Tensors of the parameters' shapes by name, in the parameters' place: an optimizer's moments.
    """
    weight, *bias = (
        (model.get_parameter(name) if values is None else values[name]).detach() for name in site.parameters
    )
    if site.elementwise:
        return weight.reshape(-1, 1)
    if site.experts:
        return experts.block_of(model.get_submodule(site.uses[0].module), weight, *bias)
    block = weight.T if _stored_transposed(site, model) else weight
    return torch.cat([block, bias[0][:, None]], 1) if bias else block


def parameters_of(site: Site, model: nn.Module, block: Tensor) -> dict[str, Tensor]:
    """A block as the model stores it, by parameter name; the inverse of `block_of`."""
    if site.elementwise:
        return {site.parameters[0]: block.reshape(model.get_parameter(site.parameters[0]).shape)}
    if site.experts:
        return experts.parameters_of(site, model.get_submodule(site.uses[0].module), block)
    weight = block[:, :-1] if site.bias else block
    out = {site.parameters[0]: weight.T if _stored_transposed(site, model) else weight}
    if site.bias:
        out[site.parameters[1]] = block[:, -1]
    return out

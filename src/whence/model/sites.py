"""Which weights can be attributed, and how each module's input and output gradient become factors.

This file alone knows weight orientation. A new layer type is one `Layer` and one line in `LAYERS`.
A weight reached through several modules (a head tied to its embedding) is one site with several uses.
"""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from whence.errors import ModelError
from whence.factors import Factors, OneHot, Side
from whence.interfaces import Coverage, Site, SiteCoverage, Use, Vocabulary
from whence.model import parallel
from whence.model.mixers import candidates, refusal

__all__ = ["LAYERS", "Layer", "block_of", "coverage", "find_sites", "layer_of", "parameters_of", "use_factors"]


@dataclass(frozen=True, slots=True)
class Layer:
    """How one kind of module is read.

    Attributes:
        kind: Its name in reports.
        shape: Module -> (outputs, inputs), without the bias.
        factors: (module, input, gradient of the output) -> the two sides, without the bias.
        forward: The forward function whose gradient `factors` gives.
    """

    kind: str
    shape: Callable[[nn.Module], tuple[int, int]]
    factors: Callable[[nn.Module, Tensor, Tensor], tuple[Side, Tensor]]
    forward: Callable[..., Tensor]


def _linear(_: nn.Module, inputs: Tensor, grads: Tensor) -> tuple[Side, Tensor]:
    return inputs, grads


def _embedding(module: nn.Module, inputs: Tensor, grads: Tensor) -> tuple[Side, Tensor]:
    assert isinstance(module, nn.Embedding)
    weight = None if module.padding_idx is None else (inputs != module.padding_idx).to(grads.dtype)
    scale = getattr(module, "embed_scale", None)
    return OneHot(inputs, module.num_embeddings, weight), grads if scale is None else grads * scale


def _outputs_first(module: nn.Module) -> tuple[int, int]:
    assert isinstance(module.weight, Tensor)
    outputs, inputs = module.weight.shape
    return outputs, inputs


def _inputs_first(module: nn.Module) -> tuple[int, int]:
    outputs, inputs = _outputs_first(module)
    return inputs, outputs


LINEAR = Layer("linear", _outputs_first, _linear, nn.Linear.forward)
CONV1D = Layer("Conv1D", _inputs_first, _linear, nn.Linear.forward)
EMBEDDING = Layer("embedding", _inputs_first, _embedding, nn.Embedding.forward)

_SCALING = (
    "Bart BioGpt GemmaText Gemma2Text Gemma3Text Gemma3nText Gemma4Text MBart MiniCPM3 PLBart TrOCR VaultGemmaText XGLM"
)

LAYERS: dict[str, Layer] = {
    "Linear": LINEAR,
    "Conv1D": CONV1D,
    "Embedding": EMBEDDING,
    **{f"{family}ScaledWordEmbedding": EMBEDDING for family in _SCALING.split()},
}
"""By class name. `Conv1D` is GPT-2's linear layer with its weight stored [in, out]; a `ScaledWordEmbedding` is an
embedding times its `embed_scale`."""


def layer_of(module: nn.Module) -> Layer | None:
    """The entry of `LAYERS` for a module, or None. A subclass counts while it keeps the forward function."""
    for kind in type(module).__mro__:
        layer = LAYERS.get(kind.__name__)
        if layer is not None and kind.__module__.startswith(("torch.nn", "transformers.")):
            return layer if type(module).forward is getattr(kind, "forward", None) else None
    return None


def _refusal(module: nn.Module) -> str:
    if isinstance(module, nn.Linear | nn.Embedding):
        if _rescaled(module):
            return "an embedding with max_norm or scale_grad_by_freq has no plain gradient"
        return f"{type(module).__name__} changes the forward pass of {type(module).__mro__[1].__name__}"
    return f"{type(module).__name__} has no per-example gradient here"


def _supported(module: nn.Module) -> Layer | None:
    layer = layer_of(module)
    return None if layer is EMBEDDING and _rescaled(module) else layer


def _rescaled(module: nn.Module) -> bool:
    """Whether an embedding changes its rows or their gradients in ways that a product of factors does not show."""
    return getattr(module, "max_norm", None) is not None or bool(getattr(module, "scale_grad_by_freq", False))


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
    unreadable: set[int] = set()  # a weight that also acts through a layer of another kind would be half read
    for name, module in model.named_modules(remove_duplicate=True):
        layer = _supported(module)
        weight = getattr(module, "weight", None)
        if layer is None:
            unreadable.update(id(parameter) for parameter in module.parameters(recurse=False))
        elif isinstance(weight, nn.Parameter) and id(weight) in names:
            by_weight.setdefault(id(weight), []).append(_Found(name, module, layer))
    sites = [_site(names[key], found, names) for key, found in by_weight.items() if key not in unreadable]
    sites += candidates(model, frozenset(name for site in sites for name in site.parameters))
    if trained is not None:
        sites = [site for site in sites if site.parameters[0] in trained]
    kept = _select(sites, patterns)
    if not kept:
        raise ModelError(
            f"nothing in this {type(model).__name__} can be attributed: no nn.Linear, Conv1D or nn.Embedding weight"
            + (" among the trained parameters." if trained is not None else ".")
        )
    return kept


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


def use_factors(site: Site, use: Use, module: nn.Module, inputs: Tensor, grads: Tensor) -> Factors:
    """Factors of one use of a site, oriented as the site, with the bias column.

    Args:
        site: The site.
        use: The use whose module ran.
        module: That module.
        inputs: What it was given, [N, T, I] (or [N, T] for an embedding).
        grads: Gradient of the summed loss by its output, [N, T, O].
    """
    layer = layer_of(module)
    assert layer is not None
    side, grads = layer.factors(module, inputs, grads)
    if use.flipped:
        factors = Factors(grads, side)
    else:
        factors = Factors(side, grads)
    if not site.bias:
        return factors
    dense = factors.inputs
    assert isinstance(dense, Tensor), "an embedding has no bias"
    column = dense.new_full((*dense.shape[:-1], 1), 1.0 if use.bias else 0.0)
    return replace(factors, inputs=torch.cat([dense, column], -1))


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
    without_layer = {name: site.name for site in candidates(model, frozenset(covered)) for name in site.parameters}
    lines = []
    for name, parameter in model.named_parameters(remove_duplicate=True):
        if trained is not None and name not in trained:
            continue
        kind = type(owners[id(parameter)][-1]).__name__
        if name in covered:
            lines.append(SiteCoverage(name=name, parameters=parameter.numel(), attributed=True, kind=kind))
            continue
        if name in without_layer:
            reason = _left_out(without_layer[name], patterns) or refusal(kind)
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
    for owner in owners:
        if _supported(owner) is None:
            return _refusal(owner)
    read = {id(model.get_parameter(name)) for name in weights}
    if any(owner.weight is not parameter and id(owner.weight) in read for owner in owners):
        return "its weight acts through several layers, which do not share one bias"
    name = next(name for name, each in model.named_parameters() if each is parameter).rpartition(".")[0]
    if left_out := _left_out(name, patterns):
        return left_out
    split = parallel.unreadable(model, name)
    if split:
        return split
    return "its module was not called on one row per token"


def _left_out(name: str, patterns: Sequence[str]) -> str:
    chosen = not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    return "" if chosen else "left out by --sites"


def _stored_transposed(site: Site, model: nn.Module) -> bool:
    """Whether the site's parameter is stored [inputs, outputs]."""
    layer = layer_of(model.get_submodule(next(use for use in site.uses if not use.flipped).module))
    return layer in (CONV1D, EMBEDDING)


def block_of(site: Site, model: nn.Module) -> Tensor:
    """The site's weight, and its bias as last column, as one block [O, I]."""
    weight = model.get_parameter(site.parameters[0]).detach()
    if not site.by_token:
        return weight.reshape(-1, 1)
    block = weight.T if _stored_transposed(site, model) else weight
    return block if not site.bias else torch.cat([block, model.get_parameter(site.parameters[1]).detach()[:, None]], 1)


def parameters_of(site: Site, model: nn.Module, block: Tensor) -> dict[str, Tensor]:
    """A block [O, I] as the model stores it, by parameter name; the inverse of `block_of`."""
    if not site.by_token:
        return {site.parameters[0]: block.reshape(model.get_parameter(site.parameters[0]).shape)}
    weight = block[:, :-1] if site.bias else block
    out = {site.parameters[0]: weight.T if _stored_transposed(site, model) else weight}
    if site.bias:
        out[site.parameters[1]] = block[:, -1]
    return out

"""How each kind of layer's input and output gradient become factors: linear layers and embeddings.

A new layer type is one `Layer` and one line in `LAYERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from whence.factors import Factors, OneHot, Side
from whence.interfaces import Site, Use

__all__ = ["EMBEDDING", "LAYERS", "Layer", "layer_of", "refusal", "supported", "use_factors"]


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


def refusal(module: nn.Module) -> str:
    """Why a module's weight is not read as a layer's."""
    if isinstance(module, nn.Linear | nn.Embedding):
        if _rescaled(module):
            return "an embedding with max_norm or scale_grad_by_freq has no plain gradient"
        if not module.weight.is_floating_point():
            return f"{type(module).__name__} is quantised, which no training was; name the adapters with --adapter"
        return f"{type(module).__name__} changes the forward pass of {type(module).__mro__[1].__name__}"
    return f"{type(module).__name__} has no per-example gradient here"


def supported(module: nn.Module) -> Layer | None:
    """Its layer, unless it changes its rows or their gradients on the way."""
    layer = layer_of(module)
    return None if layer is EMBEDDING and _rescaled(module) else layer


def _rescaled(module: nn.Module) -> bool:
    """Whether an embedding changes its rows or their gradients in ways that a product of factors does not show."""
    return getattr(module, "max_norm", None) is not None or bool(getattr(module, "scale_grad_by_freq", False))


def use_factors(site: Site, use: Use, module: nn.Module, inputs: Tensor, grads: Tensor) -> Factors:
    """Factors of one use of a site, oriented as the site, with the bias column.

    Args:
        site: The site.
        use: The use whose module ran.
        module: That module.
        inputs: What it was given, [N, T, I] (or [N, T] for an embedding).
        grads: Gradient of the summed loss by its output, [N, T, O].
    """
    layer = LINEAR if use.way == "router" else layer_of(module)
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

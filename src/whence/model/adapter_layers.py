"""Adapters' layers in a form that can be read: each of their parameters acts through a layer of its own.

PEFT's LoRA on linear layers is that already. On embeddings it looks rows up by hand, and DoRA's magnitudes are
multiplied in among other things; here the same is computed by small layers that are known elsewhere. A DoRA weight's
norm counts as a constant, as in its training (Liu et al. 2024, arXiv:2402.09353, section 4.3).
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Gain", "make_readable"]


class Gain(nn.Module):
    """Multiplies each feature by a weight of its own."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, values: Tensor) -> Tensor:
        """Scaled values, [..., features]."""
        return values * self.weight


def _embedded(layer: Any) -> Any:
    """The forward pass of LoRA on an embedding, by layers."""

    def forward(ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = layer.base_layer(ids, *args, **kwargs)
        if layer.disable_adapters or layer.merged:
            return result
        scale = layer._get_embed_scale()
        added = [
            layer.lora_B[name](layer.lora_A[name](ids)) * layer.scaling[name]
            for name in layer.active_adapters
            if name in layer.lora_A
        ]
        for each in added:
            result = result + (each if scale is None else each * scale.to(each.dtype)).to(result.dtype)
        return result

    return forward


def _read_embedding(layer: Any) -> None:
    if layer.lora_variant:
        return  # DoRA on an embedding
    for name in list(layer.lora_embedding_A):
        first, second = layer.lora_embedding_A[name], layer.lora_embedding_B[name]
        del layer.lora_embedding_A[name], layer.lora_embedding_B[name]
        rows = nn.Embedding.from_pretrained(first.detach().T.contiguous())
        rows.weight.requires_grad_(first.requires_grad)
        linear = nn.Linear(second.shape[1], second.shape[0], bias=False, device="meta")
        linear.weight = second
        layer.lora_A[name], layer.lora_B[name] = rows, linear
    layer.forward = _embedded(layer)


def _weighted(layer: Any) -> Any:
    """The forward pass of DoRA on a linear layer, by layers."""
    from peft.utils.integrations import dequantize_module_weight
    from peft.utils.other import transpose

    def forward(
        x: Tensor,
        *,
        lora_A: nn.Linear,
        lora_B: nn.Linear,
        scaling: float,
        base_layer: nn.Module,
        base_result: Tensor | None = None,
        adapter_name: str = "default",
    ) -> Tensor:
        with torch.no_grad():
            weight = dequantize_module_weight(base_layer).to(x.dtype)
            lora = (lora_B.weight @ lora_A.weight).to(x.dtype)
            norm = layer.get_weight_norm(weight=weight, lora_weight=lora, scaling=scaling, adapter_name=adapter_name)
        if base_result is None:
            base = nn.functional.linear(x, transpose(weight, layer.fan_in_fan_out))
        else:
            bias = base_layer.bias
            base = base_result - bias if isinstance(bias, Tensor) else base_result
        scaled: Tensor = layer.gain((base + lora_B(lora_A(x)) * scaling) / norm)
        return scaled - base

    return forward


def _read_magnitude(layer: Any) -> None:
    layer.gain = Gain(layer.weight)
    del layer._parameters["weight"]
    layer.forward = _weighted(layer)


def make_readable(wrapped: nn.Module) -> None:
    """Change a PEFT model's layers in place so that each parameter of its adapters acts through a layer."""
    from peft.tuners.lora.dora import DoraLinearLayer
    from peft.tuners.lora.layer import Embedding

    for module in list(wrapped.modules()):
        if type(module) is DoraLinearLayer:
            _read_magnitude(module)
        elif type(module) is Embedding:
            _read_embedding(module)

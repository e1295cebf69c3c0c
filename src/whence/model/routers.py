"""Routers: modules that are no linear layer, but whose (first) output is one, the logits by which experts are chosen.

The hook sits on that output, whose gradient comes from all that the module does with it afterwards. Whether a module is
one is seen when it runs: the output is the product of input and weight, or it is not attributed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from whence.interfaces import Site, Use

__all__ = ["find", "is_one", "may_be"]

_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF = 2e-2


def may_be(module: nn.Module) -> bool:
    """Whether a module has a weight matrix (and perhaps a bias), and is no layer that changes its forward pass."""
    weight = getattr(module, "weight", None)
    rest = {name for name, _ in module.named_parameters(recurse=False)} - {"weight", "bias"}
    standard = isinstance(module, nn.Linear | nn.Embedding | nn.Bilinear)
    return isinstance(weight, nn.Parameter) and weight.ndim == 2 and not rest and not standard


def find(name: str, module: nn.Module) -> Iterator[Site]:
    """The one site of a module that may be a router."""
    outputs, inputs = module.get_parameter("weight").shape
    bias = isinstance(getattr(module, "bias", None), nn.Parameter)
    parameters = (f"{name}.weight", f"{name}.bias") if bias else (f"{name}.weight",)
    use = Use(name, bias=bias, way="router")
    yield Site(name, int(outputs), int(inputs) + bias, bias, (use,), None, parameters, group=name)


def is_one(module: nn.Module, given: Tensor, output: Any) -> bool:
    """Whether its (first) output is the product of what it was given and its weight."""
    logits = output if isinstance(output, Tensor) else output[0]
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    if not isinstance(logits, Tensor) or not given.is_floating_point() or given.shape[-1] != weight.shape[1]:
        return False
    wide = torch.promote_types(given.dtype, torch.float32)
    wanted = nn.functional.linear(given.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    if logits.shape[-1] != wanted.shape[-1] or logits.numel() != wanted.numel():
        return False
    error = (logits.to(wide).reshape(-1) - wanted.reshape(-1)).norm()
    return bool(error <= _CLOSE.get(given.dtype, _HALF) * wanted.norm())

"""Vectors that act element by element on a module's output: the scale and the shift of a norm, in all its variants.

If a module's output is ``y = s(w) * n(x) + b`` with s affine in w, then ``n(x) ds/dw = f(1) - f(0)``, where f(v) is the
module run with every entry of w set to v and without b. So plain and Gemma's (1 + w) norms, LayerNorm and gated norms
with further inputs are read by one formula, without knowing any of them, and G_d = sum_t g_td n_td. Whether the module
is of that form is seen when it runs: y = f(0) + w * (f(1) - f(0)) + b, or it is not attributed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from whence.interfaces import Site, Use

__all__ = ["find", "gradient_of", "is_one", "may_be", "told_apart"]

_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4}  # classes compute in float32 whatever they are given
_HALF = 2e-2


def may_be(module: nn.Module) -> bool:
    """Whether a module has a vector ``weight``, perhaps a ``bias`` of the same length, and no other parameter."""
    own = dict(module.named_parameters(recurse=False))
    sizes = {parameter.shape for parameter in own.values()}
    return "weight" in own and own.keys() <= {"weight", "bias"} and len(sizes) == 1 and own["weight"].ndim == 1


def find(name: str, module: nn.Module) -> Iterator[Site]:
    """A site for the scale, and one for the shift."""
    for kind, parameter in module.named_parameters(recurse=False):
        shift = kind == "bias"
        short = f"{name}.bias" if shift else name
        use = Use(name, bias=shift, way="norm")
        size = parameter.numel()
        yield Site(short, size, 1, False, (use,), None, (f"{name}.{kind}",), group=short, elementwise=True)


@contextmanager
def _instead(module: nn.Module, scale: float | Tensor, like: Tensor) -> Iterator[None]:
    """The module with its weight, or every entry of it, set to `scale` and no shift, where and in what `like` is."""
    before = dict(module._parameters)
    try:
        for name, parameter in before.items():
            if parameter is not None:
                value = like.new_zeros(parameter.shape)
                if name == "weight":
                    value.copy_(torch.as_tensor(scale))
                module._parameters[name] = nn.Parameter(value, requires_grad=False)
        yield
    finally:
        module._parameters.update(before)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(torch.promote_types(value.dtype, torch.float32))
    return value


def _run(module: nn.Module, scale: float | Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The module's own forward, past hooks and wrappers of this instance, in at least float32."""
    positional = [_widened(value) for value in args]
    named = {name: _widened(value) for name, value in kwargs.items()}
    like = next(each for each in (*positional, *named.values()) if isinstance(each, Tensor))
    with torch.no_grad(), _instead(module, scale, like):
        out: Tensor = type(module).forward(module, *positional, **named)
        return out


def is_one(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> bool:
    """Whether an output of the module is affine in its weight, element by element of the last axis."""
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[-1:] != weight.shape:
        return False
    try:
        zero, one = (_run(module, scale, args, kwargs) for scale in (0.0, 1.0))
        if weight.is_meta:  # it lies on disk and was there for the call alone: any other weight and its output will do
            weight, bias = nn.Parameter(torch.linspace(0.5, 2.0, weight.numel(), device=output.device)), None
            output = _run(module, weight, args, kwargs)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, StopIteration):
        return False
    if not isinstance(zero, Tensor) or zero.shape != output.shape or one.shape != output.shape:
        return False
    wanted = zero + weight.to(zero.dtype) * (one - zero) + (0.0 if bias is None else bias.to(zero.dtype))
    error = (output.to(zero.dtype) - wanted).norm()
    return bool(error <= _CLOSE.get(output.dtype, _HALF) * wanted.norm())


def gradient_of(
    use: Use,
    module: nn.Module,
    call: tuple[Sequence[Any], dict[str, Any]],
    gradient: Tensor,
    rows: int,
    width: int | None,
) -> Tensor:
    """Gradient of a scale or a shift at each token, [N, T, D].

    Args:
        use: The use; `bias` says that it is the shift.
        module: The module that ran.
        call: What it was given.
        gradient: Gradient of the summed loss by its output, [..., D].
        rows: Batch rows N.
        width: Tokens T of a batch row, if known.
    """
    if not use.bias:
        gradient = gradient * (_run(module, 1.0, *call) - _run(module, 0.0, *call))
    return by_token(gradient, rows, width)


def told_apart(lead: Sequence[int], rows: int, width: int | None) -> bool:
    """Whether leading sizes of an output are those of examples or tokens, perhaps with several vectors for each."""
    if not lead:
        return False
    if lead[0] == rows or width is None:
        return lead[0] % rows == 0
    return lead[0] % (rows * width) == 0


def by_token(values: Tensor, rows: int, width: int | None) -> Tensor:
    """Values [..., D] summed over all that belongs to one token (its heads), [N, T, D].

    Leading axes may be (N, T, …), (N, …, T, …) with T known, or flattened in that order.
    """
    size = values.shape[-1]
    lead = list(values.shape[:-1])
    if len(lead) > 2 and width is not None and lead[1] != width and width in lead[2:]:
        values = values.movedim(lead.index(width, 2), 1)
    tokens = width if width is not None and values.numel() % (rows * width * size) == 0 else None
    if tokens is None:
        tokens = lead[1] if len(lead) > 1 else max(lead[0] // rows, 1)
    return values.reshape(rows, tokens, -1, size).sum(2)

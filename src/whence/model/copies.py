"""Per-example gradients of parameters that act without a layer of their own: each example gets its own copy.

A decay or a time step multiplies or adds along the tokens of all examples. Given one copy per example, [N, 1, ...], the
same code broadcasts them, and one backward pass leaves each example's gradient in its copy. A convolution takes no such
copies; what it was given and the gradient of its output are read where torch is called. Both cost next to nothing.

Knows nothing of what kinds of modules there are. Where a module does not broadcast (a fused kernel), nothing here
notices: `mixers` tries it on a small batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight
from torch.overrides import TorchFunctionMode

from whence.factors import Factors
from whence.interfaces import Site
from whence.model.checkpointing import rehearsing

__all__ = ["Copies"]


@dataclass(slots=True)
class _Convolution:
    """A convolution in a mixer, and its gradients by parameter name, [N, P]."""

    module: nn.Conv1d
    names: dict[str, str]
    gradients: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        """Add what one call gives."""
        if name in self.names:
            key, wide = self.names[name], _wide(values.flatten(1))
            self.gradients[key] = self.gradients[key] + wide if key in self.gradients else wide


class _Watch(TorchFunctionMode):
    """Reads convolutions by weights where torch is called."""

    def __init__(self, convolutions: Sequence[_Convolution]) -> None:
        super().__init__()
        self.by_weight = {each.module.weight.data_ptr(): each for each in convolutions}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return self._read(out, *args, **(kwargs or {})) if func is torch.conv1d else out

    def _read(
        self,
        out: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        convolution = self.by_weight.get(weight.data_ptr())
        if convolution is None or rehearsing():
            return out
        given, rows, channels = input.detach(), len(input), weight.shape[0]
        out = out if out.requires_grad else out.detach().requires_grad_(True).clone()

        def backward(gradient: Tensor) -> None:
            # one group per example and channel: the weight's gradient is then by example
            folded = [side.reshape(1, -1, side.shape[-1]) for side in (given, gradient)]
            shape = (rows * channels, *weight.shape[1:])
            by_channel = conv1d_weight(folded[0], shape, folded[1], stride, padding, dilation, rows * groups)
            convolution.add("weight", by_channel.reshape(rows, -1))
            convolution.add("bias", gradient.sum(-1))

        out.register_hook(backward)
        return out


class Copies:
    """One module that runs with a copy of some of its parameters for each example.

    Args:
        model: The model.
        name: Name of the module.
        sites: Parameter name within the module -> its site.
        rows: Batch rows N; each holds one example.
    """

    def __init__(self, model: nn.Module, name: str, sites: Mapping[str, Site], rows: int) -> None:
        self.module, self.sites, self.rows = model.get_submodule(name), sites, rows
        self.leaves: dict[str, Tensor] = {}
        convolutions: dict[str, _Convolution] = {}
        for parameter in sites:
            child, _, short = parameter.rpartition(".")
            owner = self.module.get_submodule(child)
            if isinstance(owner, nn.Conv1d):
                convolutions.setdefault(child, _Convolution(owner, {})).names[short] = parameter
            else:
                value = self.module.get_parameter(parameter).detach()
                self.leaves[parameter] = value.expand(rows, 1, *value.shape).clone().requires_grad_(True)
        self.convolutions = list(convolutions.values())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the model in here, forward and backward: each call of the module is made with the copies."""
        before, forward = self.module.__dict__.get("forward"), self.module.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            with _exchanged(self.module, self.leaves), _Watch(self.convolutions):
                return forward(*args, **kwargs)

        self.module.forward = run
        try:
            yield
        finally:
            if before is None:
                del self.module.__dict__["forward"]
            else:
                self.module.__dict__["forward"] = before

    def factors(self) -> Iterator[tuple[Site, Factors]]:
        """Factors of every site that had a gradient: one constant input and one gradient [1, P] per example."""
        found = {name: _wide(leaf.grad.flatten(1)) for name, leaf in self.leaves.items() if leaf.grad is not None}
        for convolution in self.convolutions:
            found |= convolution.gradients
        for name, values in found.items():
            yield self.sites[name], Factors(values.new_ones(self.rows, 1, 1), values[:, None])


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


@contextmanager
def _exchanged(module: nn.Module, leaves: dict[str, Tensor]) -> Iterator[None]:
    """The parameters of a module replaced for a while."""
    places = [(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in leaves]
    before = [owner._parameters[short] for owner, short in places]
    try:
        for (owner, short), leaf in zip(places, leaves.values(), strict=True):
            owner._parameters[short] = leaf  # type: ignore[assignment]
        yield
    finally:
        for (owner, short), parameter in zip(places, before, strict=True):
            owner._parameters[short] = parameter

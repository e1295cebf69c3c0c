"""What an optimizer does to one parameter in one step, as a function that can be differentiated.

The same arithmetic as `torch.optim` and muon.py, in their order, without their state: weight and moments go in and come
out. Knows no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whence.model.muon import RMS, Muon, orthogonalised

__all__ = ["Slot"]


@dataclass(frozen=True, slots=True)
class Slot:
    """A trained parameter and the optimizer that moves it."""

    name: str
    parameter: nn.Parameter
    optimizer: torch.optim.Optimizer
    group: Mapping[str, Any]

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of its moments in the optimizer's state."""
        if isinstance(self.optimizer, torch.optim.AdamW):
            return ("exp_avg", "exp_avg_sq")
        if isinstance(self.optimizer, Muon):
            return ("momentum",)
        return ("momentum_buffer",) if self.group["momentum"] else ()

    def values(self) -> list[Tensor]:
        """Copies of the weight and its moments; moments are 0 before the first step."""
        state = self.optimizer.state.get(self.parameter, {})
        weight = self.parameter.detach()
        return [weight.clone(), *(state[m].clone() if m in state else torch.zeros_like(weight) for m in self.moments)]

    def updates(self) -> int:
        """Updates it has had, where the optimizer counts them."""
        return int(self.optimizer.state.get(self.parameter, {}).get("step", 0))

    def update(self, rate: float, updates: int, gradient: Tensor, weight: Tensor, *moments: Tensor) -> list[Tensor]:
        """The weight and its moments after a step; as the optimizer does it, in differentiable operations."""
        kept = weight * (1 - rate * self.group["weight_decay"])
        if isinstance(self.optimizer, torch.optim.AdamW):
            return _adamw(self.group, rate, updates + 1, gradient, kept, *moments)
        if isinstance(self.optimizer, Muon):
            return _muon(self.group, rate, gradient, kept, *moments)
        return _sgd(self.group, rate, gradient + self.group["weight_decay"] * weight, weight, *moments)


def _adamw(
    group: Mapping[str, Any], rate: float, count: int, gradient: Tensor, kept: Tensor, mean: Tensor, square: Tensor
) -> list[Tensor]:
    first, second = group["betas"]
    mean = first * mean + (1 - first) * gradient
    square = second * square + (1 - second) * gradient.square()
    met = square > 0
    root = torch.where(met, torch.where(met, square, 1.0).sqrt(), 0.0) / (1 - second**count) ** 0.5
    return [kept - rate / (1 - first**count) * mean / (root + group["eps"]), mean, square]


def _sgd(group: Mapping[str, Any], rate: float, gradient: Tensor, weight: Tensor, *moments: Tensor) -> list[Tensor]:
    if not moments:
        return [weight - rate * gradient]
    running = group["momentum"] * moments[0] + gradient
    ahead = gradient + group["momentum"] * running if group["nesterov"] else running
    return [weight - rate * ahead, running]


def _muon(group: Mapping[str, Any], rate: float, gradient: Tensor, kept: Tensor, momentum: Tensor) -> list[Tensor]:
    running = momentum.lerp(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(running, group["momentum"]) if group["nesterov"] else running
    return [kept - rate * RMS * max(kept.shape) ** 0.5 * orthogonalised(ahead), running]

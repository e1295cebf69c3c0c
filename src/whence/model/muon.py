"""Muon: momentum whose matrices are orthogonalised before they are applied. Knows no schedule and no model.

Keller Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024); the update is scaled to the
root-mean-square of AdamW's as in Liu and others, "Muon is scalable for LLM training" (2025), so that one learning rate
serves both.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RMS", "Muon", "orthogonalised"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
RMS = 0.2
"""Root-mean-square of an update at rate 1, as AdamW's usually has it."""


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ [O, I]: five Newton-Schulz steps, singular values between 0.7 and 1.2.

    Worked in the matrix's own precision. ``torch.optim.Muon`` rounds to bfloat16 here, below which the effect of a
    single document, which is what retraining is to measure, is lost.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x: Tensor = wide / wide.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices [O, I], with decoupled weight decay.

    Args:
        params: Matrices, or groups of them.
        lr: Learning rate, of AdamW's size.
        momentum: Share of the running sum that is kept.
        nesterov: Look ahead by one step of momentum.
        weight_decay: Decoupled.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)

    def _update(self, matrix: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        running = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(running, group["momentum"]) if group["nesterov"] else running
        length: float = RMS * max(matrix.shape) ** 0.5
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(orthogonalised(ahead), alpha=-group["lr"] * length)

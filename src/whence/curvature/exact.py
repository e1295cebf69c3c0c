"""The exact Hessian of a small model, for models small enough to hold it (Koh & Liang 2017, arXiv:1703.04730).

No approximation but the second-order expansion itself: influence = grad(q)^T (H/n + l)^-1 grad(z) / n, with H the
Hessian of the summed training loss. Leave-one-out of an L2-regularised convex model is reproduced by it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from whence.errors import InputError, NumericalError

__all__ = ["exact_hessian", "exact_solve"]

LIMIT = 20_000


def exact_hessian(loss: Callable[[Tensor], Tensor], parameters: Tensor) -> Tensor:
    """Hessian [P, P] of a scalar function of flat parameters [P], by double backward.

    >>> exact_hessian(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])

    Raises:
        InputError: More than 20,000 parameters, whose Hessian would not fit.
    """
    if parameters.numel() > LIMIT:
        raise InputError(
            f"method 'exact' builds the whole Hessian and takes at most {LIMIT:,} parameters; this model has "
            f"{parameters.numel():,} in its sites. Use method 'ekfac', or narrow the sites."
        )
    point = parameters.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(point), point, create_graph=True)
    rows = [torch.autograd.grad(entry, point, retain_graph=True)[0] for entry in gradient]
    hessian = torch.stack(rows)
    return (hessian + hessian.T) / 2


def exact_solve(hessian: Tensor, damping: float, gradients: Tensor) -> Tensor:
    """``(H + damping)^-1 g`` for each row of `gradients` [Q, P].

    Raises:
        NumericalError: The damped Hessian is not positive definite.
    """
    damped = hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        lowest = float(torch.linalg.eigvalsh(hessian)[0])
        raise NumericalError(
            f"the Hessian plus damping {damping:g} is not positive definite (smallest eigenvalue {lowest:.3g}): the "
            "model is not at a minimum. Train it to convergence, or raise the damping above that."
        )
    return torch.cholesky_solve(gradients.T, factor).T

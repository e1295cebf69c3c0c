"""Conjugate gradients for many right-hand sides at once, and random starts that never change.

Every vector has its own step lengths and stops on its own; a product is asked of those that are still going, together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.errors import NumericalError
from whence.methods.exact import Blocks, added, chosen, inner, times
from whence.projection import signs

__all__ = ["Solved", "conjugate_gradients", "random_start"]

Operator = Callable[[Blocks], Blocks]


@dataclass(frozen=True, slots=True)
class Solved:
    """What conjugate gradients found.

    Attributes:
        solution: Site -> [Q, O, I].
        residuals: |q - A x| / |q| of each, as the recurrence has it, float64 [Q].
        iterations: Steps each took, int64 [Q].
    """

    solution: Blocks
    residuals: Tensor
    iterations: Tensor


def random_start(like: Blocks, seed: int, name: str) -> Blocks:
    """Vectors of random signs, decided by seed, name and site alone; like [1, O, I] by site."""
    return {
        site: torch.from_numpy(signs(seed, f"{name}/{site}", each.numel())).to(each).reshape(each.shape)
        for site, each in like.items()
    }


def conjugate_gradients(
    operator: Operator,
    queries: Blocks,
    *,
    start: Blocks | None = None,
    precondition: Operator | None = None,
    iterations: int,
    tolerance: float = 0.0,
    last: float = 1.0,
) -> Solved:
    """``A^-1 q`` for a symmetric positive definite A (Hestenes & Stiefel 1952).

    Args:
        operator: ``A v`` of some vectors.
        queries: Right-hand sides, site -> [Q, O, I].
        start: First guesses; zero if None.
        precondition: About ``A^-1 v``, symmetric positive definite; the identity if None.
        iterations: Most products with A (without the one for a start).
        tolerance: A vector is done when its residual is at most this share of its right-hand side.
        last: Multiplies the step of the last iteration.

    Raises:
        NumericalError: A is not positive definite.
    """
    sizes = inner(queries, queries).sqrt()
    tolerance = max(tolerance, torch.finfo(next(iter(queries.values())).dtype).eps)  # the rest is rounding
    x = {name: torch.zeros_like(each) for name, each in queries.items()} if start is None else dict(start)
    r = dict(queries) if start is None else added(queries, operator(x), -1.0)
    z = r if precondition is None else precondition(r)
    p, rz = z, inner(r, z)
    done = torch.zeros(len(sizes), dtype=torch.int64)
    for step in range(iterations):
        going = (inner(r, r).sqrt() > tolerance * sizes).nonzero()[:, 0]
        if not len(going):
            break
        some = chosen(p, going)
        image = operator(some)
        curvature = inner(some, image)
        if not (curvature > 0).all():
            raise NumericalError(
                f"after {step} products the damped matrix is not positive definite along a query's direction "
                f"(curvature {float(curvature.min()):.3g}): the model is not at a minimum. Raise the damping, or use "
                "kind=ggn, which always is."
            )
        length = rz[going] / curvature * (last if step == iterations - 1 else 1.0)
        _add(x, going, some, length)
        _add(r, going, image, -length)
        done[going] += 1
        if step == iterations - 1:
            break
        left = chosen(r, going)
        z = left if precondition is None else precondition(left)
        before, rz[going] = rz[going].clone(), inner(left, z)
        turned = added(z, times(some, rz[going] / before))
        p = {name: each.index_copy(0, going.to(each.device), turned[name]) for name, each in p.items()}
    return Solved(x, inner(r, r).sqrt() / sizes.clamp_min(1e-300), done)


def _add(total: Blocks, which: Tensor, vectors: Blocks, numbers: Tensor) -> None:
    """Add numbers times vectors to some of the totals; makes new tensors, since queries are not ours to change."""
    scaled = times(vectors, numbers)
    for name, each in total.items():
        total[name] = each.index_add(0, which.to(each.device), scaled[name])

"""Effective dimension: how many directions of a site the fitted curvature, and not the damping, decides.

    d_l = tr C (C + l)^-1 = sum Lambda / (Lambda + l)

Source: Hu, Hu, Ma & Zhao 2026, arXiv:2602.10449. *Proven there*, for influence g^T (F + l)^-1 g' with the exact Fisher
F and a sketch of gradients before F is inverted: the error is controlled by d_l, a sketch of about d_l / eps^2
coordinates is enough for relative error eps, and in the worst case needed; Kronecker sketches of Kronecker factors keep
that. *Our reading*: F is EK-FAC's block-diagonal C, so that each site has a d_l of its own and the model has their sum;
the constant of d_l / eps^2, which the theorem leaves open, is taken as 1. Here the query is inverted *before* it is
sketched, so what remains is the sketch's own noise, and d_l is then the mean squared norm of a document in whitened
coordinates: d_l / m is the noise of m coordinates against a query's squared whitened norm
(`whence.attributor.leakage`).

It ignores what the sample did not show: eigenvalues measured on few documents are too few and too large, and d_l can
never be above their number.

Axes: O, I sides of a site.
"""

import math
from collections.abc import Iterable

from torch import Tensor

__all__ = ["effective_dimension", "recommended_coordinates", "total_dimension"]

SMALLEST = 64


def effective_dimension(eigenvalues: Tensor, damping: float) -> float:
    """``sum Lambda / (Lambda + l)`` of one site's eigenvalues [O, I] ([E, O, I] of a stack), in float64.

    >>> import torch
    >>> effective_dimension(torch.tensor([[1.0, 1.0, 0.0]]), damping=1.0)
    1.0
    """
    wide = eigenvalues.double()
    return float((wide / (wide + damping)).sum())


def total_dimension(sites: Iterable[tuple[Tensor, float]]) -> float:
    """That of all sites together, (eigenvalues, lambda) each: the curvature is block-diagonal, so they add up."""
    return sum(effective_dimension(eigenvalues, damping) for eigenvalues, damping in sites)


def recommended_coordinates(dimension: float, size: int, error: float = 0.1) -> int:
    """Coordinates to keep of a site for a wanted relative error: d_l / error^2, rounded up to a power of two.

    At least 64, as codes have no smaller block, and at most `size`, the site's own number.

    >>> recommended_coordinates(12.5, size=1_000_000, error=0.1)
    2048
    >>> recommended_coordinates(12.5, size=1_000, error=0.1)
    1000
    """
    if not 0 < error < math.inf:
        raise ValueError(f"the wanted relative error is a positive number, as in 0.1; got {error}")
    wanted = max(math.ceil(dimension / error**2 * (1 - 1e-12)), SMALLEST)  # rounding must not double an exact power
    return min(1 << (wanted - 1).bit_length(), size)

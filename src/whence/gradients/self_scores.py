"""Quadratic forms of documents' own gradients: squared norms, self-influence, and gradient dots beside them.

    squares    ||G||^2                          the size of a document's gradient
    solved     G^T (C + l)^-1 G                 over n: self-influence, the predicted rise of the document's own loss
                                                (nats) if it had not been trained on; large for memorised and for
                                                mislabelled documents (Koh & Liang 2017, arXiv:1703.04730)

A document of several windows has the form of its *summed* gradient, which is not the sum of its windows' forms, so
`measure_together` adds gradients first. Gradients are measured in the curvature's eigenbasis, where the inverse is a
division and norms are what they were.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.curvature import SiteCurvature
from whence.errors import NumericalError
from whence.factors import AnyFactors, Side, block_pieces
from whence.gradients.passes import rotated_blocks
from whence.gradients.runner import Examples, Runner, products
from whence.interfaces import Site

__all__ = ["Bases", "Measured", "dots_and_squares", "measure_each", "measure_together", "squares_and_solved"]

Bases = Mapping[str, SiteCurvature] | None
Measured = Callable[[Site, Tensor], Tensor]
"""(site, blocks [n, O, I]) -> float64 [K, n]; the sum over sites is what is wanted."""


def squares_and_solved(curvatures: Mapping[str, tuple[SiteCurvature, float]]) -> Measured:
    """Squared norm and ``G^T (C + l)^-1 G`` of blocks in the eigenbasis, K = 2.

    Args:
        curvatures: Site -> (curvature, damping), on the blocks' device.
    """
    inverse = {name: 1.0 / (each.eigenvalues.double() + damping) for name, (each, damping) in curvatures.items()}

    def measured(site: Site, blocks: Tensor) -> Tensor:
        squared = blocks.double().square().flatten(1)
        return torch.stack([squared.sum(1), squared @ inverse[site.name].reshape(-1)])

    return measured


def dots_and_squares(targets: Mapping[str, Tensor]) -> Measured:
    """Inner products with fixed blocks, and the squared norm as the last row, K = M + 1.

    Args:
        targets: Site -> [M, O, I].
    """

    def measured(site: Site, blocks: Tensor) -> Tensor:
        flat = blocks.flatten(1)
        dots = targets[site.name].flatten(1).to(flat.dtype) @ flat.T
        return torch.cat([dots.double(), flat.double().square().sum(1)[None]])

    return measured


def measure_each(runner: Runner, examples: Examples, measured: Measured, bases: Bases = None) -> NDArray[np.float64]:
    """Measure the gradient of each example of a batch.

    Args:
        runner: Model, sites and loss.
        examples: The batch, E examples.
        measured: What to measure.
        bases: Measure in these eigenbases; as the gradient is if None.

    Returns:
        float64 [K, E].

    Raises:
        NumericalError: A gradient is not finite.
    """
    parts: dict[str, Tensor] = {}

    def take(site: Site, pieces: Iterable[Tensor]) -> None:
        parts[site.name] = torch.cat([measured(site, blocks) for blocks in pieces], 1).cpu()

    _visit(runner, examples, bases, take)
    return _finite(sum(parts.values()))


def measure_together(
    runner: Runner, batches: Iterable[Examples], measured: Measured, bases: Bases = None
) -> NDArray[np.float64]:
    """Measure the one gradient that all examples of some batches add up to, float64 [K]; see `measure_each`."""
    totals: dict[str, Tensor] = {}

    def take(site: Site, pieces: Iterable[Tensor]) -> None:
        for blocks in pieces:
            summed = blocks.sum(0, keepdim=True)
            totals[site.name] = totals[site.name] + summed if site.name in totals else summed

    for examples in batches:
        _visit(runner, examples, bases, take)
    sites = {site.name: site for site in runner.sites}
    return _finite(sum(measured(sites[name], total).cpu() for name, total in totals.items()))[:, 0]


def _visit(runner: Runner, examples: Examples, bases: Bases, take: Callable[[Site, Iterable[Tensor]], None]) -> None:
    """Hand over each site's blocks of a batch, some examples at a time and in order."""
    cache: dict[str, Side] = {}

    def consume(site: Site, uses: list[AnyFactors]) -> None:
        with products("full"):
            take(site, block_pieces(uses) if bases is None else rotated_blocks(site, uses, bases[site.name], cache))

    runner.examples(examples, consume)


def _finite(total: "Tensor | int") -> NDArray[np.float64]:
    values: NDArray[np.float64] = cast(Tensor, total).double().cpu().numpy()
    if not np.isfinite(values).all():
        raise NumericalError(
            "a document's gradient is not finite. Run the model in another --dtype (bfloat16 or float32 instead of "
            "float16), or take the document out."
        )
    return values

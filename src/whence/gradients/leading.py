"""Leading coordinates: those of the eigenbasis in which documents differ most, beyond what the damping decides.

    influence = sum_s w_s sum_j q_j z_j / (Lambda_j + l)        E z_j^2 = Lambda_j, and of queries likewise

so that coordinate j adds w_s Lambda_j / (Lambda_j + l) on average (root mean square): the terms of the effective
dimension (`whence.curvature.dimension`). Where Lambda is far below l a coordinate adds next to nothing, and most are. A
code of so many coordinates keeps the largest ones of each site. How many a site may keep is decided before anything is
fitted, in proportion to weight times size, so that an index's size is known beforehand:

    c_s = min(size_s, r w_s size_s)      r such that they add up to what is to be kept

No randomness, and no noise but that of rounding; what is left out is missing instead, so that influence is a little
nearer to zero than it is (`whence.attributor.leakage` says by how much). The same idea without measured eigenvalues is
LoGra's PCA start (Choe et al. 2024, arXiv:2405.13954), which keeps a rectangle of leading directions of both sides.

Axes: O, I sides of a site, E experts of a stack, c coordinates kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.curvature import SiteCurvature
from whence.factors import Places
from whence.gradients.flat import flattened, unflattened
from whence.interfaces import Site
from whence.projection import LARGEST_BLOCK, SMALLEST_BLOCK

__all__ = ["Taken", "leading_counts", "taken"]


def leading_counts(sites: Sequence[Site], weights: Mapping[str, float], coordinates: int) -> dict[str, int]:
    """How many coordinates each site keeps; all together about `coordinates` times the number of sites.

    At least 64, or all of a site that has fewer; whole blocks otherwise, so that few scales are stored.

    Args:
        sites: The sites.
        weights: Of each site, by name.
        coordinates: On average.
    """
    sizes = {site.name: site.size for site in sites}
    left, counts = float(coordinates * len(sites)), dict.fromkeys(sizes, 0.0)
    open_ = {name for name in sizes if weights[name] > 0}
    while open_:
        rate = max(left, 0.0) / sum(weights[name] * sizes[name] for name in open_)
        full = {name for name in open_ if rate * weights[name] >= 1}
        for name in full or open_:
            counts[name] = sizes[name] if full else rate * weights[name] * sizes[name]
        if not full:
            break
        left -= sum(sizes[name] for name in full)
        open_ -= full
    return {name: _rounded(count, sizes[name]) for name, count in counts.items()}


def _rounded(count: float, size: int) -> int:
    """A few whole blocks.

    >>> _rounded(0, 1000), _rounded(200, 1000), _rounded(900, 1000), _rounded(9000, 10**6), _rounded(3, 48)
    (64, 192, 1000, 8192, 48)
    """
    if count >= size:
        return size
    block = SMALLEST_BLOCK
    while block < LARGEST_BLOCK and 4 * block <= count:
        block *= 2
    return min(size, block * max(1, round(count / block)))


@dataclass(frozen=True, slots=True)
class Taken:
    """Coordinates that a site's code keeps, and where documents' are found.

    Attributes:
        coordinates: int64 [c], ascending, in the flattened block [O, I] (of a stack [E, O, I]).
        rows: int64 [O'], outputs of the eigenbasis that any of them needs.
        columns: int64 [I'], inputs likewise.
        places: The same coordinates in a block of these rows and columns.
    """

    coordinates: Tensor
    rows: Tensor
    columns: Tensor
    places: Places

    def to(self, device: torch.device) -> "Taken":
        """The same on another device."""
        moved = [each.to(device) for each in (self.coordinates, self.rows, self.columns)]
        return Taken(moved[0], moved[1], moved[2], self.places.to(device))


def taken(site: Site, curvature: SiteCurvature, count: int) -> Taken:
    """The `count` coordinates of a site with the largest eigenvalues; of equal ones the first.

    In the order of codes (`whence.gradients.flat`).
    """
    chosen = _largest(flattened(site, curvature.eigenvalues), count)
    whole = unflattened(site, chosen)
    rows, at_row = whole.rows.unique(return_inverse=True)
    columns, at_column = whole.columns.unique(return_inverse=True)
    return Taken(chosen, rows, columns, Places(at_row, at_column, whole.experts))


def _largest(values: Tensor, count: int) -> Tensor:
    """Places of the largest values, ascending; of equal ones the first. Without sorting, as a head has 10^8 of them.

    >>> _largest(torch.tensor([1.0, 3.0, 1.0, 1.0]), 3).tolist()
    [0, 1, 2]
    """
    least = values.kthvalue(len(values) - count + 1).values
    above, equal = (values > least).nonzero()[:, 0], (values == least).nonzero()[:, 0]
    return torch.cat([above, equal[: count - len(above)]]).sort().values

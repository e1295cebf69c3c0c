"""Spearman's correlation of many rows at once, again and again on resamples of their units.

A bootstrap draw takes each of S units some number of times, so its ranks need no new sort: sort once, then the rank of
a unit is the number of drawn units below it, plus half of those equal to it. Ties take average ranks. Where a side is
constant the correlation is undefined and 0 is returned: a method that cannot tell units apart has said nothing.
Knows nothing of what the rows and units are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranks", "pearson", "rank", "spearman"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The order of each row's units, from which ranks on any resample follow.

    Attributes:
        order: int [Q, S]; units in ascending order of their value.
        below: int [Q, S]; for each unit, how many units are smaller.
        upto: int [Q, S]; for each unit, how many are smaller or equal.
    """

    order: NDArray[np.intp]
    below: NDArray[np.intp]
    upto: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, int]:
        """Q and S."""
        queries, units = self.order.shape
        return queries, units

    def drawn(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Twice the average ranks, centred, when unit s is drawn ``counts[b, s]`` times: [B, Q, S].

        Doubled and centred they are whole numbers, so a constant row is exactly 0.
        """
        ahead = np.zeros((len(counts), self.order.shape[0], self.order.shape[1] + 1))
        np.cumsum(counts[:, self.order], axis=-1, out=ahead[..., 1:])
        rows = np.arange(len(self.order))[:, None]
        ranks: NDArray[np.float64] = ahead[:, rows, self.below]
        ranks += ahead[:, rows, self.upto]
        ranks -= counts.sum(1)[:, None, None]
        return ranks


def rank(values: NDArray[np.floating]) -> Ranks:
    """Order the units of each row of `values` [Q, S]."""
    order = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, 1)
    below, upto = np.empty_like(order), np.empty_like(order)
    for row, (own, ascending) in enumerate(zip(values, ranked, strict=True)):
        below[row] = np.searchsorted(ascending, own, "left")
        upto[row] = np.searchsorted(ascending, own, "right")
    return Ranks(order, below, upto)


def spearman(first: Ranks, second: Ranks, counts: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Spearman's correlation of each row's two sides on each resample.

    Args:
        first: Ranks of one side, [Q, S].
        second: Ranks of the other.
        counts: int [B, S], how often each unit is drawn; every unit once if None.

    Returns:
        float64 [B, Q]; 0 where a side is constant.

    Example:
        >>> spearman(rank(np.array([[1.0, 2.0, 5.0]])), rank(np.array([[3.0, 4.0, 9.0]])))
        array([[1.]])
    """
    if counts is None:
        counts = np.ones((1, first.order.shape[1]), np.int64)
    one, two = first.drawn(counts), second.drawn(counts)
    weights = counts.astype(np.float64)
    both, left, right = (np.einsum("bs,bqs,bqs->bq", weights, x, y) for x, y in ((one, two), (one, one), (two, two)))
    return _ratio(both, np.sqrt(left * right))


def pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's correlation of two vectors; 0 where one is constant or shorter than two."""
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.divide(above, below, out=np.zeros_like(above), where=below > 0), -1.0, 1.0)

"""Which documents curvature is fitted on, and how often each counts: in proportion to how often it was trained on.

A source of weight w is trained on w times, so the Fisher matrix is sum w F / sum w. A document is drawn with a chance
of min(1, c w), and counts w / chance: those that are certain count for their whole weight, the others alike
(sequential Poisson sampling, Ohlsson 1998). With equal weights this is a plain sample of which each counts once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Sample", "draw", "total_of"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Documents drawn for a fit.

    Attributes:
        documents: Their numbers in random order, int64 [M].
        every: How often each document of the corpus counts if it is drawn, float64 [documents].
    """

    documents: NDArray[np.int64]
    every: NDArray[np.float64]

    def times(self, documents: NDArray[np.int64]) -> NDArray[np.float64]:
        """How often some documents count in sums, float64 [M]."""
        found: NDArray[np.float64] = self.every[documents]
        return found


def _certain(weights: NDArray[np.float64], count: int) -> tuple[NDArray[np.bool_], float]:
    """Who is drawn for certain, and c: chances min(1, c w) that add up to `count`."""
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        rest = weights[~certain].sum()
        if not rest:
            return certain, 1.0 / float(weights.min())
        c = float((count - certain.sum()) / rest)
        more = ~certain & (c * weights >= 1.0)
        if not more.any():
            return certain, c
        certain |= more


def draw(words: NDArray[np.uint64], weights: NDArray[np.float64], count: int) -> Sample:
    """Draw documents with chances in proportion to their weights.

    Args:
        words: A random 64-bit word of every document.
        weights: How often each was trained on, positive.
        count: How many to draw.
    """
    if (weights == weights[0]).all():
        return Sample(np.argsort(words, kind="stable")[:count], np.ones(len(weights)))
    certain, c = _certain(weights, count)
    keys = np.where(certain, -1.0, (words.astype(np.float64) + 0.5) / 2.0**64 / weights)
    chosen = np.argsort(keys, kind="stable")[:count]
    chosen = chosen[np.argsort(words[chosen], kind="stable")]  # so that any part of it is like any other
    return Sample(chosen, np.where(certain, c * weights, 1.0))


def total_of(states: Sequence[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The weighted sum of sums by name; one that counts once is what it is."""
    out: dict[str, Tensor] = {}
    for times, state in states:
        for name, value in state.items():
            weighted = value if times == 1.0 else value * times
            out[name] = out[name] + weighted if name in out else weighted
    return out

"""A bank in two parts that share neither a query nor a training set: to choose on one and report on the other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.experiments import Lab
from whence.fidelity.subsets import subset_key

__all__ = ["Halved", "split"]

QUERIES, SUBSETS = 8, 16
"""Least different queries and training sets; with fewer in a half, intervals of the gain miss the truth too often."""

Array = NDArray[np.float64]


class Halved:
    """The random subsets of a lab and what was measured on them, in halves.

    Args:
        lab: The run, its queries and its bank of half corpora, trained if it is not there.

    Raises:
        InputError: There are too few different queries or training sets to be split.
    """

    def __init__(self, lab: Lab) -> None:
        self.queries = split(lab.task(lab.training, lab.start).query_keys)
        _refuse_too_few(sum(map(len, self.queries)), len(lab.subsets))  # before anything is trained
        self.kept, self.losses = lab.halves
        self.subsets = split([subset_key(row) for row in self.kept])

    def part(self, scores: Array, report: bool) -> tuple[Array, NDArray[np.bool_], Array]:
        """Scores [Q, N], subsets and losses of the half to choose on, or of that to report on."""
        queries, subsets = self.queries[report], self.subsets[report]
        return scores[queries], self.kept[subsets], self.losses[subsets][:, :, queries]


def split(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of a part to choose on and of a part to report on, in turn; of equal names only the first has a place.

    >>> split(["a", "b", "a", "c", "b", "d"])
    ([0, 3], [1, 5])
    """
    first = sorted({name: place for place, name in reversed([*enumerate(names)])}.values())
    return first[::2], first[1::2]


def _refuse_too_few(queries: int, subsets: int) -> None:
    if queries < QUERIES or subsets < SUBSETS:
        raise InputError(
            f"tuning chooses on one part of the bank and reports on another, which takes at least {QUERIES} different "
            f"queries and {SUBSETS} different random training sets; there are {queries} and {subsets}. Ask more "
            "queries with --query, or draw more sets with --subsets; a tiny corpus has few."
        )

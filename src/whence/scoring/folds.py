"""What is kept of a stream of scores: the top, the bottom, moments, everything. Memory does not grow with the corpus.

A fold is given the scores of some documents at a time, [Q, M], in corpus order, and each document once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from whence.runs import storage_errors

__all__ = ["Dense", "Fold", "Groups", "Moments", "Only", "Spool", "Top", "Weighted"]

Scores = NDArray[np.float64]
Numbers = NDArray[np.int64]


class Fold(Protocol):
    """Something that keeps a summary of a stream of scores."""

    def update(self, documents: Numbers, scores: Scores) -> None:
        """Take in the scores [Q, M] of documents [M]."""
        ...


@dataclass(slots=True)
class Top:
    """The k largest scores of each query (or smallest), ties by document number.

    Attributes:
        queries: Q.
        k: How many to keep.
        largest: False keeps the smallest.
    """

    queries: int
    k: int
    largest: bool = True
    documents: Numbers = field(init=False)
    scores: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.documents = np.empty((self.queries, 0), dtype=np.int64)
        self.scores = np.empty((self.queries, 0))

    def update(self, documents: Numbers, scores: Scores) -> None:
        """Take in the scores [Q, M] of documents [M]."""
        values = np.concatenate([self.scores, scores], axis=1)
        numbers = np.concatenate([self.documents, np.broadcast_to(documents, scores.shape)], axis=1)
        key = -values if self.largest else values
        order = np.lexsort((numbers, key), axis=1)[:, : self.k]
        self.scores = np.take_along_axis(values, order, axis=1)
        self.documents = np.take_along_axis(numbers, order, axis=1)


@dataclass(slots=True)
class Moments:
    """Mean and standard deviation of each query's scores (Chan et al. 1983, so that order hardly matters)."""

    queries: int
    count: int = 0
    mean: Scores = field(init=False)
    squares: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.queries)
        self.squares = np.zeros(self.queries)

    def update(self, documents: Numbers, scores: Scores) -> None:
        """Take in the scores [Q, M] of documents [M]."""
        more = scores.shape[1]
        if not more:
            return
        mean = scores.mean(1)
        total = self.count + more
        shift = mean - self.mean
        self.squares += np.square(scores - mean[:, None]).sum(1) + np.square(shift) * self.count * more / total
        self.mean += shift * more / total
        self.count = total

    @property
    def std(self) -> Scores:
        """Standard deviation over documents."""
        return np.sqrt(self.squares / max(self.count, 1))


@dataclass(frozen=True, slots=True)
class Weighted:
    """Multiplies scores by the weights of their documents on the way to other folds.

    Attributes:
        folds: What sees the weighted scores.
        weights: Documents [M] -> float64 [M].
    """

    folds: Sequence[Fold]
    weights: Callable[[Numbers], Scores]

    def update(self, documents: Numbers, scores: Scores) -> None:
        """Take in the scores [Q, M] of documents [M]."""
        weighted = scores * self.weights(documents)
        for fold in self.folds:
            fold.update(documents, weighted)


@dataclass(frozen=True, slots=True)
class Only:
    """Lets some documents through to other folds.

    Attributes:
        folds: What sees them.
        chosen: bool [documents].
    """

    folds: Sequence[Fold]
    chosen: NDArray[np.bool_]

    def update(self, documents: Numbers, scores: Scores) -> None:
        """Take in the scores [Q, M] of documents [M]."""
        kept = self.chosen[documents]
        for fold in self.folds:
            fold.update(documents[kept], scores[:, kept])


@dataclass(slots=True)
class Groups:
    """Sums of positive and of negative scores by group of documents, for each query.

    Attributes:
        queries: Q.
        groups: G.
        of: The group 0..G-1 of every document, int32 [documents].
    """

    queries: int
    groups: int
    of: NDArray[np.int32]
    positive: Scores = field(init=False)
    negative: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.positive = np.zeros((self.queries, self.groups))
        self.negative = np.zeros((self.queries, self.groups))

    def update(self, documents: Numbers, scores: Scores) -> None:
        """Take in the scores [Q, M] of documents [M]."""
        groups = self.of[documents]
        for query, row in enumerate(scores):
            self.positive[query] += np.bincount(groups, np.maximum(row, 0.0), self.groups)
            self.negative[query] += np.bincount(groups, np.minimum(row, 0.0), self.groups)


@dataclass(slots=True)
class Dense:
    """Every score in memory, [Q, documents]; for corpora and query counts where that fits."""

    queries: int
    size: int
    scores: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.scores = np.full((self.queries, self.size), np.nan)

    def update(self, documents: Numbers, scores: Scores) -> None:
        """Take in the scores [Q, M] of documents [M]."""
        self.scores[:, documents] = scores


class Spool:
    """Every score on disk, [Q, documents], so that any document's rank can be counted afterwards.

    Documents that are never scored (outside the candidates) stay nan and are not ranked.
    """

    def __init__(self, path: Path, queries: int, documents: int, dtype: DTypeLike = np.float32) -> None:
        self.path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.scores = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(queries, documents))
            self.scores[:] = np.nan

    def update(self, documents: Numbers, scores: Scores, first: int = 0) -> None:
        """Take in the scores [Q, M] of documents [M], as rows from `first` on."""
        self.scores[first : first + len(scores), documents] = scores

    def ranks(self, query: int, documents: Numbers, chunk: int = 1 << 20) -> Numbers:
        """Rank of documents by this query's scores: 1 plus the number of documents that score higher."""
        row = self.scores[query]
        wanted = np.asarray(row[documents])
        higher = np.zeros(len(wanted), dtype=np.int64)
        for start in range(0, len(row), chunk):
            part = np.sort(row[start : start + chunk])
            part = part[~np.isnan(part)]
            higher += len(part) - np.searchsorted(part, wanted, side="right")
        return higher + 1

    def close(self, keep: bool) -> None:
        """Finish; the file stays only if `keep`."""
        self.scores.flush()
        del self.scores
        if not keep:
            self.path.unlink(missing_ok=True)

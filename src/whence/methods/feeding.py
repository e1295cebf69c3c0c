"""Feeds scores that are made without a stream to folds, as a stream would."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.attributor.texts import query_text
from whence.interfaces import EncodedQuery
from whence.scoring import Fold

__all__ = ["feed_matrix", "feed_words"]

_STEP = 1 << 16


def feed_matrix(owner: Attributor, scores: NDArray[np.float64], folds: Sequence[Fold]) -> None:
    """Scores [Q, documents] in corpus order, some documents at a time."""
    for start in range(0, owner.corpus.documents, _STEP):
        piece = scores[:, start : start + _STEP]
        numbers = np.arange(start, start + piece.shape[1], dtype=np.int64)
        for fold in folds:
            fold.update(numbers, piece)


def feed_words(
    owner: Attributor,
    queries: Sequence[EncodedQuery],
    scores: Callable[[str], NDArray[np.floating]],
    folds: Sequence[Fold],
) -> None:
    """Scores [documents] of each query's text; prompt and completion are the text."""
    found = [np.asarray(scores(query_text(owner, query)), dtype=np.float64) for query in queries]
    feed_matrix(owner, np.stack(found), folds)

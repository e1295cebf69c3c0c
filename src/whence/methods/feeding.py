"""Feeds scores that are there already to folds, as a stream would."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.scoring import Fold

__all__ = ["feed_matrix"]

_STEP = 1 << 16


def feed_matrix(owner: Attributor, scores: NDArray[np.float64], folds: Sequence[Fold]) -> None:
    """Scores [Q, documents] in corpus order, some documents at a time."""
    for start in range(0, owner.corpus.documents, _STEP):
        piece = scores[:, start : start + _STEP]
        numbers = np.arange(start, start + piece.shape[1], dtype=np.int64)
        for fold in folds:
            fold.update(numbers, piece)

"""What documents are about: clusters of words with readable labels, and which documents are near each other.

Topics: TF-IDF, reduced to a few directions by a truncated singular value decomposition (latent semantic analysis,
Deerwester et al. 1990), then k-means; a topic is called by the words that stand out in it.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds
from scipy.spatial.distance import cdist

from whence.baselines import Tfidf
from whence.interfaces.quality import TagValue

__all__ = ["Neighbours", "neighbours", "topics"]

_DIRECTIONS = 32
_BLOCK = 2048

Neighbours = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Nearest other documents of each, and their cosines; both [N, k]."""


def topics(texts: Tfidf, count: int | None = None, seed: int = 0) -> list[TagValue]:
    """A topic for each document.

    Args:
        texts: The documents.
        count: Topics; about the root of half the documents if None, 40 at most.
        seed: Of the start of k-means.

    Returns:
        One value per document: three words that stand out, and how much nearer the document is to its topic than to the
        next one, 0 to 1.
    """
    rows, words = texts.rows, texts.words
    total = rows.shape[0]
    count = min(count or max(1, min(40, round((total / 2) ** 0.5))), total)
    if total < 3 or count < 2 or rows.shape[1] < 3:
        label = _label(rows, words, np.ones(total, dtype=bool))
        return [TagValue(value=label, confidence=0.0) for _ in range(total)]
    directions = min(_DIRECTIONS, min(rows.shape) - 1)
    left, sizes, _ = svds(rows.astype(np.float64), k=directions, random_state=seed)
    points = left * sizes
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # as where many documents are the same
        centres, of = kmeans2(points, count, minit="++", seed=np.random.default_rng(seed), iter=25)
    nearest = np.sort(cdist(points, centres), axis=1)
    sure = 1 - nearest[:, 0] / np.maximum(nearest[:, 1], 1e-12)
    labels = {int(each): _label(rows, words, of == each) for each in np.unique(of)}
    return [TagValue(value=labels[int(each)], confidence=float(s)) for each, s in zip(of, sure, strict=True)]


def _label(rows: sparse.csr_array, words: Sequence[str], inside: NDArray[np.bool_]) -> str:
    """The three words whose mean weight inside is most above that outside; short words and numbers are passed over."""
    if not inside.any() or not words:
        return "–"
    within = np.asarray(rows[np.flatnonzero(inside)].mean(axis=0)).ravel()
    outside = np.asarray(rows[np.flatnonzero(~inside)].mean(axis=0)).ravel() if (~inside).any() else 0.0
    order = np.argsort(-(within - outside), kind="stable")
    telling = [words[i] for i in order[:60] if len(words[i]) > 3 and not words[i].isdigit()]
    return ", ".join((telling or [words[i] for i in order[:3]])[:3])


def neighbours(texts: Tfidf, k: int = 8) -> Neighbours:
    """The k nearest other documents of each by cosine of words; in blocks, so that memory stays small."""
    rows = texts.rows
    total = rows.shape[0]
    k = min(k, total - 1)
    found, cosines = np.zeros((total, max(k, 0)), dtype=np.int64), np.zeros((total, max(k, 0)))
    if k < 1:
        return found, cosines
    for start in range(0, total, _BLOCK):
        block = (rows[start : start + _BLOCK] @ rows.T).toarray()
        block[np.arange(len(block)), start + np.arange(len(block))] = -1.0
        order = np.argpartition(-block, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block, order, axis=1)
        turned = np.argsort(-values, axis=1, kind="stable")
        found[start : start + len(block)] = np.take_along_axis(order, turned, axis=1)
        cosines[start : start + len(block)] = np.take_along_axis(values, turned, axis=1)
    return found, cosines

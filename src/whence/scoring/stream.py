"""Influence as a stream: inner products of query vectors with an index, share by share, into folds.

Knows no model: queries are vectors by site, documents are codes. Windows of a document are added up before any fold
sees them, so that a long document has one influence.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whence.projection import SiteLayout
from whence.scoring.folds import Fold
from whence.scoring.kernels import score_codes

__all__ = ["Codes", "Queries", "by_document", "scan", "share_scores", "window_scores"]

Queries = Mapping[str, NDArray[np.float32]]
_CHUNK_BYTES = 1 << 27


class Codes(Protocol):
    """One share of codes."""

    @property
    def codes(self) -> NDArray[np.generic]:
        """[W, elements]."""
        ...

    @property
    def scales(self) -> NDArray[np.float32]:
        """[W, blocks]."""
        ...

    @property
    def windows(self) -> NDArray[np.int64]:
        """[W, 3]: document, start, stop."""
        ...


def window_scores(
    share: Codes, layouts: Sequence[SiteLayout], queries: Queries, rows: slice, per_site: bool = False
) -> NDArray[np.float64]:
    """Inner products [S or 1, Q, W] of some of a share's windows with the queries.

    Args:
        share: Codes.
        layouts: Row layout.
        queries: Site -> float32 [Q, stored].
        rows: Which windows.
        per_site: Keep sites apart, in the layouts' order.
    """
    width = len(next(iter(queries.values())))
    count = len(share.windows[rows])
    total = np.zeros((len(layouts) if per_site else 1, width, count))
    for number, at in enumerate(layouts):
        codes = share.codes[rows, at.first : at.last]
        scales = share.scales[rows, at.first_scale : at.last_scale]
        total[number if per_site else 0] += score_codes(codes, scales, queries[at.name], at.kept, at.bits)
    return total


def by_document(
    windows: NDArray[np.int64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Add up windows [..., W] that belong to one document; windows of a document are neighbours.

    >>> by_document(np.array([[3, 0, 8], [3, 7, 9], [4, 0, 5]]), np.array([[1.0, 2.0, 5.0]]))
    (array([3, 4]), array([[3., 5.]]))
    """
    if not len(windows):
        return windows[:, 0], scores
    starts = np.flatnonzero(np.r_[True, windows[1:, 0] != windows[:-1, 0]])
    return windows[starts, 0], np.add.reduceat(scores, starts, axis=-1)


def share_scores(share: Codes, layouts: Sequence[SiteLayout], queries: Queries) -> NDArray[np.float64]:
    """Scores [Q, W] of all windows of a share, a slice of rows at a time."""
    per_row = max(share.codes.shape[1] * share.codes.itemsize, 1)
    step = max(_CHUNK_BYTES // per_row, 1)
    width = len(next(iter(queries.values())))
    out = np.empty((width, len(share.windows)))
    for start in range(0, len(share.windows), step):
        rows = slice(start, start + step)
        out[:, rows] = window_scores(share, layouts, queries, rows)[0]
    return out


def scan(
    shares: Iterable[Codes], layouts: Sequence[SiteLayout], queries: Queries, folds: Sequence[Fold], scale: float
) -> None:
    """Score every document of an index and feed the folds.

    Args:
        shares: Iterable of shares.
        layouts: Row layout.
        queries: Site -> float32 [Q, stored].
        folds: What to keep.
        scale: 1/n, which turns inner products into nats.
    """
    for share in shares:
        documents, scores = by_document(np.asarray(share.windows), share_scores(share, layouts, queries) * scale)
        for fold in folds:
            fold.update(documents, scores)

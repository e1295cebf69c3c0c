"""Inner products of query vectors with stored codes, and what is kept of them.

kernels.py   one block of codes against full-precision queries: native C where it was built, numpy elsewhere, torch
stream.py    an index, share by share, into folds; windows add up to documents
folds.py     top, bottom, moments, sums by group, everything
"""

from whence.scoring.folds import Dense, Fold, Groups, Moments, Only, Spool, Top, Weighted
from whence.scoring.kernels import kernel_name, score_codes
from whence.scoring.stream import Codes, Queries, by_document, scan, share_scores, window_scores

__all__ = [
    "Codes",
    "Dense",
    "Fold",
    "Groups",
    "Moments",
    "Only",
    "Queries",
    "Spool",
    "Top",
    "Weighted",
    "by_document",
    "kernel_name",
    "scan",
    "score_codes",
    "share_scores",
    "window_scores",
]

"""What needs no gradients: rankings that influence has to beat.

bm25.py   which documents share words with the question
"""

from whence.baselines.bm25 import Bm25, build_bm25, open_bm25, words

__all__ = ["Bm25", "build_bm25", "open_bm25", "words"]

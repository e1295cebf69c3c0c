"""What a method that never saw the model would have said.

bm25.py   BM25 over the documents' words
"""

from whence.baselines.bm25 import Bm25, build_bm25, open_bm25

__all__ = ["Bm25", "build_bm25", "open_bm25"]

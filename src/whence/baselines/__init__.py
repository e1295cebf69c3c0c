"""What needs no gradients: rankings that influence has to beat.

bm25.py             which documents share words with the question
tfidf.py            cosine of word counts
representations.py  cosine of mean hidden states
plain.py            at random, by length, by loss
"""

from whence.baselines.bm25 import K1, B, Bm25, build_bm25, open_bm25, words
from whence.baselines.plain import alike, random_scores
from whence.baselines.representations import mean_states, similarities
from whence.baselines.tfidf import Tfidf

__all__ = [
    "K1",
    "B",
    "Bm25",
    "Tfidf",
    "alike",
    "build_bm25",
    "mean_states",
    "open_bm25",
    "random_scores",
    "similarities",
    "words",
]

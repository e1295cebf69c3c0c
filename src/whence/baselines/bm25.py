"""BM25: which documents share words with a question. The baseline that never saw the model.

Okapi BM25 as Lucene scores it (Kamphuis et al. 2020), by the bm25s library, k1 = 1.5 and b = 0.75 unless given. For a
question with words w (repeated words count again) and a document with n_w occurrences of each among its L words,

    score = sum_w log(1 + (N - N_w + 1/2) / (N_w + 1/2)) n_w / (n_w + k1 (1 - b + b L / mean L)),

N documents, N_w of them with the word. Nothing is stemmed and no word is dropped: a name or a number that occurs once
is what finds a source. Knows nothing of models, tokens or codes.
"""

import logging
import re
import unicodedata
from array import array
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

from whence.errors import StorageError
from whence.runs import publish, require_done, storage_errors

__all__ = ["K1", "B", "Bm25", "build_bm25", "open_bm25", "words"]

K1 = 1.5
B = 0.75

logging.getLogger("bm25s").setLevel(logging.WARNING)


@cache
def _pattern() -> re.Pattern[str]:
    """A character of a script written without spaces, or a run of word characters with their marks and joiners."""
    marks = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c) in ("Mn", "Mc"))
    alone = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    return re.compile(f"[{alone}]|(?:(?![{alone}])\\w)(?:(?![{alone}])[\\w{re.escape(marks)}\u200c\u200d])*")


def words(text: str) -> list[str]:
    """The words that are compared: lower-cased runs of letters, digits and underscores of any script.

    Chinese and Japanese characters are words of their own, since nothing separates their words.

    >>> words("The Zyx-9000 said: na\u00efve, 東京!")
    ['the', 'zyx', '9000', 'said', 'na\u00efve', '東', '京']
    """
    return _pattern().findall(unicodedata.normalize("NFC", text.lower()))


def build_bm25(texts: Iterable[str], folder: Path, k1: float = K1, b: float = B) -> None:
    """Index documents by their words; a folder that holds a finished index is left as it is.

    Equal texts give equal files. Words are kept as numbers in memory, four bytes each, while the index is made.

    Args:
        texts: Documents, in the order by which scores will be given.
        folder: Where the index appears, whole; nothing in it is pickled.
        k1: From how many occurrences on a further one counts for little.
        b: How much longer documents are held back, 0 not at all to 1.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    vocabulary: dict[str, int] = {}
    documents = [array("i", [vocabulary.setdefault(w, len(vocabulary)) for w in words(text)]) for text in texts]
    with publish(folder, {"documents": len(documents), "words": sum(map(len, documents))}) as temporary:
        if vocabulary:  # bm25s cannot index documents without a single word; their scores are zero
            index = bm25s.BM25(k1=k1, b=b, method="lucene", csc_backend="scipy")
            index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
            with storage_errors(folder):
                index.save(temporary, show_progress=False)


def open_bm25(folder: Path) -> "Bm25":
    """Open an index; its scores stay on disk, memory-mapped, and its vocabulary is read.

    Raises:
        IncompleteError: There is no finished index there.
        StorageError: It cannot be read, or is damaged.
    """
    marker = require_done(folder, "whence index")
    if not marker["words"]:
        return Bm25(marker["documents"], None)
    with storage_errors(folder):
        try:
            index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        except (ValueError, KeyError, EOFError) as error:
            raise StorageError(
                f"the BM25 index {folder} is damaged ({error}); delete that folder and run the same command again."
            ) from error
    return Bm25(marker["documents"], index)


class Bm25:
    """An index of documents by their words.

    Attributes:
        documents: How many documents there are.
    """

    def __init__(self, documents: int, index: Any) -> None:
        self.documents = documents
        self._index = index

    def scores(self, text: str) -> NDArray[np.float32]:
        """Score [documents] of every document for a question; 0 where they share no word."""
        known = [] if self._index is None else self._index.get_tokens_ids(words(text))
        if not known:
            return np.zeros(self.documents, dtype=np.float32)
        scores: NDArray[np.float32] = self._index.get_scores_from_ids(known)
        return scores

    @staticmethod
    def ranks(scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Rank of every document: one more than the number of documents that score higher, so that 1 is best.

        Documents with equal scores share the best rank that any of them could have. Those that score 0 share no word
        with the question, so all of them take the last rank: the number of documents.

        >>> Bm25.ranks(np.array([0.5, 2.0, 0.0, 2.0, 0.0], dtype=np.float32))
        array([3, 1, 5, 1, 5])
        """
        higher = len(scores) - np.searchsorted(np.sort(scores), scores, side="right")
        return np.where(scores > 0, higher + 1, len(scores)).astype(np.int64)

    def top(self, text: str, k: int) -> list[tuple[int, float]]:
        """The k best documents that share a word with a question, with their scores; equal scores in corpus order."""
        scores = self.scores(text)
        best = np.argsort(-scores, kind="stable")[: max(k, 0)]
        return [(int(row), float(scores[row])) for row in best if scores[row] > 0]

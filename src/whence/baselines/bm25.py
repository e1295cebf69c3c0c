"""BM25 over the documents' words (Robertson & Zaragoza 2009; Lucene's variant, k1 = 1.5, b = 0.75), by bm25s.

Words are runs of letters, digits and underscores, lower-cased; nothing is stemmed and no word is left out, because names
and exact terms are what lexical search is good at. Knows nothing of models or influence.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.errors import StorageError
from whence.runs import publish, require_done, storage_errors

__all__ = ["Bm25", "build_bm25", "open_bm25", "words_of"]

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Lower-cased words of a text.

    >>> words_of("The GIL, in Python-3")
    ['the', 'gil', 'in', 'python', '3']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def build_bm25(texts: Iterable[str], folder: Path) -> None:
    """Index documents' words.

    Args:
        texts: Documents in corpus order.
        folder: Where the index goes; appears whole.

    Raises:
        StorageError: The folder cannot be written.
    """
    vocabulary: dict[str, int] = {}
    documents = [[vocabulary.setdefault(word, len(vocabulary)) for word in words_of(text)] for text in texts]
    with publish(folder, {"documents": len(documents), "words": len(vocabulary)}) as temporary:
        if not vocabulary:
            return
        engine = _engine()
        engine.index((documents, vocabulary), show_progress=False, create_empty_token=False)
        with storage_errors(folder):
            engine.save(str(temporary), show_progress=False, allow_pickle=False)


def _engine() -> Any:
    import bm25s

    return bm25s.BM25(method="lucene", k1=1.5, b=0.75)


class Bm25:
    """An index of documents' words, memory-mapped."""

    def __init__(self, engine: Any, documents: int) -> None:
        self._engine = engine
        self.documents = documents

    def scores(self, text: str) -> NDArray[np.float32]:
        """BM25 score of every document, float32 [documents]; a word counts as often as it stands in `text`."""
        known = [] if self._engine is None else [w for w in words_of(text) if w in self._engine.vocab_dict]
        if not known:
            return np.zeros(self.documents, dtype=np.float32)
        out: NDArray[np.float32] = np.asarray(self._engine.get_scores(known), dtype=np.float32)
        return out

    @staticmethod
    def ranks(scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Rank of every document, 1 is best; equal scores share the best rank among them, and so do all zeros.

        >>> Bm25.ranks(np.array([0.0, 2.0, 1.0, 2.0], dtype=np.float32))
        array([4, 1, 3, 1])
        """
        descending = -scores
        return np.searchsorted(np.sort(descending), descending, side="left").astype(np.int64) + 1

    def top(self, text: str, k: int) -> NDArray[np.int64]:
        """The k best documents that share a word with `text`, best first, ties by document number."""
        scores = self.scores(text)
        order = np.lexsort((np.arange(len(scores)), -scores))[:k]
        return order[scores[order] > 0].astype(np.int64)


def open_bm25(folder: Path) -> Bm25:
    """Open an index of words.

    Raises:
        IncompleteError: There is none.
        StorageError: It is damaged.
    """
    marker = require_done(folder, "whence trace")
    if not marker["words"]:
        return Bm25(None, marker["documents"])
    import bm25s

    with storage_errors(folder):
        try:
            engine = bm25s.BM25.load(str(folder), mmap=True, show_progress=False, verbosity=0)
        except (ValueError, KeyError, EOFError) as error:
            raise StorageError(f"{folder} is damaged ({error}); delete it, it is made again when needed.") from error
    return Bm25(engine, marker["documents"])

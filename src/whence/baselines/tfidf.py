"""TF-IDF: cosine of word counts, rare words counting more. The same words as BM25; no model is asked.

A text is the vector of its word counts times ``log((1 + N) / (1 + N_w)) + 1``, N documents of which N_w have the word
(Sparck Jones 1972; smoothed and normalised as scikit-learn does by default). A score is the cosine of two vectors.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from whence.baselines.bm25 import words
from whence.runs import open_array, storage_errors, write_array

__all__ = ["Tfidf"]


class Tfidf:
    """Documents by their words, in memory as a sparse matrix.

    Args:
        texts: Documents, in the order by which scores will be given.

    Attributes:
        documents: How many documents there are, N.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._vocabulary: dict[str, int] = {}
        columns, counts, starts = array("q"), array("d"), array("q", [0])
        for text in texts:
            for word, count in Counter(words(text)).items():
                columns.append(self._vocabulary.setdefault(word, len(self._vocabulary)))
                counts.append(count)
            starts.append(len(columns))
        self.documents = len(starts) - 1
        raw = self._matrix(counts, columns, starts)
        having = np.bincount(raw.indices, minlength=len(self._vocabulary))
        self._weights = np.log((1 + self.documents) / (1 + having)) + 1
        self._rows = self._normed(raw)

    def _matrix(self, counts: Any, columns: Any, starts: Any) -> Any:
        arrays = (np.asarray(counts, dtype=np.float64), np.asarray(columns, dtype=np.int64), np.asarray(starts))
        return sparse.csr_array(arrays, shape=(len(arrays[2]) - 1, len(self._vocabulary)))

    def _normed(self, raw: Any) -> Any:
        """Weighted rows of length one; a text without a known word stays zero."""
        weighted = raw * self._weights[None, :]
        weighted = sparse.csr_array(weighted)
        norms = np.sqrt(weighted.multiply(weighted).sum(axis=1))
        scale = np.divide(1.0, norms, out=np.zeros(len(norms)), where=norms > 0)
        return sparse.csr_array(weighted.multiply(scale[:, None]))

    def save(self, folder: Path) -> None:
        """Write it into a folder that is there; nothing in it is pickled."""
        for name, values in self._arrays().items():
            write_array(folder / f"{name}.npy", values)
        with storage_errors(folder):
            (folder / "words.json").write_text(json.dumps(self.words), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> "Tfidf":
        """Read what `save` wrote; the rows stay on disk, memory-mapped."""
        with storage_errors(folder):
            vocabulary = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        made = cls(())
        made._vocabulary = {word: number for number, word in enumerate(vocabulary)}
        data, columns, starts, made._weights = (open_array(folder / f"{name}.npy") for name in made._arrays())
        made.documents = len(starts) - 1
        made._rows = sparse.csr_array((data, columns, starts), shape=(made.documents, len(vocabulary)))
        return made

    def _arrays(self) -> dict[str, Any]:
        rows = self._rows
        return {"data": rows.data, "columns": rows.indices, "starts": rows.indptr, "weights": self._weights}

    @property
    def rows(self) -> Any:
        """The documents as sparse rows of length one [N, words]."""
        return self._rows

    @property
    def words(self) -> list[str]:
        """The words, in the order of the columns."""
        return list(self._vocabulary)

    @property
    def bytes(self) -> int:
        """Bytes of the matrix."""
        return int(self._rows.data.nbytes + self._rows.indices.nbytes + self._rows.indptr.nbytes)

    def scores(self, text: str) -> NDArray[np.float64]:
        """Cosine [N] of every document with a text, in [0, 1]; 0 where they share no word."""
        known = Counter(self._vocabulary[word] for word in words(text) if word in self._vocabulary)
        if not known:
            return np.zeros(self.documents)
        asked = self._normed(self._matrix(list(known.values()), list(known), [0, len(known)]))
        out: NDArray[np.float64] = (self._rows @ asked.T).toarray()[:, 0]
        return out

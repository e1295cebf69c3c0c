"""TF-IDF: cosine of word counts, rare words counting more; no model is asked.

    d = (n_w (log((1 + N) / (1 + N_w)) + 1))_w        score(d, q) = <d, q> / (|d| |q|)

n_w occurrences of a word w in a text, N documents of which N_w have it (`whence.baselines.tfidf`, Sparck Jones 1972).
The query is its prompt and completion. Of a corpus of token ids without a tokenizer, token ids are the words. A
contrast is not part of the question.

Ignored: the model and everything that it learnt, and how much a document says: a short one that shares a word is near.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from whence.attributor import Step
from whence.attributor.steps import CorpusStep
from whence.attributor.texts import WordsStep
from whence.baselines import Tfidf
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work
from whence.methods.feeding import feed_words
from whence.runs import publish
from whence.scoring import Fold

__all__ = ["LexicalTfidf"]


class LexicalTfidf(Scorer):
    """Cosines of weighted word counts; no settings."""

    key: ClassVar[str] = "tfidf"
    title: ClassVar[str] = "TF-IDF"
    paper: ClassVar[str] = "Sparck Jones 1972"
    unit: ClassVar[str] = "score"

    def steps(self, work: Work) -> list[Step]:
        """The documents' words as a sparse matrix, made in memory."""
        return [CorpusStep(work.owner), self._indexing(work)]

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of the matrix."""
        return Tfidf.open(self._indexing(work).folder).bytes / work.owner.corpus.documents

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Multiply by the matrix, one query after another."""
        feed_words(work.owner, queries, Tfidf.open(self._indexing(work).folder).scores, folds)

    def _indexing(self, work: Work) -> WordsStep:
        def build(texts: Iterable[str], folder: Path) -> None:
            made = Tfidf(texts)
            with publish(folder) as temporary:
                made.save(temporary)

        return WordsStep(work.owner, lambda: work.folder(self), build)

"""BM25: which documents share words with the question and its answer; no model is asked.

    score(d) = sum_w log(1 + (N - N_w + 1/2) / (N_w + 1/2)) n_w / (n_w + k1 (1 - b + b L / mean L))

over the words w of the query, repeated ones again; n_w of them among the L words of d, N documents of which N_w have w
(`whence.baselines.bm25`, Robertson et al. 1994, as Lucene scores it). Of a corpus of token ids without a tokenizer,
token ids are the words. A contrast is not part of the question.

Ignored: the model and everything that it learnt. It hurts where documents say it in other words, or where words are
shared without teaching anything.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from whence.attributor import Step
from whence.attributor.steps import CorpusStep
from whence.attributor.texts import WordsStep
from whence.baselines import K1, B, build_bm25, open_bm25
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work
from whence.methods.feeding import feed_words
from whence.scoring import Fold

__all__ = ["LexicalBm25"]


class LexicalBm25(Scorer):
    """Okapi BM25.

    Attributes:
        k1: From how many occurrences of a word on a further one counts for little.
        b: How much long documents are held back, from 0, not at all, to 1.
    """

    key: ClassVar[str] = "bm25"
    title: ClassVar[str] = "BM25"
    paper: ClassVar[str] = "Robertson et al. 1994; Kamphuis et al. 2020"
    unit: ClassVar[str] = "score"

    k1: float = Field(default=K1, gt=0, allow_inf_nan=False)
    b: float = Field(default=B, ge=0, le=1)

    def steps(self, work: Work) -> list[Step]:
        """The index of words; with the default settings that of the run, which a trace reads too."""
        return [CorpusStep(work.owner), self._indexing(work)]

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of the index."""
        files = self._indexing(work).folder.iterdir()
        return sum(path.stat().st_size for path in files) / work.owner.corpus.documents

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Look the words up, one query after another."""
        index = open_bm25(self._indexing(work).folder)
        feed_words(work.owner, queries, index.scores, folds)

    def _indexing(self, work: Work) -> WordsStep:
        def place() -> Path:
            return work.owner.run.path / "bm25" if self == LexicalBm25() else work.folder(self)

        def build(texts: Iterable[str], folder: Path) -> None:
            build_bm25(texts, folder, self.k1, self.b)

        return WordsStep(work.owner, place, build)

"""Documents and queries as words, for BM25 and TF-IDF."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whence.attributor.steps import Advance
from whence.baselines import build_bm25, open_bm25
from whence.interfaces import EncodedQuery
from whence.runs import is_done

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["WordsStep", "bm25_of", "query_text", "texts"]


def texts(owner: "Attributor") -> Iterator[str]:
    """Every document's text in corpus order; token ids as words where there is no tokenizer."""
    for number in range(owner.corpus.documents):
        yield _words(owner, owner.corpus.document(number).tokens.tolist())


def _words(owner: "Attributor", tokens: list[int]) -> str:
    if owner.tokenizer is None:
        return " ".join(map(str, tokens))
    return str(owner.tokenizer.decode(tokens, skip_special_tokens=True))


def bm25_of(owner: "Attributor") -> Any:
    """The run's BM25 index, made if it is not there."""
    folder = owner.run.path / "bm25"
    if not is_done(folder):
        build_bm25(texts(owner), folder)
    return open_bm25(folder)


def query_text(owner: "Attributor", query: EncodedQuery) -> str:
    """What BM25 is asked: the prompt and the completion, as words like the documents'; a contrast is left out."""
    return _words(owner, query.text.tokens.tolist())


class WordsStep:
    """Index all documents by their words; one item, since what a word weighs depends on every document.

    Args:
        owner: The run.
        place: Where the index goes; asked once the corpus has been read.
        build: Makes the index of all texts in a folder, whole or not at all.
    """

    name = "words"

    def __init__(
        self, owner: "Attributor", place: Callable[[], Path], build: Callable[[Iterable[str], Path], None]
    ) -> None:
        self.owner, self._place, self._build = owner, place, build

    @cached_property
    def folder(self) -> Path:
        """Where the index goes."""
        return self._place()

    def items(self) -> list[str]:
        """The corpus as a whole."""
        return ["corpus"]

    def tokens(self, item: str) -> int:
        """All of them."""
        return self.owner.corpus.tokens

    def done(self, item: str) -> bool:
        """Whether the index is there."""
        return self.finished()

    def run(self, item: str, shares: tuple[int, int], advance: Advance) -> None:
        """Read every document."""
        corpus = self.owner.corpus
        count = corpus.documents

        def told() -> Iterator[str]:
            for number, text in enumerate(texts(self.owner)):
                advance(corpus.tokens * (number + 1) // count - corpus.tokens * number // count)
                yield text

        self._build(told(), self.folder)

    def finished(self) -> bool:
        """Whether the index is there."""
        return is_done(self.folder)

    def finish(self) -> bool:
        """There is nothing to merge."""
        return self.finished()

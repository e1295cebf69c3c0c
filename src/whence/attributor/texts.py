"""Documents and queries as words, for BM25."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from whence.baselines import build_bm25, open_bm25
from whence.interfaces import EncodedQuery
from whence.runs import is_done

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["bm25_of", "query_text", "texts"]


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
    """What BM25 is asked: the prompt and the completion, as words like the documents'."""
    return _words(owner, query.text.tokens.tolist())

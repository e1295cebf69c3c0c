"""Hits from what a search and a closer look have found: identity, ranks, shares by site, window and token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whence.attributor.details import Detail
from whence.attributor.search import Found
from whence.data import pieces_of
from whence.interfaces import EncodedQuery, Hit, Query, Token, WindowShare

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["HitMaker", "conversation", "last_message", "query_tokens"]


@dataclass(frozen=True, slots=True)
class HitMaker:
    """Makes the hits of one query.

    Attributes:
        owner: The run.
        found: What the search left.
        number: The query's number in its group.
        indexed: Whether an index was searched.
        refined: Whether influence is the model's own.
        lexical: BM25 scores of all documents.
        lexical_ranks: Their ranks.
        details: By document, influence taken apart.
        on_query: By document, influence by query token.
        places: By document, ranks by influence as searched and by gradient dot.
    """

    owner: "Attributor"
    found: Found
    number: int
    indexed: bool
    refined: bool
    lexical: NDArray[np.float32] | None
    lexical_ranks: NDArray[np.int64] | None
    details: dict[int, Detail]
    on_query: dict[int, NDArray[np.float64]]
    places: dict[int, tuple[int, int]]

    def hit(self, document: int, rank: int, values: dict[int, float], opponent: bool = False) -> Hit:
        """Everything about one document of a ranking."""
        owner, found = self.owner, self.found
        record = owner.corpus.document(document)
        detail = self.details.get(document)
        place, plain_place = self.places[document]
        queries = len(found.top.scores)
        searched = found.influence(self.number, document)
        return Hit(
            rank=rank,
            id=record.id,
            source=record.source,
            row=record.row,
            hash=record.hash,
            metadata=record.metadata,
            document=document,
            length=len(record.tokens),
            weight=owner.weight(document),
            influence=values.get(document, searched),
            refined=self.refined,
            index_influence=searched if self.indexed else None,
            index_rank=(found.moments.count + 1 - place if opponent else place) if self.indexed else None,
            gradient_dot=detail.gradient_dot if detail else float(found.spool.scores[queries + self.number, document]),
            gradient_dot_rank=plain_place,
            bm25=None if self.lexical is None else float(self.lexical[document]),
            bm25_rank=None if self.lexical_ranks is None else int(self.lexical_ranks[document]),
            sites={}
            if detail is None
            else {site.name: float(value) for site, value in zip(owner.sites, detail.sites, strict=True)},
            experts={} if detail is None else detail.experts,
            windows=()
            if detail is None
            else tuple(
                WindowShare(start=start, stop=stop, influence=influence) for start, stop, influence in detail.windows
            ),
            tokens=_document_tokens(owner, record.tokens, record.loss_mask, detail),
            query_tokens=tuple(self.on_query[document].tolist()) if document in self.on_query else (),
        )


def _document_tokens(
    owner: "Attributor", tokens: NDArray[np.int64], targets: NDArray[np.bool_], detail: Detail | None
) -> tuple[Token, ...]:
    """The tokens of a document's most influential window."""
    start, stop = (0, min(len(tokens), owner.config.corpus.context))
    if detail is not None:
        start, stop, _ = detail.windows[detail.window]
    shown = tokens[start:stop]
    texts = pieces_of(shown, owner.tokenizer) if owner.tokenizer is not None else [f"{token} " for token in shown]
    shares = detail.tokens if detail is not None else np.zeros(len(shown))
    return tuple(
        Token(text=text, influence=float(share), target=bool(target))
        for text, share, target in zip(texts, shares, targets[start:stop], strict=True)
    )


def query_tokens(query: EncodedQuery, shares: Sequence[NDArray[np.float64] | None]) -> tuple[Token, ...]:
    """The query's tokens with the influence of some documents on each, added up."""
    known = [share for share in shares if share is not None]
    total = np.sum(known, axis=0) if known else np.zeros(len(query.text.tokens))
    return tuple(
        Token(text=text, influence=float(value), target=bool(target))
        for text, value, target in zip(query.text.pieces, total, query.text.loss_mask, strict=True)
    )


def conversation(query: Query) -> str:
    """The turns before the answer, for display."""
    turns = query.messages[:-1] if query.messages else ()
    return "\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in turns)


def last_message(query: Query) -> str:
    """The answer of a conversation, for display."""
    return str(query.messages[-1].get("content", "")) if query.messages else ""

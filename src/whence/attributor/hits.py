"""Hits from what a search and a closer look have found: identity, ranks, shares by site, window and token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whence.attributor.details import Detail
from whence.attributor.search import Found
from whence.data import CharacterMap, characters_of, pieces_of
from whence.interfaces import Document, EncodedQuery, Extract, Hit, Provenance, Query, Token, WindowShare

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
            windows=() if detail is None else tuple(_share(*window) for window in detail.windows),
            tokens=_document_tokens(owner, record, detail),
            provenance=_provenance(owner, record, detail),
            query_tokens=tuple(self.on_query[document].tolist()) if document in self.on_query else (),
        )


def _share(start: int, stop: int, influence: float) -> WindowShare:
    return WindowShare(start=max(start, 0), stop=stop, influence=influence, context=max(-start, 0))


def _shown(owner: "Attributor", record: Document, detail: Detail | None) -> tuple[int, int, NDArray[np.float64]]:
    """Start and stop of the window that is shown, and the influence of its tokens, those before the document too."""
    if detail is None:
        stop = min(len(record.tokens), owner.config.corpus.context)
        return 0, stop, np.zeros(stop)
    start, stop, _ = detail.windows[detail.window]
    return start, stop, detail.tokens


def _document_tokens(owner: "Attributor", record: Document, detail: Detail | None) -> tuple[Token, ...]:
    """The tokens of a document's most influential window; one stands for all that were packed before the document."""
    start, stop, shares = _shown(owner, record, detail)
    before, first = max(-start, 0), max(start, 0)
    shown = record.tokens[first:stop]
    texts = pieces_of(shown, owner.tokenizer) if owner.tokenizer is not None else [f"{token} " for token in shown]
    own = tuple(
        Token(text=text, influence=float(share), target=bool(target))
        for text, share, target in zip(texts, shares[before:], record.loss_mask[first:stop], strict=True)
    )
    if not before:
        return own
    words = f"[{before:,} tokens packed before this document] "
    return Token(text=words, influence=float(shares[:before].sum()), target=False, context=True), *own


def _provenance(owner: "Attributor", record: Document, detail: Detail | None) -> Provenance:
    """Where the shown window lies in the row that the document was made from."""
    start, stop, shares = _shown(owner, record, detail)
    own = shares[max(-start, 0) :]
    first = max(start, 0)
    map_ = characters_of(record, owner.tokenizer, owner.config.corpus)
    peak = first + int(np.abs(own).argmax()) if detail is not None and len(own) else None
    origin = record.origin
    named = origin is not None and origin.file is not None
    return Provenance(
        file=origin.file if origin is not None and origin.file is not None else record.source,
        row=origin.row if origin is not None and named else record.row,
        fields=() if map_ is None else map_.fields,
        checked=None if map_ is None else map_.checked,
        window=_extract(record, map_, first, stop),
        peak=None if peak is None else _extract(record, map_, peak, peak + 1),
    )


def _extract(record: Document, map_: CharacterMap | None, start: int, stop: int) -> Extract:
    at = None if record.origin is None else record.origin.start
    return Extract(
        tokens=(start, stop),
        characters=None if map_ is None else map_.range(start, stop),
        file_tokens=None if at is None else (at + start, at + stop),
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

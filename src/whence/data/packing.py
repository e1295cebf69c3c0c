"""Documents in the sequences that a model was trained on: windows, and the tokens that a share must keep for them.

    documents   |aaaaa|  |aabbb|       each document alone; windows of `context` tokens overlap by one
    concat      |aaabb|bbbc|           the stream of a file in chunks; an example is a chunk up to the document's end
    masked      |aaa|bb|bbb|c|         the same chunks; an example is the document's own part of one

An example's loss is on its document's own tokens, and the first token of a chunk is predicted from nothing, so the
gradients of the examples in a chunk add up to the gradient of the chunk. Knows no files and no tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from whence.data.config import CorpusConfig, Packing
from whence.interfaces import Document, Skip

__all__ = ["Filling", "windows_of"]


def windows_of(length: int, context: int, packing: Packing = "documents", position: int = 0) -> NDArray[np.int64]:
    """Windows of a document: start and stop, int64 [W, 2]; a start below 0 is that many tokens before the document.

    Args:
        length: Tokens of the document.
        context: Tokens of a window, or of a chunk.
        packing: How documents were packed. Alone, neighbouring windows overlap by one token, so that every token but
            the first is predicted exactly once; packed, they do not.
        position: Where in the stream of its file the document begins.

    >>> windows_of(7, 4).tolist()
    [[0, 4], [3, 7]]
    >>> windows_of(8, 4).tolist()
    [[0, 4], [3, 7], [6, 8]]
    >>> windows_of(7, 4, "concat", position=6).tolist()
    [[-2, 2], [2, 6], [6, 7]]
    >>> windows_of(7, 4, "masked", position=6).tolist()
    [[0, 2], [2, 6], [6, 7]]
    """
    if packing == "documents":
        starts = np.arange(0, max(length - 1, 0), context - 1, dtype=np.int64)
        return np.stack([starts, np.minimum(starts + context, length)], axis=1)
    starts = np.arange(-(position % context), length, context, dtype=np.int64)
    stops = np.minimum(starts + context, length)
    return np.stack([np.maximum(starts, 0) if packing == "masked" else starts, stops], axis=1)


def _predicted(loss: NDArray[np.bool_], context: int, packing: Packing, position: int) -> NDArray[np.bool_]:
    """The targets of a document that its place in the stream leaves: no first token of a sequence is predicted."""
    if packing == "documents":
        return loss
    kept = loss.copy()
    kept[-position % context :: context] = False
    if packing == "masked":
        kept[:1] = False
    return kept


def _with_target(windows: NDArray[np.int64], loss: NDArray[np.bool_], packing: Packing) -> NDArray[np.int64]:
    """The windows in which something is predicted."""
    targets = np.concatenate([[0], np.cumsum(loss)])
    first = windows[:, 0] + 1 if packing == "documents" else np.maximum(windows[:, 0], 0)
    return windows[targets[windows[:, 1]] > targets[first]]


@dataclass
class Filling:
    """A share being collected, in the order of its file.

    Attributes:
        config: Context, packing, and when a share is full.
        position: Tokens of the file's stream so far.
        lead: The tokens before the share that share a chunk with its first ones; kept for "concat" alone.
        documents: Its documents, targets as their place in the stream leaves them.
        windows: Of each document, int64 [W, 2].
        offsets: Of each document, where its tokens begin in `tokens`.
        skips: The rows that were left out.
        pieces: Tokens uint32 and targets bool in the order of the stream: the lead, documents, and what was left out
            but stands before others in their chunks.
    """

    config: CorpusConfig
    position: int = 0
    lead: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))
    documents: list[Document] = field(default_factory=list)
    windows: list[NDArray[np.int64]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    pieces: list[tuple[NDArray[np.uint32], NDArray[np.bool_]]] = field(default_factory=list)
    stored: int = 0
    own: int = 0

    def __post_init__(self) -> None:
        self._keep(self.lead, np.zeros(len(self.lead), dtype=bool))

    def add(self, outcome: Document | Skip) -> None:
        """Take the next document or row that was left out."""
        if isinstance(outcome, Skip):
            self.skips.append(replace(outcome, tokens=None))
            self._pass(outcome.tokens)
            return
        context, packing = self.config.context, self.config.packing
        loss = _predicted(outcome.loss_mask, context, packing, self.position)
        every = windows_of(len(outcome.tokens), context, packing, self.position)
        windows = _with_target(every, loss, packing)
        if not len(windows):
            detail = "in its place in the training sequences no token of it is predicted"
            self.add(Skip(outcome.source, outcome.row, "no-target", detail, outcome.tokens))
            return
        self.documents.append(replace(outcome, loss_mask=loss))
        self.windows.append(windows)
        self.offsets.append(self.stored)
        self.own += len(loss)
        self.position += len(loss)
        self._keep(outcome.tokens, loss)

    def full(self) -> bool:
        """Whether the share closes before the next row."""
        rows = len(self.documents) + len(self.skips)  # skips count too: a file of bad rows must not fill the memory
        return self.stored >= self.config.share_tokens + len(self.lead) or rows >= self.config.share_documents

    def next(self) -> "Filling":
        """An empty share that follows this one in its file."""
        return Filling(self.config, self.position, self.tail([tokens for tokens, _ in self.pieces]))

    def tail(self, pieces: Sequence[NDArray[np.uint32]]) -> NDArray[np.uint32]:
        """The last tokens of the stream that belong to the chunk it now stands in, from the end of what is stored."""
        wanted = self.position % self.config.context if self.config.packing == "concat" else 0
        last: list[NDArray[np.uint32]] = []
        for piece in reversed(pieces):
            if wanted <= 0:
                break
            last.insert(0, np.array(piece[-wanted:], dtype=np.uint32))
            wanted -= len(last[0])
        return np.concatenate([np.zeros(0, dtype=np.uint32), *last])

    def _pass(self, tokens: NDArray[np.generic] | None) -> None:
        """Go on in the stream over tokens of no document; those in one chunk with the next document are kept."""
        if tokens is None:
            return
        self.position += len(tokens)
        wanted = self.position % self.config.context if self.config.packing == "concat" else 0
        if wanted:
            kept = np.asarray(tokens[-wanted:])
            self._keep(kept, np.zeros(len(kept), dtype=bool))

    def _keep(self, tokens: NDArray[np.generic], loss: NDArray[np.bool_]) -> None:
        self.pieces.append((np.array(tokens, dtype=np.uint32), loss))
        self.stored += len(tokens)

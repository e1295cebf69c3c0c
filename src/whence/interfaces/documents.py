"""What the data room hands to the others: documents, windows, batches. Knows no torch.

Axes: N batch rows, T tokens, E examples. An *example* is one window of one document.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Document", "Origin", "Skip", "TokenBatch"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document of a token file lies in it, and the row of text that it was made from, as far as that is known.

    Attributes:
        start: First token, counted from the start of the token file.
        stop: One past its last token.
        file: The file of text that was tokenised, as the sidecar names it.
        row: 0-based row in that file.
    """

    start: int
    stop: int
    file: str | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One training document: its tokens and an identity it keeps for life.

    Attributes:
        id: The caller's id, or ``<file name>:<row>`` if the row has none.
        source: The file it was read from, as given (path or URL).
        row: 0-based row (line, for text formats) within that file.
        hash: xxh3-128 of the content, hexadecimal.
        tokens: Token ids, int64 [T].
        loss_mask: bool [T]; True where the token is a training target. The first token is one only if it was predicted
            from the document that was packed before it.
        metadata: The row's tags: its fields other than the text, what its `metadata` and attribute files say of it, and
            what the mix says of its source; all as strings.
        notes: What a reader of the corpus should know about how it was read; keys of `whence.data.NOTES`.
        origin: Its place in a token file; None if it was read from anything else.
    """

    id: str
    source: str
    row: int
    hash: str
    tokens: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """A row that could not be used, and why; with its tokens where they were trained on before what follows."""

    source: str
    row: int
    reason: str
    detail: str = ""
    tokens: NDArray[Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Examples ready for a model.

    Attributes:
        rows: int64 [E], the global window number of every example, in example order.
        input_ids: int64 [N, T].
        attention_mask: bool [N, T]; False in padding.
        loss_mask: bool [N, T]; True where the token at t is a target (predicted from t-1).
        segments: int64 [N, T]; the example (0..E-1) a token belongs to, -1 in padding. Without packing, batch
            row n holds example n alone.
    """

    rows: NDArray[np.int64]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.bool_]
    loss_mask: NDArray[np.bool_]
    segments: NDArray[np.int64]

    @property
    def examples(self) -> int:
        """Number of examples E."""
        return len(self.rows)

    @property
    def packed(self) -> bool:
        """Whether some batch row holds more than one example."""
        return self.examples != len(self.input_ids)

    @property
    def positions(self) -> NDArray[np.int64]:
        """Position of every token within its own example, int64 [N, T]; 0 in padding."""
        out = np.zeros_like(self.input_ids)
        index = np.broadcast_to(np.arange(out.shape[1]), out.shape)
        starts = np.full(self.examples, out.shape[1], dtype=np.int64)
        real = self.segments >= 0
        np.minimum.at(starts, self.segments[real], index[real])
        out[real] = index[real] - starts[self.segments[real]]
        return out

"""Windows of a corpus as batches that fit into memory, and the loss of each. Knows no optimizer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.data import Corpus, batch_from_sequences
from whence.errors import InputError
from whence.fidelity.places import Place, places
from whence.interfaces import TokenBatch
from whence.model import CausalLM, LoadedModel, Training, language_inputs

__all__ = ["PIECE_TOKENS", "Piece", "Windows", "checked_weights", "piece_loss", "piece_shares", "refuse_weights"]

PIECE_TOKENS = 1 << 14
"""Padded tokens that go through the model at once; larger batches are summed over several passes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a batch.

    Attributes:
        batch: The part.
        weights: What each window's loss is multiplied by, [E]: 0 for those that are there for dropout's sake alone, and
            what the documents weigh; None is 1 for all.
        divisor: Of the whole batch's loss.
    """

    batch: TokenBatch
    weights: NDArray[np.float32] | None
    divisor: int


def checked_weights(weights: Sequence[float], documents: int) -> NDArray[np.float32]:
    """What documents' losses are multiplied by, float32 [N].

    Raises:
        InputError: They are not one finite number, 0 or more, for each document.
    """
    found = np.asarray(weights, dtype=np.float32)
    if found.shape != (documents,) or not (np.isfinite(found).all() and (found >= 0).all()):
        raise InputError(
            f"weights are one number, 0 or more, for each of {documents} documents; got {list(weights)[:8]}."
        )
    return found


def refuse_weights(weights: Iterable[float]) -> None:
    """Refuse a corpus whose sources were not all trained on once an epoch: retraining reads every document alike.

    Raises:
        InputError: Some weight is not 1.
    """
    other = sorted({weight for weight in weights if weight != 1.0})
    if other:
        raise InputError(
            "retraining reads every document once an epoch, but the mix weighs sources by "
            f"{', '.join(map(str, other))}; measure on a run of the same files without weights (--data, not --mix)."
        )


class Windows:
    """All windows of a corpus in memory, and the batches of a training on some of them.

    Args:
        corpus: The corpus.
        training: How to train.
        weights: What each document's loss is multiplied by, [N]; None is 1 for all. What a batch's loss is divided by
            does not change with them.

    Attributes:
        owners: Document of every window, int64 [E].
        longest: Tokens of the longest window.
    """

    def __init__(self, corpus: Corpus, training: Training, weights: NDArray[np.float32] | None = None) -> None:
        refuse_weights(share.weight for share in corpus.shares)
        self.training = training
        self.owners = corpus.documents_of_windows(np.arange(corpus.windows, dtype=np.int64))
        self._weights = None if weights is None else weights[self.owners]
        self._examples = [corpus.window_tokens(row) for row in range(corpus.windows)]
        self._lengths = np.array([len(tokens) for tokens, _ in self._examples], dtype=np.int64)
        self._targets = np.array([int(mask.sum()) for _, mask in self._examples], dtype=np.int64)
        self.longest = int(self._lengths.max(initial=0))

    def batches(
        self, kept: NDArray[np.bool_], seed: int, dropout: bool, first: int = 0, stop: int | None = None
    ) -> Iterator[list[Piece]]:
        """The batches of a training on the documents `kept` [N], in order; an empty list where none of a batch is kept.

        Those of the steps from `first` to before `stop`, all if nothing is said.

        Where documents hold their places and dropout is on, windows that are left out stay in the batch at weight 0, so
        that the others draw the same masks. Otherwise they are dropped, and the others differ by rounding alone.
        """
        for place in islice(places(kept[self.owners], self.training, seed), first, stop):
            yield self._pieces(place, dropout, self.training.reduction)

    def document(self, number: int, reduction: str) -> list[Piece]:
        """One document as a batch of its own."""
        rows = np.flatnonzero(self.owners == number)
        return self._pieces(Place(rows, np.ones(len(rows), dtype=bool)), False, reduction)

    def _pieces(self, place: Place, dropout: bool, reduction: str) -> list[Piece]:
        """Cut where the full batch would be, and padded as wide."""
        targets = int(self._targets[place.examples].sum())
        divisor = targets if reduction == "tokens" else len(place.examples)
        width = int(self._lengths[place.examples].max())
        size = max(1, PIECE_TOKENS // width)
        cuts = (slice(start, start + size) for start in range(0, len(place.examples), size))
        parts = ((place.examples[cut], place.present[cut]) for cut in cuts)
        return [self._piece(rows, there, width, divisor, dropout) for rows, there in parts if there.any()]

    def _piece(
        self, rows: NDArray[np.int64], there: NDArray[np.bool_], width: int, divisor: int, dropout: bool
    ) -> Piece:
        whole = there.all() or not dropout
        rows, weights = (rows[there], None) if whole else (rows, there.astype(np.float32))
        if self._weights is not None:
            weights = self._weights[rows] if weights is None else weights * self._weights[rows]
        return Piece(self._batch(rows, width), weights, divisor)

    def _batch(self, rows: NDArray[np.int64], width: int) -> TokenBatch:
        return _widened(batch_from_sequences([self._examples[row] for row in rows], rows), width)


def _widened(batch: TokenBatch, width: int) -> TokenBatch:
    """The same with padding on the right up to `width` tokens."""
    room = ((0, 0), (0, width - batch.input_ids.shape[1]))
    return replace(
        batch,
        input_ids=np.pad(batch.input_ids, room),
        attention_mask=np.pad(batch.attention_mask, room),
        loss_mask=np.pad(batch.loss_mask, room),
        segments=np.pad(batch.segments, room, constant_values=-1),
    )


def piece_loss(loaded: LoadedModel) -> Callable[[nn.Module, Piece], Tensor]:
    """What a piece adds to the loss of its batch."""
    return lambda model, piece: _weighted(loaded, model, piece).sum() / piece.divisor


def piece_shares(loaded: LoadedModel) -> Callable[[nn.Module, Piece], Tensor]:
    """The same window by window, [E]."""
    return lambda model, piece: _weighted(loaded, model, piece) / piece.divisor


def _weighted(loaded: LoadedModel, model: nn.Module, piece: Piece) -> Tensor:
    losses = CausalLM().losses(model, language_inputs(piece.batch, loaded))
    return losses if piece.weights is None else losses * torch.from_numpy(piece.weights).to(losses)

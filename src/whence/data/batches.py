"""Examples into padded or packed batches of a fixed token budget. Knows arrays only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whence.data.corpus import Corpus
from whence.interfaces import TokenBatch

__all__ = ["batch_from_sequences", "make_batch", "plan_batches"]

Sequences = Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]]


def _bins(lengths: NDArray[np.int64], order: Sequence[int], pack: int | None) -> list[list[int]]:
    """Examples by batch row: alone, or packed first-fit into rows of at most `pack` tokens."""
    if pack is None:
        return [[number] for number in order]
    rows: list[list[int]] = []
    room = np.zeros(len(order), dtype=np.int64)
    for number in order:
        length = int(lengths[number])
        fits = room[: len(rows)] >= length
        place = int(fits.argmax()) if fits.any() else len(rows)
        if place == len(rows):
            rows.append([])
            room[place] = pack
        rows[place].append(number)
        room[place] = max(0, room[place] - length)
    return rows


def plan_batches(lengths: NDArray[np.int64], token_budget: int, pack: int | None = None) -> list[NDArray[np.int64]]:
    """Group examples so that no batch exceeds a budget of padded tokens.

    Examples are sorted by length, longest first (so that running out of memory happens at once), ties in their order.
    An example above the budget is a batch of its own.

    Args:
        lengths: Tokens of every example, int64 [E].
        token_budget: Batch rows times the longest row, at most.
        pack: Put several examples into batch rows of at most this many tokens; give `make_batch` the same number.

    Returns:
        Indices into `lengths`; every example is in exactly one batch.

    >>> [batch.tolist() for batch in plan_batches(np.array([2, 9, 3, 4]), 10)]
    [[1], [3, 2], [0]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable").tolist()
    batches: list[NDArray[np.int64]] = []
    batch: list[int] = []
    rows, width = 0, 0
    for members in _bins(lengths, order, pack):
        length = int(lengths[members].sum())
        if batch and (rows + 1) * max(width, length) > token_budget:
            batches.append(np.asarray(batch, dtype=np.int64))
            batch, rows, width = [], 0, 0
        batch.extend(members)
        rows, width = rows + 1, max(width, length)
    if batch:
        batches.append(np.asarray(batch, dtype=np.int64))
    return batches


def batch_from_sequences(
    sequences: Sequences,
    rows: NDArray[np.int64] | None = None,
    pad_id: int = 0,
    side: str = "right",
    pack: int | None = None,
) -> TokenBatch:
    """Pad or pack sequences into a batch.

    Args:
        sequences: Tokens int64 [T] and loss mask bool [T] of each example.
        rows: Global window number of each example; 0, 1, … if absent.
        pad_id: Token id in padding; any valid one, it is masked.
        side: "right" or "left", where the padding goes.
        pack: Put neighbouring examples into batch rows of at most this many tokens, first-fit in the given order.

    Returns:
        A batch; loss is off in padding and at the first token of every example.

    Raises:
        ValueError: `side` is neither, or there is no sequence.
    """
    if side not in ("right", "left"):
        raise ValueError(f"side is 'right' or 'left', not {side!r}")
    if not sequences:
        raise ValueError("a batch needs at least one sequence")
    lengths = np.asarray([len(tokens) for tokens, _ in sequences], dtype=np.int64)
    bins = _bins(lengths, range(len(sequences)), pack)
    shape = (len(bins), max(int(lengths[members].sum()) for members in bins))
    ids = np.full(shape, pad_id, dtype=np.int64)
    loss = np.zeros(shape, dtype=bool)
    segments = np.full(shape, -1, dtype=np.int64)
    for row, members in enumerate(bins):
        at = 0 if side == "right" else shape[1] - int(lengths[members].sum())
        for number in members:
            tokens, mask = sequences[number]
            stop = at + len(tokens)
            ids[row, at:stop], loss[row, at:stop], segments[row, at:stop] = tokens, mask, number
            loss[row, at] = False
            at = stop
    numbers = np.arange(len(sequences), dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)
    return TokenBatch(numbers, ids, segments >= 0, loss, segments)


def make_batch(
    corpus: Corpus, rows: NDArray[np.int64], pad_id: int = 0, side: str = "right", pack: int | None = None
) -> TokenBatch:
    """A batch of windows of a corpus, by their global numbers; see `batch_from_sequences`.

    Raises:
        IndexError: There is no such window.
    """
    return batch_from_sequences([corpus.window_tokens(int(row)) for row in rows], rows, pad_id, side, pack)

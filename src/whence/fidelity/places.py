"""Which examples train together, and in which order: decided by seed, epoch and example alone. Knows no tokens.

Axes: E examples of the whole corpus. An example is a window of a document, or a row of a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from whence.fidelity.subsets import SHUFFLES, keys
from whence.model import Training

__all__ = ["Place", "places", "steps_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """The examples of one step.

    Attributes:
        examples: int64 [B], in order; of the whole corpus where documents hold their places.
        present: bool [B], which of them the training set has.
    """

    examples: NDArray[np.int64]
    present: NDArray[np.bool_]


def steps_of(kept: NDArray[np.bool_], training: Training) -> int:
    """Steps of a training on the examples `kept` [E]."""
    return training.steps(len(kept) if training.grouping == "hold" else int(kept.sum()))


def places(kept: NDArray[np.bool_], training: Training, seed: int) -> Iterator[Place]:
    """The steps of a training, in order; as many as `steps_of` says.

    With `hold` the epochs are shuffles of the whole corpus, in which a training set has gaps. With `refill` they are
    the same shuffles with the gaps closed.

    Args:
        kept: bool [E].
        training: Batch, grouping, epochs.
        seed: Decides the shuffles.
    """
    if training.full_batch:
        yield _whole(kept, training)
        return
    left = steps_of(kept, training)
    for epoch in count():
        order = np.argsort(keys(len(kept), SHUFFLES, seed, epoch), kind="stable")
        order = order if training.grouping == "hold" else order[kept[order]]
        for start in range(0, len(order), training.batch):
            if not left:
                return
            left -= 1
            examples = order[start : start + training.batch]
            yield Place(examples, kept[examples])


def _whole(kept: NDArray[np.bool_], training: Training) -> Place:
    examples = np.arange(len(kept)) if training.grouping == "hold" else np.flatnonzero(kept)
    return Place(examples, kept[examples])

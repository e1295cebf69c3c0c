"""Mean hidden states of documents and queries, for representation similarity.

A share of the corpus at a time, so that memory does not grow with the corpus. Axes: D depths, N documents, Q queries.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from whence.attributor.steps import Advance, ShareStep, batches
from whence.baselines import mean_states, similarities
from whence.data import CorpusShare, batch_from_sequences
from whence.gradients import language_examples
from whence.interfaces import EncodedQuery
from whence.model import LanguageInputs
from whence.runs import open_array, publish, write_array

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["StatesStep", "alike_states", "query_states", "share_states", "state_similarities"]

States = NDArray[np.float64]


def _ignore(_: int) -> None:
    return None


def share_states(
    owner: "Attributor", share: CorpusShare, layers: Sequence[float], advance: Advance = _ignore
) -> States:
    """Mean hidden states of a share's documents at relative depths, [D, N, hidden]; zero without a window."""
    rows = share.first_window + np.arange(share.windows, dtype=np.int64)
    owners = owner.corpus.documents_of_windows(rows) - share.first_document

    def inputs() -> Iterator[tuple[NDArray[np.int64], LanguageInputs]]:
        for places, examples, tokens in batches(owner, rows):
            yield owners[places], examples.inputs
            advance(tokens)

    return mean_states(owner.loaded.model, inputs(), share.documents, layers)


def query_states(owner: "Attributor", queries: Sequence[EncodedQuery], layers: Sequence[float]) -> States:
    """Mean hidden states of prompts with their completions, [D, Q, hidden]; a contrast is left out."""

    def inputs() -> Iterator[tuple[NDArray[np.int64], LanguageInputs]]:
        for number, query in enumerate(queries):
            batch = batch_from_sequences([(query.text.tokens, query.text.loss_mask)])
            yield np.array([number]), language_examples(batch, owner.loaded).inputs

    return mean_states(owner.loaded.model, inputs(), len(queries), layers)


def alike_states(asked: States, documents: States) -> NDArray[np.float64]:
    """Cosines [Q, N] averaged over depths; 0 for documents without a window, of which a share may hold nothing else."""
    return similarities(asked, documents) if documents.size else np.zeros((asked.shape[1], documents.shape[1]))


def state_similarities(
    owner: "Attributor", queries: Sequence[EncodedQuery], layers: Sequence[float] = (1.0,)
) -> NDArray[np.float64]:
    """Cosine of the mean hidden states of each query and document at relative depths, float64 [Q, documents]."""
    asked = query_states(owner, queries, layers)
    shares = owner.corpus.shares
    return np.concatenate([alike_states(asked, share_states(owner, share, layers)) for share in shares], axis=1)


class StatesStep(ShareStep):
    """Mean hidden states of every document, a share of the corpus at a time; in float32, or what is wider.

    Args:
        owner: The run.
        place: Where they go; asked once the corpus has been read.
        layers: Relative depths.
    """

    name = "states"

    def __init__(self, owner: "Attributor", place: Callable[[], Path], layers: Sequence[float]) -> None:
        self.owner, self._place, self.layers = owner, place, layers

    @cached_property
    def folder(self) -> Path:
        """Where the states go."""
        return self._place()

    def place_of(self, share: CorpusShare) -> Path:
        """Where a share's states go."""
        return self.folder / share.name

    def run(self, item: CorpusShare, shares: tuple[int, int], advance: Advance) -> None:
        """Run the model over one share."""
        states = share_states(self.owner, item, self.layers, advance)
        with publish(self.place_of(item)) as temporary:
            write_array(temporary / "states.npy", states.astype(np.float64 if self.wide else np.float32))

    @property
    def wide(self) -> bool:
        """Whether states take eight bytes a number and not four."""
        return self.owner.wide == torch.float64

    def of(self, share: CorpusShare) -> States:
        """States of a share's documents, float64 [D, N, hidden]."""
        return np.asarray(open_array(self.place_of(share) / "states.npy"), dtype=np.float64)

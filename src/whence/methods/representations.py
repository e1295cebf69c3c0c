"""Representations: cosine of mean hidden states; does the model see two texts alike?

    score(d, q) = mean over depths of cos(mean_t h_t(d), mean_t h_t(q))

h_t: hidden state of a token at a relative depth, 0 the embedding, 1 the last (`whence.baselines.representations`, Li et
al. 2024, arXiv:2409.19998). The mean is over all tokens of a document, and of a query's prompt and completion; a
contrast is not part of the question.

Ignored: what training on the document did. Likeness is symmetric and says nothing of how much was learnt: the negative
control that influence has to pass.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from whence.attributor import Step
from whence.attributor.states import StatesStep, alike_states, query_states
from whence.attributor.steps import CorpusStep
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work
from whence.scoring import Fold

__all__ = ["Representations"]


class Representations(Scorer):
    """Cosines of mean hidden states.

    Attributes:
        layers: Relative depths whose cosines are averaged: 1 the last hidden state, 0 the embedding.
    """

    key: ClassVar[str] = "representations"
    title: ClassVar[str] = "representations"
    paper: ClassVar[str] = "Li et al. 2024, arXiv:2409.19998"
    unit: ClassVar[str] = "score"

    layers: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=(1.0,), min_length=1)

    @field_validator("layers", mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | float) else value

    def steps(self, work: Work) -> list[Step]:
        """The states of all documents, by running the model forward."""
        return [CorpusStep(work.owner), self._states(work)]

    def bytes_per_document(self, work: Work) -> float:
        """A number for each depth and hidden unit."""
        states, first = self._states(work), work.owner.corpus.shares[0]
        return (8.0 if states.wide else 4.0) * states.of(first)[:, 0].size

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Read the states a share at a time."""
        asked, states = query_states(work.owner, queries, self.layers), self._states(work)
        for share in work.owner.corpus.shares:
            numbers = share.first_document + np.arange(share.documents, dtype=np.int64)
            scores = alike_states(asked, states.of(share))
            for fold in folds:
                fold.update(numbers, scores)

    def _states(self, work: Work) -> StatesStep:
        return StatesStep(work.owner, lambda: work.folder(self), self.layers)

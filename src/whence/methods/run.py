"""Runs a method: its steps, then scores as a stream or as a matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor import Question, ask, run_steps
from whence.attributor.search import against, group_size
from whence.errors import InputError
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Method, Scorer, Solver, Work
from whence.scoring import Dense, Fold

__all__ = ["Bound", "method_scores"]


def _ignore(_: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Bound:
    """A method with what it works on.

    Attributes:
        method: The method.
        work: What it may use.

    Raises:
        InputError: It needs checkpoints, and there are none.
    """

    method: Method
    work: Work

    def __post_init__(self) -> None:
        if self.method.checkpoints and not self.work.checkpoints:
            raise InputError(
                f"method {self.method.key!r} follows the training through its checkpoints; name them with "
                "--checkpoints 'folder/checkpoint-*' (a Trainer's output, or folders with a checkpoint.json)."
            )

    @property
    def name(self) -> str:
        """The method as typed."""
        return self.method.spec

    def solve(self, question: Question) -> Mapping[str, Tensor] | None:
        """The queries' vectors by site, [Q, O, I]; None if documents have vectors of their own too."""
        return self.method.solve(self.work, question) if isinstance(self.method, Solver) else None

    def stream(self, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance = _ignore) -> None:
        """Feed scores [Q, M] of all documents to folds; a solver runs the model over the corpus."""
        owner = self.work.owner
        if isinstance(self.method, Solver):
            solved = self.method.solve(self.work, ask(owner, queries))
            against(owner, [solved], folds, 1.0 / owner.trained_on, None, advance)
        else:
            assert isinstance(self.method, Scorer)
            self.method.stream(self.work, queries, folds, advance)


def method_scores(
    method: Method, work: Work, queries: Sequence[EncodedQuery], advance: Advance = _ignore
) -> NDArray[np.float64]:
    """Scores of all documents for all queries, after the steps that are missing, float64 [Q, documents].

    Documents without a target token score 0.

    Args:
        method: The method.
        work: What it may use.
        queries: The queries, Q of them.
        advance: Told of tokens as they are done.

    Raises:
        InputError: The method needs checkpoints, and there are none.
    """
    bound, owner = Bound(method, work), work.owner
    run_steps(method.steps(work))
    parts, step = [], group_size(owner)
    for start in range(0, len(queries), step):
        group = queries[start : start + step]
        dense = Dense(len(group), owner.corpus.documents)
        bound.stream(group, [dense], advance)
        parts.append(np.nan_to_num(dense.scores, nan=0.0))
    return np.concatenate(parts)

"""Runs a method: its steps, then scores as a stream or as a matrix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor import Question, Step, ask, run_steps
from whence.attributor.search import against, from_index, group_size
from whence.errors import InputError
from whence.gradients import Recipe
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Method, Scorer, Solver, Work
from whence.model import CausalLM
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
        InputError: It needs checkpoints or the training, and has none.
    """

    method: Method
    work: Work

    def __post_init__(self) -> None:
        for part in self.method.parts:
            if part is not self.method:
                Bound(part, self.work)
        if self.method.checkpoints and not self.work.checkpoints:
            raise InputError(
                f"method {self.method.key!r} follows the training through its checkpoints; name them with "
                "--checkpoints 'folder/checkpoint-*' (a Trainer's output, or folders with a checkpoint.json)."
            )
        if self.method.training:
            self.work.training(self.method)

    @property
    def name(self) -> str:
        """The method as typed."""
        return self.method.spec

    @property
    def unit(self) -> str:
        """Of its scores."""
        return self.method.unit

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its scores has to know."""
        return self.method.notes(self.work)

    @property
    def recipe(self) -> Recipe | None:
        """The index it reads, and whose gradients documents have; the run's own if None.

        A method that says nothing of it is one of plain gradients: where the run's own are unsaturated, it has an index
        beside that.
        """
        if not isinstance(self.method, Solver):
            return None
        own, run = self.method.recipe(self.work), self.work.owner
        if own is not None or run.config.recipe.objective == CausalLM():
            return own
        return run.config.recipe.alike.resolved(run.sites)

    @property
    def reads_index(self) -> bool:
        """Whether only queries have vectors of its own, with which an index of gradients can be read."""
        return isinstance(self.method, Solver)

    @property
    def steps(self) -> list[Step]:
        """The long steps it needs first."""
        return self.method.steps(self.work)

    def prepare(self, report: Callable[[str, int, int], None] | None = None) -> None:
        """Do the steps that it still needs."""
        run_steps(self.steps, report=report)

    def solve(self, question: Question) -> Mapping[str, Tensor] | None:
        """The queries' vectors by site, [Q, O, I]; None if documents have vectors of their own too."""
        return self.method.solve(self.work, question) if isinstance(self.method, Solver) else None

    def stream(self, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance = _ignore) -> None:
        """Feed scores [Q, M] of all documents to folds; a solver runs the model over the corpus."""
        owner = self.work.owner
        if isinstance(self.method, Solver):
            question, scale, recipe = ask(owner, queries), 1.0 / owner.trained_on, self.recipe
            solved = self.method.solve(self.work, question)
            if self.method.indexed and recipe is not None:
                index, encoders = owner.open_index(recipe.name), owner.encoders(recipe)
                from_index(question, index, encoders, folds, scale, owner.corpus.weights, False, solved)
            else:
                against(owner, [solved], folds, scale, None, advance, None if recipe is None else recipe.objective)
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
    bound.prepare()
    parts, step = [], group_size(owner)
    for start in range(0, len(queries), step):
        group = queries[start : start + step]
        dense = Dense(len(group), owner.corpus.documents)
        bound.stream(group, [dense], advance)
        parts.append(np.nan_to_num(dense.scores, nan=0.0))
    return np.concatenate(parts)

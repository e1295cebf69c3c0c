"""Trajectory: what several states of a training say, each in its own standard deviations; our own.

    score(z, q) = 1/C sum_c (s_c(z, q) - mean of s_c(., q)) / (standard deviation of s_c(., q))

    s_c(z, q)   influence at checkpoint c: curvature, query's and documents' gradients are those of its weights;
                unsaturated EK-FAC (`whence.gradients.Recipe`) or plain EK-FAC

At the end of a training what was learnt by heart has hardly any gradient left, and what is left of it is noise of the
last steps. Earlier states still have it. Each state is a guess of what retraining would do, with errors of its own, and
standard scores keep the loudest from drowning the others.

Cost: for each checkpoint a fit, an index (or a pass over the corpus for the queries) and a gradient of the query; one
model is held at a time. Meanwhile all scores lie on disk, eight bytes for each checkpoint, query and document.

Ignored: learning rates and what moved between checkpoints (SOURCE has them; here an early state counts as a late one,
so checkpoints should be spread evenly and not begin before the model has learnt anything); that checkpoints err alike.
Scores say nothing of sizes. It hurts where the question is about the end alone: what a state had learnt and later
unlearnt counts as well.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from whence.attributor import Attributor, Checkpoint, Step, ask, at_checkpoint, checkpoint_folder, index_steps
from whence.attributor.search import against, from_index, solved
from whence.attributor.steps import CorpusStep
from whence.curvature import Damping
from whence.gradients import Recipe
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work, ekfac_steps
from whence.methods.combined import feed_standards
from whence.methods.later import Later
from whence.methods.unsaturated import refuse_unstored, sketched
from whence.methods.visits import paced
from whence.scoring import Fold

__all__ = ["Trajectory"]


class Trajectory(Scorer):
    """The mean of standard scores over checkpoints.

    Attributes:
        curvature: unsaturated, or ekfac without weights of sites.
        damping: Lambda as a multiple of each site's mean eigenvalue.
        bits: Bits per coordinate of each checkpoint's index; exact runs its model over the corpus instead.
        coordinates: Leading coordinates that each index keeps of each site on average; as the run's index if unsaid.
    """

    key: ClassVar[str] = "trajectory"
    title: ClassVar[str] = "trajectory"
    paper: ClassVar[str] = "this project"
    unit: ClassVar[str] = "score"
    checkpoints: ClassVar[bool] = True

    curvature: Literal["unsaturated", "ekfac"] = "unsaturated"
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    bits: Literal["1", "8", "16", "exact"] = "1"
    coordinates: int | None = Field(default=None, ge=64)

    @model_validator(mode="after")
    def _stored(self) -> Self:
        refuse_unstored(self.bits, self.coordinates)
        return self

    def recipe(self, work: Work) -> Recipe:
        """How documents are coded at every checkpoint, and queries solved."""
        own, bits = work.owner.config.recipe, {"1": 1, "8": 8, "16": 16, "exact": 16}[self.bits]
        changes: dict[str, Any] = {"method": self.curvature, "damping": Damping(value=self.damping), "bits": bits}
        return sketched(own.model_copy(update=changes), self.coordinates).resolved(work.owner.sites)

    def steps(self, work: Work) -> list[Step]:
        """The corpus, then fit and index at one checkpoint after another."""
        read, recipe = CorpusStep(work.owner), self.recipe(work)
        opened = _Opened(work, recipe)
        names = {"covariance": "covariance", "eigenvalues": "eigenvalues"}
        names |= {} if self.bits == "exact" else {"index": f"index-{recipe.name}"}
        return [
            read,
            *(
                Later(
                    name, partial(opened.step, checkpoint, name), read.finished, partial(opened.over, checkpoint, kept)
                )
                for checkpoint in work.checkpoints
                for name, kept in names.items()
            ),
        ]

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """One checkpoint after another, then the mean of their standard scores."""
        count = len(work.checkpoints)
        told = paced(advance, count)

        def score(number: int, fold: Fold) -> None:
            self._score(at_checkpoint(work.owner, work.checkpoints[number]), queries, fold, told)

        feed_standards(work, self, len(queries), [1.0 / count] * count, score, folds)

    def _score(self, at: Attributor, queries: Sequence[EncodedQuery], fold: Fold, advance: Advance) -> None:
        """Influence at one checkpoint."""
        recipe, question, scale = self.recipe(Work(at)), ask(at, queries), 1.0 / at.trained_on
        encoders = at.encoders(recipe)
        if self.bits == "exact":
            against(at, [solved(question, encoders)], [fold], scale, None, advance, recipe.objective)
        else:
            from_index(question, at.open_index(recipe.name), encoders, [fold], scale, at.corpus.weights, plain=False)

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of all checkpoints' indexes."""
        if self.bits == "exact":
            return 0.0
        corpus, sites = work.owner.corpus, work.owner.sites
        return len(work.checkpoints) * self.recipe(work).bytes_per_row(sites) * corpus.windows / corpus.documents


class _Opened:
    """The steps at the checkpoint that was asked for last: one model at a time."""

    def __init__(self, work: Work, recipe: Recipe) -> None:
        self.work, self.recipe = work, recipe
        self._last: tuple[Checkpoint, dict[str, Step]] | None = None

    def over(self, checkpoint: Checkpoint, name: str) -> Path:
        """Where it is kept that a step at a checkpoint is over."""
        return checkpoint_folder(self.work.owner, checkpoint) / f"over-{name}"

    def step(self, checkpoint: Checkpoint, name: str) -> Step:
        """A step at a checkpoint."""
        if self._last is None or self._last[0] is not checkpoint:
            self._last = None
            at = at_checkpoint(self.work.owner, checkpoint)
            self._last = checkpoint, {step.name: step for step in [*ekfac_steps(at), *index_steps(at, self.recipe)]}
        return self._last[1][name]

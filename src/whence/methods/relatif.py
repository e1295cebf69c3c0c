"""RelatIF: influence relative to how much a document does at all, so that loud documents do not come first everywhere.

    loss         <q, (C + l)^-1 z> / sqrt(z^T (C + l)^-1 z)       for one unit of change in the model's predictions
    parameters   <q, (C + l)^-1 z> / |(C + l)^-1 z|               for one unit of change in its parameters

Barshan et al. 2020, arXiv:2003.11630 (their l-RelatIF and theta-RelatIF), with EK-FAC as the inverse. The first is the
projection of q on z in the metric of the Fisher matrix, q's own length left out, so it ranks as a cosine would; neither
has a unit. Weights of sources, which say how often a document was seen and not what it says, are left out.

What it forgets: effect. A document that matters little in all directions may come first, and removing it does less than
removing one that influence names; ask it which document is *about* the output, not what to remove. A gradient that has
all but vanished (learnt by heart) is divided by next to nothing: its score is noise enlarged.

Costs one more pass over the corpus than EK-FAC, once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whence.attributor import Step, ask
from whence.attributor.search import against
from whence.attributor.steps import ShareStep, batches
from whence.curvature import SiteCurvature
from whence.data import CorpusShare
from whence.gradients import Examples, Measured, measure_each, measure_together
from whence.interfaces import EncodedQuery, Site
from whence.methods.base import Advance, Scorer, Work, ekfac_steps
from whence.methods.ekfac import curvature_of
from whence.runs import open_array, publish, write_array
from whence.scoring import Fold, Weighted

__all__ = ["Relatif"]


class Relatif(Scorer):
    """Influence over a length of the document's own.

    Attributes:
        relative: To the change in loss (the root of self-influence), or in parameters.
        damping: Lambda as a multiple of each site's mean eigenvalue.
    """

    key: ClassVar[str] = "relatif"
    title: ClassVar[str] = "RelatIF"
    paper: ClassVar[str] = "Barshan et al. 2020, arXiv:2003.11630"
    unit: ClassVar[str] = "score"

    relative: Literal["loss", "parameters"] = "loss"
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)

    def _measure(self, work: Work) -> "_MeasureStep":
        plain = self.model_copy(update={"relative": type(self).model_fields["relative"].default})
        return _MeasureStep(work, lambda: work.folder(plain), self.damping)

    def steps(self, work: Work) -> list[Step]:
        """EK-FAC, then both lengths of every document."""
        return [*ekfac_steps(work.owner), self._measure(work)]

    def bytes_per_document(self, work: Work) -> float:
        """Two numbers."""
        return 16.0

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Run the model over the corpus for influence, and divide."""
        owner, measured = work.owner, self._measure(work)
        squares = np.concatenate([measured.of(share) for share in owner.corpus.shares], 1)
        wanted = squares[0 if self.relative == "loss" else 1]

        def times(documents: NDArray[np.int64]) -> NDArray[np.float64]:
            lengths = np.sqrt(wanted[documents]) * owner.corpus.weights(documents)
            inverse: NDArray[np.float64] = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
            return inverse

        blocks = ask(owner, queries).blocks
        solved = {
            name: curvature.solve(blocks[name], damping)
            for name, (curvature, damping) in curvature_of(work, "ekfac", self.damping).items()
        }
        against(owner, [solved], [Weighted(folds, times)], 1.0, None, advance)


def _solved_squares(curvatures: Mapping[str, tuple[SiteCurvature, float]]) -> Measured:
    """``G^T (C + l)^-1 G`` and ``|(C + l)^-1 G|^2`` of blocks in the eigenbasis, K = 2."""
    inverse = {name: 1.0 / (each.eigenvalues.double() + damping) for name, (each, damping) in curvatures.items()}

    def measured(site: Site, blocks: Tensor) -> Tensor:
        squared, by = blocks.double().square().flatten(1), inverse[site.name].reshape(-1)
        return torch.stack([squared @ by, squared @ by.square()])

    return measured


class _MeasureStep(ShareStep):
    """Both squared lengths of every document, a share of the corpus at a time."""

    name = "lengths"

    def __init__(self, work: Work, place: Callable[[], Path], damping: float) -> None:
        self.work, self.owner = work, work.owner
        self._place = place
        self.damping = damping
        self._curvatures: dict[str, tuple[SiteCurvature, float]] | None = None

    @cached_property
    def folder(self) -> Path:
        """Where the squares go; known once the corpus has been read."""
        return self._place()

    def place_of(self, share: CorpusShare) -> Path:
        """Where a share's squares go."""
        return self.folder / share.name

    def run(self, item: CorpusShare, shares: tuple[int, int], advance: Advance) -> None:
        """Measure the documents of one share; windows of one document are added up first."""
        owner = self.owner
        damped = self._curvatures = self._curvatures or curvature_of(self.work, "ekfac", self.damping)
        measured, bases = _solved_squares(damped), {name: each for name, (each, _) in damped.items()}
        owners = owner.corpus.share_windows(item)[:, 0] - item.first_document
        windows = np.bincount(owners, minlength=item.documents)
        out = np.zeros((2, item.documents))

        def examples(local: NDArray[np.int64]) -> Iterable[tuple[NDArray[np.int64], Examples, int]]:
            return batches(owner, item.first_window + local.astype(np.int64))

        with publish(self.place_of(item)) as temporary:
            alone = np.flatnonzero(windows[owners] == 1)
            for places, batch, tokens in examples(alone):
                out[:, owners[alone[places]]] = measure_each(owner.runner, batch, measured, bases)
                advance(tokens)
            for document in np.flatnonzero(windows > 1).tolist():
                parts = list(examples(np.flatnonzero(owners == document)))
                out[:, document] = measure_together(owner.runner, (batch for _, batch, _ in parts), measured, bases)
                advance(sum(tokens for _, _, tokens in parts))
            write_array(temporary / "squares.npy", out)

    def finish(self) -> bool:
        """Nothing to merge; lets go of the curvature."""
        self._curvatures = None
        return super().finish()

    def of(self, share: CorpusShare) -> NDArray[np.float64]:
        """Both squares of a share's documents, [2, documents]."""
        return np.asarray(open_array(self.place_of(share) / "squares.npy"))

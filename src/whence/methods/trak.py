"""TRAK: a linear model of the margin in one random projection of all gradients.

    m = sum_t log p_t / (1 - p_t)        phi_z = P grad m(z)        Q_z = mean_t (1 - p_t)
    score = (w/n) Q_z phi_q^T (Phi^T Phi / n + l)^-1 phi_z

Park et al. 2023, arXiv:2303.14186. Over several checkpoints (or the final model alone if there are none) Q and the rest
are averaged each on its own, as in the paper, every checkpoint with a projection of its own. Scores are log-odds, which
are nats where p is small. The paper's P is a dense matrix of signs, k times as large as the model; here it is a tensor
sketch (`whence.projection.sketches`) with the same guarantee, unbiased with variance of order 1 / k. The paper's l is 0
(``damping=0``); then k must stay below the number of documents, or the inverse is noise, which is refused.

Ignored: the curvature outside k coordinates, as in every sketch, and here k are all there are, for the whole model;
the weights p (1 - p) inside the logistic Hessian; coupling of tokens, whose margins are only added up. The paper
averages tens of *independently trained* models to be rid of the noise; one checkpoint alone is a poor predictor
(measured LDS 0.05 to 0.09 where EK-FAC has 0.45). The paper's soft threshold of small scores is left out.

Axes: K = k coordinates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from whence.attributor import Attributor, Checkpoint, Step, ask
from whence.attributor.checkpoints import at_checkpoint
from whence.attributor.steps import CorpusStep
from whence.data import CorpusShare
from whence.errors import NumericalError
from whence.gradients import Examples, Runner
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work
from whence.methods.gram import GramStep, load_gram, refuse_singular
from whence.methods.sketching import TOGETHER, Depth, Sketch, SketchStep
from whence.model import LanguageInputs, Margin
from whence.projection import SketchMap, tensor_sketch
from whence.runs import open_array
from whence.scoring import Fold

__all__ = ["Trak"]


class Trak(Scorer):
    """Influence on the log-odds in one projection.

    Attributes:
        k: Coordinates of the whole model's gradient.
        damping: Lambda as a multiple of the mean eigenvalue of the documents' second moments; the paper's is 0.
        bits: Bits per stored coordinate: 1, 8, 16, or 32 for numbers as they are.
        seed: Of the projections.
    """

    key: ClassVar[str] = "trak"
    title: ClassVar[str] = "TRAK"
    paper: ClassVar[str] = "Park et al. 2023, arXiv:2303.14186"
    unit: ClassVar[str] = "score"

    k: int = Field(default=2048, ge=1, le=1 << 16)
    damping: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    bits: Depth = 16
    seed: int = Field(default=0, ge=0)

    def sketches(self, work: Work) -> list[Sketch]:
        """One of each checkpoint; any damping reads the same ones."""
        plain = self.model_copy(update={"damping": type(self).model_fields["damping"].default})

        def sketch(name: str) -> Sketch:
            place, make = (lambda: work.folder(plain) / name), (lambda: self._maps(work, name))
            return Sketch(work.owner, place, self.bits, make, True, self.seed)

        return [sketch(name) for name, _ in _models(work)]

    def _maps(self, work: Work, name: str) -> Mapping[str, SketchMap]:
        owner = work.owner
        documents = owner.corpus.documents
        if not self.damping and self.k >= documents:
            raise NumericalError(
                f"trak: with damping=0, k={self.k} coordinates need more than {self.k} documents, and there are "
                f"{documents}: their second moment is singular, and its inverse would be noise. Give k below "
                f"{documents}, or a damping above 0 (0.1 is the default)."
            )
        where = owner.loaded.device_of
        return {
            site.name: tensor_sketch(
                replace(site, name=f"{name}/{site.name}"), self.k, self.seed, where(site), owner.wide
            )
            for site in owner.sites
        }

    def steps(self, work: Work) -> list[Step]:
        """Sketches of all documents and their second moments, checkpoint by checkpoint."""
        steps: list[Step] = [CorpusStep(work.owner)]
        for sketch, (_, checkpoint) in zip(self.sketches(work), _models(work), strict=True):
            opened = None if checkpoint is None else _opener(work.owner, checkpoint)
            steps += [SketchStep(sketch, _with_doubts, opened), GramStep(sketch)]
        return steps

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of codes and doubts of all checkpoints."""
        return sum(sketch.bytes_per_document(16) for sketch in self.sketches(work))

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Scan the codes of all checkpoints, a share at a time."""
        solved = []
        for sketch, (_, checkpoint) in zip(self.sketches(work), _models(work), strict=True):
            gram = load_gram(sketch)[TOGETHER]
            refuse_singular(gram, self.damping, "trak")
            owner = work.owner if checkpoint is None else at_checkpoint(work.owner, checkpoint)
            asked = sketch.of(ask(owner, queries, Margin()).blocks)
            solved.append((sketch, {TOGETHER: gram.solve(asked[TOGETHER], self.damping)}))
        for share in work.owner.corpus.shares:
            found = [(*sketch.scores(share, vectors), _doubts(sketch, share)) for sketch, vectors in solved]
            scores = np.mean([part for _, part, _ in found], axis=0)
            doubt = np.mean([part for _, _, part in found], axis=0)
            weighted = scores * doubt * (share.weight / work.owner.trained_on)
            for fold in folds:
                fold.update(found[0][0], weighted)
            advance(share.tokens)


def _models(work: Work) -> list[tuple[str, Checkpoint | None]]:
    """The weights to use, with a name for what is fitted there: the checkpoints, or the run's own."""
    return [(f"step-{each.step}", each) for each in work.checkpoints] or [("final", None)]


def _opener(owner: Attributor, checkpoint: Checkpoint) -> Any:
    return lambda: at_checkpoint(owner, checkpoint)


@dataclass(frozen=True, slots=True)
class _Watched:
    """The margin, with a note of what the model leaves to other tokens: sum of 1 - p and targets of each example."""

    margin: Margin = field(default_factory=Margin)
    noted: list[Tensor] = field(default_factory=list)

    def losses(self, model: nn.Module, batch: LanguageInputs) -> Tensor:
        """-m of the data's targets, [E]."""
        margins = self.margin.token_margins(model, batch)
        owner = batch.segments.clamp_min(0).flatten()
        doubts = torch.where(batch.predicts, torch.sigmoid(-margins.detach()), 0.0).double().flatten()
        sums = [
            doubts.new_zeros(batch.examples).scatter_add(0, owner, each)
            for each in (doubts, batch.predicts.double().flatten())
        ]
        self.noted.append(torch.stack(sums, 1).cpu())
        return -margins.new_zeros(batch.examples).scatter_add(0, owner, margins.flatten())

    def sampled_losses(self, model: nn.Module, batch: LanguageInputs, uniforms: Tensor) -> Tensor:
        """-m of targets drawn from the model, [E]."""
        return self.margin.sampled_losses(model, batch, uniforms)

    def token_masks(self, batch: LanguageInputs) -> tuple[Tensor | None, Tensor | None]:
        """Reaching and predicting positions."""
        return self.margin.token_masks(batch)


def _with_doubts(sketch: Sketch, runner: Runner, examples: Examples) -> tuple[Tensor, Mapping[str, NDArray[Any]]]:
    watched = _Watched()
    values = sketch.of_documents(replace(runner, objective=watched), examples)
    return values, {"doubts": watched.noted[-1].numpy()}


def _doubts(sketch: Sketch, share: CorpusShare) -> NDArray[np.float64]:
    """Q of a share's documents: 1 - p on average over the targets of all windows, [N]."""
    folder = sketch.place_of(share)
    sums, windows = open_array(folder / "doubts.npy"), open_array(folder / "windows.npy")
    if not len(windows):
        return np.zeros(0)
    starts = np.flatnonzero(np.r_[True, windows[1:, 0] != windows[:-1, 0]])
    total = np.add.reduceat(np.asarray(sums), starts, axis=0)
    means: NDArray[np.float64] = total[:, 0] / total[:, 1]
    return means

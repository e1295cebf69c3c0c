"""TrackStar: projected gradients, corrected by the optimizer's second moments, whitened and made of length one.

    phi = vec(P_o (G / sqrt(V)) P_i^T)          R_s = mean_z phi_z phi_z^T of every site s
    score = <u_q, u_z> / (|u_q| |u_z|)          u = (R + l)^(-1/2) phi of all sites side by side

Chang et al. 2024, arXiv:2410.17413. R^(-1/2) acts on both sides *before* the lengths are taken, so the score is a true
cosine, without a unit; here it acts twice on the query, and the documents' lengths are stored. V is factored as in
Adafactor, V_oi ~ r_o c_i / mean(r), so that the correction folds into P: the row and column means of Adam's running
squares if the last checkpoint has them, or, without checkpoints, of the diagonal of the curvature, which is what Adam's
would come to at the end. R whitens whatever V did to a site's scale; V decides which directions the projection blurs.

Left out: R_eval. The paper mixes R with the second moment of the queries of one task, which divides out what all of
them share (the format of the question). Here a score does not depend on what else is asked, so R is of the documents
alone, the paper's mix at 0; expect less on queries with a common template.

Ignored: coupling between sites, everything outside the projection, and the sizes of effects: a cosine forgives a short
document and cannot say how much it did. Directions of low curvature drown in the projection as in LoGra.

Axes: K coordinates of a site.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whence.attributor import Step, ask
from whence.attributor.curvatures import load_curvatures
from whence.attributor.moments import optimizer_moments
from whence.attributor.steps import CorpusStep, ShareStep
from whence.data import CorpusShare
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work, diagonal_steps
from whence.methods.gram import Gram, GramStep, load_gram
from whence.methods.sketching import Depth, Sketch, SketchStep, feed
from whence.projection import SketchMap, TwoSided, two_sided
from whence.runs import open_array, publish, write_array
from whence.scoring import Fold

__all__ = ["TrackStar"]

_FLOOR = 1e-4  # of the mean second moment: a row that never had a gradient is not magnified without bound


class TrackStar(Scorer):
    """Cosine of corrected, projected, whitened gradients.

    Attributes:
        k: Coordinates kept of each side of a site.
        damping: Lambda as a multiple of the mean eigenvalue of each site's R.
        moments: auto divides by second moments (of the last checkpoint's optimizer, or else the curvature's diagonal,
            which is then fitted first); none leaves gradients as they are.
        bits: Bits per stored coordinate: 1, 8, 16, or 32 for numbers as they are.
        seed: Of the projections.
    """

    key: ClassVar[str] = "trackstar"
    title: ClassVar[str] = "TrackStar"
    paper: ClassVar[str] = "Chang et al. 2024, arXiv:2410.17413"
    unit: ClassVar[str] = "score"

    k: int = Field(default=16, ge=1, le=256)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    moments: Literal["auto", "none"] = "auto"
    bits: Depth = 16
    seed: int = Field(default=0, ge=0)

    def sketch(self, work: Work) -> Sketch:
        """The sketches; any damping reads the same ones."""
        plain = self.model_copy(update={"damping": type(self).model_fields["damping"].default})
        return Sketch(work.owner, lambda: work.folder(plain), self.bits, lambda: self._maps(work), seed=self.seed)

    def _maps(self, work: Work) -> dict[str, SketchMap]:
        owner, k = work.owner, self.k
        where = owner.loaded.device_of
        moments = self._moments(work)
        maps: dict[str, SketchMap] = {}
        for site in owner.sites:
            projection = two_sided(site, k, k, self.seed, where(site), owner.wide)
            maps[site.name] = projection
            if moments is not None:
                maps[site.name] = _corrected(projection, moments[site.name].to(where(site)), owner.wide)
        return maps

    def _moments(self, work: Work) -> Mapping[str, Tensor] | None:
        """Second moments of every site, [O, I]."""
        owner = work.owner
        if self.moments == "none":
            return None
        if work.checkpoints and work.checkpoints[-1].optimizer is not None:
            return optimizer_moments(work.checkpoints[-1], owner).square
        found = load_curvatures(owner.run.curvature, owner.sites, "diagonal")
        return {name: each.eigenvalues for name, each in found.items()}

    def steps(self, work: Work) -> list[Step]:
        """Second moments if they have to be fitted, sketches, R, and lengths."""
        sketch = self.sketch(work)
        first: list[Step] = [CorpusStep(work.owner)]
        kept = bool(work.checkpoints) and work.checkpoints[-1].optimizer is not None
        if self.moments == "auto" and not kept:
            first = diagonal_steps(work.owner)
        return [*first, SketchStep(sketch), GramStep(sketch), _LengthStep(sketch, self.damping)]

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of codes and lengths."""
        return self.sketch(work).bytes_per_document() + 8

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Scan the codes for the queries' whitened sketches of length one."""
        sketch = self.sketch(work)
        grams, lengths = load_gram(sketch), _LengthStep(sketch, self.damping)
        asked = sketch.of(ask(work.owner, queries).blocks)
        squares = torch.stack([grams[name].squares(rows, self.damping) for name, rows in asked.items()]).sum(0)
        inverse = torch.where(squares > 0, squares.rsqrt(), 0.0)[:, None, None]
        solved = {name: grams[name].solve(rows, self.damping) * inverse for name, rows in asked.items()}
        feed(sketch, solved, folds, lengths.inverse, advance)


def _corrected(projection: TwoSided, moments: Tensor, dtype: torch.dtype) -> TwoSided:
    """``P_o diag(r / mean)^(-1/2)`` and ``P_i diag(c / mean)^(-1/2)``; every expert of a stack has its own means."""
    values = moments.double()
    mean = values.mean((-2, -1))[..., None].clamp_min(torch.finfo(torch.float32).tiny)
    sides = []
    for side, dim in ((projection.left, -1), (projection.right, -2)):
        weights = (values.mean(dim) / mean).clamp_min(_FLOOR).rsqrt()
        scaled = torch.diag_embed(weights) if side is None else side.double() * weights[..., None, :]
        sides.append(scaled.to(dtype))
    return TwoSided(projection.site, sides[0], sides[1])


class _LengthStep(ShareStep):
    """Lengths of the documents' whitened sketches, a share of the corpus at a time."""

    name = "lengths"

    def __init__(self, sketch: Sketch, damping: float) -> None:
        self.sketch, self.owner = sketch, sketch.owner
        self.damping = damping
        self._grams: dict[str, Gram] | None = None

    def place_of(self, share: CorpusShare) -> Path:
        """Where a share's lengths go."""
        return self.sketch.folder / f"lengths-{self.damping:g}" / share.name

    def run(self, item: CorpusShare, shares: tuple[int, int], advance: Advance) -> None:
        """Measure the documents of one share."""
        grams = self._grams = self._grams or load_gram(self.sketch)
        squares = np.zeros(item.documents)
        with publish(self.place_of(item)) as temporary:
            for name, gram in grams.items():
                for documents, rows in self.sketch.documents(item, name):
                    squares[documents - item.first_document] += gram.squares(rows, self.damping).numpy()
            write_array(temporary / "lengths.npy", np.sqrt(squares))
            advance(item.tokens)

    def finish(self) -> bool:
        """Nothing to merge."""
        self._grams = None
        return super().finish()

    def inverse(self, share: CorpusShare, documents: NDArray[np.int64]) -> NDArray[np.float64]:
        """One over the lengths of documents; 0 for one without a gradient."""
        lengths = np.asarray(open_array(self.place_of(share) / "lengths.npy"))[documents - share.first_document]
        out: NDArray[np.float64] = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return out

"""LoGra: a two-sided projection of every site's gradient, and the exact inverse of what is left of its Fisher matrix.

    phi = vec(P_o G P_i^T)        M_s = mean_z phi_z phi_z^T        influence = (w/n) sum_s phi_q^T (M_s + l_s)^-1 phi_z

Choe et al. 2024, arXiv:2405.13954. P_o and P_i are random signs over sqrt(k), or, with ``init=pca``, the top
eigenvectors of the K-FAC factors (measured on language models: worse than random at every size). M is the Fisher matrix
of the data's own labels, as in the paper; l is a multiple of its mean eigenvalue. A site with a side below k gives its
share of the k^2 coordinates to the other side; a stack's experts share theirs, with at least 64 for each.

Ignored: all coupling between sites, and everything outside k^2 coordinates of a site. That hurts where much of a site's
curvature lies outside (k^2 below its effective dimension): measured at k = 8, 16, 32 a third, a half and four fifths of
EK-FAC's fidelity. M is of the data's labels: documents learnt by heart have vanished from it.

Axes: K = k^2 coordinates of a site.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from whence.attributor import Step
from whence.attributor.curvatures import load_bases
from whence.attributor.steps import CorpusStep
from whence.curvature import SiteCurvature
from whence.interfaces import EncodedQuery, Site
from whence.methods.base import Advance, Scorer, Work, ekfac_steps
from whence.methods.gram import GramStep, stream_solved
from whence.methods.sketching import Depth, Sketch, SketchStep
from whence.projection import SketchMap, TwoSided, sides_kept, two_sided
from whence.scoring import Fold

__all__ = ["Logra"]


class Logra(Scorer):
    """Influence in projected gradients.

    Attributes:
        k: Coordinates kept of each side of a site.
        damping: Lambda as a multiple of the mean eigenvalue of each site's projected Fisher matrix.
        init: random signs, or pca for the top eigenvectors of the K-FAC factors, which are then fitted first.
        bits: Bits per stored coordinate: 1, 8, 16, or 32 for numbers as they are.
        seed: Of the projections.
    """

    key: ClassVar[str] = "logra"
    title: ClassVar[str] = "LoGra"
    paper: ClassVar[str] = "Choe et al. 2024, arXiv:2405.13954"

    k: int = Field(default=16, ge=1, le=256)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    init: Literal["random", "pca"] = "random"
    bits: Depth = 16
    seed: int = Field(default=0, ge=0)

    def sketch(self, work: Work) -> Sketch:
        """The sketches; any damping reads the same ones."""
        plain = self.model_copy(update={"damping": type(self).model_fields["damping"].default})
        return Sketch(work.owner, lambda: work.folder(plain), self.bits, lambda: self._maps(work), seed=self.seed)

    def _maps(self, work: Work) -> dict[str, SketchMap]:
        owner, k = work.owner, self.k
        where = owner.loaded.device_of
        if self.init == "random":
            return {site.name: two_sided(site, k, k, self.seed, where(site), owner.wide) for site in owner.sites}
        bases = load_bases(owner.run.curvature, owner.sites)
        return {site.name: _top(site, k, bases[site.name].to(where(site), owner.wide)) for site in owner.sites}

    def steps(self, work: Work) -> list[Step]:
        """Sketches of all documents, then their second moments."""
        sketch = self.sketch(work)
        first: list[Step] = [CorpusStep(work.owner)]
        if self.init == "pca":
            first = ekfac_steps(work.owner, measured=False)
        return [*first, SketchStep(sketch), GramStep(sketch)]

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of codes."""
        return self.sketch(work).bytes_per_document()

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Scan the codes for the queries' solved sketches."""
        stream_solved(self.sketch(work), queries, self.damping, folds, advance)


def _top(site: Site, k: int, basis: SiteCurvature) -> TwoSided:
    """The top eigenvectors of both factors, those of a diagonal factor being its largest entries."""
    outputs, inputs = sides_kept(site, k, k)
    return TwoSided(
        site,
        _leading(basis.outputs, basis.eigenvalues.mean(-1), outputs),
        _leading(basis.inputs, basis.eigenvalues.mean(-2), inputs),
    )


def _leading(basis: Tensor | None, spectrum: Tensor, kept: int) -> Tensor | None:
    """Rows [kept, size] of Q^T with the largest eigenvalues, [E, kept, size] of a stack; None if all are kept."""
    size = spectrum.shape[-1]
    if kept >= size:
        return None
    order = torch.argsort(spectrum, dim=-1, descending=True)[..., :kept]
    if basis is None:
        return torch.nn.functional.one_hot(order, size).to(spectrum)
    return basis.mT.gather(-2, order[..., None].expand(*order.shape, size)).contiguous()

"""Fisher: one dense curvature over all sites at once, of sketched and whitened gradients, shrunk towards EK-FAC.

    phi_z = sum_s P_s vec(W_o G W_i)                          W_o = Q_S diag(w_o) Q_S^T, W_i = Q_A diag(w_i) Q_A^T
    C     = (1 - alpha) I + alpha M / mean(m)                 M = mean_z phi_z phi_z^T, mean(m) its mean eigenvalue
    score = (w/n) phi_q^T C^-1 phi_z                          phi_q carries the rest of EK-FAC's inverse

Shrinkage of a second moment towards a multiple of the identity: Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4.
In whitened coordinates the identity *is* EK-FAC, so alpha = 0 is a sketch of EK-FAC's influence, in nats and without
bias. What M adds is all that EK-FAC leaves out: coupling between sites and, within one, between coordinates. M is
divided by its mean eigenvalue because a sketch of D coordinates to K gathers D / K of them in each. P_s is a tensor
sketch (`whence.projection.sketches`); w_o w_i^T is the separable part of (Lambda + l)^(-1/2). Whitened gradients are
turned back out of the eigenbasis, so that the signs of eigenvectors, which nothing decides, do not decide the sketch.

Ignored: the Fisher matrix of labels drawn from the model, in whose place stands the data's own; directions outside the
K coordinates, whose noise, about |phi_q| |phi_z| / sqrt(K), is all that many small influences are. It hurts wherever K
is far below the effective dimension: then EK-FAC without a sketch is better, coupling or not.

Axes: K coordinates, in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from whence.attributor import Step, ask
from whence.curvature import SiteCurvature
from whence.factors import AnyFactors, Factors, OneHot, Routed, Side
from whence.gradients.encoder import separable_weights
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work, ekfac_steps
from whence.methods.ekfac import curvature_of
from whence.methods.gram import GramStep, load_gram
from whence.methods.sketching import TOGETHER, Depth, Sketch, SketchStep, feed, per_nat
from whence.projection import SketchMap, TensorSketch, tensor_sketch
from whence.scoring import Fold

__all__ = ["Fisher"]


class Fisher(Scorer):
    """Influence with a dense curvature over all sites.

    Attributes:
        coordinates: Coordinates of the whole model's gradient.
        alpha: How far the documents' own second moment counts; 0 is EK-FAC, sketched.
        damping: Lambda of EK-FAC's inverse, as a multiple of each site's mean eigenvalue.
        bits: Bits per stored coordinate: 1, 8, 16, or 32 for numbers as they are.
        seed: Of the sketch.
    """

    key: ClassVar[str] = "fisher"
    title: ClassVar[str] = "dense Fisher"
    paper: ClassVar[str] = "Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4"

    coordinates: int = Field(default=4096, ge=1, le=1 << 16)
    alpha: float = Field(default=0.1, ge=0, lt=1)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    bits: Depth = 16
    seed: int = Field(default=0, ge=0)

    def sketch(self, work: Work) -> Sketch:
        """The sketches; any alpha reads the same ones."""
        plain = self.model_copy(update={"alpha": type(self).model_fields["alpha"].default})
        return Sketch(work.owner, lambda: work.folder(plain), self.bits, lambda: self._maps(work), True, self.seed)

    def _maps(self, work: Work) -> dict[str, SketchMap]:
        owner = work.owner
        damped = curvature_of(work, "ekfac", self.damping)
        maps: dict[str, SketchMap] = {}
        for site in owner.sites:
            curvature, damping = damped[site.name]
            inner = tensor_sketch(site, self.coordinates, self.seed, owner.loaded.device_of(site), owner.wide)
            maps[site.name] = _whitened(curvature, damping, inner)
        return maps

    def steps(self, work: Work) -> list[Step]:
        """EK-FAC, sketches of all documents, their second moment."""
        sketch = self.sketch(work)
        return [*ekfac_steps(work.owner), SketchStep(sketch), GramStep(sketch)]

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of codes."""
        return self.sketch(work).bytes_per_document()

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Scan the codes for the queries' solved sketches."""
        sketch = self.sketch(work)
        gram = load_gram(sketch)[TOGETHER]
        asked = sketch.of(ask(work.owner, queries).blocks)[TOGETHER]
        shrunk = (1 - self.alpha) + self.alpha * gram.values / max(gram.mean, torch.finfo(torch.float64).tiny)
        feed(sketch, {TOGETHER: gram.applied(asked, shrunk.reciprocal())}, folds, per_nat(work.owner), advance)


@dataclass(frozen=True, slots=True)
class _Whitened:
    """A sketch of whitened gradients.

    Attributes:
        curvature: EK-FAC of the site.
        damping: Lambda.
        weights: w_o [O] and w_i [I]; of a stack [E, O] and [E, I].
        sides: W_o [O, O] and W_i [I, I], of a stack [E, O, O] and [E, I, I]; None where they are diagonal.
        inner: The sketch.
    """

    curvature: SiteCurvature
    damping: float
    weights: tuple[Tensor, Tensor]
    sides: tuple[Tensor | None, Tensor | None]
    inner: TensorSketch

    @property
    def size(self) -> tuple[int, int]:
        """(1, K)."""
        return self.inner.size

    def documents(self, uses: Sequence[AnyFactors]) -> Tensor:
        """``P vec(W_o G W_i)``."""
        return self.inner.documents([self._white(use) for use in uses])

    def queries(self, blocks: Tensor) -> Tensor:
        """``P vec(W_o^-1 (C + l)^-1 G W_i^-1)``."""
        outputs, inputs = self.weights
        white = (self.curvature.eigenvalues + self.damping) * outputs[..., :, None] * inputs[..., None, :]
        return self.inner.queries(self.curvature.unrotate(self.curvature.rotate(blocks) / white))

    def _white(self, use: AnyFactors) -> AnyFactors:
        turned = use.map(*self.sides)
        outputs, inputs = (
            weights if side is None else None for weights, side in zip(self.weights, self.sides, strict=True)
        )
        if isinstance(turned, Routed):  # a stack has a basis on both sides
            return turned
        return Factors(_weighted(turned.inputs, inputs), _weighted(turned.grads, outputs))


def _whitened(curvature: SiteCurvature, damping: float, inner: TensorSketch) -> _Whitened:
    weights = separable_weights(curvature.eigenvalues, damping)
    outputs, inputs = (
        None if basis is None else (basis * each[..., None, :]) @ basis.mT
        for basis, each in zip((curvature.outputs, curvature.inputs), weights, strict=True)
    )
    return _Whitened(curvature, damping, weights, (outputs, inputs), inner)


def _weighted(side: Side, weights: Tensor | None) -> Side:
    """A side with every coordinate multiplied."""
    if weights is None:
        return side
    if not isinstance(side, OneHot):
        return side * weights.to(side.dtype)
    here = weights[side.index]
    return replace(side, weight=here if side.weight is None else side.weight.to(here.dtype) * here)

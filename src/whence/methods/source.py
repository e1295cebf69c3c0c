"""SOURCE: influence through the training, as segments in each of which the loss looks the same.

    influence(z, q) = 1/n sum_l <u_l, g_l(z)>
    u_l = F_l v_l      F = rho phi(rho H),  phi(x) = (1 - e^-x) / x      what a steady pull leaves at the segment's end
    v_(l-1) = E_l v_l  E = exp(-rho H)                                  how much of it the later segments keep

Bae et al. 2024 (arXiv:2405.12186): r = (I - exp(-rate K H)) H^-1 g and S = exp(-rate K H), composed backwards over
segments l = L, L-1, … 1 from v_L = grad q at the run's model. H is the mean over the segment's checkpoints of the
curvature of the mean loss per document, g(z) the mean of the document's gradients there, rho the sum of the rates of
the segment's steps times s (s K rate, see `tracin`). H is taken in the segment's own EK-FAC basis, of the mean
covariances of its checkpoints; its eigenvalues are means per document. So it needs no damping: where a direction has
converged (rho lambda >> 1) F is 1 / lambda, as in influence functions; where it has not, F is rho, as in TracIn.
Weight decay w shrinks alike: x = rho lambda + w sum of rates, on matrices. The counterfactual: the query's rise in loss
(nats) at the end of the same training with z left out of it.

``metric=adam`` follows Adam: with P = 1 / (sqrt(v) + eps) from its moments, the weights move by -rate P g, and

    exp(-rho H P) = P^-1/2 exp(-rho P^1/2 H P^1/2) P^1/2

so all is done to gradients P^1/2 g. Its basis is K-FAC's of covariances scaled by the separable part of P^1/2 (the
geometric means of its rows and columns), its eigenvalues are measured with P^1/2 itself. Roots of v are taken as at
least a thousandth of their site's root mean square: entries that never had a gradient would step without bound.

Ignored: how curvature and gradients change within a segment and with the weights; all coupling between sites;
off-diagonal curvature in the basis; noise of batches and their order; clipping; that v, too, would have changed. Hurts
where few checkpoints stand for a fast start, and under Adam with the plain metric, whose rates are then far too small
or too large.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from whence.attributor import Attributor, Checkpoint, Step, ask, per_document, rates_between
from whence.attributor.steps import CorpusStep
from whence.curvature import SiteCurvature
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work
from whence.methods.feeding import feed_matrix
from whence.methods.source_fit import Segment, SegmentCovariances, SegmentEigenvalues, roots_of, segment_curvatures
from whence.methods.visits import Scores, dots, visited
from whence.scoring import Fold

__all__ = ["Flow", "Source", "flow_of", "split"]


class Flow:
    """How one site's gradients are carried through one segment, on blocks [Q, O, I] of queries.

    Args:
        curvature: Basis and eigenvalues of ``P^1/2 H P^1/2``.
        rate: rho.
        decay: Sum of the rates times the weight decay.
        root: P^1/2 [O, I], or None for the identity.
    """

    def __init__(self, curvature: SiteCurvature, rate: float, decay: float, root: Tensor | None) -> None:
        self.curvature, self.rate, self.root = curvature, rate, root
        self.exponents = curvature.eigenvalues * rate + decay

    @cached_property
    def gains(self) -> Tensor:
        """``rho (1 - e^-x) / x``, rho where x vanishes."""
        x = self.exponents
        tiny = x < 1e-12
        return torch.where(tiny, 1.0, -torch.expm1(-x) / torch.where(tiny, 1.0, x)) * self.rate

    def pulled(self, blocks: Tensor) -> Tensor:
        """``F v``: what a document's gradient meets in this segment."""
        return self._times(self._in(blocks, self.gains))

    def carried(self, blocks: Tensor) -> Tensor:
        """``E v``: what the segment before it meets."""
        kept = self._in(blocks, torch.exp(-self.exponents))
        return kept if self.root is None else kept / self.root

    def _in(self, blocks: Tensor, factors: Tensor) -> Tensor:
        return self.curvature.unrotate(self.curvature.rotate(self._times(blocks)) * factors)

    def _times(self, blocks: Tensor) -> Tensor:
        return blocks if self.root is None else blocks * self.root


class Source(Scorer):
    """Influence through segments of the training.

    Attributes:
        segments: How many, each of as many checkpoints; one for each checkpoint if there are fewer.
        metric: sgd, or adam, which needs Adam's moments at every checkpoint.
    """

    key: ClassVar[str] = "source"
    title: ClassVar[str] = "SOURCE"
    paper: ClassVar[str] = "Bae et al. 2024, arXiv:2405.12186"
    checkpoints: ClassVar[bool] = True

    segments: int = Field(default=3, ge=1, le=64)
    metric: Literal["sgd", "adam"] = "sgd"

    def steps(self, work: Work) -> list[Step]:
        """Covariances, then eigenvalues, of every segment."""
        steps: list[Step] = [CorpusStep(work.owner)]
        for segment in split(work, self.segments):
            for kind in (SegmentCovariances, SegmentEigenvalues):
                steps.append(kind(work.owner, lambda: work.folder(self), segment, self.metric == "adam"))
        return steps

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Sums over segments, the last one first."""
        carried: Mapping[str, Tensor] = ask(work.owner, queries).blocks
        total = np.zeros((len(queries), work.owner.corpus.documents))
        for segment in reversed(split(work, self.segments)):
            flows = flow_of(work, self, segment)
            pulled = {name: flow.pulled(carried[name]) for name, flow in flows.items()}

            def scores(
                at: Attributor, _: Checkpoint, advance: Advance, pulled: Mapping[str, Tensor] = pulled
            ) -> Scores:
                return dots(at, pulled, advance)

            share = [(each, 1.0 / len(segment.checkpoints) if segment.rate else 0.0) for each in segment.checkpoints]
            total += visited(work, len(queries), share, scores, advance)
            carried = {name: flow.carried(carried[name]) for name, flow in flows.items()}
        feed_matrix(work.owner, total, folds)


def split(work: Work, count: int) -> list[Segment]:
    """The segments of a training, oldest first: runs of checkpoints of about equal number, and all steps up to them."""
    checkpoints, rates = work.checkpoints, rates_between(work.checkpoints)
    count, total = min(count, len(checkpoints)), len(checkpoints)
    edges = [total * number // count for number in range(count + 1)]
    return [
        Segment(f"segment-{number}", tuple(checkpoints[first:last]), sum(rates[first:last]))
        for number, (first, last) in enumerate(pairwise(edges))
    ]


def flow_of(work: Work, method: Source, segment: Segment) -> dict[str, Flow]:
    """Every site's flow through a segment, where the model is."""
    owner, last = work.owner, segment.checkpoints[-1]
    adam = method.metric == "adam"
    roots = roots_of(owner, segment) if adam else {}
    found = segment_curvatures(work.folder(method) / segment.name, owner, adam)
    rate = segment.rate * per_document(last, owner.corpus)
    out = {}
    for site in owner.sites:
        device = owner.loaded.device_of(site)
        decay = 0.0 if site.elementwise else segment.rate * last.weight_decay
        root = roots[site.name].to(device, owner.wide) if adam else None
        out[site.name] = Flow(found[site.name].to(device, owner.wide), rate, decay, root)
    return out

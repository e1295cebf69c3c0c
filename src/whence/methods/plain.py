"""Plain gradients: their inner product (TracIn at one checkpoint without its rate) and their cosine.

    dot      <grad q, grad z> / n          influence with no curvature at all
    cosine   <grad q, grad z> / (|grad q| |grad z|)      without a unit; long documents lose their advantage

Ignored: all curvature. It hurts most where documents were learnt by heart: their gradients have vanished.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from whence.attributor import Question, gradient_cosines
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Solver, Work
from whence.methods.feeding import feed_matrix
from whence.scoring import Fold

__all__ = ["GradientCosine", "GradientDot"]


class GradientDot(Solver):
    """Inner products of gradients over n."""

    key: ClassVar[str] = "dot"
    title: ClassVar[str] = "gradient dot"
    paper: ClassVar[str] = "Pruthi et al. 2020, arXiv:2002.08484"

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The gradients themselves."""
        return question.blocks


class GradientCosine(Scorer):
    """Cosines of gradients over all sites together."""

    key: ClassVar[str] = "cosine"
    title: ClassVar[str] = "gradient cosine"
    paper: ClassVar[str] = "Charpiat et al. 2019"
    unit: ClassVar[str] = "score"

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Cosines of a group of queries."""
        feed_matrix(work.owner, gradient_cosines(work.owner, queries, advance), folds)

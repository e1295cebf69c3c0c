"""TracIn: gradient dot products at checkpoints, each times how far its steps moved the weights.

    influence(z, q) = sum_c rho_c <grad q, grad z>_c / n          rho_c = s sum of the rates of the steps up to c

Pruthi et al. 2020 (arXiv:2002.08484), TracInCP. The counterfactual: the query's rise in loss (nats) if the steps that
were taken on z had not been, everything else as it was. A step on a batch of b documents moves the weights by
``- rate / D sum_z grad z``, D being what the batch's loss is divided by; between two checkpoints with K steps z is in
``K b / n`` of them, so to first order its steps add ``K b / n * rate / D <grad q, grad z>`` to log p. The batch
cancels: with s = b / D on average (documents over target tokens of the corpus; documents over windows where the loss is
a mean over documents) what is left is ``s K rate / n``. Gradients are of summed -log p, at the checkpoint that ends the
steps, as in the paper. SGD's momentum mu counts 1 / (1 - mu) times. A document of weight w is visited w times.

With ``cosine`` each inner product is over both norms, and influence is a sum over checkpoints without a unit; long
documents lose their advantage.

Ignored: everything that happens after a step. Steps that are soon undone by others (in steep directions), or built
upon, count alike, so sizes are far too large where training converged; gradients between checkpoints, so few
checkpoints of a fast start say little of it; and preconditioning: under Adam or Muon sizes have no meaning, and
directions that Adam shrinks still dominate (`less` follows Adam).
"""

from collections.abc import Sequence
from typing import ClassVar

from whence.attributor import Attributor, Checkpoint, ask, gradient_cosines, per_document, rates_between
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work
from whence.methods.feeding import feed_matrix
from whence.methods.visits import Scores, dots, visited
from whence.scoring import Fold

__all__ = ["Tracin"]


class Tracin(Scorer):
    """Gradient dots over checkpoints.

    Attributes:
        cosine: Cosines instead of inner products.
    """

    key: ClassVar[str] = "tracin"
    title: ClassVar[str] = "TracIn"
    paper: ClassVar[str] = "Pruthi et al. 2020, arXiv:2002.08484"
    checkpoints: ClassVar[bool] = True

    cosine: bool = False

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Sums over checkpoints of a group of queries."""

        def scores(at: Attributor, _: Checkpoint, advance: Advance) -> Scores:
            return gradient_cosines(at, queries, advance) if self.cosine else dots(at, ask(at, queries).blocks, advance)

        corpus, rates = work.owner.corpus, rates_between(work.checkpoints)
        moved = [(each, rate * per_document(each, corpus)) for each, rate in zip(work.checkpoints, rates, strict=True)]
        feed_matrix(work.owner, visited(work, len(queries), moved, scores, advance), folds)

"""Influence by conjugate gradients on the exact curvature (Koh & Liang 2017, arXiv:1703.04730; Martens 2010).

    (C + diag l)^-1 q      solved to a residual |q - (C + diag l) v| <= tolerance |q|, in the scale of `exact`

All sites together, nothing approximated but by the sample of documents and by stopping: each iteration is one product
with C over the sample (`whence.model.products`) for every query that is not done, all of a group in one pass. The
number of iterations grows with the square root of largest eigenvalue over damping. What is ignored: that the model may
be far from a minimum (kind=hessian then is not positive definite, and is refused) and that a sample of few documents
leaves most directions flat. It hurts where damping is small: the solution is dominated by directions in which the
sample says nothing, and on small models predicted retraining *worse* than EK-FAC and one step (see `astra`).
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from whence.attributor import Question
from whence.methods.base import Work
from whence.methods.exact import ExactSolver, added
from whence.methods.krylov import Solved, conjugate_gradients

__all__ = ["ConjugateGradients"]


class ConjugateGradients(ExactSolver):
    """Influence with the exact curvature, by conjugate gradients.

    Attributes:
        kind: ggn (Gauss-Newton: always positive semidefinite) or hessian.
        damping: Lambda as a multiple of each site's mean Gauss-Newton eigenvalue.
        sample: Share of the corpus that the curvature is taken over; the run's own fit sample if absent.
        iterations: Most products for a query.
        tolerance: Residual at which a query is done.
    """

    key: ClassVar[str] = "cg"
    title: ClassVar[str] = "conjugate gradients"
    paper: ClassVar[str] = "Koh & Liang 2017, arXiv:1703.04730"

    iterations: int = Field(default=100, ge=1)
    tolerance: float = Field(default=1e-3, ge=0, lt=1)

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The queries' vectors."""
        return self.solved(work, question).solution

    def solved(self, work: Work, question: Question) -> Solved:
        """The queries' vectors, with the residual and the number of products of each.

        Raises:
            NumericalError: The damped Hessian is not positive definite.
        """
        exact = self.exact(work)
        found = conjugate_gradients(
            lambda v: added(exact.scaled(v), v, self.damping),
            exact.narrowed(question.blocks),
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        return Solved(exact.narrowed(found.solution), found.residuals, found.iterations)

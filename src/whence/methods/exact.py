"""The exact curvature of the model over a sample of the corpus, as an operator on vectors given site by site.

    C = sum_z w_z C_z / sum_z w_z        C_z: Gauss-Newton matrix or Hessian of a document's summed loss

Sites differ in scale by orders of magnitude, and damping is relative to each: l = damping * m, m the mean eigenvalue of
the site's own Gauss-Newton matrix. Solvers that work on all sites at once therefore see

    (C + diag l)^-1 = M^-1/2 (M^-1/2 C M^-1/2 + damping I)^-1 M^-1/2        M = diag m

whose sites all have a mean eigenvalue of one. m is the mean squared gradient under labels drawn from the model, what
EK-FAC's own damping is relative to. Axes: Q vectors, [Q, O, I] by site.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whence.attributor import Attributor, Step, batches
from whence.attributor.fitting import fit_sample, windows_of
from whence.curvature import Damping
from whence.gradients import Recipe
from whence.methods.base import Advance, Solver, Work, diagonal_steps
from whence.model import CurvatureKind, curvature_products

__all__ = ["Blocks", "Exact", "ExactSolver", "added", "chosen", "inner", "times"]

Blocks = dict[str, Tensor]


def inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Inner products of pairs of vectors over all sites, float64 [Q] on the CPU."""
    parts = [(each * right[name]).flatten(1).sum(1, dtype=torch.float64).cpu() for name, each in left.items()]
    return torch.stack(parts).sum(0)


def times(vectors: Mapping[str, Tensor], numbers: Tensor) -> Blocks:
    """Vectors, each times its number [Q]."""
    return {name: each * _beside(numbers, each) for name, each in vectors.items()}


def added(left: Mapping[str, Tensor], right: Mapping[str, Tensor], numbers: Tensor | float = 1.0) -> Blocks:
    """``left + numbers * right``, a number for all or one for each [Q]."""
    if isinstance(numbers, float):
        return {name: each + numbers * right[name] for name, each in left.items()}
    return {name: each + _beside(numbers, each) * right[name] for name, each in left.items()}


def chosen(vectors: Mapping[str, Tensor], which: Tensor) -> Blocks:
    """Some of the vectors."""
    return {name: each[which.to(each.device)] for name, each in vectors.items()}


def _beside(numbers: Tensor, blocks: Tensor) -> Tensor:
    return numbers.to(blocks).reshape(-1, *[1] * (blocks.ndim - 1))


def _ignore(_: int) -> None:
    return None


@dataclass(frozen=True)
class Exact:
    """Exact curvature over a sample of documents.

    Attributes:
        owner: A run whose corpus is read.
        kind: ggn or hessian.
        share: Share of the corpus; the documents that the run's own fit takes if None.
    """

    owner: Attributor
    kind: CurvatureKind = "ggn"
    share: float | None = None

    @cached_property
    def _drawn(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Documents in an order decided by their content, and how often each document of the corpus counts."""
        count = None if self.share is None else int(np.ceil(self.share * self.owner.corpus.documents))
        sample = fit_sample(self.owner, count)
        return sample.documents, sample.every

    @property
    def documents(self) -> NDArray[np.int64]:
        """The sample in an order decided by content."""
        return self._drawn[0]

    @property
    def counts(self) -> NDArray[np.float64]:
        """How often each document of the corpus counts in sums, if it is in the sample, [documents]."""
        return self._drawn[1]

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean eigenvalue of each site's own curvature; 1 where it is zero."""
        recipe = Recipe(method="diagonal", damping=Damping(value=1.0))
        return {name: damping for name, (_, damping) in self.owner.damped(recipe).items()}

    def product(
        self, vectors: Mapping[str, Tensor], advance: Advance = _ignore, documents: NDArray[np.int64] | None = None
    ) -> Blocks:
        """``C v`` over the sample, or over some documents of it."""
        owner, (every, counts) = self.owner, self._drawn
        documents = every if documents is None else documents
        rows = windows_of(owner.corpus, documents)
        of_row = counts[owner.corpus.documents_of_windows(rows)]
        total = float(counts[documents].sum())
        out = {name: torch.zeros_like(each) for name, each in vectors.items()}
        for places, examples, tokens in batches(owner, rows):
            weights = torch.from_numpy(of_row[places] / total).to(owner.loaded.device)
            found = curvature_products(owner.loaded.model, owner.sites, examples.inputs, vectors, self.kind, weights)
            for name, each in found.items():
                out[name] += each
            advance(tokens)
        return out

    def tokens(self, documents: NDArray[np.int64] | None = None) -> int:
        """Tokens of a product, taken as an even share of the corpus'."""
        corpus = self.owner.corpus
        return int(len(self.documents if documents is None else documents) * corpus.tokens / corpus.documents)

    def narrowed(self, vectors: Mapping[str, Tensor]) -> Blocks:
        """``M^-1/2 v``."""
        return {name: each * self.means[name] ** -0.5 for name, each in vectors.items()}

    def scaled(
        self, vectors: Mapping[str, Tensor], advance: Advance = _ignore, documents: NDArray[np.int64] | None = None
    ) -> Blocks:
        """``M^-1/2 C M^-1/2 v``."""
        return self.narrowed(self.product(self.narrowed(vectors), advance, documents))

    def solve(self, queries: Mapping[str, Tensor], inverse: Callable[[Blocks], Blocks]) -> Blocks:
        """``(C + diag l)^-1 q`` from what inverts the scaled matrix and its damping."""
        return self.narrowed(inverse(self.narrowed(queries)))

    def zeros(self, count: int) -> Blocks:
        """Vectors of zeros where the sites are."""
        owner = self.owner
        return {
            site.name: torch.zeros(count, *site.shape, dtype=owner.wide, device=owner.loaded.device_of(site))
            for site in owner.sites
        }


class ExactSolver(Solver):
    """What methods on the exact curvature share.

    Attributes:
        kind: ggn (Gauss-Newton: always positive semidefinite) or hessian.
        damping: Lambda as a multiple of each site's mean Gauss-Newton eigenvalue.
        sample: Share of the corpus that the curvature is taken over; the run's own fit sample if absent.
    """

    kind: CurvatureKind = "ggn"
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    sample: float | None = Field(default=None, gt=0, le=1)

    def steps(self, work: Work) -> list[Step]:
        """The sites' mean eigenvalues."""
        return diagonal_steps(work.owner)

    def exact(self, work: Work) -> Exact:
        """The curvature."""
        return Exact(work.owner, self.kind, self.sample)

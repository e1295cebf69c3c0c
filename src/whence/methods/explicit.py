"""Influence with the exact curvature as one matrix over all sites (Koh & Liang 2017, arXiv:1703.04730).

    (C + diag l)^-1 q      by Cholesky, C [P, P] the Gauss-Newton matrix or the Hessian over the sample

For models of up to 20,000 parameters: what every approximation is judged by. C is built from products with unit
vectors (`whence.model.products`), P of them over the sample, some columns at a time; 8 P^2 bytes on disk and twice that
in memory for a solve. What is ignored: all beyond second order. A Hessian that is not positive definite once damped is
refused: the model is not at a minimum, and an inverse would point uphill.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from whence.attributor import Question, Step
from whence.attributor.steps import Advance
from whence.curvature import exact_solve
from whence.curvature.exact import LIMIT
from whence.errors import InputError
from whence.methods.base import Work
from whence.methods.exact import Blocks, ExactSolver
from whence.runs import is_done, open_array, publish, require_done, write_array

__all__ = ["Explicit"]

_COLUMNS = 512


class Explicit(ExactSolver):
    """Influence with the exact curvature, as a matrix.

    Attributes:
        kind: ggn (Gauss-Newton: always positive semidefinite) or hessian.
        damping: Lambda as a multiple of each site's mean Gauss-Newton eigenvalue.
        sample: Share of the corpus that the curvature is taken over; the run's own fit sample if absent.
    """

    key: ClassVar[str] = "explicit"
    title: ClassVar[str] = "exact inverse"
    paper: ClassVar[str] = "Koh & Liang 2017, arXiv:1703.04730"

    def steps(self, work: Work) -> list[Step]:
        """The sites' mean eigenvalues, the matrix.

        Raises:
            InputError: There are too many parameters.
        """
        return [*super().steps(work), MatrixStep(self, work)]

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The queries' vectors.

        Raises:
            NumericalError: The damped Hessian is not positive definite.
        """
        exact, step = self.exact(work), MatrixStep(self, work)
        narrowed = exact.narrowed(question.blocks)
        means = [torch.full((site.size,), exact.means[site.name], dtype=torch.float64) for site in work.owner.sites]
        scale = torch.cat(means)
        matrix = step.matrix * scale.rsqrt() * scale.rsqrt()[:, None]
        queries = torch.cat([each.flatten(1).double().cpu() for each in narrowed.values()], 1)
        solved = exact_solve((matrix + matrix.mT) / 2, self.damping, queries)
        parts = solved.split([each[0].numel() for each in narrowed.values()], 1)
        blocks = {
            name: part.reshape(each.shape).to(each) for (name, each), part in zip(narrowed.items(), parts, strict=True)
        }
        return exact.narrowed(blocks)


class MatrixStep:
    """The curvature as a matrix, some of its rows at a time."""

    name = "matrix"

    def __init__(self, method: Explicit, work: Work) -> None:
        self.method, self.work = method, work
        if self.size > LIMIT:
            raise InputError(
                f"method 'explicit' builds the whole matrix and takes at most {LIMIT:,} parameters; the sites of this "
                f"run have {self.size:,}. Use method cg, which gives the same without the matrix, or narrow --sites."
            )

    @property
    def size(self) -> int:
        """P."""
        return sum(site.size for site in self.work.owner.sites)

    @cached_property
    def folder(self) -> Path:
        """Shared by all dampings."""
        same = Explicit(kind=self.method.kind, sample=self.method.sample)
        return self.work.folder(same)

    @property
    def matrix(self) -> Tensor:
        """C, float64 [P, P]."""
        parts = []
        for item in self.items():
            require_done(self.path(item), "whence evaluate")
            parts.append(torch.from_numpy(np.array(open_array(self.path(item) / "rows.npy"))))
        return torch.cat(parts)

    def path(self, item: int) -> Path:
        """Folder of some rows."""
        return self.folder / "matrix" / f"{item:04d}"

    def items(self) -> list[int]:
        """Numbers of groups of rows."""
        return list(range(-(-self.size // _COLUMNS)))

    def tokens(self, item: int) -> int:
        """Tokens of the sample, for each row."""
        return self.method.exact(self.work).tokens()

    def done(self, item: int) -> bool:
        """Whether some rows are there."""
        return is_done(self.path(item))

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Products with some unit vectors."""
        found = self.method.exact(self.work).product(self._units(item), advance)
        rows = torch.cat([each.flatten(1).double().cpu() for each in found.values()], 1)
        with publish(self.path(item)) as temporary:
            write_array(temporary / "rows.npy", rows.numpy())

    def _units(self, item: int) -> Blocks:
        first, last = item * _COLUMNS, min((item + 1) * _COLUMNS, self.size)
        out, start = self.method.exact(self.work).zeros(last - first), 0
        for each in out.values():
            flat, width = each.view(last - first, -1), each[0].numel()
            here = torch.tensor(range(max(first, start), min(last, start + width)), dtype=torch.int64)
            flat[here - first, here - start] = 1.0
            start += width
        return out

    def finished(self) -> bool:
        """Whether all rows are there."""
        return all(self.done(item) for item in self.items())

    def finish(self) -> bool:
        """Nothing to merge: rows are read where they lie."""
        return self.finished()

"""LiSSA: a truncated Neumann series over minibatches (Agarwal et al. 2016, arXiv:1602.03943; Koh & Liang 2017).

    v_t+1 = q + (I - (C_B + l) / s) v_t        (C + l)^-1 q ~ v_T / s, averaged over repeats

in the scale of `exact`, where l is the damping times the identity. B runs through minibatches of documents that are
fixed by their content and the seed, in an order drawn afresh for every repeat and epoch, so that neither the order of
the corpus nor the other queries matter. s is the largest eigenvalue of any minibatch with its damping (power iteration,
a step of the fit), so that no step can diverge, which a hand-chosen scale does.

A repeat costs `iterations` products over `batch` documents each for every query. What is ignored: the tail of the
series: a direction of eigenvalue c has (1 - (c + l) / s)^T of it left out, so that flat directions are damped much more
than l says; and minibatches' noise. It hurts where s / l is large, which in language models it is; `cg` gets further
with as many products.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whence.attributor import Question, Step
from whence.attributor.fitting import content_words
from whence.attributor.steps import Advance
from whence.errors import NumericalError
from whence.methods.base import Work
from whence.methods.exact import Blocks, Exact, ExactSolver, added, inner, times
from whence.methods.krylov import random_start
from whence.projection import words
from whence.runs import is_done, publish, require_done

__all__ = ["Lissa"]

_POWER_STEPS = 8
_MARGIN = 1.1
"""The largest eigenvalue found by few power iterations is a little too small; a step of up to 2 / s cannot diverge."""


class Lissa(ExactSolver):
    """Influence with the exact curvature, by stochastic recursion.

    Attributes:
        kind: ggn (Gauss-Newton: always positive semidefinite) or hessian.
        damping: Lambda as a multiple of each site's mean Gauss-Newton eigenvalue.
        sample: Share of the corpus that the curvature is taken over; the run's own fit sample if absent.
        iterations: Length T of a recursion.
        batch: Documents of a minibatch.
        repeats: Recursions that are averaged.
        seed: Decides minibatches and their order.
    """

    key: ClassVar[str] = "lissa"
    title: ClassVar[str] = "LiSSA"
    paper: ClassVar[str] = "Agarwal et al. 2016, arXiv:1602.03943"

    iterations: int = Field(default=200, ge=1)
    batch: int = Field(default=16, ge=1)
    repeats: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)

    def steps(self, work: Work) -> list[Step]:
        """The sites' mean eigenvalues, the scale."""
        return [*super().steps(work), ScaleStep(self, work)]

    def minibatches(self, exact: Exact) -> list[NDArray[np.int64]]:
        """The sample in minibatches of nearly equal size, decided by content and seed."""
        drawn = content_words(exact.owner.corpus, self.seed + 1)[exact.documents]
        ordered = exact.documents[np.argsort(drawn, kind="stable")]
        return [np.sort(part) for part in np.array_split(ordered, -(-len(ordered) // self.batch))]

    def order(self, count: int, repeat: int) -> NDArray[np.int64]:
        """Numbers of the minibatches that a recursion visits."""
        epochs = range(-(-self.iterations // count))
        drawn = [np.argsort(words(self.seed, f"lissa/{repeat}/{epoch}", 0, count), kind="stable") for epoch in epochs]
        return np.concatenate(drawn)[: self.iterations]

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The queries' vectors.

        Raises:
            NumericalError: The recursion diverges, because the Hessian is not positive definite.
        """
        exact, scale = self.exact(work), ScaleStep(self, work).scale
        queries, parts = exact.narrowed(question.blocks), self.minibatches(exact)
        total = exact.zeros(len(question.queries))
        for repeat in range(self.repeats):
            total = added(total, self._recursion(exact, queries, parts, repeat, scale), 1.0 / (scale * self.repeats))
        return exact.narrowed(total)

    def _recursion(
        self, exact: Exact, queries: Blocks, parts: list[NDArray[np.int64]], repeat: int, scale: float
    ) -> Blocks:
        v, counts = queries, exact.counts
        mean = sum(float(counts[part].sum()) for part in parts) / len(parts)
        bound = (scale / self.damping) * inner(queries, queries).sqrt()  # |v| of a positive definite matrix
        for number in self.order(len(parts), repeat):
            part = parts[number]
            image = exact.scaled(v, documents=part)
            heavier = float(counts[part].sum()) / mean
            image = added(times(image, torch.full_like(bound, heavier)), v, self.damping)
            v = added(added(queries, v), image, -1.0 / scale)
            if (inner(v, v).sqrt() > 1.01 * bound).any():
                raise NumericalError(
                    "LiSSA diverges: the damped matrix is not positive definite, since the model is not at a minimum. "
                    "Raise the damping, or use kind=ggn, which always is."
                )
        return v


class ScaleStep:
    """The largest eigenvalue of any minibatch, by power iteration from a fixed random start."""

    name = "largest eigenvalues"

    def __init__(self, method: Lissa, work: Work) -> None:
        self.method, self.work = method, work

    @cached_property
    def folder(self) -> Path:
        """Shared by all that have the same minibatches."""
        kept = {name: getattr(self.method, name) for name in ("kind", "sample", "batch", "seed")}
        return self.work.folder(Lissa(**kept)) / "largest"

    @property
    def scale(self) -> float:
        """s, which no minibatch with its damping exceeds."""
        found = [float(require_done(self.path(item), "whence evaluate")["largest"]) for item in self.items()]
        return _MARGIN * max(found) + self.method.damping

    @cached_property
    def parts(self) -> list[NDArray[np.int64]]:
        """Documents by minibatch."""
        return self.method.minibatches(self.method.exact(self.work))

    def path(self, item: int) -> Path:
        """Folder of a minibatch's eigenvalue."""
        return self.folder / f"{item:05d}"

    def items(self) -> list[int]:
        """Numbers of minibatches."""
        return list(range(len(self.parts)))

    def tokens(self, item: int) -> int:
        """Tokens of all products."""
        return _POWER_STEPS * self.method.exact(self.work).tokens(self.parts[item])

    def done(self, item: int) -> bool:
        """Whether a minibatch's is known."""
        return is_done(self.path(item))

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Iterate on one minibatch; weights of sources make some minibatches heavier than the mean."""
        exact, counts = self.method.exact(self.work), self.method.exact(self.work).counts
        heavier = float(counts[self.parts[item]].sum()) * len(self.parts) / float(counts[exact.documents].sum())
        v, largest = random_start(exact.zeros(1), self.method.seed, "lissa"), torch.zeros(1)
        for _ in range(_POWER_STEPS):
            v = times(v, inner(v, v).rsqrt())
            v = exact.scaled(v, advance, self.parts[item])
            largest = inner(v, v).sqrt()
            if not largest > 0:
                break
        if not torch.isfinite(largest).all():
            raise NumericalError("the largest eigenvalue is not finite; run the model in another --dtype.")
        with publish(self.path(item), {"largest": heavier * float(largest)}):
            pass

    def finished(self) -> bool:
        """Whether all are known."""
        return all(self.done(item) for item in self.items())

    def finish(self) -> bool:
        """Nothing to merge."""
        return self.finished()

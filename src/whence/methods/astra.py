"""ASTRA: EK-FAC as the preconditioner of iterations on the exact Gauss-Newton matrix (Wang et al. 2025, 2507.14740).

    x_0     = (P + l)^-1 q                                      P: EK-FAC, l = damping * mean(Lambda) of the site
    neumann x_k+1 = x_k + s (P + l)^-1 (q - (C + l) x_k)        s = length / largest eigenvalue of (P + l)^-1 (C + l)
    cg      preconditioned conjugate gradients from x_0; only the last step is multiplied by `length`

C couples sites, layers and coordinates, which EK-FAC ignores; both converge to (C + l)^-1 q. The paper's iterations are
stochastic; these take the whole sample, so that they are deterministic. k steps cost k products with C over the sample
(`whence.model.products`), of cg k + 1, and one EK-FAC solve each.

Convergence is not the aim. On a small Llama one step of conjugate gradients raises the LDS by 0.06 to 0.12 at every
damping and going on loses it again: stopping early regularises (half of the step does as well or better). What is
ignored: that C is of the final weights and of a sample. It hurts where the sample is small: directions that it does not
contain look flat.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from whence.attributor import Question, Step
from whence.attributor.steps import Advance
from whence.curvature import SiteCurvature
from whence.errors import NumericalError
from whence.methods.base import Solver, Work, ekfac_steps
from whence.methods.ekfac import curvature_of
from whence.methods.exact import Blocks, Exact, added, inner, times
from whence.methods.krylov import conjugate_gradients, random_start
from whence.runs import is_done, publish, require_done

__all__ = ["Astra"]

_POWER_STEPS = 12
_MARGIN = 1.1
"""The largest eigenvalue found by few power iterations is a little too small."""

Damped = Mapping[str, tuple[SiteCurvature, float]]


class Astra(Solver):
    """EK-FAC, then steps on the exact Gauss-Newton matrix.

    Attributes:
        solver: cg or neumann.
        iterations: Products with the exact matrix; 0 is EK-FAC.
        length: Multiplies the step (of cg, the last one).
        damping: Lambda as a multiple of each site's mean eigenvalue.
        sample: Share of the corpus that the exact matrix is taken over; the run's own fit sample if absent.
    """

    key: ClassVar[str] = "astra"
    title: ClassVar[str] = "ASTRA"
    paper: ClassVar[str] = "Wang et al. 2025, arXiv:2507.14740"

    solver: Literal["cg", "neumann"] = "cg"
    iterations: int = Field(default=1, ge=0, le=10_000)
    length: float = Field(default=1.0, gt=0, le=1)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    sample: float | None = Field(default=None, gt=0, le=1)

    def steps(self, work: Work) -> list[Step]:
        """EK-FAC; of neumann also the safe step size."""
        steps = ekfac_steps(work.owner)
        return steps if self.solver == "cg" else [*steps, StepSize(self, work)]

    def exact(self, work: Work) -> Exact:
        """The exact matrix."""
        return Exact(work.owner, "ggn", self.sample)

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The queries' vectors after so many steps."""
        exact, damped = self.exact(work), curvature_of(work, "ekfac", self.damping)
        start = _preconditioned(damped, question.blocks)
        if not self.iterations:
            return start
        if self.solver == "cg":
            return conjugate_gradients(
                lambda v: _with_damping(exact.product(v), v, damped),
                dict(question.blocks),
                start=start,
                precondition=lambda v: _preconditioned(damped, v),
                iterations=self.iterations,
                last=self.length,
            ).solution
        size = self.length / StepSize(self, work).largest
        for _ in range(self.iterations):
            left = added(question.blocks, _with_damping(exact.product(start), start, damped), -1.0)
            start = added(start, _preconditioned(damped, left), size)
        return start


def _preconditioned(damped: Damped, vectors: Mapping[str, Tensor]) -> Blocks:
    """``(P + l)^-1 v``."""
    return {name: curvature.solve(vectors[name], damping) for name, (curvature, damping) in damped.items()}


def _with_damping(product: Blocks, vectors: Mapping[str, Tensor], damped: Damped) -> Blocks:
    """``C v + l v``."""
    return {name: each + damped[name][1] * vectors[name] for name, each in product.items()}


class StepSize:
    """The largest eigenvalue of ``(P + l)^-1 (C + l)``, by power iteration from a fixed random start."""

    name = "step size"

    def __init__(self, method: Astra, work: Work) -> None:
        self.method, self.work = method, work

    @cached_property
    def folder(self) -> Path:
        """Shared by all settings that have the same matrices."""
        same = Astra(solver="neumann", damping=self.method.damping, sample=self.method.sample)
        return self.work.folder(same) / "step-size"

    @property
    def largest(self) -> float:
        """The eigenvalue, with a margin."""
        return _MARGIN * float(require_done(self.folder, "whence evaluate")["largest"])

    def items(self) -> list[Any]:
        """One: every product needs the one before."""
        return ["step size"]

    def tokens(self, item: Any) -> int:
        """Tokens of all products."""
        return _POWER_STEPS * self.method.exact(self.work).tokens()

    def done(self, item: Any) -> bool:
        """Whether it is known."""
        return is_done(self.folder)

    def run(self, item: Any, shares: tuple[int, int], advance: Advance) -> None:
        """Iterate; a kill loses a few products."""
        exact = self.method.exact(self.work)
        damped = curvature_of(self.work, "ekfac", self.method.damping)
        v, largest = random_start(exact.zeros(1), self.work.owner.config.fit.seed, "astra"), torch.zeros(1)
        for _ in range(_POWER_STEPS):
            image = _with_damping(exact.product(v, advance), v, damped)
            next_v = _preconditioned(damped, image)
            largest = inner(image, next_v) / inner(v, image)  # Rayleigh quotient in the metric where it is symmetric
            v = times(next_v, inner(next_v, next_v).rsqrt())
        if not torch.isfinite(largest).all():
            raise NumericalError("the largest eigenvalue is not finite; run the model in another --dtype.")
        with publish(self.folder, {"largest": float(largest)}):
            pass

    def finished(self) -> bool:
        """Whether it is known."""
        return self.done("step size")

    def finish(self) -> bool:
        """Nothing to merge."""
        return self.finished()

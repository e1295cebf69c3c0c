"""Influence in a Krylov subspace: the dominant eigenpairs of the exact curvature (Schioppa et al. 2022, 2112.03052).

    T = K^T C K, K [P, k] orthonormal, from Lanczos iterations on a random start;  T = U diag(mu) U^T,  W = K U
    v = sum_i w_i <w_i, q> / (mu_i + damping)    over the `top` largest |mu_i|;  rest adds (q - W W^T q) / damping

in the scale of `exact`. C is symmetric, so that Arnoldi's iteration is Lanczos'; the basis is orthogonalised in full,
twice. An invariant subspace is left for a new random direction, so that k = P gives the whole inverse. Starts are
decided by the counter-based generator, seed and site.

The fit costs k products with C over the sample, one after another, k P numbers in memory and twice that on disk while
it runs, `top` P after; a query costs 2 `top` P. What is ignored, unless rest is kept: everything outside of the
dominant subspace, as in the paper. It hurts where the signal lies in flat directions: keeping top eigenvectors of
gradients' covariance was worse than keeping random directions at every size on a small Llama. With the rest kept, it is
taken to be flat.
"""

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from whence.attributor import Question, Step
from whence.attributor.curvatures import save_tensors
from whence.attributor.steps import Advance
from whence.errors import NumericalError
from whence.methods.base import Work
from whence.methods.exact import Blocks, ExactSolver, added, inner, times
from whence.methods.krylov import random_start
from whence.runs import is_done, publish, require_done, storage_errors

__all__ = ["Arnoldi"]

_BROKEN, _BROKEN_SINGLE = 1e-9, 1e-5
"""A new direction this small beside its image is rounding: the subspace is invariant."""


class Arnoldi(ExactSolver):
    """Influence in the dominant subspace of the exact curvature.

    Attributes:
        kind: ggn (Gauss-Newton: always positive semidefinite) or hessian.
        damping: Lambda as a multiple of each site's mean Gauss-Newton eigenvalue.
        sample: Share of the corpus that the curvature is taken over; the run's own fit sample if absent.
        dimension: Iterations k.
        top: Eigenpairs that are kept; half of the iterations if absent, since the others have not converged.
        rest: Whether a query's part outside of the subspace counts, with no curvature but the damping.
    """

    key: ClassVar[str] = "arnoldi"
    title: ClassVar[str] = "Arnoldi"
    paper: ClassVar[str] = "Schioppa et al. 2022, arXiv:2112.03052"

    dimension: int = Field(default=100, ge=1)
    top: int | None = Field(default=None, ge=1)
    rest: bool = False

    def steps(self, work: Work) -> list[Step]:
        """The sites' mean eigenvalues, the eigenpairs."""
        return [*super().steps(work), KrylovStep(self, work)]

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The queries' vectors.

        Raises:
            NumericalError: A kept eigenvalue with its damping is not positive.
        """
        exact, step = self.exact(work), KrylovStep(self, work)
        values = step.values
        if not (values + self.damping > 0).all():
            raise NumericalError(
                f"eigenvalue {float(values.min()):.3g} (in units of a site's mean) of the Hessian is not made positive "
                f"by damping {self.damping:g}: the model is not at a minimum. Raise the damping, or use kind=ggn."
            )
        queries = exact.narrowed(question.blocks)
        vectors = {name: each.to(queries[name]) for name, each in step.vectors.items()}
        along = _along(vectors, queries)
        inverse = 1.0 / (values + self.damping) - (1.0 / self.damping if self.rest else 0.0)
        found = {
            name: ((along * inverse[:, None]).mT.to(each) @ each.flatten(1)).reshape(-1, *each.shape[1:])
            for name, each in vectors.items()
        }
        return exact.narrowed(added(found, queries, 1.0 / self.damping) if self.rest else found)


class KrylovStep:
    """Lanczos iterations, each stored when it is done, then eigenpairs."""

    name = "krylov"

    def __init__(self, method: Arnoldi, work: Work) -> None:
        self.method, self.work = method, work

    @cached_property
    def folder(self) -> Path:
        """Shared by all dampings."""
        kept = {name: getattr(self.method, name) for name in ("kind", "sample", "dimension", "top")}
        return self.work.folder(Arnoldi(**kept))

    @property
    def count(self) -> int:
        """Iterations; no more than there are parameters."""
        return min(self.method.dimension, sum(site.size for site in self.work.owner.sites))

    @property
    def values(self) -> Tensor:
        """Eigenvalues, the largest first, float64 [top]."""
        marker = require_done(self.folder / "eigenpairs", "whence evaluate")
        return torch.tensor(marker["eigenvalues"], dtype=torch.float64)

    @property
    def vectors(self) -> Blocks:
        """Eigenvectors, site -> [top, O, I]."""
        with storage_errors(self.folder):
            files = {
                site.name: self.folder / "eigenpairs" / f"{site.name}.safetensors" for site in self.work.owner.sites
            }
            return {name: load_file(path)["vectors"] for name, path in files.items()}

    def path(self, number: int) -> Path:
        """Folder of an iteration."""
        return self.folder / "iterations" / f"{number:05d}"

    def items(self) -> list[Any]:
        """One: every iteration needs those before."""
        return ["krylov"]

    def tokens(self, item: Any) -> int:
        """Tokens of all products."""
        return self.count * self.method.exact(self.work).tokens()

    def done(self, item: Any) -> bool:
        """Whether the last iteration, and so each, is done."""
        return self.finished() or is_done(self.path(self.count - 1))

    def run(self, item: Any, shares: tuple[int, int], advance: Advance) -> None:
        """Iterate from where it stopped."""
        exact = self.method.exact(self.work)
        basis = exact.zeros(self.count)
        for number in range(self.count):
            if not is_done(self.path(number)):
                vector = self._next(number, basis)
                image = exact.scaled(vector, advance)
                with publish(self.path(number)) as temporary:
                    save_tensors(temporary / "vector.safetensors", vector)
                    save_tensors(temporary / "image.safetensors", image)
            for name, each in self._load(number, "vector").items():
                basis[name][number] = each[0]

    def _load(self, number: int, name: str) -> Blocks:
        with storage_errors(self.path(number)):
            stored = load_file(self.path(number) / f"{name}.safetensors")
        owner = self.work.owner
        return {site.name: stored[site.name].to(owner.loaded.device_of(site)) for site in owner.sites}

    def _next(self, number: int, basis: Blocks) -> Blocks:
        """The image of the last vector, or at an invariant subspace a random one, orthogonal to all before."""
        one, seed = self.method.exact(self.work).zeros(1), self.work.owner.config.fit.seed
        candidates = [self._load(number - 1, "image")] if number else []
        candidates += [random_start(one, seed, f"arnoldi/{number}/{attempt}") for attempt in range(4)]
        before = {name: each[:number].flatten(1) for name, each in basis.items()}
        wide = self.work.owner.wide == torch.float64
        for candidate in candidates:
            vector, size = _unit(candidate)
            if size and number:
                vector, size = _unit(_orthogonal(_orthogonal(vector, before), before))
                if size < (_BROKEN if wide else _BROKEN_SINGLE):
                    continue
                vector, size = _unit(_orthogonal(vector, before))  # what was small had large rounding
            if size:
                return vector
        raise NumericalError("no direction is left for a Krylov basis; use a smaller dimension.")

    def finished(self) -> bool:
        """Whether the eigenpairs are there."""
        return is_done(self.folder / "eigenpairs")

    def finish(self) -> bool:
        """Diagonalise ``K^T C K`` and keep the top."""
        if self.finished():
            return True
        if not self.done("krylov"):
            return False
        basis = self._all("vector")
        small = _along(basis, self._all("image"))
        values, turn = torch.linalg.eigh((small + small.mT) / 2)
        top = min(self.method.top or -(-self.count // 2), self.count)
        order = values.abs().argsort(descending=True, stable=True)[:top]
        with publish(self.folder / "eigenpairs", {"eigenvalues": values[order].tolist()}) as temporary:
            for name, each in basis.items():
                turned = turn[:, order].mT.to(each) @ each.flatten(1)
                save_tensors(temporary / f"{name}.safetensors", {"vectors": turned.reshape(top, *each.shape[1:])})
        shutil.rmtree(self.folder / "iterations", ignore_errors=True)
        return True

    def _all(self, name: str) -> Blocks:
        """Every iteration's vector, or image, [k, O, I] by site."""
        loaded = [self._load(number, name) for number in range(self.count)]
        return {site: torch.cat([each[site] for each in loaded]) for site in loaded[0]}


def _along(basis: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> Tensor:
    """Inner products of a basis [k, O, I] with vectors [Q, O, I] over all sites, float64 [k, Q] on the CPU."""
    parts = [(each.flatten(1) @ vectors[name].flatten(1).mT).double().cpu() for name, each in basis.items()]
    return torch.stack(parts).sum(0)


def _orthogonal(vector: Blocks, basis: Mapping[str, Tensor]) -> Blocks:
    """``v - K K^T v``."""
    along = _along(basis, vector)
    return {
        name: each - (along.mT.to(each) @ basis[name].flatten(1)).reshape(each.shape) for name, each in vector.items()
    }


def _unit(vector: Blocks) -> tuple[Blocks, float]:
    """A vector of length one, and what its length was."""
    size = inner(vector, vector).sqrt()
    return times(vector, size.clamp_min(1e-300).reciprocal()), float(size)

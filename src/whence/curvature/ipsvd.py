"""IPSVD: matrices of low rank that change the loss least, by K-FAC's curvature; and where rank is best spent.

    min over W_hat of rank r   E = tr(S D A D^T),   D = W - W_hat        S = E gg^T [O, O],  A = E aa^T [I, I]

E is || S^1/2 D A^1/2 ||_F^2 and, S counting all tokens of a document, twice the nats by which -log p of a document is
expected to move (K-FAC's quadratic form). So errors of different sites may be added and compared, and rank goes where
a parameter lowers the sum most. Solved by the singular values of S^1/2 W A^1/2 = U s V^T:

    W_hat = (S^-1/2 U s^1/2)(s^1/2 V^T A^-1/2) = up [O, r] down [r, I],      E = sum of s_j^2 over j > r

With this split the r hidden values and their gradients both have second moment s, on the diagonal (up to one factor).
A site with a bias has A about the mean m of its inputs, and b_hat = b + D m, which is the best there is.

The stage of IProX (Chen et al. 2026, arXiv:2602.17835) that needs no training. Its released code draws probes of a and
g and loses what lies outside their span; here S and A are whole and damped, so that W_hat = W at full rank. Ignored:
all that K-FAC ignores (that tokens of a document, inputs and gradients, sites are not independent), and everything
beyond second order: at small shares the changes are no small ones, and errors add up to more than they say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.curvature.ekfac import SiteCurvature, eigenbasis
from whence.errors import InputError

__all__ = ["Moments", "Shape", "WeightedFactors", "moments_of", "spend_ranks", "uniform_ranks", "weighted_factors"]


@dataclass(frozen=True, slots=True)
class Moments:
    """What weighs the errors of one site.

    Attributes:
        outputs: S [O, O], per document.
        inputs: A [I, I], without the bias; about the mean if there is one.
        mean: Mean of the inputs [I] of a site with a bias, else None.
    """

    outputs: Tensor
    inputs: Tensor
    mean: Tensor | None = None


def moments_of(basis: SiteCurvature, bias: bool) -> Moments:
    """S and A of a site from its K-FAC eigenbasis and eigenvalues, float64.

    K-FAC's eigenvalues are an outer product; its scale is put into S, and A has trace one (with the bias column).

    Args:
        basis: As `fit_kfac` made it; not of a stack of experts.
        bias: Whether the last input is the constant one.
    """
    values = basis.eigenvalues.double()
    total = values.sum().clamp_min(torch.finfo(torch.float64).tiny)
    outputs = _matrix(basis.outputs, values.sum(1))
    inputs = _matrix(basis.inputs, values.sum(0) / total)
    if not bias:
        return Moments(outputs, inputs)
    mean = inputs[:-1, -1] / inputs[-1, -1].clamp_min(torch.finfo(torch.float64).tiny)
    return Moments(outputs, inputs[:-1, :-1] - torch.outer(mean, inputs[-1, :-1]), mean)


def _matrix(basis: Tensor | None, values: Tensor) -> Tensor:
    if basis is None:
        return values.diag()
    wide = basis.double()
    return (wide * values) @ wide.T


@dataclass(frozen=True, slots=True)
class WeightedFactors:
    """All factors of a weight, those that matter most first; R = min(O, I).

    Attributes:
        up: [O, R].
        values: s [R], descending.
        down: [R, I].
    """

    up: Tensor
    values: Tensor
    down: Tensor

    def of_rank(self, rank: int) -> tuple[Tensor, Tensor]:
        """Factors up [O, r] and down [r, I] of the best matrix of a rank, of equal norm."""
        up, down = self.up[:, :rank], self.down[:rank]
        scale = (down.norm() / up.norm().clamp_min(1e-300)).clamp_min(1e-300).sqrt()
        return up * scale, down / scale

    def error(self, rank: int) -> float:
        """E of that matrix."""
        return float(self.values[rank:].square().sum())


def weighted_factors(weight: Tensor, moments: Moments, damping: float, name: str = "a site") -> WeightedFactors:
    """IPSVD of a weight [O, I], in float64.

    Args:
        weight: W.
        moments: S and A.
        damping: Added to the eigenvalues of S and of A, in multiples of their mean.
        name: Of the site, for errors.

    Raises:
        NumericalError: A moment is not finite.
    """
    s, s_inverse = _roots(moments.outputs, damping, f"{name} (outputs)")
    a, a_inverse = _roots(moments.inputs, damping, f"{name} (inputs)")
    u, values, vt = torch.linalg.svd(s @ weight.double() @ a, full_matrices=False)
    half = values.sqrt()
    return WeightedFactors(s_inverse @ (u * half), values, (half[:, None] * vt) @ a_inverse)


def _roots(moment: Tensor, damping: float, name: str) -> tuple[Tensor, Tensor]:
    """Symmetric root of a damped moment and its inverse; of the identity where there is nothing at all."""
    values, vectors = eigenbasis(moment, name)
    mean = float(values.mean())
    values = values + damping * mean if mean > 0 else torch.ones_like(values)
    root = values.sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


@dataclass(frozen=True, slots=True)
class Shape:
    """Size and singular values of a site, which is all that spending ranks needs.

    Attributes:
        outputs: O.
        inputs: I.
        squares: s_j^2, descending.
    """

    outputs: int
    inputs: int
    squares: Sequence[float]

    @property
    def whole(self) -> int:
        """Parameters of the matrix as it is."""
        return self.outputs * self.inputs

    @property
    def step(self) -> int:
        """Parameters of one more rank."""
        return self.outputs + self.inputs

    @property
    def most(self) -> int:
        """The largest rank that has fewer parameters than the matrix."""
        return (self.whole - 1) // self.step

    def cost(self, rank: int | None) -> int:
        """Parameters; None leaves the matrix as it is."""
        return self.whole if rank is None else rank * self.step

    def error(self, rank: int | None) -> float:
        """E."""
        return 0.0 if rank is None else float(sum(self.squares[rank:]))


Ranks = dict[str, int | None]


def uniform_ranks(shapes: Mapping[str, Shape], share: float) -> Ranks:
    """The same share of every site's parameters; a rank of at least 1."""
    return {
        name: max(1, min(shape.most, int(share * shape.whole / shape.step))) if shape.most else None
        for name, shape in shapes.items()
    }


def spend_ranks(shapes: Mapping[str, Shape], share: float) -> Ranks:
    """Ranks by which a share of all parameters is kept with the least total error; None leaves a matrix as it is.

    Greedy along each site's lower convex hull of (parameters, error), the matrix itself being one of its points, so
    that it is exact but for the last parameters that no step fits into; never worse than `uniform_ranks`.

    Args:
        shapes: Of every site.
        share: Of the parameters of all of them, between 0 and 1.

    Raises:
        InputError: Rank 1 everywhere is already more than that.
    """
    whole = sum(shape.whole for shape in shapes.values())
    ranks: Ranks = {name: 1 if shape.most else None for name, shape in shapes.items()}
    left = int(share * whole) - _parameters(shapes, ranks)
    if left < 0:
        least = _parameters(shapes, ranks) / whole
        raise InputError(
            f"--share {share:g} keeps less than rank 1 at every linear layer, which takes {least:.3g} of their "
            f"parameters; give more than that."
        )
    hulls = {name: _hull(shape) for name, shape in shapes.items() if shape.most}
    steps = [(-gain / price, name, after, price) for name, hull in hulls.items() for after, gain, price in hull]
    stopped: set[str] = set()
    for _, name, after, price in sorted(steps, key=lambda step: step[:2]):
        if name not in stopped and price <= left:
            ranks[name], left = after, left - price
        else:
            stopped.add(name)
    _fill(shapes, ranks, left)
    even = uniform_ranks(shapes, share)
    fits = _parameters(shapes, even) <= int(share * whole)
    return even if fits and _error(shapes, even) < _error(shapes, ranks) else ranks


def _parameters(shapes: Mapping[str, Shape], ranks: Ranks) -> int:
    return sum(shape.cost(ranks[name]) for name, shape in shapes.items())


def _error(shapes: Mapping[str, Shape], ranks: Ranks) -> float:
    return sum(shape.error(ranks[name]) for name, shape in shapes.items())


def _hull(shape: Shape) -> list[tuple[int | None, float, int]]:
    """Steps along the lower convex hull from rank 1 to the matrix itself, as (rank, what E falls by, parameters).

    Single ranks, of which each lowers E less than the one before, then a jump.
    """
    steps: list[tuple[int | None, float, int]] = []
    rest = shape.error(1)
    for rank in range(1, shape.most + 1):
        price = shape.whole - shape.cost(rank)
        if rank == shape.most or shape.squares[rank] / shape.step <= rest / price:
            return [*steps, (None, rest, price)]
        steps.append((rank + 1, shape.squares[rank], shape.step))
        rest -= shape.squares[rank]
    raise AssertionError("a site without ranks has no hull")


def _fill(shapes: Mapping[str, Shape], ranks: Ranks, left: int) -> None:
    """Spend what is left on single ranks, wherever one lowers the error most for its parameters."""
    while True:
        fits = [
            (shape.squares[rank] / shape.step, name)
            for name, shape in shapes.items()
            if (rank := ranks[name]) is not None and rank < shape.most and shape.step <= left
        ]
        if not fits or max(fits)[0] <= 0:
            return
        name = max(fits)[1]
        rank = ranks[name]
        assert rank is not None
        ranks[name], left = rank + 1, left - shapes[name].step

"""K-FAC and EK-FAC: a site's Fisher matrix in a Kronecker eigenbasis, with eigenvalues that are predicted or measured.

    F ~ (Q_A (x) Q_S) diag(Lambda) (Q_A (x) Q_S)^T      per document, so that C = F and influence = q^T (C+l)^-1 z / n

K-FAC (Martens & Grosse 2015, arXiv:1503.05671) predicts Lambda_oi = T d_S,o d_A,i with T tokens per document, which
treats tokens, and inputs and gradients, as independent. EK-FAC (George et al. 2018, arXiv:1806.03884; Grosse et al.
2023, arXiv:2308.03296) keeps the basis and measures Lambda_oi = E[(Q_S^T G Q_A)_oi^2] with the token-summed gradient
G. Both ignore all coupling between sites. A weight used twice has F ~ sum_u A_u (x) S_u; its basis diagonalises the
partial traces sum_u tr(S_u) A_u and sum_u tr(A_u) S_u, which for a single use is the plain K-FAC basis.

A stack of experts has one such curvature per expert, all of the same form with a leading axis E; an expert that saw
few tokens borrows from the others (experts.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.curvature.experts import shrunk, trust
from whence.curvature.statistics import Covariances, moment_names
from whence.errors import NumericalError
from whence.interfaces import Site

__all__ = ["Side", "SiteCurvature", "add_squares", "eigenbasis", "fit_kfac", "identity_curvature", "with_eigenvalues"]


@dataclass(frozen=True, slots=True)
class SiteCurvature:
    """Curvature of one site, fitted.

    Attributes:
        outputs: Q_S [O, O], columns are eigenvectors; None is the identity. [E, O, O] for a stack of experts.
        inputs: Q_A [I, I]; None is the identity. [E, I, I] for a stack.
        eigenvalues: Lambda [O, I], per document; zeros for the identity method. [E, O, I] for a stack.
        trust: For a stack whose factors were shrunk, how far each expert's own measurements count, [E] in 0..1.
        weight: What the eigenvalues were divided by (`divided`); documents' mean squares are `weight` times them.
    """

    outputs: Tensor | None
    inputs: Tensor | None
    eigenvalues: Tensor
    trust: Tensor | None = None
    weight: float = 1.0

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "SiteCurvature":
        """The same on another device or in another dtype."""
        moved = [None if t is None else t.to(device, dtype) for t in (self.outputs, self.inputs, self.trust)]
        return SiteCurvature(moved[0], moved[1], self.eigenvalues.to(device, dtype), moved[2], self.weight)

    def divided(self, weight: float) -> "SiteCurvature":
        """``C / weight``, so that its damped inverse is multiplied by `weight` if the damping is divided as well."""
        return SiteCurvature(self.outputs, self.inputs, self.eigenvalues / weight, self.trust, self.weight * weight)

    def rotate(self, blocks: Tensor) -> Tensor:
        """``Q_S^T G Q_A`` of blocks [N, O, I]; for a stack [N, E, O, I], here and below."""
        if self.outputs is not None:
            blocks = self.outputs.mT.to(blocks.dtype) @ blocks
        return blocks if self.inputs is None else blocks @ self.inputs.to(blocks.dtype)

    def unrotate(self, blocks: Tensor) -> Tensor:
        """``Q_S B Q_A^T`` of blocks [N, O, I] in the eigenbasis."""
        if self.outputs is not None:
            blocks = self.outputs.to(blocks.dtype) @ blocks
        return blocks if self.inputs is None else blocks @ self.inputs.mT.to(blocks.dtype)

    def solve(self, blocks: Tensor, damping: float) -> Tensor:
        """``(C + damping)^-1 G`` of blocks [N, O, I]."""
        return self.unrotate(self.rotate(blocks) / (self.eigenvalues.to(blocks.dtype) + damping))


def eigenbasis(matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues (clamped at zero) and eigenvectors of a symmetric matrix, in float64.

    Raises:
        NumericalError: The matrix is not finite, or the decomposition failed.
    """
    wide = matrix.double()
    wide = (wide + wide.T) / 2
    if not torch.isfinite(wide).all():
        raise NumericalError(
            f"the covariance of {name} is not finite: activations or gradients overflowed. Run the model in another "
            "--dtype (bfloat16 or float32 instead of float16), or leave the site out with --sites."
        )
    try:
        values, vectors = torch.linalg.eigh(wide)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NumericalError(
            f"the eigendecomposition of {name} failed: {error}. Leave the site out with --sites."
        ) from error
    return values.clamp_min(0.0), vectors


@dataclass(frozen=True, slots=True)
class Side:
    """Eigenbasis of one side of a site (None is the identity), and the second moment of each use in it."""

    basis: Tensor | None
    spectra: tuple[Tensor, ...]


def _side(moments: list[Tensor], weights: list[Tensor], name: str) -> Side:
    """Eigenvectors of the weighted sum of moments; the identity where they are diagonal already."""
    if any(moment.ndim == 1 for moment in moments):
        return Side(None, tuple(moment if moment.ndim == 1 else moment.diagonal() for moment in moments))
    if len(moments) == 1:
        values, vectors = eigenbasis(moments[0], name)
        return Side(vectors, (values,))
    total = torch.stack([w * m for w, m in zip(weights, moments, strict=True)]).sum(0)
    vectors = eigenbasis(total, name)[1]
    return Side(vectors, tuple(torch.einsum("ki,kl,li->i", vectors, m, vectors).clamp_min(0.0) for m in moments))


def _trace(moment: Tensor) -> Tensor:
    return moment.sum() if moment.ndim == 1 else moment.trace()


def fit_kfac(site: Site, sums: Covariances, shared: dict[str, Side]) -> SiteCurvature:
    """K-FAC curvature of one site from its covariances, in float64.

    Args:
        site: The site.
        sums: Second moments of all parts; those of this site are read.
        shared: Decomposed inputs by group, filled as they are made, so that a group is decomposed once.
    """
    if site.experts:
        return _fit_experts(site, sums)
    names = moment_names(site)
    tokens = [max(float(sums.counts[outputs]), 1.0) for outputs, _ in names]
    output_moments = [sums.totals[outputs].double() / n for (outputs, _), n in zip(names, tokens, strict=True)]
    input_moments = [sums.totals[inputs].double() / max(float(sums.counts[inputs]), 1.0) for _, inputs in names]
    if site.group not in shared:
        weights = [n * _trace(moment) for n, moment in zip(tokens, output_moments, strict=True)]
        shared[site.group] = _side(input_moments, weights, f"{site.group} (inputs)")
    weights = [n * _trace(moment) for n, moment in zip(tokens, input_moments, strict=True)]
    outputs, inputs = _side(output_moments, weights, f"{site.name} (outputs)"), shared[site.group]
    eigenvalues = torch.zeros(site.outputs, site.inputs, dtype=torch.float64, device=output_moments[0].device)
    for n, s, a in zip(tokens, outputs.spectra, inputs.spectra, strict=True):
        eigenvalues += n / max(sums.documents, 1.0) * torch.outer(s, a)
    return SiteCurvature(outputs.basis, inputs.basis, eigenvalues)


def _fit_experts(site: Site, sums: Covariances) -> SiteCurvature:
    ((outputs, inputs),) = moment_names(site)
    tokens = sums.counts[outputs]
    output_moments = shrunk(sums.totals[outputs].double(), tokens)
    input_moments = shrunk(sums.totals[inputs].double(), tokens)
    named = range(site.experts)
    s_values, s = map(
        torch.stack, zip(*(eigenbasis(output_moments[e], f"{site.name}[{e}]") for e in named), strict=True)
    )
    a_values, a = map(
        torch.stack, zip(*(eigenbasis(input_moments[e], f"{site.name}[{e}]") for e in named), strict=True)
    )
    rate = (tokens + 1.0) / max(sums.documents, 1.0)
    eigenvalues = rate[:, None, None] * s_values[:, :, None] * a_values[:, None, :]
    return SiteCurvature(s, a, eigenvalues, trust(tokens, max(site.outputs, site.inputs)))


def identity_curvature(site: Site) -> SiteCurvature:
    """No curvature: with damping 1 influence is the plain inner product of gradients, over n."""
    return SiteCurvature(None, None, torch.zeros(site.shape))


def add_squares(total: Tensor, blocks: Tensor) -> None:
    """Add squared blocks [N, O, I] of examples to the sum [O, I] that EK-FAC's eigenvalues are made of."""
    for block in blocks:
        total.addcmul_(block, block)


def with_eigenvalues(basis: SiteCurvature, squares: Tensor, documents: float) -> SiteCurvature:
    """EK-FAC: the same basis with measured eigenvalues, ``sum of squares / documents``.

    Those of an expert that saw few tokens are drawn towards what K-FAC predicts from its shrunk factors.
    """
    measured = squares.to(basis.eigenvalues.dtype) / max(documents, 1.0)
    if basis.trust is not None:
        own = basis.trust.to(measured)[:, None, None]
        measured = own * measured + (1.0 - own) * basis.eigenvalues
    return SiteCurvature(basis.outputs, basis.inputs, measured, basis.trust)


def standard_error(parts: Mapping[str, tuple[Tensor, float]]) -> float:
    """Relative standard error of the eigenvalues from their spread over independent parts.

    Args:
        parts: Part name -> (sum of squares [O, I], documents).

    Returns:
        ``||se(Lambda)|| / ||Lambda||`` (Frobenius); nan with fewer than two parts.
    """
    if len(parts) < 2:
        return float("nan")
    weights = torch.tensor([documents for _, documents in parts.values()], dtype=torch.float64)
    means = torch.stack([squares.double() / max(documents, 1.0) for squares, documents in parts.values()])
    share = (weights / weights.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (share * means).sum(0)
    variance = (share.square() * (means - mean).square()).sum(0) * len(parts) / (len(parts) - 1)
    return float(variance.sum().sqrt() / mean.norm().clamp_min(1e-300))

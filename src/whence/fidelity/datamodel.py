"""Linear datamodels: scores fitted to retrained losses themselves, as an oracle to hold methods against.

Ilyas et al. 2022 (arXiv:2202.00622), with ridge regression in place of their LASSO: each query's loss after training on
a subset is regressed on which documents the subset leaves out, and the coefficients are the scores. It has seen
retraining, so it is fitted on some of the subsets and judged on others. Knows nothing of models.
"""

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.bootstrap import Array
from whence.fidelity.tables import check_observed

__all__ = ["datamodel"]

_RIDGES = tuple(float(10.0**power) for power in np.arange(-3.0, 3.5, 0.5))


def datamodel(kept: NDArray[np.bool_], losses: Array, ridge: float | None = None) -> Array:
    """Scores that best reproduce the losses of models trained on these subsets.

    Weak where there are few subsets: S subsets show S directions of the N that there are, and what lies outside them is
    0, so with S much below N even noiseless losses leave about S / N of the variance of other subsets explained
    (correlation sqrt(S / N)), and noise lowers that. It is an oracle for S of the order of N or more, or where few
    documents matter and they matter much; else a good influence method beats it, and that is no contradiction.

    Args:
        kept: bool [S, N], the documents each subset holds.
        losses: [S, R, Q], averaged over seeds.
        ridge: Penalty, as a multiple of the mean eigenvalue of the subsets' Gram matrix; if None, the one from 0.001 to
            1,000 with the least squared error on subsets left out one at a time, all queries together.

    Returns:
        float64 [Q, N]: the rise of the query's loss when the document is left out, > 0 = supports it.

    Raises:
        InputError: Under three subsets, shapes that do not fit, or a ridge that is not positive.
        NumericalError: A loss is not finite.

    Example:
        >>> kept = np.random.default_rng(0).random((200, 3)) < 0.5
        >>> losses = ((~kept) @ np.array([[1.0], [-2.0], [0.0]]))[:, None]
        >>> datamodel(kept, losses, ridge=1e-9).round(6) + 0.0
        array([[ 1., -2.,  0.]])
    """
    losses = check_observed(losses, len(kept), losses.shape[-1], "subset")
    if len(kept) < 3 or (ridge is not None and not 0 < ridge < np.inf):
        raise InputError(
            f"a datamodel needs at least three subsets and a positive ridge; given {len(kept)} subsets, ridge {ridge}."
        )
    absent = (~kept).astype(np.float64)
    absent -= absent.mean(0)
    observed = losses.mean(1)
    observed = observed - observed.mean(0)
    values, vectors = np.linalg.eigh(absent @ absent.T)
    values = np.clip(values, 0.0, None)
    unit = float(values.mean()) or 1.0
    turned = vectors.T @ observed
    chosen = (
        ridge if ridge is not None else min(_RIDGES, key=lambda each: _left_out(values, vectors, turned, each * unit))
    )
    scores: Array = (absent.T @ (vectors @ (turned / (values + chosen * unit)[:, None]))).T
    return scores


def _left_out(values: Array, vectors: Array, turned: Array, penalty: float) -> float:
    """Mean squared error on subsets left out one at a time, in closed form (the intercept counts as one more)."""
    shrunk = penalty / (values + penalty)
    residual = vectors @ (shrunk[:, None] * turned)
    free = (vectors**2) @ shrunk - 1 / len(values)
    return float(np.mean((residual / np.clip(free, 1e-9, None)[:, None]) ** 2))

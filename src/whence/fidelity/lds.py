"""The linear datamodelling score: do summed scores order the query's losses of models trained on random subsets?

Park et al. 2023 (TRAK, arXiv:2303.14186), section 4: for each query, Spearman's correlation over training sets
between the predicted and the retrained loss; then the mean over queries. The prediction is additive: each document that
a subset leaves out raises the query's loss by its influence. Knows nothing of models or of how scores were made.
"""

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError, NumericalError
from whence.fidelity.bootstrap import CORRELATION, Counts, crossed, estimate
from whence.fidelity.correlation import Ranks, rank, spearman
from whence.interfaces import Estimate

__all__ = ["lds", "lds_by_query", "lds_difference", "predictions"]

Array = NDArray[np.float64]


def predictions(scores: Array, kept: NDArray[np.bool_]) -> Array:
    """Predicted loss of every query after training on each subset, up to a constant of the query.

    Args:
        scores: [Q, N]; the rise of the query's loss if that one document had not been trained on.
        kept: bool [S, N]; the documents each subset holds.

    Returns:
        [S, Q]: the sum of the scores of the documents that are *not* kept, rounded at 1e-12 of the largest possible sum
        so that subsets which tie but for the order of summation do tie.

    Raises:
        InputError: The shapes do not fit.
        NumericalError: A score is not finite.

    Example:
        >>> predictions(np.array([[1.0, -2.0, 0.5]]), np.array([[True, True, False], [False, True, True]]))
        array([[0.5],
               [1. ]])
    """
    if scores.ndim != 2 or kept.ndim != 2 or scores.shape[1] != kept.shape[1]:
        raise InputError(
            f"scores must be [queries, documents] and subsets [subsets, documents] over the same documents; "
            f"given {scores.shape} and {kept.shape}."
        )
    if not np.isfinite(scores).all():
        rows, columns = np.nonzero(~np.isfinite(scores))
        raise NumericalError(
            f"{len(rows)} scores are not finite, the first of query {rows[0]} and document {columns[0]}; "
            "a method with such scores cannot be measured. Score again with more damping or in a wider dtype."
        )
    sums = (~kept).astype(np.float64) @ scores.T.astype(np.float64)
    scale = np.abs(scores).sum(1)
    scale[scale == 0] = 1.0
    rounded: Array = np.round(sums / scale, 12) * scale
    return rounded


def lds_by_query(scores: Array, kept: NDArray[np.bool_], losses: Array) -> Array:
    """The LDS of each query, [Q]; 0 where its predictions or its losses are all equal. Arguments as `lds`."""
    by_query: Array = spearman(*_sides(scores, kept, losses))[0]
    return by_query


def lds(scores: Array, kept: NDArray[np.bool_], losses: Array, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """Linear datamodelling score with its interval over queries and subsets.

    Args:
        scores: [Q, N], > 0 where the document supports the query; any unit, one scale per query.
        kept: bool [S, N], the documents each subset holds.
        losses: [S, R, Q], the query losses after training on subset s with seed r; averaged over seeds.
        draws: Bootstrap resamples.
        seed: Decides them.

    Returns:
        Between -1 and 1; 0 for scores that say nothing. The interval is -1 to 1 with one query or under 3 subsets.

    Raises:
        InputError: The shapes do not fit.
        NumericalError: A score or a loss is not finite.

    Example:
        >>> kept = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
        >>> losses = np.array([[[0.3], [0.1]], [[0.5], [0.5]], [[0.8], [1.0]]])
        >>> lds(np.array([[0.9, 0.5, 0.2]]), kept, losses).value
        1.0
    """
    sides = _sides(scores, kept, losses)
    return _estimate(float(spearman(*sides)[0].mean()), _draws(sides, draws, seed), sides)


def lds_difference(
    first: Array, second: Array, kept: NDArray[np.bool_], losses: Array, *, draws: int = 1000, seed: int = 0
) -> Estimate:
    """LDS of the first scores minus that of the second, on the same resamples of queries and subsets.

    An interval above 0 says that the first method is better on queries and subsets like these; far sharper than
    comparing two intervals, since what makes a subset hard is hard for both.

    Args:
        first: [Q, N].
        second: [Q, N].
        kept: bool [S, N].
        losses: [S, R, Q].
        draws: Bootstrap resamples.
        seed: Decides them.
    """
    one, two = _sides(first, kept, losses), _sides(second, kept, losses)
    value = float(spearman(*one)[0].mean() - spearman(*two)[0].mean())
    drawn = _draws(one, draws, seed) - _draws(two, draws, seed)
    return estimate(value, drawn, one[0].order.shape, (-2.0, 2.0))


def _sides(scores: Array, kept: NDArray[np.bool_], losses: Array) -> tuple[Ranks, Ranks]:
    """The ranks of subsets by prediction and by mean loss, each [Q, S]."""
    if losses.ndim != 3 or losses.shape[::2] != (len(kept), len(scores)) or 0 in losses.shape:
        raise InputError(
            f"losses must be [subsets, seeds, queries] with {len(kept)} subsets, at least one seed and {len(scores)} "
            f"queries; given {losses.shape}."
        )
    if not np.isfinite(losses).all():
        subset, seed, query = np.argwhere(~np.isfinite(losses))[0]
        raise NumericalError(
            f"the loss of query {query} after training on subset {subset} with the seed in place {seed} is not finite: "
            "that training diverged. Lower the learning rate, or leave the subset out."
        )
    return rank(predictions(scores, kept).T), rank(losses.mean(1).T)


def _draws(sides: tuple[Ranks, Ranks], draws: int, seed: int) -> Array:
    def by_query(counts: Counts) -> Array:
        return spearman(*sides, counts)

    queries, subsets = sides[0].order.shape
    return crossed(by_query, queries, subsets, draws, seed)


def _estimate(value: float, drawn: Array, sides: tuple[Ranks, Ranks]) -> Estimate:
    return estimate(value, drawn, sides[0].order.shape, CORRELATION)

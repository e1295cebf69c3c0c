"""The linear datamodelling score: do summed scores order the query's losses of models trained on random subsets?

Park et al. 2023 (TRAK, arXiv:2303.14186), section 4: for each query, Spearman's correlation over training sets
between the predicted and the retrained loss; then the mean over queries. The prediction is additive: each document that
a subset leaves out raises the query's loss by its influence. Knows nothing of models or of how scores were made.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.bootstrap import CORRELATION, Array, Counts, crossed, estimate, query_mean
from whence.fidelity.ceiling import ceiling
from whence.fidelity.correlation import Ranks, rank, spearman
from whence.fidelity.tables import check_observed, check_scores
from whence.interfaces import Estimate

__all__ = ["ceiling", "lds", "lds_by_query", "lds_difference", "mean_spearman", "predictions", "spearman_draws"]


def predictions(scores: Array, kept: NDArray[np.bool_]) -> Array:
    """Predicted loss of every query after training on each subset, up to a constant of the query.

    Args:
        scores: [Q, N]; the rise of the query's loss if that one document had not been trained on.
        kept: bool [S, N]; the documents each subset holds.

    Returns:
        [S, Q]: the sum of the scores of the documents that are *not* kept, rounded at 1e-12 of the largest possible sum
        so that subsets which tie but for the order of summation do tie. Where training takes the mean over the
        documents it is given, observed differences are N / (documents kept) times as large, in the same order.

    Raises:
        InputError: The shapes do not fit.
        NumericalError: A score is not finite.

    Example:
        >>> predictions(np.array([[1.0, -2.0, 0.5]]), np.array([[True, True, False], [False, True, True]]))
        array([[0.5],
               [1. ]])
    """
    scores = check_scores(scores)
    if kept.ndim != 2 or kept.dtype != np.bool_ or kept.shape[1] != scores.shape[1]:
        raise InputError(
            f"subsets must be a bool table [subsets, documents] over the {scores.shape[1]} documents that were scored; "
            f"given {kept.dtype} {kept.shape}."
        )
    scale = np.abs(scores).sum(1)
    scale[scale == 0] = 1.0
    rounded: Array = np.round((~kept).astype(np.float64) @ (scores.T / scale), 12) * scale
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
    return mean_spearman(*_sides(scores, kept, losses), draws=draws, seed=seed)


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
    drawn = spearman_draws(*one, draws=draws, seed=seed) - spearman_draws(*two, draws=draws, seed=seed)
    return estimate(value, drawn, one[0].shape, (-2.0, 2.0))


def mean_spearman(predicted: Ranks, observed: Ranks, *, draws: int, seed: int) -> Estimate:
    """The mean over queries of Spearman's correlation over units, both given as ranks of [Q, units]."""
    value = float(spearman(predicted, observed)[0].mean())
    drawn = spearman_draws(predicted, observed, draws=draws, seed=seed)
    return estimate(value, drawn, predicted.shape, CORRELATION)


def spearman_draws(predicted: Ranks, observed: Ranks, *, draws: int, seed: int) -> Array:
    """`mean_spearman` on each resample: of queries and units, of queries alone, of units alone; [3, draws]."""
    return crossed(partial(_resampled, predicted, observed), predicted.shape, draws, seed)


def _resampled(predicted: Ranks, observed: Ranks, chosen: Counts, taken: Counts) -> Array:
    return query_mean(spearman(predicted, observed, taken), chosen)


def _sides(scores: Array, kept: NDArray[np.bool_], losses: Array) -> tuple[Ranks, Ranks]:
    """The ranks of subsets by prediction and by mean loss, each [Q, S]."""
    predicted = predictions(scores, kept)
    observed = check_observed(losses, len(kept), len(scores), "subset")
    return rank(predicted.T), rank(observed.mean(1).T)

"""The noise ceiling: what a perfect predictor of the expected loss would score, given the noise of retraining.

Losses of models trained on the same subset with other seeds differ, and nobody can predict that part. Two halves of the
seeds are two measurements of the same thing; their correlation r over subsets is the reliability of half the seeds.
Spearman-Brown gives that of all R, n r / (1 + (n - 1) r) with n = R / (seeds in a half), and the truth itself
correlates with a measurement as the square root of its reliability (Spearman 1904, 1910).

All of this is exact for Pearson's correlation. Scores here are Spearman's, and the same formulas are applied to rank
correlations, which are what the methods are judged by and which one wild subset cannot spoil. For normally distributed
losses that is right to within 0.006 (simulated, against converting r to Pearson's with 2 sin(pi r / 6) and back); for
strongly skewed ones, exponential, the ceiling comes out about 0.05 too high: too strict with methods, never too kind.

The formula is concave, so putting each query's own noisy r into it would give too low a ceiling, and the mean r too
high a one where queries differ. Therefore the r of the queries are first drawn together about their mean, until their
spread is what is left after the noise of estimating each of them (a jackknife over subsets) is taken off.
"""

from functools import partial
from itertools import combinations

import numpy as np

from whence.fidelity.bootstrap import SHARE, Array, Counts, crossed, estimate
from whence.fidelity.correlation import Ranks, rank, spearman
from whence.fidelity.tables import check_observed
from whence.interfaces import Estimate

__all__ = ["ceiling"]

_SPLITS = 12


def ceiling(losses: Array, *, draws: int = 1000, seed: int = 0) -> Estimate | None:
    """What scores that knew the expected loss of every subset would be expected to reach, with its interval.

    Holds for every measure that is a mean over queries of Spearman's correlation over units: subsets for the LDS,
    documents for leave-one-out.

    Args:
        losses: [S, R, Q], losses (or changes of them) of S training sets, R seeds, Q queries.
        draws: Bootstrap resamples of queries and training sets.
        seed: Decides them, and the halves taken where there are many.

    Returns:
        Between 0 and 1; None for one seed, whose noise cannot be told from the truth. Queries whose halves disagree
        count as 0: all their differences are noise. Under a mean reliability of about 0.1 the value is little more than
        a guess, and its interval says so.

    Raises:
        InputError: Not a table of three axes.
        NumericalError: A loss is not finite.

    Example:
        >>> loss = np.random.default_rng(0).normal(size=(64, 1, 8)).repeat(2, axis=1)
        >>> ceiling(loss, draws=100).value
        1.0
    """
    losses = check_observed(losses, len(losses), losses.shape[-1], "training set")
    subsets, seeds, queries = losses.shape
    if seeds < 2:
        return None
    halves = _halves(losses, seed)
    times = seeds / (seeds // 2)
    whole, noise = _agreement(halves)[0], _noise(halves, subsets)
    value = float(_reached(whole[None], np.ones((1, queries), np.int64), noise, times)[0])
    drawn = crossed(partial(_resampled, halves, noise, times), (queries, subsets), draws, seed)
    return estimate(value, drawn[0], (queries, subsets), SHARE)


def _halves(losses: Array, seed: int) -> list[tuple[Ranks, Ranks]]:
    """Ranks of subsets by the mean loss of either half, for every way to halve the seeds, or for some of the ways."""
    return [
        (rank(losses[:, one].mean(1).T), rank(losses[:, two].mean(1).T)) for one, two in _ways(losses.shape[1], seed)
    ]


def _ways(seeds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Two sets of half of the seeds each; of an odd number one is left out in turn."""
    half = seeds // 2
    if seeds > 5:
        orders = [np.random.default_rng([seed, way]).permutation(seeds).tolist() for way in range(_SPLITS)]
        return [(order[:half], order[half : 2 * half]) for order in orders]
    pairs = combinations(combinations(range(seeds), half), 2)
    return [(list(one), list(two)) for one, two in pairs if not set(one) & set(two)]


def _agreement(halves: list[tuple[Ranks, Ranks]], counts: Counts | None = None) -> Array:
    """Each query's correlation between halves, mean over the ways to halve, [B, Q]."""
    mean: Array = np.mean([spearman(one, two, counts) for one, two in halves], 0)
    return mean


def _noise(halves: list[tuple[Ranks, Ranks]], subsets: int) -> float:
    """Variance of a query's agreement from having few subsets, by the jackknife, mean over queries."""
    left_out = _agreement(halves, 1 - np.eye(subsets, dtype=np.int64))
    return float(left_out.var(0).mean() * (subsets - 1))


def _resampled(halves: list[tuple[Ranks, Ranks]], noise: float, times: float, chosen: Counts, taken: Counts) -> Array:
    # A resample has the noise of the sample and as much again of its own.
    return _reached(_agreement(halves, taken), chosen, 2 * noise, times)


def _reached(agreement: Array, chosen: Counts, noise: float, times: float) -> Array:
    """From agreements of halves [B, Q] and how often each query counts [B, Q] to ceilings [B]."""
    queries = chosen.shape[1]
    mean = (agreement * chosen).sum(1, keepdims=True) / queries
    spread = (chosen * (agreement - mean) ** 2).sum(1, keepdims=True) / max(1, queries - 1)
    kept = np.sqrt(np.clip(spread - noise, 0, None) / np.where(spread > 0, spread, 1.0))
    reliability = np.clip(mean + kept * (agreement - mean), 0.0, 1.0)
    reached = np.sqrt(times * reliability / (1 + (times - 1) * reliability))
    ceilings: Array = (reached * chosen).sum(1) / queries
    return ceilings

"""What audits say with confidence: p-values against nulls, false-discovery rates, intervals, areas under curves.

Axes: N items. Plain numpy and scipy; knows nothing of documents or models. Every function is a few lines around a named
statistic, so that a page can say which one it shows.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from whence.errors import InputError
from whence.interfaces import Estimate

__all__ = [
    "auroc",
    "average_precision",
    "benjamini_hochberg",
    "bootstrap",
    "empirical_p",
    "gini",
    "macro_f1",
    "odds_ratio",
    "partial_spearman",
    "roc",
    "spearman",
    "tpr_at",
    "wilson",
]

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


def empirical_p(value: Array, null: Array) -> Array:
    """One-sided p-value of each value against a sample of the null, ``(1 + #{null >= value}) / (1 + #null)``.

    Never 0: with n draws of the null nothing smaller than 1/(n+1) can be known (Phipson & Smyth 2010).

    Args:
        value: [N], larger is stronger.
        null: [M] draws of the same statistic where there is nothing to find.

    >>> empirical_p(np.array([5.0, 0.0]), np.array([1.0, 2.0, 3.0]))
    array([0.25, 1.  ])
    """
    value, null = np.asarray(value, dtype=np.float64), np.sort(np.asarray(null, dtype=np.float64))
    above = len(null) - np.searchsorted(null, value, side="left")
    return np.asarray((1.0 + above) / (1.0 + len(null)), dtype=np.float64)


def benjamini_hochberg(p: Array) -> Array:
    """q-values: the least false-discovery rate at which each would be called (Benjamini & Hochberg 1995).

    >>> benjamini_hochberg(np.array([0.01, 0.5, 0.02])).round(3)
    array([0.03, 0.5 , 0.03])
    """
    p = np.asarray(p, dtype=np.float64)
    if not len(p):
        return p
    return np.asarray(stats.false_discovery_control(p, method="bh"), dtype=np.float64)


def auroc(scores: Array, positive: Bools) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties one half; nan without both.

    >>> auroc(np.array([0.9, 0.4, 0.5]), np.array([True, False, False]))
    1.0
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def roc(scores: Array, positive: Bools) -> tuple[Array, Array]:
    """The ROC curve as (false-positive rates, true-positive rates), from (0, 0) to (1, 1); ties are one step."""
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    order = np.argsort(-scores, kind="stable")
    hits, ends = np.cumsum(positive[order]), np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    tpr, fpr = hits[ends] / max(1, positive.sum()), (ends + 1 - hits[ends]) / max(1, (~positive).sum())
    return np.r_[0.0, fpr], np.r_[0.0, tpr]


def tpr_at(scores: Array, positive: Bools, fpr: float) -> float:
    """The share of positives found while at most `fpr` of the negatives are flagged."""
    false, true = roc(scores, positive)
    return float(true[false <= fpr + 1e-12].max(initial=0.0))


def average_precision(scores: Array, positive: Bools) -> float:
    """Area under precision against recall as a sum of steps, ties as one step; nan without a positive."""
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, ends = np.cumsum(positive[order]), np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    precision, recall = hits[ends] / (ends + 1), hits[ends] / positive.sum()
    return float((np.diff(np.r_[0.0, recall]) * precision).sum())


def wilson(successes: int, total: int, confidence: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (1927), which stays within 0 to 1 and is honest for few trials.

    >>> found = wilson(9, 10)
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.9, 0.596, 0.982)
    """
    if total < 1 or not 0 <= successes <= total:
        raise InputError(f"a share needs 0 <= successes <= total and total >= 1; given {successes} of {total}.")
    z = float(stats.norm.isf((1 - confidence) / 2))
    share, room = successes / total, z * z / total
    middle, half = share + room / 2, z * np.sqrt(share * (1 - share) / total + room / (4 * total))
    ends = (middle - half) / (1 + room), (middle + half) / (1 + room)
    return Estimate(value=share, low=float(max(0.0, ends[0])), high=float(min(1.0, ends[1])))


def bootstrap(
    statistic: Callable[..., float], *arrays: NDArray[np.generic], draws: int = 1000, seed: int = 0
) -> Estimate:
    """A statistic of N items with its 95 % percentile interval over resampled items (Efron & Tibshirani 1993).

    Args:
        statistic: Called with every array, all resampled alike.
        arrays: Each [N, ...].
        draws: Resamples; those on which the statistic is not defined (nan) are drawn no further and left out.
        seed: Decides them.
    """
    generator, count = np.random.default_rng(seed), len(arrays[0])
    value = float(statistic(*arrays))
    drawn = np.array([statistic(*(a[rows] for a in arrays)) for rows in generator.integers(0, count, (draws, count))])
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(value=value, low=float("-inf"), high=float("inf"))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def odds_ratio(inside: int, chosen: int, elsewhere: int, others: int) -> tuple[Estimate, float]:
    """How much more common a tag is among chosen documents than among the others, and Fisher's exact p.

    Args:
        inside: Chosen documents with the tag, of `chosen`.
        chosen: See above.
        elsewhere: Other documents with the tag, of `others`.
        others: See above.

    Returns:
        The odds ratio with its 95 % interval (log scale, one half added to each cell: Haldane 1956, Anscombe 1956), and
        the two-sided p-value of Fisher's exact test.
    """
    table = np.array([[inside, chosen - inside], [elsewhere, others - elsewhere]], dtype=np.float64)
    if (table < 0).any():
        raise InputError(
            f"tagged documents cannot be more than there are: {inside} of {chosen}, {elsewhere} of {others}"
        )
    cells = table + 0.5
    log = float(np.log(cells[0, 0] * cells[1, 1] / (cells[0, 1] * cells[1, 0])))
    half = float(stats.norm.isf(0.025) * np.sqrt((1 / cells).sum()))
    value, low, high = np.exp([log, log - half, log + half]).tolist()
    return Estimate(value=value, low=low, high=high), float(stats.fisher_exact(table)[1])


def gini(values: Array) -> float:
    """Concentration of what is positive: 0 if all contribute alike, towards 1 if one alone does; 0 without any.

    >>> round(gini(np.array([0.0, 0.0, 0.0, 1.0])), 2)
    0.75
    """
    kept = np.sort(np.clip(np.asarray(values, dtype=np.float64), 0.0, None))
    total, count = kept.sum(), len(kept)
    return float((2 * np.arange(1, count + 1) - count - 1) @ kept / (count * total)) if total > 0 else 0.0


def macro_f1(truth: Sequence[Hashable], said: Sequence[Hashable]) -> float:
    """Mean over the true classes of the harmonic mean of precision and recall; answers of other classes are misses."""
    scores = []
    for name in sorted(set(truth), key=repr):
        both = sum(t == name == s for t, s in zip(truth, said, strict=True))
        scores.append(2 * both / (sum(t == name for t in truth) + sum(s == name for s in said)))
    return float(np.mean(scores))


def spearman(first: Array, second: Array) -> tuple[float, float]:
    """Rank correlation and its two-sided p-value; 0 and 1 where one of them does not vary."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0, 1.0
    found = stats.spearmanr(first, second)
    return float(found.statistic), float(found.pvalue)


def partial_spearman(first: Array, second: Array, given: Array) -> tuple[float, float]:
    """Rank correlation of two things with a third held fixed, and its two-sided p-value (t, N - 3 degrees)."""
    ranks = [stats.rankdata(np.asarray(each, dtype=np.float64)) for each in (first, second, given)]
    base = np.stack([np.ones(len(ranks[2])), ranks[2]], 1)
    rest = [each - base @ np.linalg.lstsq(base, each, rcond=None)[0] for each in ranks[:2]]
    size = float(np.sqrt((rest[0] @ rest[0]) * (rest[1] @ rest[1])))
    r = float(rest[0] @ rest[1] / size) if size > 1e-9 else 0.0
    free = len(ranks[0]) - 3
    if free < 1 or abs(r) >= 1:
        return r, float("nan") if free < 1 else 0.0
    return r, float(2 * stats.t.sf(abs(r) * np.sqrt(free / (1 - r * r)), free))

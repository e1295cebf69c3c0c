"""95 % intervals by resampling queries and training sets, the two things a lab has only a sample of.

Both axes are drawn with replacement, independently of one another (Efron 1979; for a table with two crossed axes the
"pigeonhole" bootstrap of Owen 2007, doi:10.1214/07-AOAS122, which errs to the wide side). The interval goes from the
2.5th to the 97.5th percentile of the statistic over the draws, widened to hold the value where the percentiles leave
it out. One seed gives one set of draws: two methods measured with it are measured on the same resamples, so the
difference of their draws is a paired comparison. Knows nothing of what is measured.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.interfaces import Estimate

__all__ = ["CORRELATION", "SHARE", "Counts", "crossed", "drawn_counts", "estimate", "mean_over", "resampled"]

Counts = NDArray[np.int64]
"""How often each unit is taken: [B, units]."""

CORRELATION = (-1.0, 1.0)
SHARE = (0.0, 1.0)

_FEW = 3
_BLOCK = 1 << 20


def drawn_counts(units: int, draws: int, seed: int, axis: int = 0) -> Counts:
    """How often each of `units` is taken in each of `draws` resamples of `units`, int64 [draws, units].

    Args:
        units: Number of units.
        draws: Number of resamples.
        seed: Decides them.
        axis: A number of its own for each axis, so that they are drawn independently.

    Raises:
        InputError: There is nothing to draw, or no draw.

    Example:
        >>> drawn_counts(5, 3, seed=0).sum(1)
        array([5, 5, 5])
    """
    if units < 1 or draws < 1:
        raise InputError(f"a bootstrap needs at least one unit and one draw; given {units} units and {draws} draws.")
    generator = np.random.default_rng([seed, axis])
    counts = np.empty((draws, units), np.int64)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, units, units), minlength=units)
    return counts


def resampled(statistic: Callable[[Counts], NDArray[np.float64]], counts: Counts, size: int = 1) -> NDArray[np.float64]:
    """A statistic on every resample of one axis, [draws].

    Args:
        statistic: From counts [B, units] to values [B].
        counts: As `drawn_counts` gives.
        size: Numbers it holds per draw and unit; memory is bounded by taking that many fewer draws at a time.
    """
    step = max(1, _BLOCK // max(1, counts.shape[1] * size))
    return np.concatenate([statistic(counts[start : start + step]) for start in range(0, len(counts), step)])


def crossed(
    by_query: Callable[[Counts], NDArray[np.float64]], queries: int, units: int, draws: int, seed: int
) -> NDArray[np.float64]:
    """The mean over queries of a per-query statistic, on resamples of both queries and units, [draws].

    Args:
        by_query: From counts of units [B, units] to the statistic of each query, [B, Q].
        queries: Q.
        units: Number of units (training sets, documents).
        draws: Number of resamples.
        seed: Decides them; the same seed, the same resamples.
    """
    chosen, taken = drawn_counts(queries, draws, seed, 0), drawn_counts(units, draws, seed, 1)
    step = max(1, _BLOCK // (queries * units))
    blocks = [slice(start, start + step) for start in range(0, draws, step)]
    return np.concatenate([(by_query(taken[block]) * chosen[block]).sum(1) / queries for block in blocks])


def mean_over(values: NDArray[np.float64], draws: int, seed: int) -> Estimate:
    """The mean of one value per query, with its interval over queries.

    Args:
        values: [Q], in any unit.
        draws: Number of resamples.
        seed: Decides them.

    Example:
        >>> mean_over(np.full(8, 2.0), draws=100, seed=0)
        Estimate(value=2.0, low=2.0, high=2.0)
    """
    counts = drawn_counts(len(values), draws, seed)
    return estimate(float(values.mean()), counts @ values / len(values), (len(values),))


def estimate(
    value: float, drawn: NDArray[np.float64], units: tuple[int, ...], limits: tuple[float, float] | None = None
) -> Estimate:
    """A value and its 95 % percentile interval.

    A single query or fewer than three training sets cannot show how far another would differ: the interval is then
    all that the measure can be (`limits`), and for a measure without limits three times the value to either side of 0,
    which says as much: unknown.

    Args:
        value: The statistic on the data themselves.
        drawn: The statistic on each resample, [draws].
        units: How many units each resampled axis has: queries first, then training sets or documents.
        limits: Least and greatest value the measure can take; None for nats.
    """
    if units[0] < 2 or min(units[1:], default=_FEW) < _FEW:
        low, high = limits or (-3 * abs(value), 3 * abs(value))
        return Estimate(value=value, low=low, high=high)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))

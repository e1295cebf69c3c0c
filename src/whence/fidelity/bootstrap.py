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

__all__ = ["CORRELATION", "SHARE", "Counts", "crossed", "drawn_counts", "estimate", "mean_over", "query_mean"]

Array = NDArray[np.float64]

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
    _check(draws, units)
    return _draw(np.random.default_rng([seed, axis]), units, draws)


def crossed(
    statistic: Callable[[Counts, Counts], Array], sizes: tuple[int, int], draws: int, seed: int, held: int | None = None
) -> Array:
    """A statistic on resamples of two axes, drawn independently of one another, [draws].

    Args:
        statistic: From counts of the first axis [B, Q] and of the second [B, S] to its value on each resample, [B].
        sizes: Q and S: queries and training sets or documents.
        draws: Number of resamples.
        seed: Decides them; the same seed, the same resamples.
        held: Numbers the statistic holds per draw, Q * S if None; memory is bounded by taking fewer draws at a time.
    """
    _check(draws, *sizes)
    step = max(1, _BLOCK // (held or sizes[0] * sizes[1]))
    axes = [(np.random.default_rng([seed, axis]), size) for axis, size in enumerate(sizes)]
    blocks = [min(step, draws - start) for start in range(0, draws, step)]
    return np.concatenate([statistic(*(_draw(*axis, rows) for axis in axes)) for rows in blocks])


def _draw(generator: np.random.Generator, units: int, draws: int) -> Counts:
    counts = np.empty((draws, units), np.int64)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, units, units), minlength=units)
    return counts


def _check(draws: int, *units: int) -> None:
    if min(units) < 1 or draws < 1:
        raise InputError(f"a bootstrap needs at least one unit and one draw; given {units} units and {draws} draws.")


def query_mean(by_query: Array, chosen: Counts) -> Array:
    """The mean over drawn queries of one value per query: [B, Q] and counts [B, Q] to [B]."""
    mean: Array = (by_query * chosen).sum(1) / chosen.shape[1]
    return mean


def mean_over(values: Array, draws: int, seed: int, limits: tuple[float, float] | None = None) -> Estimate:
    """The mean of one value per query, with its interval over queries.

    Args:
        values: [Q], in any unit.
        draws: Number of resamples.
        seed: Decides them.
        limits: Least and greatest value there can be; None for nats.

    Example:
        >>> mean_over(np.full(8, 2.0), draws=100, seed=0)
        Estimate(value=2.0, low=2.0, high=2.0)
    """
    counts = drawn_counts(len(values), draws, seed)
    return estimate(float(values.mean()), counts @ values / len(values), (len(values),), limits)


def estimate(value: float, drawn: Array, units: tuple[int, ...], limits: tuple[float, float] | None = None) -> Estimate:
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

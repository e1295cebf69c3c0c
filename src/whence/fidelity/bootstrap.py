"""95 % intervals by resampling queries and training sets, the two things a lab has only a sample of.

Both axes are drawn with replacement, independently of one another (Efron 1979; Owen 2007, doi:10.1214/07-AOAS122, for
tables with two crossed axes), and the interval lies between percentiles of the statistic over the draws. Known faults
of that are mended. What differs from cell to cell at random, rather than between rows or columns, is counted three
times when both axes are drawn, and intervals would be up to sqrt(3) times too wide; repeated units tie, which lowers
rank correlations: `narrowed` sets width and place right. Percentiles of few units are too close: they are taken further
out, as Student's t says (Hesterberg 2014, arXiv:1411.5279). Where the percentiles leave the value out, the interval is
widened to hold it.

One seed gives one set of draws: two methods measured with it are measured on the same resamples, so the difference of
their draws is a paired comparison. Knows nothing of what is measured.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from whence.errors import InputError
from whence.interfaces import Estimate

__all__ = [
    "CORRELATION",
    "SHARE",
    "Counts",
    "crossed",
    "drawn_counts",
    "estimate",
    "mean_over",
    "narrowed",
    "query_mean",
]

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
    """A statistic on resamples of two axes: of both, of the first alone, of the second alone; [3, draws].

    Args:
        statistic: From counts of the first axis [B, Q] and of the second [B, S] to its value on each resample, [B].
            Either may be [1, ...], for an axis that is taken as it is.
        sizes: Q and S: queries and training sets or documents.
        draws: Number of resamples.
        seed: Decides them; the same seed, the same resamples.
        held: Numbers the statistic holds per draw, Q * S if None; memory is bounded by taking fewer draws at a time.
    """
    _check(draws, *sizes)
    step = max(1, _BLOCK // (held or sizes[0] * sizes[1]))
    generators = [np.random.default_rng([seed, axis]) for axis in range(2)]
    every = [np.ones((1, size), np.int64) for size in sizes]
    blocks = []
    for start in range(0, draws, step):
        one, two = (_draw(*axis, min(step, draws - start)) for axis in zip(generators, sizes, strict=True))
        blocks.append(np.stack([statistic(one, two), statistic(one, every[1]), statistic(every[0], two)]))
    return np.concatenate(blocks, axis=1)


def narrowed(drawn: Array, value: float) -> Array:
    """Draws of both axes, [draws], about the value and with the variance that `crossed` draws imply for it.

    With variances r of rows, c of columns and e of cells (each as it enters the statistic), drawing rows alone shows
    r + e, columns alone c + e, and both r + c + 3e; what is wanted, r + c + e, is twice the first two less the third.

    Args:
        drawn: [3, draws], as `crossed` gives them.
        value: The statistic on the data themselves.
    """
    both, first, second = drawn.var(1)
    share = np.clip((2 * (first + second) - both) / both, 1 / 3, 1.0) if both > 0 else 1.0
    draws: Array = value + np.sqrt(share) * (drawn[0] - drawn[0].mean())
    return draws


def _draw(generator: np.random.Generator, units: int, draws: int) -> Counts:
    counts = np.empty((draws, units), np.int64)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, units, units), minlength=units)
    return counts


def _tail(units: int) -> float:
    """The quantile that a normal statistic of so many units passes in 2.5 % of samples, its spread being estimated."""
    return float(norm.sf(student.isf(0.025, units - 1) * np.sqrt(units / (units - 1))))


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
    """A value and its 95 % interval.

    A single query or fewer than three training sets cannot show how far another would differ: the interval is then
    all that the measure can be (`limits`), and for a measure without limits there is none (infinite ends).

    Args:
        value: The statistic on the data themselves.
        drawn: The statistic on each resample, [draws]; as `crossed` gives it, [3, draws], with two axes.
        units: How many units each resampled axis has: queries first, then training sets or documents.
        limits: Least and greatest value the measure can take; None for nats.
    """
    if units[0] < 2 or min(units[1:], default=_FEW) < _FEW:
        low, high = limits or (-np.inf, np.inf)
        return Estimate(value=value, low=low, high=high)
    tail = _tail(min(units))
    low, high = np.quantile(narrowed(drawn, value) if drawn.ndim == 2 else drawn, [tail, 1 - tail])
    least, greatest = limits or (-np.inf, np.inf)
    return Estimate(value=value, low=max(least, min(float(low), value)), high=min(greatest, max(float(high), value)))

"""Does the first of a ranking stand out of its own tail? A test that needs no clean items.

The largest values of most distributions have a tail whose order statistics are known (Rényi 1953): with scores
x_1 > x_2 > … of one item, the spacings

    s_k = k (log x_k - log x_(k+1))     of a power law, such as influence has (Grosse et al. 2023, figure 5)
    s_k = k (x_k - x_(k+1))             of an exponential tail, such as standardised BM25 scores have

are independent and have one exponential distribution, for every k. An item that one document was written for has a
first spacing s_1 that does not belong with the others: p = exp(-s_1 / mu), mu the mean of s_2 … s_8 over all items.
Nothing is known of items without exposure, and nothing need be: each item less its best document is the null of
another. Whether the tail is what it is taken for can be seen: the mean spacings by k must be flat, and are shown.

What it ignores: two documents that carry the same item (copies are taken together before) hide one another, since the
second is then no part of the tail.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError

__all__ = ["Spaced", "spaced"]

Array = NDArray[np.float64]
_DEPTH = 8


@dataclass(frozen=True)
class Spaced:
    """The test of every item.

    Attributes:
        first: s_1 over mu, [I]: how many times the usual spacing.
        p: Its p-values [I].
        scale: mu.
        levels: Mean of s_k over items, k = 1 …; flat from the second on if the tail is right.
    """

    first: Array
    p: Array
    scale: float
    levels: tuple[float, ...]


def spaced(scores: NDArray[np.floating], tail: Literal["power", "exponential"]) -> Spaced:
    """Hold each item's first spacing against the others of all items.

    Args:
        scores: [I, N], larger is stronger; of a power law only what is positive counts.
        tail: See above.

    Raises:
        InputError: There are fewer than 4 documents, so that nothing has a tail.

    Example:
        >>> found = spaced(np.vstack([np.r_[1000.0, np.arange(1, 30)], np.arange(1.0, 31)]), "power")
        >>> bool(found.p[0] < 0.01 < found.p[1])
        True
    """
    count = scores.shape[1]
    if count < 4:
        raise InputError(f"a ranking of {count} documents has no tail to stand out of; 4 or more are needed.")
    depth = min(_DEPTH, count - 2)
    top = -np.sort(-np.asarray(scores, dtype=np.float64), axis=1)[:, : depth + 1]
    if tail == "power":
        least = np.where(top > 0, top, np.inf).min(1, keepdims=True)
        top = np.log(np.maximum(top, np.where(np.isfinite(least), least, 1.0)))
    steps = np.arange(1, depth + 1) * (top[:, :-1] - top[:, 1:])
    others = steps[:, 1:]
    scale = float(others[others > 0].mean()) if (others > 0).any() else 1.0
    first = steps[:, 0] / scale
    return Spaced(first, np.exp(-first), scale, tuple(float(each) for each in steps.mean(0)))

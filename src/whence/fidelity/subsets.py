"""Training sets drawn from a corpus, and the names they are stored under. Knows no model.

Axes: S subsets, N documents. What is drawn is decided by numbered streams (Philox, whose raw output NumPy keeps
stable), so that the i-th subset does not depend on how many are drawn and a bank can be extended.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from whence.errors import InputError

__all__ = ["PATCHES", "SHUFFLES", "SUBSETS", "halves", "keys", "subset_key", "whole", "without"]


SUBSETS, SHUFFLES, PATCHES = 1, 2, 3
"""What streams are drawn for. Training sets and orders of training must not share one: the kept would come first."""


def keys(count: int, purpose: int, seed: int, stream: int) -> NDArray[np.uint64]:
    """Random numbers uint64 [count], each decided by purpose, seed, stream and its own place alone.

    >>> bool((keys(3, SUBSETS, 0, 5) == keys(9, SUBSETS, 0, 5)[:3]).all())
    True
    """
    source = np.random.Philox(
        key=np.array([seed, stream], dtype=np.uint64), counter=np.array([0, 0, 0, purpose], dtype=np.uint64)
    )
    return np.asarray(source.random_raw(count), dtype=np.uint64)


def halves(documents: int, count: int, seed: int = 0, share: float = 0.5) -> NDArray[np.bool_]:
    """Random training sets of one exact size, drawn independently of each other.

    Args:
        documents: N.
        count: S.
        seed: Decides the draw; subset i is the same for every `count` above i.
        share: Of the documents that each keeps; its size is the nearest whole number.

    Returns:
        kept [S, N].

    Raises:
        InputError: A subset would hold no document, or leave none out.
    """
    size = round(share * documents)
    if not 0 < size < documents:
        raise InputError(
            f"random training sets of {share:g} of {documents} documents would hold {size}; give a share that keeps "
            "some and leaves some out."
        )
    kept = np.zeros((count, documents), dtype=bool)
    for number in range(count):
        kept[number, np.argsort(keys(documents, SUBSETS, seed, number), kind="stable")[:size]] = True
    return kept


def without(documents: int, removed: Sequence[Iterable[int]]) -> NDArray[np.bool_]:
    """The whole corpus but for some documents, once per entry of `removed`; an empty entry is the whole corpus.

    >>> without(4, [[1], [0, 3]]).astype(int).tolist()
    [[1, 0, 1, 1], [0, 1, 1, 0]]

    Raises:
        InputError: There is no such document, or none is left.
    """
    kept = np.ones((len(removed), documents), dtype=bool)
    for row, numbers in zip(kept, removed, strict=True):
        chosen = np.fromiter(numbers, dtype=np.int64)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < documents):
            raise InputError(f"documents {chosen.min()}…{chosen.max()} of a corpus with {documents} cannot be left out")
        row[chosen] = False
        if not row.any():
            raise InputError(f"all {documents} documents would be left out; nothing would remain to train on")
    return kept


def whole(documents: int) -> NDArray[np.bool_]:
    """The whole corpus as the only training set, [1, N]."""
    return np.ones((1, documents), dtype=bool)


def subset_key(kept: NDArray[np.bool_]) -> str:
    """Name of a training set [N]: a hash of which documents it holds, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128(str(len(kept)).encode())
    digest.update(np.packbits(kept).tobytes())
    return digest.hexdigest()

"""The random numbers of every projection: counter-based, specified, the same for ever.

An index must outlive the library version and the machine that made it, so no library generator is used. With 64-bit
unsigned arithmetic modulo 2^64:

    key(seed, name) = xxh64(name as UTF-8, seed = seed)
    word(key, i)    = mix(key + (i + 1) * 0x9E3779B97F4A7C15)                                  (SplitMix64)
    mix(x): x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB; x ^= x >> 31
    sign(i)    = -1 if the top bit of word i is set, else +1
    uniform(i) = (word i >> 11) * 2^-53

Test vectors are in docs/format.md and are checked by the tests.
"""

import numpy as np
import xxhash
from numpy.typing import NDArray

__all__ = ["signs", "uniforms", "words"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def words(seed: int, name: str, start: int, count: int) -> NDArray[np.uint64]:
    """Words start..start+count of the stream named `name`, uint64 [count]."""
    key = np.uint64(xxhash.xxh64_intdigest(name.encode(), seed=seed))
    with np.errstate(over="ignore"):
        counter = np.arange(start + 1, start + count + 1, dtype=np.uint64)
        return _mix(key + counter * _GOLDEN)


def signs(seed: int, name: str, count: int, start: int = 0) -> NDArray[np.int8]:
    """Random signs, int8 [count].

    >>> signs(0, "site", 8).tolist()
    [-1, 1, -1, -1, 1, 1, -1, -1]
    """
    return np.where(words(seed, name, start, count) >> np.uint64(63), -1, 1).astype(np.int8)


def uniforms(seed: int, name: str, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """A uniform number in [0, 1) for each (row, position), whatever the batch they come in.

    Args:
        seed: Seed.
        name: Stream, for instance which pass of a fit.
        rows: int64, an example's number or a hash of it.
        positions: int64, same shape; position of a token within the example.

    Returns:
        float64, same shape.
    """
    key = np.uint64(xxhash.xxh64_intdigest(name.encode(), seed=seed))
    with np.errstate(over="ignore"):
        stream = _mix(key + (rows.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        word = _mix(stream + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53

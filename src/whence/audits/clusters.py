"""Near-duplicates: documents that say nearly the same words, so that copies are scored as one.

MinHash of runs of five words with locality-sensitive hashing (Broder 1997), by the datasketch library; every pair it
proposes is checked by its true Jaccard similarity, and clusters are the connected components. Meeus et al. (2024): a
document with near-duplicates has little influence of its own, the cluster has it. Knows nothing of models.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whence.baselines import words

__all__ = ["members_of", "near_duplicates", "shingles"]

_SHINGLE = 5  # words
_PERMUTATIONS = 128


def shingles(text: str, length: int = _SHINGLE) -> set[str]:
    """The runs of so many words of a text; all words together if there are fewer.

    >>> sorted(shingles("one two three", 2))
    ['one two', 'two three']
    """
    found = words(text)
    if len(found) <= length:
        return {" ".join(found)} if found else set()
    return {" ".join(found[i : i + length]) for i in range(len(found) - length + 1)}


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> NDArray[np.int64]:
    """A cluster for each text, named by its first member.

    Args:
        texts: N of them.
        threshold: Least Jaccard similarity of runs of five words between two texts of one cluster.

    Returns:
        int64 [N]: the number of the first text of the cluster; a text alone has its own. Empty texts are alone.

    >>> near_duplicates(["a b c d e f g", "x y", "A b c, d e f g!"]).tolist()
    [0, 1, 0]
    """
    from datasketch import MinHash, MinHashLSH

    parent = np.arange(len(texts), dtype=np.int64)
    sets = [shingles(text) for text in texts]
    index = MinHashLSH(threshold=max(0.05, threshold - 0.1), num_perm=_PERMUTATIONS)
    first: dict[frozenset[str], int] = {}
    for number, found in enumerate(sets):
        if not found:
            continue
        same = first.setdefault(frozenset(found), number)
        if same != number:
            _join(parent, same, number)
            continue
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([each.encode() for each in found])
        for other in index.query(sketch):
            if _jaccard(sets[other], found) >= threshold:
                _join(parent, other, number)
        index.insert(number, sketch)
    return np.array([_root(parent, number) for number in range(len(texts))], dtype=np.int64)


def _jaccard(one: set[str], two: set[str]) -> float:
    return len(one & two) / len(one | two)


def _root(parent: NDArray[np.int64], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = int(parent[number])
    return number


def _join(parent: NDArray[np.int64], one: int, two: int) -> None:
    low, high = sorted((_root(parent, one), _root(parent, two)))
    parent[high] = low


def members_of(clusters: NDArray[np.int64]) -> dict[int, list[int]]:
    """Cluster -> its members, in order."""
    out: dict[int, list[int]] = {}
    for number, cluster in enumerate(clusters.tolist()):
        out.setdefault(cluster, []).append(number)
    return out

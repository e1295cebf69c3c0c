"""What a document scores without any question: at random, by its length, by its loss.

Each is a ranking that a method must beat before anything else is worth measuring. Knows nothing of models or words.
"""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from whence.projection import uniforms

__all__ = ["alike", "random_scores"]


def random_scores(documents: Sequence[str], queries: Sequence[str], seed: int = 0) -> NDArray[np.float64]:
    """Scores drawn at random, uniform in [-1, 1).

    A score is decided by what the document and the query say, and the seed, so that neither the order of a corpus nor
    that of the queries changes it; equal documents score equally.

    Args:
        documents: Content (or its hash) of each of N documents.
        queries: Content of each of Q queries.
        seed: Another seed is another ranking.

    Returns:
        float64 [Q, N].
    """
    keys = np.array([xxhash.xxh64_intdigest(each.encode()) for each in documents], dtype=np.uint64).view(np.int64)
    rows = [uniforms(seed, f"random/{query}", keys, np.zeros_like(keys)) for query in queries]
    return 2.0 * np.stack(rows) - 1.0


def alike(values: NDArray[np.floating | np.integer], queries: int) -> NDArray[np.float64]:
    """One value per document [N], such as its length or its loss, as the scores [Q, N] of every query."""
    return np.tile(np.asarray(values, dtype=np.float64), (queries, 1))

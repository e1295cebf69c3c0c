"""The two tables every measure takes, checked: scores of documents, and what retraining showed.

Knows nothing of how either was made.
"""

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError, NumericalError

__all__ = ["check_observed", "check_scores", "top"]

Array = NDArray[np.float64]


def check_scores(scores: Array) -> Array:
    """Scores as float64 [Q, N].

    Raises:
        InputError: They are not a table with a row per query and a column per document.
        NumericalError: One of them is not finite.
    """
    if scores.ndim != 2 or 0 in scores.shape:
        raise InputError(
            f"scores must be a table [queries, documents] with at least one of each; given {scores.shape}."
        )
    lost = ~np.isfinite(scores)
    if lost.any():
        query, document = np.argwhere(lost)[0]
        raise NumericalError(
            f"{lost.sum()} scores are not finite, the first of query {query} and document {document}; a method with "
            "such scores cannot be measured. Score again with more damping or in a wider dtype."
        )
    return scores.astype(np.float64, copy=False)


def check_observed(losses: Array, units: int, queries: int, unit: str) -> Array:
    """Retrained losses, or changes of them, as float64 [units, R, Q].

    Args:
        losses: What was observed.
        units: How many training sets (or documents) there must be.
        queries: How many queries there must be.
        unit: The first axis in a word, for messages.

    Raises:
        InputError: The shape is another.
        NumericalError: One of them is not finite.
    """
    if losses.ndim != 3 or losses.shape[::2] != (units, queries) or 0 in losses.shape:
        raise InputError(
            f"observed losses must be [{unit}s, seeds, queries] with {units} {unit}s, at least one seed and {queries} "
            f"queries; given {losses.shape}."
        )
    lost = ~np.isfinite(losses)
    if lost.any():
        place, seed, query = np.argwhere(lost)[0]
        raise NumericalError(
            f"{lost.sum()} observed losses are not finite, the first of {unit} {place}, seed in place {seed}, query "
            f"{query}: that training diverged. Train with a lower learning rate, or leave it out."
        )
    return losses.astype(np.float64, copy=False)


def top(scores: Array, k: int) -> NDArray[np.intp]:
    """The k highest documents of each query, highest first; equal scores in the order of document numbers, [Q, k].

    Raises:
        InputError: k is not between 1 and the number of documents.

    Example:
        >>> top(np.array([[0.5, 2.0, 2.0, -1.0]]), 3)
        array([[1, 2, 0]])
    """
    if not 1 <= k <= scores.shape[1]:
        raise InputError(f"k must be between 1 and the number of documents, {scores.shape[1]}; given {k}.")
    highest: NDArray[np.intp] = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return highest

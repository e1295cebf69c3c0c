"""Says how well two score matrices agree, query by query.

    .bench-venv/bin/python benchmarks/peers/agree.py A/scores.npy B/scores.npy

Each file holds [queries, documents]. `spearman` is the mean over queries, `spearman_worst` the lowest of them,
`pearson` is over all cells, and `slope` is the factor that turns the first matrix into the second (least squares
through zero): near 1 where both are in the same units. Knows nothing about who made the scores.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy.stats import spearmanr


def agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Compares two matrices (Q, N) of scores.

    Raises:
        ValueError: the shapes differ.

    >>> agreement(np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 4.0, 8.0]]))["slope"]
    2.0
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"The score matrices have the shapes {first.shape} and {second.shape}; both must be [queries, documents] "
            "over the same queries and documents."
        )
    first, second = first.astype(np.float64), second.astype(np.float64)
    ranks = [float(spearmanr(one, other).statistic) for one, other in zip(first, second, strict=True)]
    return {
        "spearman": float(np.mean(ranks)),
        "spearman_worst": float(np.min(ranks)),
        "pearson": float(np.corrcoef(first.ravel(), second.ravel())[0, 1]),
        "slope": float((first * second).sum() / (first * first).sum()),
    }


def main() -> None:
    """Prints the agreement of two files as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    args = parser.parse_args()
    print(json.dumps(agreement(np.load(args.first), np.load(args.second))))


if __name__ == "__main__":
    main()

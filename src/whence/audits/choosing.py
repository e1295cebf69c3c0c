"""Which documents an intervention takes, and which it is held against: by influence, BM25, at random, gold.

Axes: Q targets, N documents. Reads scores; trains nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.attributor.texts import bm25_of, query_text, texts
from whence.audits.asked import numbers_in
from whence.audits.clusters import members_of, near_duplicates
from whence.interfaces import EncodedQuery, Query

__all__ = [
    "at_random",
    "by_bm25",
    "first_of_each",
    "gold_of",
    "lengths",
    "names",
    "numbers_of",
    "shuffled",
    "with_copies",
]

Array = NDArray[np.float64]


def first_of_each(scores: Array, total: int) -> list[int]:
    """The documents that rank highest, target by target: all firsts, then all seconds, until there are enough.

    Args:
        scores: [Q, N]; documents that score 0 or less are not taken.
        total: Documents to take; targets that share one leave its place to a next one.

    >>> first_of_each(np.array([[3.0, 2.0, 1.0], [9.0, 0.5, 0.0]]), 2)
    [0, 1]
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    taken: dict[int, None] = {}
    for rank in range(scores.shape[1]):
        for target in np.argsort(-scores[np.arange(len(scores)), order[:, rank]], kind="stable"):
            document = int(order[target, rank])
            if scores[target, document] > 0 and len(taken) < total:
                taken[document] = None
        if len(taken) >= total:
            break
    return sorted(taken)


def by_bm25(owner: Attributor, targets: Sequence[EncodedQuery]) -> Array:
    """BM25 of every document for every target, float64 [Q, N]."""
    lexical = bm25_of(owner)
    return np.stack([lexical.scores(query_text(owner, each)) for each in targets]).astype(np.float64)


def lengths(owner: Attributor) -> NDArray[np.int64]:
    """Target tokens of every document, int64 [N]."""
    corpus = owner.corpus
    return np.array([int(corpus.document(n).loss_mask.sum()) for n in range(corpus.documents)], dtype=np.int64)


def at_random(tokens: NDArray[np.int64], wanted: int, seed: int) -> list[int]:
    """Documents by lot until they have as many tokens as wanted, as nearly as the last one allows.

    >>> at_random(np.array([5, 5, 5, 5]), 10, 0).__len__()
    2
    """
    order = np.random.default_rng([seed, 11]).permutation(len(tokens))
    reached = np.cumsum(tokens[order])
    count = int(np.argmin(np.abs(reached - wanted))) + 1
    return sorted(order[: min(count, len(tokens) - 1)].tolist())


def gold_of(owner: Attributor, targets: Sequence[Query], field: str = "gold") -> list[int]:
    """Documents that the targets' metadata name under `field`; empty if none does.

    Raises:
        InputError: A named document is not in the corpus.
    """
    wanted = [name for query in targets for name in query.ids_under(field)]
    return numbers_of(owner, wanted, f"the targets' {field!r}") if wanted else []


def numbers_of(owner: Attributor, ids: Sequence[str], where: str) -> list[int]:
    """Numbers of documents by their ids, ascending; an id that several have stands for all of them.

    Raises:
        InputError: There is no such document.
    """
    return numbers_in(owner.corpus, ids, where)


def with_copies(owner: Attributor, documents: Sequence[int], alike: float = 0.8) -> list[int]:
    """The documents and all that say nearly the same, ascending: leaving out one of several copies changes nothing.

    Args:
        owner: The run.
        documents: Numbers.
        alike: Jaccard similarity from which documents are copies, as for audits.
    """
    clusters = near_duplicates(list(texts(owner)), alike)
    members = members_of(clusters)
    chosen = {number for document in documents for number in members.get(int(clusters[document]), [document])}
    return sorted(chosen | set(documents))


def names(owner: Attributor, documents: Sequence[int]) -> tuple[str, ...]:
    """Ids of documents."""
    return tuple(owner.corpus.document(number).id for number in documents)


def shuffled(documents: Sequence[int], count: int, seed: int) -> list[int]:
    """As many documents under a shuffle of all: what a placebo takes instead.

    >>> shuffled([0, 1], 8, 0) == shuffled([1, 0], 8, 0) != [0, 1]
    True
    """
    return sorted(np.random.default_rng([seed, 13]).permutation(count)[list(documents)].tolist())

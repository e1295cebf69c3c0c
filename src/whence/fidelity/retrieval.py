"""Does a method find the documents that are known to hold the answer? Recall at k and reciprocal rank.

For corpora with planted or annotated facts: each query has gold documents. A document that tied with others is put
last among them, gold documents behind the rest, so a method that cannot tell documents apart finds nothing. Finding the
text that states a fact is not the same as finding what caused the answer: BM25 is hard to beat here, and the other
measures decide. Knows nothing of models.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.bootstrap import SHARE, Array, mean_over
from whence.fidelity.tables import check_scores
from whence.interfaces import Reading

__all__ = ["gold_ranks", "retrieval"]


def gold_ranks(scores: Array, gold: Collection[int]) -> NDArray[np.int64]:
    """Ranks of one query's gold documents, best first, from 1; ties count against them.

    Args:
        scores: [N].
        gold: Numbers of the gold documents.

    Example:
        >>> gold_ranks(np.array([0.5, 0.9, 0.5, 0.1]), {0, 3})
        array([3, 4])
    """
    chosen = np.zeros(len(scores), bool)
    chosen[list(gold)] = True
    order = np.lexsort((chosen, -scores))
    return np.flatnonzero(chosen[order]) + 1


def retrieval(
    scores: Array,
    gold: Sequence[Collection[int]],
    *,
    method: str,
    ks: Sequence[int] = (1, 3, 10, 100),
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Reading, Reading]:
    """Recall at k and mean reciprocal rank of gold documents, each with its interval over queries.

    Args:
        scores: [Q, N].
        gold: For each query the numbers of its gold documents; queries without any are left out.
        method: Its name.
        ks: Depths; the estimate of recall is at the last that is at most 10 (at the first if none is), all are in
            detail. A depth beyond the number of documents counts as that number.
        draws: Bootstrap resamples of queries.
        seed: Decides them.

    Returns:
        Recall: the share of a query's gold documents among its top k, mean over queries; detail: k, and for each depth
        recall@k, possible@k (what the best order would reach) and placebo@k. MRR: mean of 1 / rank of the best gold
        document; detail: placebo. The placebo looks for the gold of the next query that shares none with this one: a
        method that scores as high with it finds popular documents, not the query's. It is absent if all share gold.

    Raises:
        InputError: No query has gold, or gold, depths or shapes do not fit.
        NumericalError: A score is not finite.
    """
    scores = check_scores(scores)
    _check(scores, gold, ks)
    asked = [query for query in range(len(gold)) if len(gold[query])]
    found = [gold_ranks(scores[query], gold[query]) for query in asked]
    others = [(query, _next(gold, asked, query)) for query in asked]
    control = [gold_ranks(scores[query], other) for query, other in others if other]
    main = max((k for k in ks if k <= 10), default=ks[0])
    detail = {"k": float(main), **{f"recall@{k}": float(_recall(found, k).mean()) for k in ks}}
    detail |= {f"possible@{k}": float(np.mean([min(1.0, k / len(ranks)) for ranks in found])) for k in ks}
    if control:
        detail |= {f"placebo@{k}": float(_recall(control, k).mean()) for k in ks}
    recall = mean_over(_recall(found, main), draws, seed, SHARE)
    reciprocal = mean_over(_reciprocal(found), draws, seed, SHARE)
    placebo = {"placebo": float(_reciprocal(control).mean())} if control else {}
    return (
        Reading(measure="recall", method=method, estimate=recall, detail=detail),
        Reading(measure="mrr", method=method, estimate=reciprocal, detail=placebo),
    )


def _recall(ranks: Sequence[NDArray[np.int64]], k: int) -> Array:
    return np.array([(each <= k).mean() for each in ranks])


def _reciprocal(ranks: Sequence[NDArray[np.int64]]) -> Array:
    return np.array([1.0 / each[0] for each in ranks])


def _next(gold: Sequence[Collection[int]], asked: Sequence[int], query: int) -> Collection[int]:
    """The gold of the next query, in a circle, that shares no document with this query's."""
    start = asked.index(query)
    circle = (*asked[start + 1 :], *asked[:start])
    own = set(gold[query])
    return next((gold[other] for other in circle if own.isdisjoint(gold[other])), ())


def _check(scores: Array, gold: Sequence[Collection[int]], ks: Sequence[int]) -> None:
    queries, documents = scores.shape
    if len(gold) != queries or not any(len(each) for each in gold):
        raise InputError(
            f"gold documents must be given for each of the {queries} queries that were scored (none for some is fine, "
            f"for all is not); given {len(gold)} entries, {sum(1 for each in gold if len(each))} with documents."
        )
    wrong = sorted({each for own in gold for each in own if not 0 <= each < documents})
    if wrong:
        raise InputError(f"gold documents are numbers from 0 to {documents - 1}; given {wrong[:8]}.")
    if not ks or min(ks) < 1:
        raise InputError(f"recall needs depths of at least 1; given {list(ks)}.")

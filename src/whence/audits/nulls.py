"""Is a document's influence on an answer more than chance? The null is what it does to answers about other matters.

A score depends on its question (one answer has larger gradients than another) and on its document (long ones score high
on everything). Both are taken out: every question's scores are centred and scaled over documents, then every document's
over the *other* questions. What is left, on all pairs of a question and a document that share hardly a word, is what
documents do to matters they have nothing to do with: the null. A pair's p-value is its rank in that sample
(`statistics.empirical_p`), one-sided.

False-discovery rates are weighted (Genovese, Roeder & Wasserman 2006): effect is tested, and presence, which costs
nothing to know, says beforehand where to expect it. With w = e^min(z, 12), z the standardised BM25 score, scaled to
mean 1 over all pairs, those that are asked for the null included, q-values are Benjamini and Hochberg's of p/w over the
pairs of the audit. A document that is present without effect has no small p and is not called; one that has effect
without being present is called only on overwhelming evidence. Where few answers are audited, passages of the corpus are
asked about as well, whose own documents are as present as any: beside them a document that shares stop words with an
answer has next to no weight, however little else there is.

Clearly present is a document that shares more words than the best of all N documents would by chance for one answer in
ten: N p <= 0.1, p that of BM25. It finds nothing; it forbids to say that nothing is there.

A wording of a question stands where the question stands: its row is centred and scaled over documents, then by the
levels and spreads that documents have on the questions *other than its own*, and held against the same pairs of the
null (`wordings` scales down one of another form first). It takes part in no other question's level and not in the null.

What it ignores: pairs off topic are not independent, and a document that is on topic without sharing words counts into
the null, which then has a heavier tail and calls less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whence.audits.statistics import benjamini_hochberg, empirical_p

__all__ = [
    "ON_TOPIC",
    "Tested",
    "against_null",
    "clearly_present",
    "elsewhere",
    "standardised",
    "standardised_apart",
    "standardised_beside",
    "weighted_q",
]

Array = NDArray[np.float64]

ON_TOPIC = 0.1
"""Cosine of words (TF-IDF) from which a document counts as sharing words with a question, so not into the null."""

_PRESENT = 0.1  # answers of which chance alone may call the best of all documents present
_CAP = 12.0  # presence z beyond which weights grow no more
_POOL = 4_000_000  # pairs of the null that are kept; p-values below 2.5e-7 are not told apart
_PRIOR = 4.0  # questions' worth of the common spread that a document's own is mixed with


@dataclass(frozen=True)
class Tested:
    """One test of every pair.

    Attributes:
        z: Standardised scores [Q, N].
        p: One-sided p-values [Q, N]: how often chance is as large.
        under: The other side [Q, N]: how often chance is as small.
        null: How many pairs of the null they were held against.
    """

    z: Array
    p: Array
    under: Array
    null: int


def standardised(scores: NDArray[np.floating]) -> Array:
    """Scores [Q, N] with each question's and then each document's own level and spread taken out.

    A document's level and spread are those on the other questions, its spread mixed with the common one as if that had
    been seen on four more. With one question only the first step is done.
    """
    rows = _over_documents(scores)
    if len(rows) < 2:
        return rows
    level, spread = _of_others(rows)
    return np.asarray((rows - level) / spread, dtype=np.float64)


def standardised_beside(scores: NDArray[np.floating], questions: NDArray[np.floating], of: Sequence[int]) -> Array:
    """Scores of other wordings [R, N], standardised as the questions' own are.

    Args:
        scores: [R, N].
        questions: Scores of all questions [Q, N].
        of: The question each is another wording of; levels and spreads are those on the others.
    """
    rows, base = _over_documents(scores), _over_documents(questions)
    if len(base) < 2:
        return rows
    level, spread = (each[list(of)] for each in _of_others(base))
    return np.asarray((rows - level) / spread, dtype=np.float64)


def standardised_apart(scores: NDArray[np.floating], members: Sequence[int]) -> Array:
    """Scores of some questions that are about one matter [R, N]: levels and spreads are those on all the others.

    Beside its own kind a document that moves all of them would pass for one that moves everything. With no other
    question they are standardised among themselves.

    Args:
        scores: [Q, N].
        members: R of the questions.
    """
    rows, others = _over_documents(scores), np.setdiff1d(np.arange(len(scores)), members)
    if not len(others):
        return standardised(scores)[list(members)]
    level, count = rows[others].mean(0), len(others)
    own = np.maximum((rows[others] ** 2).sum(0) - count * level**2, 0.0)
    return np.asarray((rows[list(members)] - level) / np.sqrt((own + _PRIOR) / (count + _PRIOR)), dtype=np.float64)


def _over_documents(scores: NDArray[np.floating]) -> Array:
    """Each question's scores centred and scaled over documents."""
    rows = np.asarray(scores, dtype=np.float64)
    spread = rows.std(1, keepdims=True)
    out: Array = np.divide(rows - rows.mean(1, keepdims=True), spread, out=np.zeros_like(rows), where=spread > 0)
    return out


def _of_others(rows: Array) -> tuple[Array, Array]:
    """Level and spread [Q, N] of each document on the questions other than each."""
    count = len(rows)
    others, squares = rows.sum(0) - rows, (rows**2).sum(0) - rows**2
    level = others / (count - 1)
    own = np.maximum(squares - (count - 1) * level**2, 0.0)
    return level, np.sqrt((own + _PRIOR) / (count - 1 + _PRIOR))


def against_null(z: Array, off_topic: NDArray[np.bool_], seed: int = 0, tested: Array | None = None) -> Tested:
    """Hold standardised scores against the pairs that are off topic.

    Args:
        z: [Q, N].
        off_topic: bool [Q, N], the pairs that make the null.
        seed: Of the sample that is drawn when there are very many.
        tested: What is held against them, [R, N]; z itself if None.
    """
    pool, asked = z[off_topic], z if tested is None else tested
    if len(pool) > _POOL:
        pool = np.random.default_rng(seed).choice(pool, _POOL, replace=False)
    over, under = (empirical_p(sign * asked.ravel(), sign * pool).reshape(asked.shape) for sign in (1, -1))
    return Tested(asked, over, under, len(pool))


def elsewhere(asked: int, others: int = 0) -> NDArray[np.int64]:
    """Another question for each, whose matter it is taken to be about in a placebo.

    Half of the questions away, as neighbours in a file are often about one matter; a lone question is exchanged with
    one of the others.

    Args:
        asked: Questions that are audited, the first ones.
        others: Questions of the null after them, which keep their own matter where they can.

    >>> elsewhere(4).tolist(), elsewhere(1, 2).tolist()
    ([2, 3, 0, 1], [1, 0, 2])
    """
    out = np.arange(asked + others)
    if asked > 1:
        out[:asked] = np.roll(out[:asked], asked // 2)
    elif others:
        out[:2] = [1, 0]
    return out


def weighted_q(p: Array, presence: Array, others: Array | None = None) -> Array:
    """False-discovery rates of all pairs, those weighing more where the document is known to be present.

    Args:
        p: p-values of effect [Q, N].
        presence: Standardised scores of presence [Q, N], made without looking at effect.
        others: Those of questions that are asked for the null alone [R, N]: they take their share of the weight, so
            that what is most present of little is not taken for present.
    """
    weights = np.exp(np.minimum(presence, _CAP))
    share = weights if others is None else np.concatenate([weights, np.exp(np.minimum(others, _CAP))])
    weighted = np.minimum(1.0, p * share.mean() / weights)
    return benjamini_hochberg(weighted.ravel()).reshape(p.shape)


def clearly_present(p: Array) -> NDArray[np.bool_]:
    """Where a document shares more words than the best of all would by chance for one answer in ten.

    Args:
        p: p-values of presence [Q, N].

    >>> clearly_present(np.array([[0.01, 0.5, 0.7], [0.04, 0.3, 0.9]]))[:, 0].tolist()
    [True, False]
    """
    return np.asarray(p * p.shape[1] <= _PRESENT, dtype=np.bool_)

"""Tags that only some documents have, carried over to the others, and how often that is right.

Regularised least squares on the words of the tagged documents, one value against the rest (Rifkin, Yeo & Poggio 2003),
rare values weighing as much as common ones, held against the tagged documents themselves in five folds: that says how
often a carried tag is right, and turns a margin into a confidence (Platt 1999). Where too few documents are tagged to
be held out, the nearest ones vote instead and nothing is claimed about them.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from whence.audits.statistics import macro_f1, wilson
from whence.audits.topics import Neighbours
from whence.interfaces.quality import CarriedTag, TagValue

__all__ = ["carry", "vote"]

Array = NDArray[np.float64]
_RIDGE = 0.3  # of the squared weights, rows of words having length one
_FOLDS = 5
_LEAST = 25  # tagged documents from which folds say anything
_HELD_OUT = 20_000  # most tagged documents that are held out in turn


def carry(
    name: str, tags: Sequence[str | None], rows: sparse.csr_array, near: Neighbours, seed: int = 0
) -> tuple[list[TagValue | None], CarriedTag]:
    """A tag for every document, those that have one keeping it.

    Args:
        name: Of the tag.
        tags: The tag of each of N documents, None where it is missing.
        rows: Words of each, rows of length one [N, words].
        near: Neighbours of each, asked where too few documents are tagged.
        seed: Decides the folds.

    Returns:
        The tags (None where nothing can be said), and how they were found and how often that is right.
    """
    given = np.flatnonzero([value is not None for value in tags])
    missing = np.flatnonzero([value is None for value in tags])
    held = np.array([str(tags[n]) for n in given.tolist()])
    fewest = min(Counter(held.tolist()).values(), default=0)
    told = CarriedTag(name=name, given=len(given), carried=0, by="votes of the nearest documents")
    if not len(missing) or len(given) < _LEAST or len(set(held.tolist())) < 2:
        found = vote(tags, near)
        return found, told.model_copy(update={"carried": sum(1 for n in missing.tolist() if found[n] is not None)})
    words = _narrow(rows)
    order = np.random.default_rng([seed, 17]).permutation(len(given))[:_HELD_OUT]
    guessed, margins = _held_out(words[given[order]], held[order], fewest, seed)
    right = guessed == held[order]
    values, sizes = _said(_fitted(words[given], held), words[missing])
    sure = _confidence(margins, right, sizes)
    out: list[TagValue | None] = [None if v is None else TagValue(value=v, confidence=1.0, given=True) for v in tags]
    for place, number in enumerate(missing.tolist()):
        out[number] = TagValue(value=str(values[place]), confidence=float(sure[place]))
    return out, told.model_copy(
        update={
            "carried": len(missing),
            "by": "regression on words",
            "right": wilson(int(right.sum()), len(right)),
            "macro_f1": macro_f1(held[order].tolist(), guessed.tolist()),
        }
    )


def _narrow(rows: sparse.csr_array) -> Any:
    """The same with 32-bit places, which is all that the library takes."""
    if rows.nnz >= 2**31 - 1:
        return rows
    narrow = (rows.data, rows.indices.astype(np.int32), rows.indptr.astype(np.int32))
    return sparse.csr_array(narrow, shape=rows.shape)


def _fitted(rows: Any, values: NDArray[np.str_]) -> Any:
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier(alpha=_RIDGE, class_weight="balanced").fit(rows, values)


def _said(model: Any, rows: Any) -> tuple[NDArray[np.str_], Array]:
    """Values and how far each is above the next one."""
    scores = model.decision_function(rows)
    if scores.ndim == 1:
        return model.classes_[(scores > 0).astype(int)], 2 * np.abs(scores)
    best = np.sort(scores, axis=1)
    return model.classes_[scores.argmax(axis=1)], best[:, -1] - best[:, -2]


def _held_out(rows: Any, values: NDArray[np.str_], fewest: int, seed: int) -> tuple[NDArray[np.str_], Array]:
    """What is said of each tagged document by the others."""
    from sklearn.model_selection import KFold, StratifiedKFold

    kind = StratifiedKFold if fewest >= _FOLDS else KFold
    said, margins = values.copy(), np.zeros(len(values))
    for kept, left in kind(_FOLDS, shuffle=True, random_state=seed).split(rows, values):
        if len(set(values[kept].tolist())) > 1:
            said[left], margins[left] = _said(_fitted(rows[kept], values[kept]), rows[left])
        else:
            said[left] = values[kept][0]
    return said, margins


def _confidence(margins: Array, right: NDArray[np.bool_], sizes: Array) -> Array:
    """The chance that a tag of some margin is right: a logistic curve through the held-out ones."""
    from sklearn.linear_model import LogisticRegression

    share = (right.sum() + 1) / (len(right) + 2)
    if right.all() or not right.any() or np.ptp(margins) == 0:
        return np.full(len(sizes), share)
    scale = float(margins.std())
    curve = LogisticRegression().fit(margins[:, None] / scale, right)
    found: Array = curve.predict_proba(sizes[:, None] / scale)[:, 1]
    return found


def vote(tags: Sequence[str | None], near: Neighbours) -> list[TagValue | None]:
    """A tag by the vote of the nearest documents, weighted by cosine; those that have one keep it.

    Args:
        tags: The tag of each, None where it is missing.
        near: Neighbours of each.

    Returns:
        None where no neighbour has the tag; the confidence is the share of the vote.
    """
    out: list[TagValue | None] = []
    for number, value in enumerate(tags):
        if value is not None:
            out.append(TagValue(value=value, confidence=1.0, given=True))
            continue
        votes: defaultdict[str, float] = defaultdict(float)
        for other, cosine in zip(near[0][number].tolist(), near[1][number].tolist(), strict=True):
            if tags[other] is not None and cosine > 0:
                votes[str(tags[other])] += cosine
        if not votes:
            out.append(None)
            continue
        best = max(votes, key=lambda each: votes[each])
        out.append(TagValue(value=best, confidence=votes[best] / sum(votes.values())))
    return out

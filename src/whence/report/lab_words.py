"""Words and figures of the fidelity lab for people: what each measure means, and how its numbers are written."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from whence.interfaces import Estimate, Measure, MethodKind, Truth
from whence.report.text import MISSING, count, number

__all__ = [
    "CEILING",
    "KINDS",
    "LEADING",
    "WORDS",
    "Words",
    "basis",
    "decimals",
    "figure",
    "interval",
    "is_bm25",
    "reading",
]


@dataclass(frozen=True, slots=True)
class Words:
    """A measure in words: a short title, its name, its unit, what it means, and the value of pure chance."""

    title: str
    name: str
    unit: str
    meaning: str
    chance: float = 0.0


WORDS: dict[Measure, Words] = {
    "lds": Words(
        "LDS",
        "Linear datamodelling score",
        "rank correlation, −1 to 1",
        "Models are trained on random subsets of the documents. For each query, the losses that the scores predict for "
        "those models are ranked against the losses found (Spearman); the mean over queries. "
        "1 is a perfect order, 0 is chance.",
    ),
    "loo": Words(
        "LOO",
        "Leave-one-out",
        "rank correlation, −1 to 1",
        "Single documents are left out and the model is trained again. For each query, their scores are ranked against "
        "the change of its loss (Spearman); the mean over queries. 1 is a perfect order, 0 is chance.",
    ),
    "removal": Words(
        "Removal",
        "Removal of the top documents",
        "nats",
        "The documents that the method ranks first for a query are left out together and the model is trained again: "
        "how far the query's loss rises. More means that the documents named did matter; 0 is no effect.",
    ),
    "further-training": Words(
        "Further",
        "Further training",
        "rank correlation, −1 to 1",
        "The finished model is trained further with and without a document, and what training changes anyway is "
        "subtracted. Scores are ranked against that effect (Spearman). 1 is a perfect order, 0 is chance.",
    ),
    "tail-patch": Words(
        "Tail-patch",
        "Tail-patch",
        "nats",
        "The finished model takes one training step on a document that the method ranks first: how far log p of the "
        "query's answer rises. More means that the document teaches the answer; 0 is no effect.",
    ),
    "recall": Words(
        "Recall",
        "Recall of gold documents",
        "share, 0 to 1",
        "The share of the documents known to state the answer that are among the method's first ones. It rewards "
        "presence, which is not the same as effect.",
    ),
    "mrr": Words(
        "MRR",
        "Mean reciprocal rank",
        "0 to 1",
        "1 / rank of the first document known to state the answer; the mean over queries. It rewards presence, which "
        "is not the same as effect.",
    ),
    "mislabel": Words(
        "Mislabel",
        "Detection of bad documents",
        "area under the ROC curve, 0 to 1",
        "How well a document's influence on itself tells documents known to be bad from the others. 1 is perfect, 0.5 "
        "is chance.",
        0.5,
    ),
}

KINDS: dict[MethodKind, str] = {
    "influence": "influence",
    "imported": "imported scores",
    "baseline": "baseline",
    "oracle": "oracle",
}

LEADING = (
    "the best value of its column, and every value whose interval overlaps the best one's: "
    "these intervals do not tell them apart"
)


CEILING = "Noise ceiling: what a perfect predictor would be expected to score, as retraining itself is noisy."


def is_bm25(name: str) -> bool:
    """Whether a method is BM25, by its name.

    >>> is_bm25("BM25"), is_bm25("bm25 (stemmed)"), is_bm25("EK-FAC")
    (True, True, False)
    """
    return name.strip().casefold().startswith("bm25")


def basis(truth: Truth) -> str:
    """What a measure rests on: queries, training sets, seeds, models retrained."""
    parts = [_plural(truth.queries, "query", "queries")]
    if truth.retrains:
        seeds = f" × {_plural(truth.seeds, 'seed', 'seeds')}" if truth.seeds else ""
        parts.append(f"{_plural(truth.subsets, 'training set', 'training sets')}{seeds}")
        parts.append(f"{_plural(truth.retrains, 'model', 'models')} retrained")
    else:
        if truth.subsets:
            parts.append(_plural(truth.subsets, "document", "documents"))
        parts.append("no retraining")
    return " · ".join([*parts, truth.about] if truth.about else parts)


def _plural(value: int, one: str, more: str) -> str:
    return f"{count(value)} {one if value == 1 else more}"


_MOST_DECIMALS = 7


def decimals(estimates: Iterable[Estimate]) -> int:
    """How many decimals suit a column: down to the first digit of its usual interval, two digits of its largest value.

    >>> decimals([Estimate(value=0.4123, low=0.36, high=0.46)]), decimals([Estimate(value=120.0, low=80, high=170)])
    (2, 0)
    """
    found = [e for e in estimates if math.isfinite(e.value)]
    largest = max((abs(e.value) for e in found), default=0.0)
    halves = sorted(h for e in found if math.isfinite(h := (e.high - e.low) / 2) and h > 0)
    half = halves[len(halves) // 2] if halves else largest / 100
    wanted = [-math.floor(math.log10(half))] if half > 0 else [2]
    if largest > 0:
        wanted.append(1 - math.floor(math.log10(largest)))
    return min(max(*wanted, 0) if len(wanted) > 1 else max(wanted[0], 0), _MOST_DECIMALS)


def figure(value: float, places: int) -> str:
    """A value with so many decimals and a true minus; a dash where it is not finite.

    >>> figure(-0.1234, 2), figure(-0.001, 2), figure(float("nan"), 2)
    ('−0.12', '0.00', '–')
    """
    if not math.isfinite(value):
        return MISSING
    if abs(value) >= 1e9 or 0 < abs(value) < 10 ** -(_MOST_DECIMALS - 1):
        return number(value).replace("-", "−")
    text = f"{value:,.{places}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def interval(estimate: Estimate, places: int) -> str:
    """The ends of the interval.

    >>> interval(Estimate(value=0.4, low=-0.1, high=0.5), 2)
    '[−0.10, 0.50]'
    """
    if not estimate.bounded:
        return "(no interval)"
    return f"[{figure(estimate.low, places)}, {figure(estimate.high, places)}]"


def reading(estimate: Estimate, places: int) -> str:
    """Value and interval."""
    return f"{figure(estimate.value, places)} {interval(estimate, places)}"

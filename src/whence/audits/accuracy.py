"""What exposure did to a benchmark's accuracy, and how well each signal tells leaked items from those held out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.audits.statistics import auroc, bootstrap, roc, tpr_at, wilson
from whence.interfaces.exposures import Accuracy, Detector, ItemAudit

__all__ = ["HELD_OUT", "SIGNALS", "deciles", "detectors", "headline", "signal"]

HELD_OUT = ("held out", "held", "held-out", "clean")
"""What items are called that are known not to be in the corpus."""

SIGNALS = ("there", "presence", "effect", "question", "whole", "overlap_8", "overlap_13", "loss", "zlib", "min_k")
"""Signals that are compared where it is known what leaked; larger is more exposed, losses turned round.

``there`` is presence and shared runs together: a whole run of 13 words counts as twenty usual spacings.
"""


def signal(item: ItemAudit, name: str) -> float:
    """One signal of an item, larger for more exposure."""
    if name == "there":
        return item.exposure.presence + 20 * item.exposure.overlap_13
    value = float(getattr(item.exposure, name))
    return -value if name in ("loss", "zlib") else value


def headline(items: Sequence[ItemAudit], seed: int) -> Accuracy | None:
    """Accuracy as reported, without exposed items, of exposed items, and what exposure accounts for.

    Exposed items are those whose verdict says that the answer was moved by a document that holds the item. What
    exposure accounts for is accuracy as reported less accuracy without them: if they were answered as the others are.
    """
    known = [item for item in items if item.correct is not None]
    if not known:
        return None
    right = np.array([bool(item.correct) for item in known])
    exposed = np.array([item.verdict in ("verbatim", "paraphrase") for item in known])
    clean = ~exposed
    return Accuracy(
        reported=wilson(int(right.sum()), len(right)),
        adjusted=wilson(int(right[clean].sum()), int(clean.sum())) if clean.any() else None,
        exposed=wilson(int(right[exposed].sum()), int(exposed.sum())) if exposed.any() else None,
        attributable=bootstrap(_attributable, right, exposed, seed=seed) if clean.any() else None,
    )


def _attributable(right: NDArray[np.bool_], exposed: NDArray[np.bool_]) -> float:
    return float(right.mean() - right[~exposed].mean()) if (~exposed).any() else float("nan")


def detectors(items: Sequence[ItemAudit], seed: int) -> list[Detector]:
    """Every signal against what is known, group by group; none without items that are held out."""
    known = np.array([item.known or "" for item in items])
    clean = np.isin(known, HELD_OUT)
    out: list[Detector] = []
    if clean.sum() < 2:
        return out
    for group in sorted(set(known[~clean]) - {""}):
        chosen = clean | (known == group)
        leaked = (known == group)[chosen]
        for name in SIGNALS:
            scores = np.array([signal(item, name) for item, there in zip(items, chosen, strict=True) if there])
            false, true = roc(scores, leaked)
            out.append(
                Detector(
                    name=name,
                    group=str(group),
                    auroc=bootstrap(lambda s, p: auroc(s, p), scores, leaked, draws=400, seed=seed),
                    at_1=tpr_at(scores, leaked, 0.01),
                    at_5=tpr_at(scores, leaked, 0.05),
                    curve=tuple(zip(false.tolist(), true.tolist(), strict=True)),
                )
            )
    return out


def deciles(items: Sequence[ItemAudit]) -> list[tuple[int, int, float]]:
    """Accuracy (or mean loss per token) by decile of effect, lowest first."""
    known: Any = [item for item in items if item.correct is not None]
    chosen = known or list(items)
    if len(chosen) < 10:
        return []
    order = np.argsort([item.exposure.effect for item in chosen], kind="stable")
    out = []
    for place, part in enumerate(np.array_split(order, 10)):
        values = [float(bool(chosen[i].correct)) if known else chosen[i].exposure.loss for i in part]
        out.append((place + 1, len(part), float(np.mean(values))))
    return out

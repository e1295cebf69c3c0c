"""Documents behind what several answers have in common: the mean of a behaviour's answers, or a direction of states.

A behaviour is one question more, made of its answers: influence on a mean is the mean of influences, its standardised
score is theirs added up over the root of their number, where documents' levels are those on all other answers, and
p-values are ranks among documents that are off topic for all of them. Axes: N documents, K clusters of copies.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whence.audits.directions import direction_influence, direction_of
from whence.audits.documents import Weighed
from whence.audits.nulls import against_null, standardised_apart, weighted_q
from whence.audits.responses import Response
from whence.interfaces import DocumentEvidence

__all__ = ["along_direction", "behind_behaviours"]

Array = NDArray[np.float64]
Found = dict[str, tuple[DocumentEvidence, ...]]


def behind_behaviours(weighed: Weighed, responses: Sequence[Response], top: int) -> Found:
    """Documents behind the mean of the answers of each behaviour, strongest first."""
    groups: dict[str, list[int]] = {}
    for number, each in enumerate(responses):
        if each.behaviour is not None:
            groups.setdefault(each.behaviour, []).append(number)
    out = {}
    for name, members in groups.items():
        level = standardised_apart(weighed.influence, members).sum(0) / np.sqrt(len(members))
        order = np.argsort(-level, kind="stable")[:top]
        out[name] = _documents(weighed, members, weighed.influence[members].mean(0), level, order)
    return out


def along_direction(
    weighed: Weighed, count: int, named: str, depth: float, top: int, exact: bool, index: str | None
) -> Found:
    """Documents that push the states of the first `count` questions' answers along a direction; in the states' units.

    Raises:
        InputError: The direction cannot be read, or does not fit.
    """
    owner, evidence = weighed.owner, weighed.evidence
    direction = direction_of(owner, named, depth, evidence.queries[:count])
    found = direction_influence(owner, evidence.encoded[:count], direction, exact, index)
    along = weighed.summed(found[None])[0]
    level = (along - along.mean()) / max(float(along.std()), 1e-12)
    order = np.argsort(-along, kind="stable")[:top]
    documents = _documents(weighed, list(range(count)), along, level, order)
    name = f"direction {Path(named).name} at depth {depth:g} (in units of the states)"
    return {name: tuple(each.model_copy(update={"contrast": None}) for each in documents)}


def _documents(
    weighed: Weighed, members: list[int], influence: Array, level: Array, order: NDArray[np.int64]
) -> tuple[DocumentEvidence, ...]:
    """Some clusters as evidence for all the members together."""
    about: NDArray[np.bool_] = np.asarray(weighed.on_topic[members].any(0), dtype=np.bool_)
    there = weighed.presence.z[members].mean(0)
    effect, presence = (against_null(each[None], ~about[None]) for each in (level, there))
    q = weighted_q(effect.p, there[None])[0]
    beside = {name: _places(weighed, members, name, order) for name in ("lexical", "dots", "states")}
    out = []
    for place, cluster in enumerate(order.tolist()):
        one = weighed.document(members[int(np.argmax(weighed.effect.z[members, cluster]))], cluster)
        out.append(
            one.model_copy(
                update={
                    "influence": float(influence[cluster]),
                    "contrast": _mean(weighed.contrast[members, cluster]),
                    "z": float(level[cluster]),
                    "presence": float(there[cluster]),
                    "p_effect": float(effect.p[0, cluster]),
                    "p_presence": float(presence.p[0, cluster]),
                    "p": float(effect.p[0, cluster]),
                    "q": float(q[cluster]),
                    "on_topic": bool(about[cluster]),
                    "influence_rank": int((level > level[cluster]).sum()) + 1,
                    "bm25_rank": beside["lexical"][place],
                    "dot_rank": beside["dots"][place],
                    "states_rank": beside["states"][place],
                }
            )
        )
    return tuple(out)


def _mean(contrast: Array) -> float | None:
    known = contrast[~np.isnan(contrast)]
    return float(known.mean()) if len(known) else None


def _places(weighed: Weighed, members: list[int], name: str, order: NDArray[np.int64]) -> list[int]:
    """Ranks of clusters' best documents by the mean of one signal's standardised scores."""
    rows = np.asarray(getattr(weighed.evidence, name)[members], dtype=np.float64)
    spread = np.maximum(rows.std(1, keepdims=True), 1e-12)
    mean = ((rows - rows.mean(1, keepdims=True)) / spread).mean(0)
    return [int((mean > mean[weighed.clusters[cluster]].max()).sum()) + 1 for cluster in order.tolist()]

"""Which kinds of documents are behind a finding more often than their share of the corpus would have it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from whence.audits.statistics import odds_ratio
from whence.data import date_of
from whence.interfaces.audits import Enrichment

__all__ = ["enrichments"]

_MOST = 400  # values of a tag beyond which it is a name, not a kind


def enrichments(
    tags: Sequence[Mapping[str, str]], called: NDArray[np.bool_], mass: NDArray[np.float64], shown: int = 40
) -> list[Enrichment]:
    """Tags of called documents against the base rate.

    Args:
        tags: Of every document, K of them; dates count by year.
        called: bool [K], the documents that were found significant.
        mass: Positive influence of each [K], nats.
        shown: Most rows.

    Returns:
        Kinds with at least one called document, surest first (Fisher's exact test).
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for number, each in enumerate(tags):
        for name, value in each.items():
            groups.setdefault((name, _kind(name, value)), []).append(number)
    values: dict[str, int] = {}
    for name, _ in groups:
        values[name] = values.get(name, 0) + 1
    chosen, total, out = int(called.sum()), float(mass.sum()), []
    for (name, value), members in groups.items():
        inside = int(called[members].sum())
        if not inside or values[name] > min(_MOST, max(2, len(tags) // 2)) or values[name] < 2:
            continue
        odds, p = odds_ratio(inside, chosen, len(members) - inside, len(tags) - chosen)
        share = float(mass[members].sum() / total) if total else 0.0
        out.append(
            Enrichment(
                tag=name, value=value, inside=inside, chosen=chosen, base=len(members) / len(tags), odds=odds, p=p,
                mass=share,
            )
        )  # fmt: skip
    return sorted(out, key=lambda each: (each.p, -each.inside, each.value))[:shown]


def _kind(name: str, value: str) -> str:
    return date_of(name, value)[:4] or value

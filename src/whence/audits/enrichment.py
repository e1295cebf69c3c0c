"""Which kinds of documents are behind a finding more often than their share of the corpus would have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whence.audits.statistics import odds_ratio
from whence.data import date_of
from whence.interfaces.audits import Enrichment

__all__ = ["Kinds", "kinds_of"]

_MOST = 400  # values of a tag beyond which it is a name, not a kind


@dataclass(frozen=True)
class Kinds:
    """Documents by the values of their tags.

    Attributes:
        total: Documents, K.
        members: (tag, value) -> its documents.
    """

    total: int
    members: Mapping[tuple[str, str], NDArray[np.int64]]

    def behind(self, called: NDArray[np.bool_], mass: NDArray[np.float64], shown: int = 40) -> list[Enrichment]:
        """Kinds of called documents against the base rate.

        Args:
            called: bool [K], the documents that were found.
            mass: Positive influence of each [K], nats.
            shown: Most rows.

        Returns:
            Kinds with at least one called document, surest first (Fisher's exact test).
        """
        chosen, total, out = int(called.sum()), float(mass.sum()), []
        for (name, value), members in self.members.items():
            inside = int(called[members].sum())
            if not inside:
                continue
            odds, p = odds_ratio(inside, chosen, len(members) - inside, self.total - chosen)
            out.append(
                Enrichment(
                    tag=name, value=value, inside=inside, chosen=chosen, base=len(members) / self.total, odds=odds, p=p,
                    mass=float(mass[members].sum() / total) if total else 0.0,
                )
            )  # fmt: skip
        return sorted(out, key=lambda each: (each.p, -each.inside, each.tag, each.value))[:shown]


def kinds_of(tags: Sequence[Mapping[str, str]]) -> Kinds:
    """Documents by their tags; a tag of one value, or of nearly as many as there are documents, is no kind.

    Args:
        tags: Of every document, K of them; dates count by year.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for number, each in enumerate(tags):
        for name, value in each.items():
            groups.setdefault((name, _kind(name, value)), []).append(number)
    values: dict[str, int] = {}
    for name, _ in groups:
        values[name] = values.get(name, 0) + 1
    most = min(_MOST, max(2, len(tags) // 2))
    return Kinds(
        len(tags),
        {key: np.array(members) for key, members in groups.items() if 2 <= values[key[0]] <= most},
    )


def _kind(name: str, value: str) -> str:
    return date_of(name, value)[:4] or value

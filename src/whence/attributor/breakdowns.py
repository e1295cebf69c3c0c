"""From sums of influence by group to what a reader wants to know: who did more than their size would."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from whence.attributor.selection import Grouping
from whence.interfaces import Breakdown, GroupShare
from whence.scoring import Groups

__all__ = ["breakdown"]

_SHOWN = 30  # groups by themselves; the rest together


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _ratio(share: float, base: float) -> float | None:
    return share / base if base > 0 else None


def breakdown(grouping: Grouping, sums: Groups, query: int, listed: Sequence[int]) -> Breakdown:
    """Influence on one query by group.

    Args:
        grouping: The groups.
        sums: What a scan added up for them.
        query: Number of the query in `sums`.
        listed: The listed proponents.
    """
    support, opposition = sums.positive[query], sums.negative[query]
    mass = support - opposition
    top = Counter(int(grouping.of[document]) for document in listed)
    order = np.lexsort((np.arange(len(mass)), -mass))
    order = order[grouping.documents[order] > 0]
    parts = [(grouping.names[group], order[i : i + 1]) for i, group in enumerate(order[:_SHOWN])]
    if len(order) > _SHOWN:
        parts.append((f"({len(order) - _SHOWN:,} others)", order[_SHOWN:]))
    groups = []
    for name, some in parts:
        documents = _share(grouping.weights[some].sum(), grouping.weights.sum())
        tokens = _share(grouping.tokens[some].sum(), grouping.tokens.sum())
        found = sum(top[int(group)] for group in some)
        mass_share, top_share = _share(mass[some].sum(), mass.sum()), _share(found, len(listed))
        groups.append(
            GroupShare(
                name=name,
                documents=int(grouping.documents[some].sum()),
                document_share=documents,
                token_share=tokens,
                support=float(support[some].sum()),
                opposition=float(opposition[some].sum()),
                top=found,
                mass_share=mass_share,
                top_share=top_share,
                ratio=_ratio(mass_share, tokens),
                top_ratio=_ratio(top_share, documents) if listed else None,
            )
        )
    return Breakdown(by=grouping.by, groups=tuple(groups))

"""Which methods no other method beats on both fidelity and cost. Knows nothing of measures, methods or drawings."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Point", "frontier"]


@dataclass(frozen=True, slots=True)
class Point:
    """One method: what it costs (less is better) and its fidelity (more is better), both finite."""

    name: str
    cost: float
    fidelity: float


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other dominates, cheapest first.

    One point dominates another if it costs no more and is at least as true, and is better in one of the two. Equal
    points do not dominate each other: both stay.

    >>> [p.name for p in frontier([Point("a", 1, 0.2), Point("b", 2, 0.1), Point("c", 3, 0.4)])]
    ['a', 'c']
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.fidelity)):
        equal = kept and (point.cost, point.fidelity) == (kept[-1].cost, kept[-1].fidelity)
        if not kept or equal or point.fidelity > kept[-1].fidelity:
            kept.append(point)
    return kept

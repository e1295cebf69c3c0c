"""Where the names go beside the points of a plot, so that a person can read them. Knows pixels and text, no data.

Each name tries places around its point, near ones first; what it would cover is counted against a place. A few rounds
in which each name moves to its best place, given the others, are enough for some twenty points.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Box", "Label", "place", "text_width"]

FONT = 11.0  # pixels
_HEIGHT = 13.0
_AIR = 3.0  # between two names on one line
_RADII = (9.0, 14.0, 21.0, 30.0, 41.0, 54.0, 70.0, 90.0, 115.0)
_ANGLES = tuple(i * math.pi / 8 for i in range(16))
_LEADER = 12.0  # pixels; a name farther than this from its point is joined to it by a line
_ROUNDS = 6
_NARROW = frozenset("iljtfrI.,:;'|!()[]-1 ")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, y down, and how bad it is to cover it, per square pixel."""

    left: float
    top: float
    right: float
    bottom: float
    weight: float = 1.0

    def overlap(self, other: "Box") -> float:
        """Area in common."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across * down if across > 0 and down > 0 else 0.0

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies inside."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom


@dataclass(frozen=True, slots=True)
class Label:
    """A name in its place: the anchor of its text (middle of its height), how it is aligned, the line's end if any."""

    x: float
    y: float
    align: Literal["left", "center", "right"]
    box: Box
    leader: tuple[float, float] | None
    effort: float


def text_width(text: str, bold: bool = False) -> float:
    """About how wide a text is in the plot's font, in pixels."""

    def width(char: str) -> float:
        if unicodedata.east_asian_width(char) in "WF":
            return FONT
        return 3.4 if char in _NARROW else 8.0 if char.isupper() else 6.2

    return sum(map(width, text)) * (1.07 if bold else 1.0)


def _candidates(x: float, y: float, width: float) -> list[Label]:
    """Places for a text of that width around a point, with what each one costs by itself."""
    found = []
    for radius in _RADII:
        for angle in _ANGLES:
            dx, dy = math.cos(angle), math.sin(angle)
            align: Literal["left", "center", "right"] = "left" if dx > 0.3 else "right" if dx < -0.3 else "center"
            ax, ay = x + radius * dx, y + radius * dy + _HEIGHT * 0.4 * dy
            left = ax - {"left": 0.0, "center": width / 2, "right": width}[align]
            box = Box(left - _AIR, ay - _HEIGHT / 2, left + width + _AIR, ay + _HEIGHT / 2)
            leader = (ax, ay - math.copysign(_HEIGHT / 2, dy) if align == "center" else ay)
            effort = 2.5 * (radius - _RADII[0]) + 4 * (1 - dx) + 3 * abs(dy)  # near; right before left; level
            found.append(Label(ax, ay, align, box, leader if radius > _LEADER else None, effort))
    return found


def _fixed_cost(label: Label, x: float, y: float, obstacles: Sequence[Box], width: float, height: float) -> float:
    box = label.box
    outside = max(-box.left, -box.top, box.right - width, box.bottom - height, 0.0)
    covered = sum(box.overlap(other) * other.weight for other in obstacles)
    return label.effort + covered + 1e3 * outside + 40 * _crossings(label, x, y, obstacles)


def _crossings(label: Label, x: float, y: float, boxes: Sequence[Box]) -> float:
    """How much of the line to the name runs over things."""
    if label.leader is None:
        return 0.0
    ex, ey = label.leader
    steps = [(x + (ex - x) * t, y + (ey - y) * t) for t in (0.3, 0.5, 0.7, 0.9)]
    return sum(box.weight for px, py in steps for box in boxes if box.holds(px, py)) / len(steps)


def place(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    obstacles: Sequence[Box],
    width: float,
    height: float,
) -> list[Label]:
    """Place a text beside each point.

    Args:
        points: (x, y) of each, pixels, y down.
        widths: Of the text beside each, as `text_width` says.
        obstacles: What had better not be covered.
        width: Of the plot, which no text leaves if that can be helped.
        height: Likewise.
    """
    options = []
    for (x, y), room in zip(points, widths):
        spots = _candidates(x, y, room)
        options.append([(_fixed_cost(label, x, y, obstacles, width, height), label) for label in spots])
    chosen = [min(tried, key=lambda pair: pair[0])[1] for tried in options]
    for _ in range(_ROUNDS):
        before = list(chosen)
        for i, tried in enumerate(options):
            others = [label.box for j, label in enumerate(chosen) if j != i]
            chosen[i] = _best(tried, points[i], others)
        if chosen == before:
            break
    return chosen


def _best(tried: Sequence[tuple[float, Label]], point: tuple[float, float], others: Sequence[Box]) -> Label:
    def cost(pair: tuple[float, Label]) -> float:
        alone, label = pair
        return alone + sum(3 * label.box.overlap(box) for box in others) + 40 * _crossings(label, *point, others)

    return min(tried, key=cost)[1]

"""What a Pareto plot shows and where: points, scales, frontier, places of names. Numbers only; plots.py draws them.

Costs are on a log scale. What costs nothing has no place on one, so it stands in a zone of its own at the left, spread
out so that its names can be read; its place within the zone means nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from whence.interfaces import Cost, Estimate, LabResult, Measure, MethodKind
from whence.report.lab_labels import Box, Label, place, text_width
from whence.report.lab_table import Row, bm25, main_measure, sheet
from whence.report.pareto import Point, frontier
from whence.report.text import shorten

__all__ = ["AXES", "HEIGHT", "WIDTH", "Axis", "Mark", "Picture", "picture"]

WIDTH, HEIGHT = 760, 460
_NAME = 30  # characters
_MARK = 5.5  # half a mark, pixels


@dataclass(frozen=True, slots=True)
class Axis:
    """A kind of cost: its name, its title on the axis, what zero of it is called, how to read it, its number format."""

    key: str
    title: str
    zero: str
    of: Callable[[Cost], float]
    format: str


AXES: Mapping[str, Axis] = {
    axis.key: axis
    for axis in (
        Axis(
            "passes",
            "Cost: plain forward+backward passes over the corpus",
            "no cost",
            lambda cost: cost.passes,
            "format(datum.value, ',~r')",
        ),
        Axis("seconds", "Cost: seconds", "no cost", lambda cost: cost.seconds, "format(datum.value, ',~r')"),
        Axis(
            "bytes",
            "Bytes stored per document",
            "nothing stored",
            lambda cost: cost.bytes_per_document,
            "format(datum.value, '~s')",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One method: where its point is (data units; x is moved if its cost is zero) and what belongs to it."""

    row: Row
    estimate: Estimate
    cost: Cost
    x: float
    on_frontier: bool
    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything a Pareto plot shows.

    Attributes:
        measure, axis: What is plotted against what.
        marks: The points.
        x, y: Domains of both scales.
        edge: Where the zone of zero cost ends, in data units; None without such a zone.
        zone: Its middle.
        steps: Corners of the frontier, cheapest first, its last one at the right edge.
        ceiling, lexical: The noise ceiling and BM25's value, where known.
        unknown: Names of measured methods whose cost is not known.
        unmeasured: Names of methods of which this measure was not taken.
    """

    measure: Measure
    axis: Axis
    marks: tuple[Mark, ...]
    x: tuple[float, float]
    y: tuple[float, float]
    edge: float | None
    zone: float
    steps: tuple[tuple[float, float], ...]
    ceiling: Estimate | None
    lexical: Estimate | None
    unknown: tuple[str, ...]
    unmeasured: tuple[str, ...]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The data units at a pixel."""
        (left, right), (low, high) = self.x, self.y
        return _between(left, right, x / WIDTH), high - (high - low) * y / HEIGHT


def _between(low: float, high: float, share: float) -> float:
    """So far from low to high on a log scale."""
    return low * math.exp(share * math.log(high / low))


@dataclass(frozen=True, slots=True)
class _Scale:
    """Cost to pixel: `zone` pixels at the left for zeros, the rest logarithmic from `low` to `high`."""

    low: float
    high: float
    zone: float

    def pixel(self, cost: float) -> float:
        share = math.log(cost / self.low) / math.log(self.high / self.low)
        return self.zone + (WIDTH - self.zone) * share

    def at(self, pixel: float) -> float:
        room = WIDTH - self.zone
        if room <= 0:
            return _between(self.low, self.high, pixel / WIDTH)
        return _between(self.low, self.high, (pixel - self.zone) / room)


def _scale(costs: Sequence[float]) -> _Scale:
    positive, zeros = [cost for cost in costs if cost > 0], sum(cost <= 0 for cost in costs)
    if not positive:
        return _Scale(1.0, 10.0, WIDTH)
    pad = max((max(positive) / min(positive)) ** 0.07, 1.5)
    zone = min(110 + 26 * zeros, 290) if zeros else 0
    return _Scale(min(positive) / pad, max(positive) * pad, zone)


def picture(result: LabResult, key: str) -> Picture | None:
    """Arrange the plot of fidelity against one kind of cost.

    Args:
        result: What the lab found.
        key: ``passes``, ``seconds`` or ``bytes``.

    Returns:
        What to draw; None if no method has both a value of the main measure and a known cost.
    """
    measure, axis, found = main_measure(result), AXES[key], sheet(result)
    if measure is None:
        return None
    taken = [row for row in found.rows if measure in row.estimates]
    known = [(row, row.method.cost) for row in taken if row.method.cost is not None]
    shown = [(row, cost) for row, cost in known if math.isfinite(axis.of(cost))]
    if not shown:
        return None
    lexical = next((row.estimates.get(measure) for row in found.rows if row.method.name == bm25(result)), None)
    names = {id(row) for row, _ in shown}
    return _arrange(
        measure,
        axis,
        shown,
        found.ceilings.get(measure),
        lexical,
        tuple(row.name for row in taken if id(row) not in names),
        tuple(row.name for row in found.rows if measure not in row.estimates),
    )


def _arrange(
    measure: Measure,
    axis: Axis,
    shown: Sequence[tuple[Row, Cost]],
    ceiling: Estimate | None,
    lexical: Estimate | None,
    unknown: tuple[str, ...],
    unmeasured: tuple[str, ...],
) -> Picture:
    costs = [max(axis.of(cost), 0.0) for _, cost in shown]
    scale, estimates = _scale(costs), [row.estimates[measure] for row, _ in shown]
    y = _height_domain(estimates, ceiling)
    across = _across(costs, estimates, scale)
    down = [HEIGHT * (y[1] - e.value) / (y[1] - y[0]) for e in estimates]
    front = _front(axis, costs, estimates, [row.method.kind for row, _ in shown])
    texts = [shorten(row.name, _NAME, "both") for row, _ in shown]
    corners = sorted((across[i], down[i]) for i in front)
    boxes = _obstacles(across, down, estimates, y, corners)
    boxes += [_level(e.value, y, 3.0) for e in (ceiling, lexical) if e is not None]
    widths = [text_width(text, i in front) for i, text in enumerate(texts)]
    labels = place(list(zip(across, down)), widths, boxes, WIDTH, HEIGHT)
    marks = tuple(
        Mark(row, estimates[i], cost, scale.at(across[i]), i in front, texts[i], labels[i])
        for i, (row, cost) in enumerate(shown)
    )
    steps = [(mark.x, mark.estimate.value) for mark in sorted(marks, key=lambda m: m.x) if mark.on_frontier]
    steps += [(scale.at(WIDTH), steps[-1][1])] if steps else []
    zoned = scale.zone > 0
    edge = scale.at(scale.zone) if 0 < scale.zone < WIDTH else scale.at(WIDTH) if zoned else None
    return Picture(
        measure, axis, marks, (scale.at(0), scale.at(WIDTH)), y, edge, scale.at(scale.zone / 2), tuple(steps),
        ceiling, lexical, unknown, unmeasured,
    )  # fmt: skip


def _front(axis: Axis, costs: Sequence[float], estimates: Sequence[Estimate], kinds: Sequence[MethodKind]) -> set[int]:
    """Who is on the frontier. An oracle is not in the race, nor is what stores nothing where storage is compared."""
    points = [
        Point(str(i), cost, estimates[i].value)
        for i, cost in enumerate(costs)
        if kinds[i] != "oracle" and (cost > 0 or axis.key != "bytes")
    ]
    return {int(point.name) for point in frontier(points)}


def _height_domain(estimates: Sequence[Estimate], ceiling: Estimate | None) -> tuple[float, float]:
    """From the lowest to the highest end of an interval, zero among them, with some air."""
    ends = [0.0, *(value for e in estimates for value in (e.low, e.high, e.value))]
    ends += [ceiling.low, ceiling.high, ceiling.value] if ceiling is not None else []
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min(ends), max(ends)
    air = 0.05 * (high - low) or 0.5
    return low - air, high + air


def _across(costs: Sequence[float], estimates: Sequence[Estimate], scale: _Scale) -> list[float]:
    """Pixels from the left; zeros are spread over their zone, the truest at the left."""
    zeros = sorted((i for i, cost in enumerate(costs) if cost <= 0), key=lambda i: -estimates[i].value)
    spread = {i: scale.zone * (k + 0.5) / len(zeros) for k, i in enumerate(zeros)}
    return [spread[i] if cost <= 0 else scale.pixel(cost) for i, cost in enumerate(costs)]


def _level(value: float, y: tuple[float, float], half: float) -> Box:
    middle = HEIGHT * (y[1] - value) / (y[1] - y[0])
    return Box(0, middle - half, WIDTH, middle + half, 0.3)


def _obstacles(
    across: Sequence[float],
    down: Sequence[float],
    estimates: Sequence[Estimate],
    y: tuple[float, float],
    corners: Sequence[tuple[float, float]],
) -> list[Box]:
    """Marks, intervals and the frontier's line."""
    unit = HEIGHT / (y[1] - y[0])
    boxes = [Box(px - _MARK, py - _MARK, px + _MARK, py + _MARK, 6.0) for px, py in zip(across, down)]
    boxes += [
        Box(px - 1, (y[1] - e.high) * unit, px + 1, (y[1] - e.low) * unit, 1.5)
        for px, e in zip(across, estimates)
        if e.bounded
    ]
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], (float(WIDTH), corners[-1][1])] if corners else []):
        boxes += [Box(x0, y0 - 1, x1, y0 + 1, 0.6), Box(x1 - 1, min(y0, y1), x1 + 1, max(y0, y1), 0.6)]
    return boxes

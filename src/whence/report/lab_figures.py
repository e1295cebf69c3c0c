"""A measure as a forest plot: methods below each other, values with their intervals, the noise ceiling as a band.

A table whose middle column is drawn, so that names and figures are text and it fits a phone. Lengths are percentages.
"""

import math
from collections.abc import Sequence

from whence.interfaces import Estimate, Measure, MethodKind
from whence.report.lab_table import Row, Sheet
from whence.report.lab_words import KINDS, WORDS, figure, interval
from whence.report.markup import Html, join, tag
from whence.report.text import shorten

__all__ = ["forest", "key"]

_NAME = 60  # characters


def forest(found: Sheet, measure: Measure) -> Html:
    """Every method of which a measure was taken, best first."""
    rows = sorted(
        (row for row in found.rows if measure in row.estimates), key=lambda row: -row.estimates[measure].value
    )
    ceiling = found.ceilings.get(measure)
    span = _span([*(row.estimates[measure] for row in rows), *([ceiling] if ceiling is not None else [])], measure)
    places = found.places[measure]
    body = [_line(row, row.estimates[measure], ceiling, span, measure, places) for row in rows]
    if ceiling is not None:
        body.insert(0, _ceiling(ceiling, span, measure, places))
    head = tag("tr", *[tag("th", name, scope="col") for name in ("Method", WORDS[measure].unit, "Value, 95 %")])
    return tag("table", tag("thead", head), tag("tbody", *body), cls="forest")


def _span(estimates: Sequence[Estimate], measure: Measure) -> tuple[float, float]:
    seen = (end for e in estimates for end in (e.low, e.value, e.high) if math.isfinite(end))
    ends = [WORDS[measure].chance, *seen]
    low, high = min(ends), max(ends)
    air = 0.03 * (high - low) or 0.5
    return low - air, high + air


def _at(value: float, span: tuple[float, float]) -> str:
    return f"{100 * (value - span[0]) / (span[1] - span[0]):.2f}%"


def _line(
    row: Row, estimate: Estimate, ceiling: Estimate | None, span: tuple[float, float], measure: Measure, places: int
) -> Html:
    kind = row.method.kind
    label = tag("span", KINDS[kind], cls="kind") if kind != "influence" else Html("")
    return tag(
        "tr",
        tag("th", tag("bdi", shorten(row.name, _NAME, "both")), " ", label, scope="row"),
        tag("td", _strip(estimate, kind, ceiling, span, measure), cls="strip"),
        _figures(estimate, places, measure in row.leads),
    )


def _ceiling(ceiling: Estimate, span: tuple[float, float], measure: Measure, places: int) -> Html:
    return tag(
        "tr",
        tag("th", "noise ceiling", scope="row"),
        tag("td", _strip(None, "oracle", ceiling, span, measure), cls="strip"),
        _figures(ceiling, places, False),
        cls="ceiling",
    )


def _figures(estimate: Estimate, places: int, leads: bool) -> Html:
    value = figure(estimate.value, places)
    return tag("td", tag("b", value) if leads else value, " ", tag("small", interval(estimate, places)), cls="num")


def _strip(
    estimate: Estimate | None,
    kind: MethodKind,
    ceiling: Estimate | None,
    span: tuple[float, float],
    measure: Measure,
) -> Html:
    """One row's drawing: ceiling, chance, interval, value; its figures stand beside it as text."""
    parts = []
    if ceiling is not None and ceiling.bounded:
        wide = 100 * (ceiling.high - ceiling.low) / (span[1] - span[0])
        parts.append(
            tag("rect", x=_at(ceiling.low, span), y=0, width=f"{max(wide, 0.3):.2f}%", height="100%", cls="band")
        )
        parts.append(_upright(ceiling.value, span, "top"))
    parts.append(_upright(WORDS[measure].chance, span, "chance"))
    if estimate is not None:
        if estimate.bounded:
            low, high = _at(estimate.low, span), _at(estimate.high, span)
            parts.append(tag("line", x1=low, x2=high, y1="50%", y2="50%", cls=f"range {kind}"))
        parts.append(tag("svg", shape(kind), x=_at(estimate.value, span), y="50%", cls="mark-at"))
    return tag("svg", *parts, cls="forest-strip", aria_hidden="true")


def _upright(value: float, span: tuple[float, float], name: str) -> Html:
    return tag("line", x1=_at(value, span), x2=_at(value, span), y1=0, y2="100%", cls=name)


def shape(kind: MethodKind) -> Html:
    """The mark of a kind of method around the origin, the same shape as in the plots."""
    if kind == "influence":
        return tag("circle", r=4.5, cls=f"point {kind}")
    paths = {
        "baseline": "M-5.5 0L0 -5.5L5.5 0L0 5.5z",
        "imported": "M-5 4L0 -5L5 4z",
        "oracle": "M-5 -1.6h3.4v-3.4h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4z",
    }
    return tag("path", d=paths[kind], cls=f"point {kind}")


def key(kinds: Sequence[MethodKind]) -> Html:
    """What the marks stand for."""
    items = [
        tag("span", tag("svg", shape(kind), viewBox="-6 -6 12 12", cls="key", aria_hidden="true"), " ", KINDS[kind])
        for kind in kinds
    ]
    return tag("p", join(items, " "), cls="kinds")

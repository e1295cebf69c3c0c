"""Fidelity against cost and against bytes, drawn: PNG and SVG, and an interactive page that needs no network.

Drawn with altair and rendered by vl-convert, both imported when a plot is made. Equal results give equal bytes.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from string import Template
from typing import Any, Literal

from whence.interfaces import LabResult, MethodKind
from whence.report.frame import asset, fingerprint
from whence.report.lab_points import AXES, HEIGHT, WIDTH, Mark, Picture, picture
from whence.report.lab_words import KINDS, WORDS, basis, decimals, figure, interval
from whence.report.markup import Html, join, tag
from whence.report.text import compact, number, one_line, shorten

__all__ = ["AXES_OF", "PALETTE", "TITLES", "Plot", "configured", "explanation", "interactive", "png", "spec", "svg"]

Plot = Literal["cost", "bytes"]

# Okabe and Ito's colours, told apart by every kind of colour vision; darker where they are ink for letters.
_LOOK: dict[MethodKind, tuple[str, str, str]] = {
    "influence": ("#0072b2", "circle", "#00568a"),
    "imported": ("#009e73", "triangle-up", "#006b4e"),
    "baseline": ("#d55e00", "diamond", "#a04400"),
    "oracle": ("#7a7a7a", "cross", "#555555"),
}
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#7b4ea3", "#7a7a7a", "#b3891a", "#56b4e9", "#a04400")
_INK, _SOFT, _LINE, _GRID, _ZONE, _CEILING = ("#1b1d22", "#565b66", "#8a8f99", "#e9e7e2", "#f5f3ef", "#7b4ea3")
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
TITLES: dict[Plot, str] = {"cost": "Fidelity against cost", "bytes": "Fidelity against bytes per document"}
AXES_OF: dict[Plot, tuple[str, ...]] = {"cost": ("passes", "seconds"), "bytes": ("bytes",)}
_SCALE = 2.0  # pixels of the PNG per unit
_CLIP = re.compile(r"""((?:\bid="|url\(#))(clip\d+)""")
_NOT_CHARACTERS = str.maketrans({"\ufffe": "\ufffd", "\uffff": "\ufffd"})  # XML has no way to write them


def _visible(text: str) -> str:
    return one_line(text).translate(_NOT_CHARACTERS)


def explanation(drawn: Picture) -> list[str]:
    """Sentences that belong under a plot: how to read it, and what it cannot show."""
    who = "methods that store something" if drawn.axis.key == "bytes" else "methods"
    told = [
        f"Up is truer, left is cheaper (log scale). Vertical lines are 95 % intervals; of the {who}, "
        "the stepped line joins those that no other beats on both."
    ]
    if drawn.edge is not None:
        told.append(f"Within the zone “{drawn.axis.zero}” the place from left to right means nothing.")
    if drawn.unknown:
        told.append(f"Not shown, as the cost is not known: {_listing(drawn.unknown)}.")
    if drawn.unmeasured:
        told.append(f"Not shown, as {WORDS[drawn.measure].title} was not measured: {_listing(drawn.unmeasured)}.")
    return told


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(shorten(_visible(name), 40, "both") for name in names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


# --- what the marks say -------------------------------------------------------------------------------------------


def _record(drawn: Picture, mark: Mark, places: int) -> dict[str, Any]:
    """A mark as one row of the plot's data: its place, and the words of its tooltip."""
    method, cost, estimate = mark.row.method, mark.cost, mark.estimate
    x, y = drawn.at(mark.label.x, mark.label.y)
    leader = drawn.at(*mark.label.leader) if mark.label.leader else None
    value = f"{figure(estimate.value, places)} {interval(estimate, places)}"
    ends = (estimate.low, estimate.high) if estimate.bounded else (None, None)
    return {
        "name": shorten(_visible(mark.row.name), 120, "both"),
        "label": _visible(mark.text),
        "kind": KINDS[method.kind],
        "x": mark.x, "value": estimate.value, "low": ends[0], "high": ends[1],
        "label_x": x, "label_y": y, "align": mark.label.align,
        "leader_x": leader[0] if leader else None, "leader_y": leader[1] if leader else None,
        "front": mark.on_frontier,
        "fidelity": value,
        "passes": f"{number(cost.passes)} (fit {number(cost.fit)}, index {number(cost.index)}, "
        f"query {number(cost.query)})",
        "seconds": number(cost.seconds),
        "bytes": compact(cost.bytes_per_document),
        "frontier": "yes" if mark.on_frontier else "no",
        "settings": _settings(mark),
        "about": f"{_visible(mark.row.name)}, {KINDS[method.kind]}: {value}",
    }  # fmt: skip


def _settings(mark: Mark) -> str:
    pairs = (f"{_visible(str(k))} {_visible(str(v))}" for k, v in mark.row.method.settings.items())
    return shorten(", ".join(pairs) or "–", 200)


# --- drawing ------------------------------------------------------------------------------------------------------


def _subtitle(result: LabResult, drawn: Picture) -> list[str]:
    truth, words = result.truth(drawn.measure), WORDS[drawn.measure]
    lines = [f"{words.name}, {words.unit}"]
    about = [basis(truth)] if truth is not None else []
    lines.append(shorten(_visible(" · ".join([result.model, *about])), 150))
    return [*lines, *[shorten(line, 170) for line in explanation(drawn)[1:]]]


def _chart(result: LabResult, plot: Plot, drawn: Picture, live: bool) -> dict[str, Any]:
    """The Vega-Lite specification of a plot; `live` adds tooltips, zoom and a legend that can be clicked."""
    import altair as alt

    places = decimals([mark.estimate for mark in drawn.marks])
    rows = [_record(drawn, mark, places) for mark in drawn.marks]
    points = alt.Chart(alt.InlineData(values=rows))
    layers = [
        *_zone(drawn),
        *_levels(drawn, places),
        *_frontier(drawn),
        *_points(drawn, points, rows, live),
    ]
    chart = alt.layer(*layers).properties(
        width=WIDTH,
        height=HEIGHT,
        title=alt.TitleParams(TITLES[plot], subtitle=_subtitle(result, drawn)),
        padding={"left": 8, "right": 12, "top": 8, "bottom": 8},
        description=f"{TITLES[plot]}: {len(rows)} methods, {sum(row['front'] for row in rows)} on the frontier",
    )
    content: dict[str, Any] = configured(chart).to_dict(validate=True)
    return content


def configured(chart: Any) -> Any:
    """A chart in the type and colours of all of them."""
    return (
        chart.configure(font=_FONT, background="#ffffff")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=_SOFT, titleColor=_INK, gridColor=_GRID, domainColor=_LINE, tickColor=_LINE,
            labelFontSize=11, titleFontSize=12, titleFontWeight="normal", titlePadding=10,
        )
        .configure_title(
            anchor="start", color=_INK, fontSize=16, fontWeight=600, subtitleColor=_SOFT, subtitleFontSize=11.5,
            subtitleLineHeight=15, subtitlePadding=6, offset=10, frame="group",
        )
        .configure_legend(
            orient="top", direction="horizontal", title=None, labelFontSize=12, labelColor=_INK, symbolSize=90,
            offset=8, symbolStrokeWidth=1, symbolOpacity=1,
        )
    )  # fmt: skip


def _x(drawn: Picture, field: str) -> Any:
    """A field on the cost scale; every layer has the same one."""
    import altair as alt

    words = drawn.axis.format
    if drawn.edge is not None:  # inside the zone of zeros the scale's numbers mean nothing
        words = f"datum.value < {drawn.edge!r} ? '' : {words}"
    axis = alt.Axis(
        title=f"{drawn.axis.title} (log scale)", labelExpr=words, labelOverlap="greedy", tickCount=8, grid=False,
        ticks=drawn.edge is None,
    )  # fmt: skip
    return alt.X(f"{field}:Q", scale=alt.Scale(type="log", domain=list(drawn.x), nice=False), axis=axis)


def _y(drawn: Picture, field: str) -> Any:
    """A field on the scale of fidelity; every layer has the same one."""
    import altair as alt

    words = WORDS[drawn.measure]
    axis = alt.Axis(title=f"{words.title} ({words.unit})", tickCount=8, grid=True)
    return alt.Y(f"{field}:Q", scale=alt.Scale(domain=list(drawn.y), nice=False, zero=False), axis=axis)


def _levels(drawn: Picture, places: int) -> list[Any]:
    """The noise ceiling as a band, BM25 as a dashed line, chance as a thin one; each named at the right."""
    import altair as alt

    layers: list[Any] = []
    named: list[tuple[float, str, str]] = []
    if drawn.ceiling is not None:
        layers += _band(drawn)
        named.append((drawn.ceiling.value, f"noise ceiling {figure(drawn.ceiling.value, places)}", _CEILING))
    if drawn.lexical is not None:
        data = alt.InlineData(values=[{"y": drawn.lexical.value}])
        layers.append(
            alt.Chart(data).mark_rule(color=_LOOK["baseline"][0], strokeDash=[6, 4], clip=True).encode(y=_y(drawn, "y"))
        )
        named.append((drawn.lexical.value, f"BM25 {figure(drawn.lexical.value, places)}", _LOOK["baseline"][2]))
    chance = WORDS[drawn.measure].chance
    if drawn.y[0] < chance < drawn.y[1]:
        data = alt.InlineData(values=[{"y": chance}])
        layers.append(alt.Chart(data).mark_rule(color=_LINE, strokeWidth=1, clip=True).encode(y=_y(drawn, "y")))
        named.append((chance, "chance" if "nats" not in WORDS[drawn.measure].unit else "no effect", _SOFT))
    return [*layers, *(_margin_text(drawn, *item) for item in _apart(drawn, named))]


def _band(drawn: Picture) -> list[Any]:
    import altair as alt

    assert drawn.ceiling is not None
    data = alt.InlineData(values=[{"low": drawn.ceiling.low, "high": drawn.ceiling.high, "y": drawn.ceiling.value}])
    base = alt.Chart(data)
    return [
        base.mark_rect(color=_CEILING, opacity=0.13, clip=True).encode(
            y=_y(drawn, "low"), y2="high:Q", x=alt.value(0), x2=alt.value(WIDTH)
        ),
        base.mark_rule(color=_CEILING, strokeWidth=1.2, clip=True).encode(y=_y(drawn, "y")),
    ]


def _apart(drawn: Picture, named: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """The names of levels, moved so that none covers another."""
    least = 14 * (drawn.y[1] - drawn.y[0]) / HEIGHT
    out: list[tuple[float, str, str]] = []
    for value, words, color in sorted(named):
        spot = max(value, out[-1][0] + least) if out else value
        out.append((spot, words, color))
    return out


def _margin_text(drawn: Picture, value: float, words: str, color: str) -> Any:
    import altair as alt

    data = alt.InlineData(values=[{"y": value, "words": words}])
    mark = alt.Chart(data).mark_text(align="left", dx=6, color=color, fontSize=11.5, clip=False)
    return mark.encode(x=alt.value(WIDTH), y=_y(drawn, "y"), text="words:N")


def _zone(drawn: Picture) -> list[Any]:
    """The zone of what costs nothing, shaded, and its name."""
    import altair as alt

    if drawn.edge is None:
        return []
    data = {"left": drawn.x[0], "edge": drawn.edge, "middle": drawn.zone, "words": drawn.axis.zero}
    base = alt.Chart(alt.InlineData(values=[data]))
    return [
        base.mark_rect(color=_ZONE, clip=True).encode(
            x=_x(drawn, "left"), x2="edge:Q", y=alt.value(0), y2=alt.value(HEIGHT)
        ),
        base.mark_text(color=_SOFT, fontSize=11, dy=10, baseline="middle", clip=False).encode(
            x=_x(drawn, "middle"), y=alt.value(HEIGHT), text="words:N"
        ),
    ]


def _frontier(drawn: Picture) -> list[Any]:
    import altair as alt

    data = alt.InlineData(values=[{"x": x, "value": value} for x, value in drawn.steps])
    line = alt.Chart(data).mark_line(interpolate="step-after", color=_INK, strokeWidth=1.3, opacity=0.75, clip=True)
    return [line.encode(x=_x(drawn, "x"), y=_y(drawn, "value"))] if drawn.steps else []


def _points(drawn: Picture, base: Any, rows: Sequence[dict[str, Any]], live: bool) -> list[Any]:
    """Intervals, marks, lines to names, names."""
    import altair as alt

    kinds = [kind for kind in _LOOK if any(row["kind"] == KINDS[kind] for row in rows)]
    names = [KINDS[kind] for kind in kinds]
    color = alt.Color("kind:N", scale=alt.Scale(domain=names, range=[_LOOK[kind][0] for kind in kinds]))
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[_LOOK[kind][1] for kind in kinds]))
    pick = alt.selection_point(name="kinds", fields=["kind"], bind="legend")
    zoom = alt.selection_interval(name="zoom", bind="scales")

    def faded(strength: float) -> Any:
        return alt.condition(pick, alt.value(strength), alt.value(0.08)) if live else alt.value(strength)

    x = _x(drawn, "x")
    bounded = base.transform_filter("datum.low !== null") if any(row["low"] is None for row in rows) else base
    rules = bounded.mark_rule(strokeWidth=1.4, clip=True).encode(
        x=x, y=_y(drawn, "low"), y2="high:Q", color=color, opacity=faded(0.45)
    )
    marks = base.mark_point(filled=True, size=85, stroke="#ffffff", strokeWidth=0.8, clip=True).encode(
        x=x, y=_y(drawn, "value"), color=color, shape=shape, opacity=faded(1.0), description="about:N"
    )
    if live:
        marks = marks.encode(tooltip=_tooltip()).properties(name="marks").add_params(pick, zoom)
    leaders = base.transform_filter("datum.leader_x != null").mark_rule(color=_LINE, strokeWidth=0.8, clip=True)
    lines = leaders.encode(x=x, y=_y(drawn, "value"), x2="leader_x:Q", y2="leader_y:Q", opacity=faded(0.9))
    return [lines, rules, marks, *_names(drawn, base, kinds, rows, faded(1.0))]


def _names(
    drawn: Picture, base: Any, kinds: Sequence[MethodKind], rows: Sequence[dict[str, Any]], fade: Any
) -> list[Any]:
    """The names, one layer for each alignment and kind, as a mark has one of each; bold on the frontier."""
    groups = sorted({(row["align"], row["kind"], row["front"]) for row in rows})
    inks = {KINDS[kind]: _LOOK[kind][2] for kind in kinds}
    layers = []
    for align, kind, front in groups:
        test = f"datum.align == '{align}' && datum.kind == '{kind}' && datum.front == {str(front).lower()}"
        mark = base.transform_filter(test).mark_text(
            align=align, baseline="middle", fontSize=11, color=inks[kind], fontWeight=700 if front else 400, clip=True
        )
        encoded = mark.encode(x=_x(drawn, "label_x"), y=_y(drawn, "label_y"), text="label:N", opacity=fade)
        layers.append(encoded)
    return layers


def _tooltip() -> list[Any]:
    import altair as alt

    titles = {
        "name": "method", "kind": "kind", "fidelity": "fidelity, 95 %", "passes": "passes", "seconds": "seconds",
        "bytes": "bytes per document", "frontier": "on the frontier", "settings": "settings",
    }  # fmt: skip
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]


# --- rendering ----------------------------------------------------------------------------------------------------


def spec(result: LabResult, plot: Plot) -> dict[str, Any] | None:
    """The Vega-Lite specification of the still picture; None if no method has both a value and a known cost."""
    drawn = picture(result, AXES_OF[plot][0])
    return None if drawn is None else _chart(result, plot, drawn, live=False)


def svg(content: dict[str, Any], prefix: str = "clip") -> str:
    """A specification as SVG; `prefix` begins its ids, so that several can stand in one page."""
    import vl_convert

    drawn = str(vl_convert.vegalite_to_svg(content, vl_version=_version(), allowed_base_urls=[]))
    seen: dict[str, str] = {}  # the renderer counts on from one picture to the next
    return _CLIP.sub(lambda found: found[1] + seen.setdefault(found[2], f"{prefix}{len(seen) + 1}"), drawn)


def png(content: dict[str, Any]) -> bytes:
    """A specification as PNG."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(content, vl_version=_version(), scale=_SCALE, allowed_base_urls=[]))


def _version() -> str:
    """The Vega-Lite that altair writes for, as vl-convert names it: v6.4.1 is 6.4."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


@cache
def _bundle(script: str, version: str) -> str:
    """Vega, Vega-Lite and vega-embed with a script that uses them, as one script."""
    import vl_convert

    return str(vl_convert.javascript_bundle(script, vl_version=version))


def interactive(result: LabResult, plot: Plot) -> str | None:
    """A plot as a page of its own: values under the pointer, zoom, kinds to be picked; needs no network.

    Returns:
        A complete HTML document whose policy forbids every request; None if there is nothing to plot.
    """
    views = [(key, drawn) for key in AXES_OF[plot] if (drawn := picture(result, key)) is not None]
    if not views:
        return None
    code = _bundle(asset("plot.js"), _version())
    policy = (
        f"default-src 'none'; script-src '{fingerprint(code)}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(asset("plot.html")).substitute(
        policy=policy,
        title=TITLES[plot],
        choices=_choices([key for key, _ in views]),
        views=join(_view(key, _chart(result, plot, drawn, live=True)) for key, drawn in views),
        notes=join(tag("p", sentence) for sentence in explanation(views[0][1])),
        script=code,
    )


def _choices(keys: Sequence[str]) -> Html:
    if len(keys) < 2:
        return Html("")
    buttons = [
        tag("button", AXES[key].key, type="button", data_view=key, aria_pressed="true" if i == 0 else "false")
        for i, key in enumerate(keys)
    ]
    return tag("p", "Cost in ", *buttons, cls="choices")


def _view(key: str, content: dict[str, Any]) -> Html:
    # "<" is written as an escape: no name can end the element it stands in.
    text = Html(json.dumps(content, ensure_ascii=True, sort_keys=True).replace("<", "\\u003c"))
    data = Html(f'<script type="application/json">{text}</script>')
    return tag("div", tag("div", cls="chart"), data, cls="view", id=f"view-{key}")

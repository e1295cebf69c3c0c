"""Small charts for the pages of audits: bars, lines, points, strips; as SVG, drawn by altair and vl-convert.

Rows are plain dictionaries; the same palette and type everywhere. Equal rows give equal bytes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from whence.report.plots import PALETTE, configured, svg
from whence.report.text import one_line, shorten

__all__ = ["bars", "histogram", "lines", "points"]

Row = Mapping[str, Any]
_WIDTH, _HEIGHT = 400, 240


def _data(rows: Sequence[Row]) -> Any:
    import altair as alt

    safe = [{key: _safe(value) for key, value in row.items()} for row in rows]
    return alt.InlineData(values=safe)


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return shorten(one_line(value), 80)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _color(rows: Sequence[Row], field: str | None) -> Any:
    import altair as alt

    if field is None:
        return alt.value(PALETTE[0])
    names = list(dict.fromkeys(shorten(one_line(str(row[field])), 80) for row in rows))
    colors = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=names, range=colors))


def _whole(rows: Sequence[Row], field: str) -> bool:
    return all(isinstance(row[field], int) for row in rows)


def _axis(rows: Sequence[Row], field: str, log: bool = False) -> Any:
    """Marks on an axis: whole numbers for counts, and on a symlog scale few enough that they stand apart."""
    import altair as alt

    if log:
        values = [float(row[field]) for row in rows if math.isfinite(float(row[field]))]
        reach = max(map(abs, values), default=1.0)
        least = min([*values, 0.0])
        steps = [1.0] if reach < 10 else []
        steps = [*steps, *(10.0**power for power in range(0 if reach < 1e4 else 1, 9) if 10.0**power <= reach)]
        if reach < 100:
            steps += [3.0 * step for step in steps if 3.0 * step <= reach]
        marks = sorted({0.0, *steps, *(-step for step in steps if -step >= least)})
        return alt.Axis(values=marks, format=",~r", labelOverlap="greedy")
    if _whole(rows, field):
        return alt.Axis(tickMinStep=1, format=",d", labelOverlap="greedy", tickCount=6)
    return alt.Axis(labelOverlap="greedy", tickCount=6)


def _drawn(chart: Any, title: str, prefix: str) -> str:
    import altair as alt

    heading = alt.TitleParams(one_line(title), fontSize=13)
    return svg(configured(chart.properties(title=heading)).to_dict(validate=True), prefix)


def bars(
    rows: Sequence[Row], *, x: str, y: str, title: str, unit: str, color: str | None = None, low: str | None = None,
    high: str | None = None, prefix: str = "bars",
) -> str:  # fmt: skip
    """Horizontal bars, one per row in the order given: `y` names them, `x` is their length.

    Args:
        rows: Data.
        x: Field of the value.
        y: Field of the name.
        title: Of the chart.
        unit: Of the axis.
        color: Field by which bars are coloured and, within one name, set apart.
        low: Fields of an interval, drawn as a line where it is finite.
        high: See `low`.
        prefix: Unique in the page.
    """
    import altair as alt

    names = list(dict.fromkeys(shorten(one_line(str(row[y])), 80) for row in rows))
    groups = 1 if color is None else len({row[color] for row in rows})
    place = alt.Y(f"{y}:N", sort=names, title=None, axis=alt.Axis(labelLimit=240))
    base = alt.Chart(_data(rows))
    offset = {} if color is None or groups == 1 else {"yOffset": alt.YOffset(f"{color}:N")}
    scale = alt.X(f"{x}:Q", title=unit, axis=_axis(rows, x))
    layers = [base.mark_bar().encode(x=scale, y=place, color=_color(rows, color), **offset)]
    if low is not None and high is not None:
        sure = [row for row in rows if math.isfinite(row[low]) and math.isfinite(row[high])]
        rule = alt.Chart(_data(sure)).mark_rule(color="#1b1d22", strokeWidth=1.4)
        layers.append(rule.encode(x=alt.X(f"{low}:Q", title=unit), x2=f"{high}:Q", y=place, **offset))
    height = max(60, (18 if groups == 1 else 9 * groups + 6) * len(names))
    return _drawn(alt.layer(*layers).properties(width=_WIDTH, height=height), title, prefix)


def lines(
    rows: Sequence[Row], *, x: str, y: str, title: str, x_title: str, y_title: str, color: str | None = None,
    diagonal: bool = False, log_x: bool = False, prefix: str = "lines",
) -> str:  # fmt: skip
    """Lines through points in the order given, one for each value of `color`; `diagonal` adds that of chance."""
    import altair as alt

    scale, marks = (alt.Scale(type="log"), alt.Undefined) if log_x else (alt.Undefined, _axis(rows, x))
    axis = alt.X(f"{x}:Q", title=x_title, scale=scale, axis=marks)
    base = alt.Chart(_data([{**row, "_order": i} for i, row in enumerate(rows)]))
    line = base.mark_line(strokeWidth=1.8, point=len(rows) <= 40).encode(
        x=axis, y=alt.Y(f"{y}:Q", title=y_title), color=_color(rows, color), order="_order:Q"
    )
    layers = [line]
    if diagonal:
        ends = alt.Chart(alt.InlineData(values=[{"a": 0, "b": 0}, {"a": 1, "b": 1}]))
        layers.insert(0, ends.mark_line(color="#8a8f99", strokeDash=[4, 4], strokeWidth=1).encode(x="a:Q", y="b:Q"))
    return _drawn(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT), title, prefix)


def points(
    rows: Sequence[Row], *, x: str, y: str, title: str, x_title: str, y_title: str, color: str | None = None,
    log_x: bool = False, log_y: bool = False, prefix: str = "points",
) -> str:  # fmt: skip
    """One mark per row."""
    import altair as alt

    def axis(kind: Any, field: str, words: str, log: bool) -> Any:
        scale = alt.Scale(type="symlog", zero=False) if log else alt.Scale(zero=False)
        return kind(f"{field}:Q", title=words, scale=scale, axis=_axis(rows, field, log))

    marks = alt.Chart(_data(rows)).mark_point(filled=True, size=34, opacity=0.7)
    drawn = marks.encode(x=axis(alt.X, x, x_title, log_x), y=axis(alt.Y, y, y_title, log_y), color=_color(rows, color))
    return _drawn(drawn.properties(width=_WIDTH, height=_HEIGHT), title, prefix)


def histogram(
    rows: Sequence[Row], *, x: str, title: str, x_title: str, color: str | None = None, prefix: str = "histogram"
) -> str:
    """How often values fall where, kinds laid over one another."""
    import altair as alt

    marks = alt.Chart(_data(rows)).mark_bar(opacity=0.6, binSpacing=0)
    drawn = marks.encode(
        x=alt.X(f"{x}:Q", bin=alt.Bin(maxbins=32), title=x_title),
        y=alt.Y("count():Q", stack=None, title="items"),
        color=_color(rows, color),
    )
    return _drawn(drawn.properties(width=_WIDTH, height=_HEIGHT), title, prefix)

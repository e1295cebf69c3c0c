"""Drawings as inline SVG: bars, a hit's profile over the model's sites, and influence rank against BM25 rank.

Lengths and colours are presentation attributes and classes, since the page's policy allows no style attributes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from whence.interfaces import Hit, Trace
from whence.report.facts import SiteGrid, influence_rank, site_grid
from whence.report.markup import Html, join, tag
from whence.report.text import count, nats, one_line, scale, shorten

__all__ = ["bar", "profile", "scatter"]


def bar(value: float, largest: float) -> Html:
    """A horizontal bar, `largest` at full length; decoration, so hidden from screen readers."""
    width = 100 * min(abs(value) / largest, 1.0) if largest > 0 and math.isfinite(value) else 0.0
    rect = tag("rect", width=f"{width:.1f}", height=8, cls="pro" if value >= 0 else "opp")
    return tag("svg", rect, cls="bar", viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true")


# --- profile over sites -------------------------------------------------------------------------------------------

_ROW, _CELL, _LABEL, _HEAD, _GAP = 11, 74, 88, 16, 8


def profile(hit: Hit) -> Html:
    """Influence by layer (rows) and kind of site (columns), and the strongest sites and experts in words."""
    grid = site_grid(hit.sites)
    largest = scale([*grid.cells.values(), *grid.outside.values()])
    experts = [_strongest("Strongest experts ", hit.experts)] if hit.experts else []
    drawing = tag("div", _grid(grid, largest), cls="scroll")
    return join([_strongest("Strongest sites ", hit.sites), *experts, drawing])


def _strongest(title: str, shares: Mapping[str, float]) -> Html:
    first = sorted(shares.items(), key=lambda item: -abs(item[1]))[:5]
    text = join((join([tag("code", shorten(one_line(name), 60)), " ", nats(value)]) for name, value in first), " · ")
    return tag("p", tag("b", title), text, cls="strongest")


def _grid(grid: SiteGrid, largest: float) -> Html:
    columns = max(len(grid.kinds), 2 if grid.outside else 1)
    top = _HEAD if grid.layers else 0
    outside_y = top + _ROW * len(grid.layers) + (_GAP if grid.layers else 0)
    width, height = _LABEL + _CELL * columns, outside_y + _ROW * len(grid.outside)
    bars = [
        (_LABEL + _CELL * grid.kinds.index(kind), top + _ROW * grid.layers.index(layer), value)
        for (layer, kind), value in grid.cells.items()
    ]
    bars += [(_LABEL, outside_y + _ROW * i, value) for i, value in enumerate(grid.outside.values())]
    return tag(
        "svg",
        _axes(columns, height, top),
        _labels(grid, top, outside_y),
        tag("path", d=_paths(bars, largest, positive=True), cls="pro"),
        tag("path", d=_paths(bars, largest, positive=False), cls="opp"),
        cls="profile",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label="Influence by layer and kind of site; bars to the right support, to the left oppose",
    )


def _axes(columns: int, height: int, top: int) -> Html:
    lines = "".join(f"M{_LABEL + _CELL * i + _CELL / 2:g} {top}V{height}" for i in range(columns))
    return tag("path", d=lines, cls="axis")


def _labels(grid: SiteGrid, top: int, outside_y: int) -> Html:
    def text(x: float, y: float, words: str, anchor: str) -> Html:
        return tag("text", words, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor)

    heads = [
        text(_LABEL + _CELL * (i + 0.5), top - 5, shorten(kind, 13, "end"), "middle")
        for i, kind in enumerate(grid.kinds)
    ]
    rows = [text(_LABEL - 6, top + _ROW * (i + 0.8), f"layer {layer}", "end") for i, layer in enumerate(grid.layers)]
    rest = [
        text(_LABEL - 6, outside_y + _ROW * (i + 0.8), shorten(one_line(name), 16, "end"), "end")
        for i, name in enumerate(grid.outside)
    ]
    return join([*heads, *rows, *rest])


def _paths(bars: Iterable[tuple[float, float, float]], largest: float, positive: bool) -> str:
    """All bars of one sign as one path: a large model has hundreds per document."""
    out = []
    for x, y, value in bars:
        if (value > 0) != positive or largest <= 0 or not math.isfinite(value):
            continue
        length = value / largest * (_CELL / 2 - 3)
        if abs(length) >= 0.3:
            out.append(f"M{x + _CELL / 2:g} {y + 2:g}h{length:.1f}v{_ROW - 3}h{-length:.1f}z")
    return "".join(out)


# --- influence rank against BM25 rank -----------------------------------------------------------------------------

_W, _H, _PAD = 420, 300, 44


def _across(rank: int, total: int) -> float:
    """0..1 along the influence ranking, logarithmic from both ends: supporters left, opponents right."""
    middle = max((total + 1) / 2, 2.0)
    near = min(rank, total - rank + 1)
    half = min(math.log(max(near, 1)) / math.log(middle), 1.0) / 2
    return half if rank <= middle else 1 - half


def _down(rank: int, total: int) -> float:
    return min(math.log(max(rank, 1)) / math.log(max(total, 2)), 1.0)


def _points(trace: Trace, key: str) -> list[tuple[int, int, Hit, str, str | None]]:
    """(influence rank, BM25 rank, hit, kind of mark, card) for every listed document both rankings place."""
    marks: dict[int, tuple[int, int, Hit, str, str | None]] = {}
    listed: Sequence[tuple[str, Sequence[Hit]]] = (
        ("p", trace.proponents),
        ("o", trace.opponents),
        ("b", trace.bm25_top),
    )
    for side, hits in listed:
        for i, hit in enumerate(hits):
            rank, lexical = influence_rank(trace, hit), hit.bm25_rank
            if rank is not None and lexical is not None and hit.document not in marks:
                marks[hit.document] = rank, lexical, hit, side, f"{key}{side}{i}" if side != "b" else None
    return list(marks.values())


def _ticks(total: int) -> list[int]:
    return [10**power for power in range(len(str(total))) if 10**power <= total]


def scatter(trace: Trace, key: str) -> Html:
    """Where the two rankings put the same documents; empty if there is nothing to place."""
    points = _points(trace, key)
    if not points:
        return Html("")
    total = max(trace.scored, *(max(point[0], point[1]) for point in points))
    drawing = tag(
        "svg",
        _frame(total),
        *[_mark(point, total) for point in points],
        viewBox=f"0 0 {_W} {_H}",
        role="img",
        aria_label=f"Influence rank against BM25 rank of {len(points)} listed documents",
    )
    caption = (
        "Each listed document by its place in both rankings (log scales from the ends). Top: words shared with the "
        "query. Left: supports the answer; right: opposes it. Lower left is influence that word overlap misses."
    )
    keys = [
        join([tag("svg", _shape(side, 6, 6), viewBox="0 0 12 12", cls="key", aria_hidden="true"), " ", name, " "])
        for side, name in (("p", "proponent"), ("o", "opponent"), ("b", "BM25 only"))
    ]
    return tag("figure", drawing, tag("figcaption", tag("span", *keys, cls="keys"), caption))


def _frame(total: int) -> Html:
    inner_w, inner_h = _W - 2 * _PAD, _H - 2 * _PAD
    parts = [tag("rect", x=_PAD, y=_PAD, width=inner_w, height=inner_h, cls="frame")]
    middle = (total + 1) / 2
    for tick in _ticks(total):
        y = _PAD + inner_h * _down(tick, total)
        parts.append(tag("text", count(tick), x=_PAD - 6, y=f"{y + 3:.0f}", text_anchor="end"))
        parts.append(tag("path", d=f"M{_PAD} {y:.1f}H{_W - _PAD}", cls="axis"))
        if tick <= middle / 2:
            for rank in {tick, total - tick + 1}:
                x = _PAD + inner_w * _across(rank, total)
                parts.append(tag("text", count(tick), x=f"{x:.0f}", y=_H - _PAD + 14, text_anchor="middle"))
                parts.append(tag("path", d=f"M{x:.1f} {_PAD}V{_H - _PAD}", cls="axis"))
    parts.append(tag("text", "BM25 rank", x=6, y=_PAD - 12))
    parts.append(tag("text", "← supports", x=_PAD, y=_H - 10))
    parts.append(tag("text", "influence rank", x=_W / 2, y=_H - 10, text_anchor="middle"))
    parts.append(tag("text", "opposes →", x=_W - _PAD, y=_H - 10, text_anchor="end"))
    return join(parts)


def _mark(point: tuple[int, int, Hit, str, str | None], total: int) -> Html:
    rank, lexical, hit, side, card = point
    x = _PAD + (_W - 2 * _PAD) * _across(rank, total)
    y = _PAD + (_H - 2 * _PAD) * _down(lexical, total)
    places = f"rank {count(rank)}; BM25 rank {count(lexical)}"
    title = f"{shorten(one_line(hit.id), 60)}: influence {nats(hit.influence)} nats, {places}"
    shape = join([_shape(side, x, y, title)])
    return tag("a", shape, href=f"#{card}", aria_label=title) if card else shape


def _shape(side: str, x: float, y: float, title: str = "") -> Html:
    inner = tag("title", title) if title else Html("")
    if side == "p":
        return tag("circle", inner, cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, cls="mark pro")
    if side == "o":
        return tag("rect", inner, x=f"{x - 4:.1f}", y=f"{y - 4:.1f}", width=8, height=8, cls="mark opp")
    return tag("path", inner, d=f"M{x:.1f} {y - 5:.1f}l5 9h-10z", cls="mark lex")

"""Plots of the lab: the frontier, places of points and names, and pictures that no name can break."""

import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_report_lab_samples import METHODS, make_lab, make_odd_lab
from test_report_samples import HOSTILE
from whence.interfaces import LabResult
from whence.report.frame import fingerprint
from whence.report.lab_labels import Box, place
from whence.report.lab_points import HEIGHT, WIDTH, picture
from whence.report.pareto import Point, frontier
from whence.report.plots import interactive, png, spec, svg

# --- frontier -----------------------------------------------------------------------------------------------------


def beaten(point: Point, others: list[Point]) -> bool:
    return any(
        o.cost <= point.cost and o.fidelity >= point.fidelity and (o.cost < point.cost or o.fidelity > point.fidelity)
        for o in others
    )


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 3)), max_size=30))
def test_the_frontier_is_what_nobody_beats(pairs: list[tuple[int, int]]) -> None:
    points = [Point(str(i), cost, fidelity / 3) for i, (cost, fidelity) in enumerate(pairs)]
    found = frontier(points)
    assert {p.name for p in found} == {p.name for p in points if not beaten(p, points)}
    assert [p.cost for p in found] == sorted(p.cost for p in found)


# --- plots --------------------------------------------------------------------------------------------------------


def test_the_plot_shows_every_method_whose_cost_is_known() -> None:
    drawn = picture(make_lab(), "passes")
    assert drawn is not None
    known = {name for name, _, _, passes, _ in METHODS if passes is not None}
    assert {mark.row.name for mark in drawn.marks} == known
    assert set(drawn.unknown) == {"kronfluence EK-FAC", "bergson"}
    assert all(drawn.x[0] <= mark.x <= drawn.x[1] for mark in drawn.marks)
    zeros = [mark for mark in drawn.marks if mark.cost.passes == 0]
    assert drawn.edge is not None
    assert zeros
    assert all(mark.x < drawn.edge for mark in zeros)
    assert all(mark.x > drawn.edge for mark in drawn.marks if mark.cost.passes > 0)


def test_costs_keep_their_order_and_ratio_on_the_axis() -> None:
    drawn = picture(make_lab(), "passes")
    assert drawn is not None
    for mark in drawn.marks:
        if mark.cost.passes > 0:
            assert mark.x == pytest.approx(mark.cost.passes)


def test_the_frontier_of_storage_is_among_what_stores_something() -> None:
    drawn = picture(make_lab(), "bytes")
    assert drawn is not None
    front = {mark.row.name for mark in drawn.marks if mark.on_frontier}
    assert "EK-FAC 1 bit 4096" in front
    assert all(mark.cost.bytes_per_document > 0 for mark in drawn.marks if mark.on_frontier)


def test_names_stay_inside_and_apart() -> None:
    for key in ("passes", "bytes"):
        drawn = picture(make_lab(), key)
        assert drawn is not None
        boxes = [mark.label.box for mark in drawn.marks]
        assert all(b.left >= 0 and b.right <= WIDTH and b.top >= 0 and b.bottom <= HEIGHT for b in boxes)
        crossing = [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if a.overlap(b) > 20]
        assert crossing == []


def test_twenty_names_at_random_places_do_not_cover_each_other() -> None:
    rng = random.Random(1)
    points = [(rng.uniform(40, WIDTH - 40), rng.uniform(20, HEIGHT - 20)) for _ in range(20)]
    marks = [Box(x - 5, y - 5, x + 5, y + 5, 6.0) for x, y in points]
    labels = place(points, [90.0] * 20, marks, WIDTH, HEIGHT)
    overlap = sum(a.box.overlap(b.box) for i, a in enumerate(labels) for b in labels[:i])
    assert overlap < 40  # of twenty labels of 1,250 square pixels each


def test_equal_results_give_equal_bytes() -> None:
    result = make_lab(methods=6)
    content = spec(result, "cost")
    assert content is not None
    assert content == spec(result, "cost")
    assert svg(content) == svg(content)
    assert png(content) == png(content)
    assert interactive(result, "bytes") == interactive(result, "bytes")


def texts(drawing: str) -> str:
    return " ".join("".join(node.itertext()) for node in ET.fromstring(drawing).iter() if node.tag.endswith("text"))


def test_the_picture_names_methods_levels_and_axes() -> None:
    content = spec(make_lab(), "bytes")
    assert content is not None
    words = texts(svg(content))
    for part in ("noise ceiling 0.81", "BM25 0.10", "chance", "nothing stored", "baseline", "EK-FAC all sites", "LDS"):
        assert part in words
    assert png(content).startswith(b"\x89PNG")
    assert "style=" not in svg(content)  # a page's policy would drop it


def specs_inside(text: str) -> Iterator[dict[str, object]]:
    for found in re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.S):
        yield json.loads(found)


def test_the_interactive_plot_needs_nothing_and_offers_seconds() -> None:
    text = interactive(make_lab(methods=4), "cost")
    assert text is not None
    assert len(list(specs_inside(text))) == 2
    assert "default-src 'none'" in text
    assert not re.search(r"<(link|img|iframe)\b|\bsrc=", text[: text.rindex("<script>")])
    policy = re.search(r"script-src '(sha256-[^']+)'", text)
    code = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    assert policy is not None
    assert policy[1] == fingerprint(code)


def test_no_name_breaks_a_plot() -> None:
    result = make_odd_lab(text=" ".join(HOSTILE))
    for plot in ("cost", "bytes"):
        content, live = spec(result, plot), interactive(result, plot)  # type: ignore[arg-type]
        assert content is not None
        assert live is not None
        words = texts(svg(content))
        assert "\u202e" not in words
        assert "</script>" in words
        assert len(list(specs_inside(live))) == (2 if plot == "cost" else 1)
        assert live.count("</script>") == live.count("<script")


def same(kind: str, value: float) -> LabResult:
    base = make_lab(("lds",), methods=4)
    costs = [m.cost.model_copy(update={kind: value}) for m in base.methods if m.cost is not None]
    return base.model_copy(
        update={"methods": tuple(m.model_copy(update={"cost": cost}) for m, cost in zip(base.methods, costs))}
    )


@pytest.mark.parametrize("result", [same("passes", 0.0), same("passes", 3.0), make_lab(methods=1, ceiling=False)])
def test_little_to_compare_is_drawn_all_the_same(result: LabResult) -> None:
    content = spec(result, "cost")
    assert content is not None
    assert "identity" in texts(svg(content))

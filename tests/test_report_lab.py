"""The lab's results for people: tables on any console, files that come back, pages and plots no name can break."""

import csv
import io
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from test_report_lab_samples import METHODS, ODD, estimate, make_lab, make_odd_lab
from test_report_page import ATTRIBUTES, Audit
from test_report_samples import HOSTILE, make_result
from whence.errors import IncompleteError, StorageError
from whence.interfaces import Certificate, Estimate, LabResult, MethodSummary, Reading
from whence.report import load_lab, page, save_lab, show, show_certificate, show_lab
from whence.report.about import certificate as certificate_card
from whence.report.frame import fingerprint
from whence.report.lab_files import as_csv
from whence.report.lab_page import lab_page
from whence.report.lab_points import picture
from whence.report.lab_table import main_measure, sheet
from whence.report.lab_words import decimals, figure

NAMES = [f"pareto-{plot}.{kind}" for plot in ("cost", "bytes") for kind in ("png", "svg", "html", "json")]
ALLOWED = ATTRIBUTES | {"data-sort", "data-v", "colspan", "x1", "x2", "y1", "y2"}


def shown(result: LabResult, width: int = 80, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="")
    show_lab(result, Console(file=file, width=width, force_terminal=False))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def measured_certificate() -> Certificate:
    lab = make_lab()
    own = "EK-FAC 1 bit 16384"
    first, lexical = lab.reading("lds", own), lab.reading("lds", "BM25")
    truth = lab.truth("lds")
    assert first is not None
    assert lexical is not None
    assert truth is not None
    return Certificate(
        state="measured", line="Fidelity: LDS 0.39.", recipe="ekfac-1bit", measure="lds", estimate=first.estimate,
        ceiling=truth.ceiling, bm25=lexical.estimate, truth=truth, model=lab.model, training=lab.training,
        readings=tuple(r for r in lab.readings if r.method in (own, "BM25")),
    )  # fmt: skip


# --- table --------------------------------------------------------------------------------------------------------


def test_rows_are_grouped_and_sorted_by_the_main_measure() -> None:
    found = sheet(make_lab())
    assert [title for title, _ in found.groups] == ["Methods", "Baselines"]
    for _, rows in found.groups:
        values = [row.estimates["lds"].value for row in rows]
        assert values == sorted(values, reverse=True)
    assert len(found.rows) == len(METHODS)


def test_leaders_are_those_the_intervals_do_not_tell_from_the_best() -> None:
    methods = tuple(
        MethodSummary(name=name, kind=kind)
        for name, kind in (("a", "influence"), ("b", "influence"), ("c", "baseline"), ("o", "oracle"))
    )
    spans = {"a": (0.5, 0.4, 0.6), "b": (0.38, 0.3, 0.41), "c": (0.3, 0.2, 0.39), "o": (0.9, 0.8, 0.95)}
    readings = tuple(
        Reading(measure="lds", method=name, estimate=Estimate(value=v, low=low, high=high))
        for name, (v, low, high) in spans.items()
    )
    found = sheet(make_lab().model_copy(update={"methods": methods, "readings": readings}))
    assert {row.name for row in found.rows if "lds" in row.leads} == {"a", "b"}


def test_lds_is_the_main_measure_where_it_was_taken() -> None:
    assert main_measure(make_lab(("recall", "lds"))) == "lds"
    assert main_measure(make_lab(("recall", "removal"))) == "removal"
    assert main_measure(make_lab(())) is None


@pytest.mark.parametrize("half", [0.05, 0.004, 3.0, 0.0])
@pytest.mark.parametrize("value", [0.4321, -12.7, 0.0])
def test_decimals_reach_the_interval(value: float, half: float) -> None:
    places = decimals([Estimate(value=value, low=value - half, high=value + half)])
    assert 0 <= places <= 7
    if half:
        assert 10.0**-places <= half
    assert "-" not in figure(value, places)


# --- console ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_console_shows_every_figure_at_any_width(width: int) -> None:
    result = make_lab()
    text = shown(result, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    if width >= 80:
        for reading in result.readings:
            places = sheet(result).places[reading.measure]
            assert figure(reading.estimate.value, places) in text
        assert text.count("noise ceiling") >= 1
        assert all(name in text for name, *_ in METHODS)
    flat = " ".join(text.split())
    assert "Linear datamodelling score (rank correlation, −1 to 1)" in flat
    assert "128 models retrained" in flat


def test_marks_of_leaders_are_plain_text() -> None:
    assert re.search(r"exact +0\.54\* ", shown(make_lab()))
    assert not re.search(r"identity +[\d.]+\*", shown(make_lab()))


def test_odd_names_do_not_break_the_console() -> None:
    text = shown(make_odd_lab(text=" ".join(HOSTILE)))
    assert not set(text) & {"\x1b", "\x00", "\u202e", "\x9b"}
    assert "[bold red]" in text
    ascii_only = shown(make_odd_lab(), encoding="ascii")
    assert "noise ceiling" in ascii_only


@pytest.mark.parametrize("result", [make_lab(()), make_lab(methods=0), make_lab(methods=1, ceiling=False)])
def test_little_is_shown_as_little(result: LabResult) -> None:
    text = shown(result)
    assert "nan" not in text
    assert "noise ceiling" not in text


def test_a_certificate_on_the_console() -> None:
    file = io.StringIO()
    show_certificate(measured_certificate(), Console(file=file, width=120))
    text = file.getvalue()
    assert text.startswith("Fidelity: LDS 0.39.")
    for words in ("Leave-one-out", "0.81 [0.78, 0.84]", "BM25", "40 queries", "LlamaForCausalLM"):
        assert words in text
    file = io.StringIO()
    show_certificate(Certificate(), Console(file=file, width=300))
    assert file.getvalue().strip() == Certificate().line


def test_the_difference_to_bm25_is_shown_where_it_was_measured() -> None:
    made = measured_certificate()
    over = {"over_bm25": 0.12, "over_bm25_low": 0.04, "over_bm25_high": 0.21}
    readings = tuple(
        r.model_copy(update={"detail": over}) if r.measure == "lds" and r.method != "BM25" else r for r in made.readings
    )
    with_difference = made.model_copy(update={"readings": readings})
    file = io.StringIO()
    show_certificate(with_difference, Console(file=file, width=140))
    assert "0.12 [0.04, 0.21]" in file.getvalue()
    assert "0.12 [0.04, 0.21]" in certificate_card(with_difference)
    assert "0.12 [0.04, 0.21]" not in certificate_card(made)


# --- certificate on the page --------------------------------------------------------------------------------------


def test_the_card_shows_the_figures_only_when_measured() -> None:
    card = certificate_card(measured_certificate())
    assert 'class="certificate measured"' in card
    assert card.count("<tr>") == 6  # a head and five measures
    for words in ("0.39 [0.34, 0.44]", "0.81 [0.78, 0.84]", "64 training sets × 2 seeds", "AdamW", "ekfac-1bit"):
        assert words in card
    plain = certificate_card(Certificate())
    assert 'class="certificate unmeasured"' in plain
    assert "<details" not in plain


def test_the_trace_page_and_console_show_the_certificate_of_the_run() -> None:
    result = make_result(1, 1)
    summary = result.summary.model_copy(update={"certificate": measured_certificate()})
    result = result.model_copy(update={"summary": summary})
    text = page(result)
    assert text.count("The figures behind this line") == 1
    assert text.count("Fidelity: LDS 0.39.") == 2
    file = io.StringIO()
    show(result, Console(file=file, width=100))
    assert "Fidelity: LDS 0.39." in file.getvalue()


# --- page ---------------------------------------------------------------------------------------------------------


def audited(text: str) -> Audit:
    audit = Audit(text)
    drawn = {(tag, name) for tag, name, _ in audit.attributes if name not in ALLOWED}
    assert not drawn, drawn
    return audit


def test_the_page_is_complete_and_its_policy_holds() -> None:
    result = make_lab()
    audit = audited(lab_page(result, {}, ["table.csv"], measured_certificate()))
    policy = next(value for tag, name, value in audit.attributes if name == "content" and "default-src" in value)
    assert f"script-src '{fingerprint(''.join(audit.texts['script']))}'" in policy
    assert f"style-src '{fingerprint(''.join(audit.texts['style']))}'" in policy
    words = " ".join(audit.words)
    for name, *_ in METHODS:  # in the table and in the forest plot of each measure
        assert words.count(name) >= 1 + sum(reading.method == name for reading in result.readings)
    assert "table.csv" in [value for _, name, value in audit.attributes if name == "href"]
    assert result.command in words


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60))
def test_no_text_becomes_markup(text: str) -> None:
    audit = audited(lab_page(make_odd_lab([text, text + "x"], text=text), {}))
    plain = audited(lab_page(make_odd_lab(["a", "b"], text="c"), {}))
    plain.tags.pop("var", None)
    audit.tags.pop("var", None)
    extra = {"code", "tr", "th", "td", "div"}  # an empty text leaves its row out
    assert {t: n for t, n in audit.tags.items() if t not in extra} == {
        t: n for t, n in plain.tags.items() if t not in extra
    }


def test_odd_names_do_not_break_the_page() -> None:
    audit = audited(lab_page(make_odd_lab(text=" ".join(HOSTILE)), {}))
    assert audit.tags["img"] == 0
    assert audit.tags["script"] == 1


def test_values_that_are_not_finite_are_left_out() -> None:
    base = make_lab(("lds",), methods=2)
    nan = Estimate(value=math.nan, low=math.nan, high=math.nan)
    broken = base.model_copy(
        update={"readings": (base.readings[0], base.readings[1].model_copy(update={"estimate": nan}))}
    )
    audit = audited(lab_page(broken, {}))
    assert "nan" not in " ".join(audit.words).lower()
    assert "nan" not in shown(broken).lower()
    drawn = picture(broken, "passes")
    assert drawn is not None
    assert len(drawn.marks) == 1


# --- files --------------------------------------------------------------------------------------------------------


def test_a_result_comes_back_and_every_view_is_there(tmp_path: Path) -> None:
    result = make_lab(("lds", "removal"), methods=5)
    paths = save_lab(result, tmp_path / "lab", measured_certificate())
    assert load_lab(tmp_path / "lab") == result
    assert set(NAMES) < set(paths)
    assert {path.name for path in (tmp_path / "lab").iterdir()} == {path.name for path in paths.values()}
    text = paths["page"].read_text(encoding="utf-8")
    links = re.findall(r'href="([^"#]+)"', text)
    assert all((tmp_path / "lab" / link).is_file() for link in links)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert text.count("<svg") > 10


def test_the_csv_has_plain_numbers() -> None:
    result = make_lab(("lds", "removal"))
    rows = list(csv.DictReader(io.StringIO(as_csv(sheet(result)))))
    by_name = {row["method"]: row for row in rows}
    for reading in result.readings:
        assert float(by_name[reading.method][reading.measure]) == reading.estimate.value
    assert by_name["bergson"]["passes"] == ""
    assert by_name["noise ceiling"]["kind"] == "ceiling"


def test_what_cannot_be_drawn_is_not_there(tmp_path: Path) -> None:
    save_lab(make_lab(("lds",), methods=2), tmp_path)
    unknown = [m.model_copy(update={"cost": None}) for m in make_lab(methods=2).methods]
    paths = save_lab(make_lab(("lds",), methods=2).model_copy(update={"methods": tuple(unknown)}), tmp_path)
    assert not set(NAMES) & set(paths)
    assert not list(tmp_path.glob("pareto-*"))
    save_lab(make_lab(()), tmp_path)
    assert "No method" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_odd_names_survive_the_files(tmp_path: Path) -> None:
    result = make_odd_lab(ODD)
    paths = save_lab(result, tmp_path)
    assert load_lab(tmp_path) == result
    lines = paths["markdown"].read_text(encoding="utf-8").splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(re.findall(r"\|", lines[1]))}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[]", "layout 'list'"),
        (b'{"schema": 99}', "layout 99"),
        (b'{"schema": 1, "run": "r"}', "not a lab result"),
    ],
)
def test_a_damaged_result_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(StorageError, match=told):
        load_lab(tmp_path)


def test_a_folder_without_a_result_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="whence evaluate"):
        load_lab(tmp_path)


def test_looking_at_results_imports_neither_torch_nor_the_plotter() -> None:
    heavy = "('torch', 'altair', 'vl_convert', 'whence.fidelity')"
    code = f"import sys, whence.report; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_readings_of_unknown_methods_are_shown() -> None:
    result = make_lab(("lds",), methods=1)
    extra = Reading(measure="lds", method="stranger", estimate=estimate(0.3))
    assert "stranger" in shown(result.model_copy(update={"readings": (*result.readings, extra)}))

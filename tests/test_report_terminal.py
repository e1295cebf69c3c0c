"""The console: everything a reader needs is there, and nothing a document says can act on the terminal."""

import io
import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from test_report_samples import HOSTILE, make_hit, make_hostile, make_result, make_teacher, make_trace
from whence.interfaces import Token, TraceResult
from whence.report import show


def shown(result: TraceResult, width: int = 110, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, **options)  # type: ignore[arg-type]
    show(result, console)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(out, str)
    return out


def test_everything_a_reader_needs_is_there() -> None:
    result = make_result(1, 12)
    out = shown(result)
    trace = result.traces[0]
    for words in (
        trace.prompt, "Mount Orrin.", "loss 3.22 nats", "Proponents", "Opponents", "+0.0200", "−0.0110", "and 2 more",
        trace.proponents[0].id, trace.opponents[0].id, "*Orrin*", "What BM25 would have said", trace.bm25_top[0].id,
        "coverage: 99.9%", "normalisation weights", "Fidelity: not measured", "EK-FAC", "ekfac-1bit-full",
        "0.1 × mean(Λ)", "trained on", "20,000",
    ):  # fmt: skip
        assert words in out
    first = trace.proponents[0]
    assert f"{first.source}:{first.row}" in out
    assert f"{first.bm25_rank:,}" in out
    assert f"{first.gradient_dot_rank:,}" in out


def test_the_limit_holds_for_both_tables() -> None:
    result = make_result(1, 5)
    console = Console(file=io.StringIO(), width=110)
    show(result, console, limit=2)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert result.traces[0].proponents[1].id in out
    assert result.traces[0].proponents[4].id not in out
    assert out.count("and 3 more") == 2


def test_a_contrast_is_told_as_a_difference() -> None:
    out = shown(make_result(2, 1))
    assert "rather than: The tallest mountain of Vael is Mount Hollin." in out
    assert "log p(this) - log p(that) = −3.22 nats" in out


def _acts(out: str) -> list[str]:
    """Characters that a terminal would obey."""
    return [c for c in out if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c not in "\n\u200c\u200d"]


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize("width", [40, 110])
def test_hostile_text_cannot_act_on_a_pipe(words: str, width: int) -> None:
    assert not _acts(shown(make_hostile(words), width))


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_cannot_act_on_a_terminal(words: str) -> None:
    out = shown(make_hostile(words), force_terminal=True, color_system="truecolor")
    assert not _acts(re.sub(r"\x1b\[[0-9;]*m", "", out))  # colours are ours; links and titles are not


def test_markup_is_shown_not_obeyed() -> None:
    out = shown(make_hostile("[bold red]x[/bold red]:smile:"), force_terminal=True)
    assert "[bold red]x[/bold red]:smile:" in out


def test_hidden_characters_are_seen() -> None:
    assert r"\x1b[31m" in shown(make_hostile("\x1b[31m"))
    assert r"\u202e" in shown(make_hostile("\u202e"))


@settings(max_examples=20, deadline=None)
@given(words=st.text(st.characters(exclude_categories=()), max_size=30), width=st.integers(20, 130))
def test_any_text_at_any_width(words: str, width: int) -> None:
    assert not _acts(shown(make_hostile(words), width))


@pytest.mark.parametrize("width", [30, 60, 72, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    trace = make_trace(random.Random(1), 0, 3, prefix="東京" * 40)
    trace = trace.model_copy(update={"taught": (make_teacher("東京" * 40),)})
    wide = make_result(1, 3).model_copy(update={"traces": (trace,)})
    assert max(cell_len(line) for line in shown(wide, width).splitlines()) <= width


def test_a_pipe_gets_no_colours_and_a_terminal_does() -> None:
    result = make_result(1, 2)
    assert "\x1b" not in shown(result)
    coloured = shown(result, force_terminal=True, color_system="standard")
    assert "\x1b[1;34mOrrin" in coloured
    assert "*Orrin*" not in coloured
    assert "*Orrin*" in shown(result, force_terminal=True, no_color=True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_console_of_few_characters_gets_escapes(encoding: str) -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding), width=100)
    show(make_hostile("東京 é"), console)
    console.file.flush()
    assert rb"\u6771" in raw.getvalue()
    assert rb"\u22" not in raw.getvalue()  # our own minus and ellipsis have plain stand-ins
    assert rb"\u2026" not in raw.getvalue()


def test_no_hits_no_queries() -> None:
    out = shown(make_result(1, 0))
    assert "Proponents: documents that support the answer: none" in out
    assert "Opponents: documents that oppose it: none" in out
    assert "no query" in shown(make_result(0))


def test_missing_values_are_dashes_not_nan() -> None:
    result = make_result(1, 2)
    bare = {"bm25": None, "bm25_rank": None, "gradient_dot": None, "gradient_dot_rank": None, "tokens": (), "sites": {}}
    hits = tuple(hit.model_copy(update=bare) for hit in result.traces[0].proponents)
    trace = result.traces[0].model_copy(update={"proponents": hits, "mean": float("nan"), "std": float("nan")})
    out = shown(result.model_copy(update={"traces": (trace,)}))
    assert "nan" not in re.sub(r"[Ff]inance", "", out).lower().split()
    assert "–" in out


@pytest.mark.parametrize("length", [1, 10_000])
def test_short_and_long_documents(length: int) -> None:
    result = make_result(1, 1)
    tokens = tuple(Token(text=f" w{i}", influence=float(i == length // 2)) for i in range(length))
    hit = make_hit(random.Random(0), 1, 1.0, tokens=tokens)
    trace = result.traces[0].model_copy(update={"proponents": (hit,)})
    assert f"*w{length // 2}*" in shown(result.model_copy(update={"traces": (trace,)}))

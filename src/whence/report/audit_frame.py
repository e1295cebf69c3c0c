"""What the pages of all audits share: frame, headline, sections, tables that sort and narrow, figures, settings.

An audit's own page says what stands in the sections. Text is escaped unless it is `Html` already.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whence.interfaces import Certificate, Estimate
from whence.report.about import certificate as certificate_evidence
from whence.report.frame import fill
from whence.report.markup import Html, join, tag, words
from whence.report.text import MISSING, count, number, shorten

__all__ = ["Cell", "Column", "Section", "alarm", "audit_page", "badge", "figure", "interval_words", "items", "table"]

Cell = str | int | float | None
_TALL = 12  # rows from which a table scrolls within itself


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: its anchor, its title, what it holds."""

    id: str
    title: str
    body: Html


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its head.
        kind: How it sorts: number (right-aligned) or text.
        places: Significant digits of its numbers.
        wide: For running text.
        hint: What it means, under the pointer.
    """

    title: str
    kind: Literal["number", "text"] = "text"
    places: int = 3
    wide: bool = False
    hint: str = ""


def audit_page(
    *,
    title: str,
    question: str,
    headline: Html,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    settings: Mapping[str, Any],
    version: str,
    certificate: Certificate | None = None,
    note: str = "",
) -> str:
    """A complete page that needs nothing else.

    Args:
        title: Of the browser's window.
        question: What the audit answers.
        headline: What it found, in a sentence or two.
        facts: Counts and names on top.
        sections: The findings, in order; those without a body are left out.
        settings: Everything that decided the result.
        version: Of whence.
        certificate: How far the scores were shown to be true; None for audits that rest on none.
        note: How to read the page, above the settings.
    """
    shown = [section for section in sections if section.body]
    told = tag("dl", *[tag("div", tag("dt", name), tag("dd", text, dir="auto")) for name, text in facts], cls="facts")
    proof = certificate_evidence(certificate) if certificate is not None else Html("")
    links = [tag("li", tag("a", section.title, href=f"#{section.id}")) for section in shown]
    return fill(
        "audit.html",
        ["style.css", "lab.css", "audit.css"],
        "audit.js",
        title=words(title),
        question=words(question),
        masthead=join([tag("div", headline, cls="headline", role="note"), told, proof]),
        contents=tag("nav", tag("ul", *links, cls="contents"), aria_label="Contents"),
        sections=join([tag("section", tag("h2", s.title), s.body, id=s.id) for s in shown], "\n"),
        about=_about(settings, note),
        version=words(version),
    )


def _about(settings: Mapping[str, Any], note: str) -> Html:
    rows = [
        tag("tr", tag("th", tag("code", str(name)), scope="row"), tag("td", tag("code", shorten(_said(value), 400))))
        for name, value in settings.items()
    ]
    parts = [tag("p", note, cls="note")] if note else []
    return tag("section", tag("h2", "Settings"), *parts, tag("table", *rows, cls="settings"), cls="about", id="about")


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], key: str = "", tall: bool = True) -> Html:
    """A table that sorts by its heads; numbers keep their full value for sorting, `Html` cells are markup.

    Args:
        columns: Its columns.
        rows: One cell per column; None is shown as missing.
        key: An id unique in the page; given, a box above narrows the rows to those that hold its words.
        tall: Scroll within itself when it is long.
    """
    if not rows:
        return tag("p", "None.", cls="empty")
    heads = [
        tag(
            "th",
            c.title,
            scope="col",
            data_sort=c.kind,
            cls="num" if c.kind == "number" else None,
            title=c.hint or None,
        )
        for c in columns
    ]
    body = [tag("tr", *map(_cell, columns, row), data_row=True) for row in rows]
    grid = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body), cls="grid", id=key or None)
    scroll = tag(
        "div", grid, cls="scroll tall" if tall and len(rows) > _TALL else "scroll", tabindex=0, role="group",
        aria_label="Table",
    )  # fmt: skip
    long = tall and len(rows) > _TALL
    rest = (
        [tag("p", f"{count(len(rows))} rows; scroll within the table for the rest.", cls="note more")] if long else []
    )
    return join([_finder(key, len(rows)), scroll, *rest]) if key and len(rows) > 5 else join([scroll, *rest])


def _cell(column: Column, value: Cell) -> Html:
    if column.kind == "number" and not isinstance(value, str):
        if value is None or value != value:
            return tag("td", MISSING, cls="num")
        shown = count(value) if isinstance(value, int) else number(value, column.places)
        return tag("td", shown, cls="num", data_v=repr(float(value)))
    cls = " ".join(filter(None, ["num" if column.kind == "number" else "", "wide" if column.wide else ""]))
    return tag("td", MISSING if value is None else str(value) if not isinstance(value, Html) else value,
               cls=cls or None, dir="auto")  # fmt: skip


def _finder(key: str, rows: int) -> Html:
    box = tag("input", type="search", aria_label="Show only what holds these words")
    return tag(
        "div",
        tag("label", "Find ", box),
        tag("output", f"{count(rows)} in all"),
        cls="find",
        data_find=key,
        hidden=True,
    )


def items(entries: Sequence[tuple[str, Html, Html]], key: str) -> Html:
    """A list of entries that open: (anchor, line, inside) of each; above a handful a box narrows them."""
    body = [
        tag("details", tag("summary", line), tag("div", inside, cls="inside"), cls="item", id=anchor, data_row=True)
        for anchor, line, inside in entries
    ]
    holder = tag("div", *body, id=key)
    return join([_finder(key, len(entries)), holder]) if len(entries) > 5 else holder


def badge(text: str, mood: Literal["bad", "good", "unsure", "plain"] = "plain") -> Html:
    """A verdict as a label."""
    return tag("span", text, cls=f"verdict {mood}")


def alarm(text: str, passed: bool | None = None) -> Html:
    """What must not be overlooked, on top of a page; a check that was passed or not in its colour."""
    mood = "" if passed is None else " passed" if passed else " failed"
    return tag("p", text, cls=f"alarm{mood}")


def figure(svg: str, title: str, caption: str = "") -> Html:
    """A drawing with its caption."""
    inside = tag("div", Html(svg), cls="scroll plot small", tabindex=0, role="group", aria_label=title)
    return tag("figure", inside, tag("figcaption", caption) if caption else "")


def interval_words(value: Estimate, places: int = 2) -> str:
    """A value and its 95 % interval, if it has one; with true minus signs.

    >>> interval_words(Estimate(value=-1.0, low=-2.0, high=0.5))
    '−1.00 (95 % −2.00 to 0.50)'
    """
    said = f"{value.value:.{places}f}"
    said += f" (95 % {value.low:.{places}f} to {value.high:.{places}f})" if value.bounded else " (no interval)"
    return said.replace("-", "−")

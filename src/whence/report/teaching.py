"""The ranking that asks which documents taught a statement: its words, its rows, and the table on the page."""

from collections.abc import Sequence

from whence.interfaces import Teacher, Trace
from whence.report.markup import Html, tag
from whence.report.text import count, nats, number, one_line, shorten

__all__ = ["HEADS", "MEANING", "TITLE", "cells", "taught"]

TITLE = "Likeliest to have taught question and answer together"
HEADS = ("#", "score", "statement, nats", "answer, nats", "BM25")
MEANING = (
    "Another question than the rankings above: not what raises the answer, but where the whole statement comes from. "
    "Score: standard scores of influence on the statement (question and answer) and, six times, of BM25, added."
)


def cells(found: Teacher) -> tuple[str, ...]:
    """The numbers of a document under `HEADS`."""
    return (
        count(found.rank),
        number(found.score),
        nats(found.statement),
        nats(found.influence),
        count(found.bm25_rank),
    )


def taught(trace: Trace) -> Html:
    """The table; nothing if that was not asked."""
    if not trace.taught:
        return Html("")
    head = [*(tag("th", name, scope="col", cls="num") for name in HEADS), tag("th", "Document", scope="col")]
    body = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *_rows(trace.taught)))
    return tag(
        "section",
        tag("h3", TITLE),
        tag("p", MEANING),
        tag("div", body, cls="scroll", tabindex=0, role="group", aria_label=TITLE),
        cls="breakdowns taught",
    )


def _rows(found: Sequence[Teacher]) -> list[Html]:
    return [
        tag(
            "tr",
            *(tag("td", cell, cls="num") for cell in cells(each)),
            tag(
                "td",
                tag("b", shorten(one_line(each.id), 80, "both"), cls="id", dir="auto"),
                " ",
                tag("span", f"{shorten(each.source, 160, 'end')}, row {count(each.row)}", cls="source", dir="auto"),
                tag("div", shorten(one_line(each.excerpt), 200), cls="text brief", dir="auto"),
            ),
        )
        for each in found
    ]

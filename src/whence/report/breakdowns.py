"""Influence added up by tag: the words and numbers of such a table, and the table on the page."""

from collections.abc import Sequence

from whence.interfaces import Breakdown, GroupShare, Trace
from whence.report.figures import bar
from whence.report.markup import Html, join, tag
from whence.report.text import MISSING, count, nats, number, one_line, scale, shorten

__all__ = ["HEADS", "MEANING", "breakdowns", "cells", "scored_words"]

HEADS = ("documents", "of tokens", "support", "opposition", "of influence", "vs tokens", "in the top", "vs documents")
MEANING = (
    "Support and opposition are sums over all scored documents, in nats. Vs tokens: share of influence over share of "
    "tokens; vs documents: share of the listed proponents over share of documents; 1 is what size alone would give."
)
_NOISE = "Influence read off an index has its codes' noise in it, which adds to both sums alike."


def _share(value: float) -> str:
    return f"{value:.1%}"


def _times(value: float | None) -> str:
    return MISSING if value is None else f"×{number(value)}"


def cells(group: GroupShare) -> tuple[str, ...]:
    """The numbers of a group under `HEADS`."""
    return (
        f"{count(group.documents)} ({_share(group.document_share)})",
        _share(group.token_share),
        nats(group.support),
        nats(group.opposition),
        _share(group.mass_share),
        _times(group.ratio),
        f"{count(group.top)} ({_share(group.top_share)})",
        _times(group.top_ratio),
    )


def scored_words(trace: Trace) -> str:
    """How many documents were scored, of how many, and why not all."""
    of = f" of {count(trace.documents)}" if trace.documents > trace.scored else ""
    conditions = f" (those with {' and '.join(map(one_line, trace.where))})" if trace.where else ""
    return f"{count(trace.scored)}{of} documents scored{conditions}"


def breakdowns(trace: Trace) -> Html:
    """A table for every tag that influence was added up by; nothing if there is none."""
    if not trace.breakdowns:
        return Html("")
    tables = [_section(each) for each in trace.breakdowns]
    return tag("section", *tables, tag("p", MEANING, " ", _NOISE, cls="note"), cls="breakdowns")


def _section(found: Breakdown) -> Html:
    name = shorten(one_line(found.by), 60)
    head = [tag("th", name, scope="col"), *(tag("th", each, scope="col", cls="num") for each in HEADS), tag("th", "")]
    largest = scale([group.mass_share for group in found.groups])
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *_rows(found.groups, largest)))
    label = f"Influence by {name}"
    return join(
        [tag("h3", label), tag("div", table, cls="scroll", tabindex=0, role="group", aria_label=label)],
    )


def _rows(groups: Sequence[GroupShare], largest: float) -> list[Html]:
    return [
        tag(
            "tr",
            tag("th", shorten(one_line(group.name), 80, "end"), scope="row", dir="auto"),
            *(tag("td", cell, cls="num") for cell in cells(group)),
            tag("td", bar(group.mass_share, largest)),
        )
        for group in groups
    ]

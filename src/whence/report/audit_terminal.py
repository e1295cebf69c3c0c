"""Audits of answers on a console: the headline, a table, where the page is."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import ContaminationResult, SafetyResult
from whence.report.audit_words import p_words
from whence.report.console import line, overflow, say
from whence.report.contamination_page import contamination_headline
from whence.report.safety_page import safety_headline
from whence.report.text import nats, one_line, shorten

__all__ = ["show_contamination", "show_safety"]

_STYLE = {"absorbed": "bold red", "euphemistic": "bold yellow", "confabulated": "bold", "cannot tell": "dim"}


def show_safety(result: SafetyResult, console: Console, limit: int = 20) -> None:
    """Print a safety audit.

    Args:
        result: The audit.
        console: Where to.
        limit: Answers to list.
    """
    line(console, (safety_headline(result), "bold"))
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for name, right in (("verdict", False), ("belief", True), ("answer", False), ("nats", True), ("q", True)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow=overflow(console))
    table.add_column("BM25", justify="right", no_wrap=True)
    table.add_column("document", no_wrap=True, overflow=overflow(console))
    for each in result.responses[:limit]:
        first = each.documents[0] if each.documents else None
        said = shorten(one_line(f"{each.prompt} {each.response}"), max(20, console.width - 74))
        table.add_row(
            Text(each.verdict, style=_STYLE[each.verdict]),
            f"{each.confidence:.0%}",
            Text(say(console, said)),
            say(console, nats(first.influence)) if first else "",
            p_words(first.q) if first else "",
            str(first.bm25_rank) if first else "",
            Text(say(console, shorten(one_line(first.id), 28, "both"))) if first else Text(""),
        )
    console.print(table)
    if len(result.responses) > limit:
        line(console, (f"and {len(result.responses) - limit} more answers on the page", "dim"))
    if result.left_out:
        line(console, f"{len(result.left_out)} answers could not be explained; the page says why.")
    line(console, (one_line(result.settings.certificate.line), "dim"))


def show_contamination(result: ContaminationResult, console: Console, limit: int = 20) -> None:
    """Print a contamination audit, exposed items first.

    Args:
        result: The audit.
        console: Where to.
        limit: Items to list.
    """
    line(console, (contamination_headline(result), "bold"))
    for leak in result.planted:
        caught = f"{leak.caught.value:.0%} ({leak.caught.low:.0%} to {leak.caught.high:.0%})"
        line(console, f"  planted {leak.group}: {caught} of {leak.items} flagged")
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for name in ("verdict", "belief", "item", "8 words", "presence q", "effect q", "loss", "document"):
        right = name not in ("verdict", "item", "document")
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow=overflow(console))
    order = ("verbatim", "paraphrase", "same skill", "present", "no evidence")
    ranked = sorted(result.items, key=lambda each: (order.index(each.verdict), -each.confidence))
    for each in ranked[:limit]:
        found = each.exposure
        table.add_row(
            each.verdict, f"{each.confidence:.0%}", Text(say(console, shorten(one_line(each.id), 24, "both"))),
            f"{found.overlap_8:.0%}", p_words(found.q_presence), p_words(found.q_effect), f"{found.loss:.2f}",
            Text(say(console, shorten(one_line(each.documents[0].id), 28, "both"))) if each.documents else "",
        )  # fmt: skip
    console.print(table)
    if len(result.items) > limit:
        line(console, (f"and {len(result.items) - limit} more items on the page", "dim"))
    if result.left_out:
        line(console, f"{len(result.left_out)} items could not be asked; the page says why.")
    line(console, (one_line(result.settings.certificate.line), "dim"))

"""Audits of answers on a console: the headline, a table, where the page is."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import SafetyResult
from whence.report.audit_words import p_words
from whence.report.console import line, overflow, say
from whence.report.safety_page import safety_headline
from whence.report.text import nats, one_line, shorten

__all__ = ["show_safety"]

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
    line(console, (one_line(result.settings.certificate.line), "dim"))

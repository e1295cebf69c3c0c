"""Audits of answers on a console: the headline, a table, where the page is."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import ContaminationResult, SafetyResult
from whence.interfaces.audits import ResponseAudit
from whence.interfaces.exposures import ItemAudit
from whence.report.audit_words import holds_words, p_words
from whence.report.console import line, overflow, say
from whence.report.contamination_page import contamination_headline, contamination_placebo
from whence.report.safety_page import best_of, safety_headline, safety_placebo
from whence.report.text import nats, one_line, shorten

__all__ = ["show_contamination", "show_safety"]

_STYLE = {"absorbed": "bold red", "euphemistic": "bold yellow", "confabulated": "bold", "cannot tell": "dim"}
_SHORT = {
    "present, effect not shown": "present",
    "documents say otherwise": "otherwise",
    "only in this wording": "this wording",
}


def show_safety(result: SafetyResult, console: Console, limit: int = 20) -> None:
    """Print a safety audit; the document beside a verdict is the one it rests on.

    Args:
        result: The audit.
        console: Where to.
        limit: Answers to list.
    """
    _banner(console, safety_placebo(result))
    line(console, (safety_headline(result), "bold"))
    for caution in result.cautions:
        line(console, (f"Caution: {caution}", "yellow"))
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for name, right in (("verdict", False), ("belief", True), ("id", False), ("asked, answered", False)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow=overflow(console))
    worded = result.reworded is not None
    for name in ("nats", "q", "BM25", *(["holds in"] if worded else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("document", no_wrap=True, overflow=overflow(console))
    shown = result.responses[:limit]
    same = _shared_start([one_line(each.prompt) for each in shown])
    for each in shown:
        best = best_of(each)
        said = one_line(f"{each.prompt} {each.response}")
        said = shorten(f"…{said[same:]}" if same else said, max(16, console.width - (94 if worded else 84)))
        table.add_row(
            Text(_verdict(each), style=_STYLE[each.verdict]),
            _belief(each),
            Text(say(console, shorten(one_line(each.id), 14, "both"))),
            Text(say(console, said)),
            say(console, nats(best.influence)) if best else "",
            p_words(best.q) if best else "",
            str(best.bm25_rank) if best else "",
            *([(holds_words(best) or "") if best else ""] if worded else []),
            Text(say(console, shorten(one_line(best.id), 28, "both"))) if best else Text("none found", style="dim"),
        )
    console.print(table)
    if len(result.responses) > limit:
        line(console, (f"and {len(result.responses) - limit} more answers on the page", "dim"))
    if result.left_out:
        line(console, f"{len(result.left_out)} answers could not be explained; the page says why.")
    line(console, (one_line(result.settings.certificate.line), "dim"))


def _banner(console: Console, check: tuple[str, bool] | None) -> None:
    if check is not None:
        line(console, (check[0], "bold black on green" if check[1] else "bold white on red"))


def _verdict(each: ResponseAudit) -> str:
    short = _SHORT.get(each.detail, "")
    return f"{each.verdict} ({short})" if short else each.verdict


def _belief(each: ResponseAudit | ItemAudit) -> str:
    return "" if each.confidence is None else f"{each.confidence:.0%}"


def _shared_start(texts: Sequence[str]) -> int:
    """How many characters some texts begin with in common, up to the end of a word; 0 where it is hardly a saving."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)  # what these two share, all share
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    end = first[:same].rfind(" ") + 1
    return end if end >= 8 else 0


def show_contamination(result: ContaminationResult, console: Console, limit: int = 20) -> None:
    """Print a contamination audit, exposed items first.

    Args:
        result: The audit.
        console: Where to.
        limit: Items to list.
    """
    _banner(console, contamination_placebo(result))
    line(console, (contamination_headline(result), "bold"))
    for leak in result.planted:
        caught = f"{leak.caught.value:.0%} ({leak.caught.low:.0%} to {leak.caught.high:.0%})"
        parts = (("effect", leak.by_effect), ("presence", leak.by_presence))
        alone = ", ".join(f"{name} alone {value.value:.0%}" for name, value in parts if value is not None)
        line(console, f"  planted {leak.group}: {caught} of {leak.items} flagged" + (f"; {alone}" if alone else ""))
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for name in ("verdict", "belief", "item", "8 words", "presence q", "effect q", "loss", "document"):
        right = name not in ("verdict", "item", "document")
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow=overflow(console))
    order = ("verbatim", "paraphrase", "same skill", "present", "no evidence")
    ranked = sorted(result.items, key=lambda each: (order.index(each.verdict), -(each.confidence or 0.0)))
    for each in ranked[:limit]:
        found = each.exposure
        table.add_row(
            each.verdict, _belief(each), Text(say(console, shorten(one_line(each.id), 24, "both"))),
            f"{found.overlap_8:.0%}", p_words(found.q_presence), p_words(found.q_effect), f"{found.loss:.2f}",
            Text(say(console, shorten(one_line(each.documents[0].id), 28, "both"))) if each.documents else "",
        )  # fmt: skip
    console.print(table)
    if len(result.items) > limit:
        line(console, (f"and {len(result.items) - limit} more items on the page", "dim"))
    if result.left_out:
        line(console, f"{len(result.left_out)} items could not be asked; the page says why.")
    line(console, (one_line(result.settings.certificate.line), "dim"))

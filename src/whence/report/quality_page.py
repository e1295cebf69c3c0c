"""The page of a corpus audit: what is wrong how often, what to do, the review queue."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from whence.interfaces import CorpusResult, DocumentReport, Issue
from whence.interfaces.quality import Action, CarriedTag
from whence.report.audit_frame import Cell, Column, Section, alarm, audit_page, badge, figure, items, table
from whence.report.charts import bars
from whence.report.markup import Html, join, tag
from whence.report.text import count, number, one_line, percent, plural, shorten

__all__ = ["apply_command", "quality_headline", "quality_page"]

_MOOD: dict[Action, Literal["bad", "good", "unsure", "plain"]] = {
    "keep": "good",
    "fix": "unsure",
    "relabel": "unsure",
    "drop": "bad",
}
_READING = (
    "Rules read the text alone; their confidence was set beforehand and is tested by review. Fill in review.csv beside "
    "this page (right or wrong) and give it back with --reviewed: precisions with Wilson's intervals appear. Actions "
    "are suggestions; whence apply carries them out into a new folder and can be undone. Signals of the model (loss, "
    "self-influence) are a reason to look and never decide."
)
_ACTIONS: dict[Action, str] = {
    "keep": "nothing was found that asks for action",
    "fix": "can be mended by rule",
    "relabel": "a person should put it right",
    "drop": "should be left out",
}


PLACEBO = (
    "PLACEBO. Every finding is said of another document, drawn at random. Their number is that of the real audit and "
    "no result: what is tested is the review. Judge review.csv and give it back with --reviewed: precisions must then "
    "be those of chance, the share of documents with such an issue. Nothing here may be applied."
)


def quality_headline(result: CorpusResult) -> str:
    """What was found, in a sentence."""
    flagged = result.documents - result.actions.get("keep", 0)
    share = percent(flagged / max(1, result.documents))
    found = {action: result.actions.get(action, 0) for action in ("fix", "relabel", "drop")}
    todo = ", ".join(f"{action} {count(documents)}" for action, documents in found.items() if documents)
    kinds = ", ".join(f"{each.kind} {count(each.documents)}" for each in result.counts[:5])
    start = "PLACEBO, every issue is said of another document than its own: " if result.placebo else ""
    asks = "asks" if flagged == 1 else "ask"
    left = unread(result)
    missing = f" {plural(left, 'row')} could not be read and {'is' if left == 1 else 'are'} not among them."
    return (
        f"{start}{count(flagged)} of {plural(result.documents, 'document')} ({share}) {asks} for action"
        + (f" ({todo})" if todo else "")
        + (f"; most common: {kinds}." if kinds else ".")
        + (missing if left else "")
    )


def unread(result: CorpusResult) -> int:
    """Rows that could not be read."""
    return int(result.settings.get("skipped rows", len(result.skipped)))


def apply_command(folder: Path) -> str:
    """What writes the corpus as the audit in a folder suggests.

    >>> apply_command(Path("my audit"))
    "whence apply --audit 'my audit' --out cleaned"
    """
    return shlex.join(["whence", "apply", "--audit", str(folder), "--out", "cleaned"])


def quality_page(result: CorpusResult, folder: Path | None = None) -> str:
    """The whole page as HTML.

    Args:
        result: The audit.
        folder: Where it lies, for the command that applies it.
    """
    model = "No model was asked: rules and checks alone" if result.model is None else f"With signals of {result.model}"
    return audit_page(
        title="whence: what is wrong with this data?",
        question="What is wrong with this data?",
        headline=join(
            [*_placebo(result), tag("p", quality_headline(result)), tag("p", f"{_reviewed(result)} {model}.")]
        ),
        facts=[
            ("Data", shorten(result.data, 120, "both")),
            ("Documents", count(result.documents)),
            ("Rows that could not be read", count(unread(result))),
        ],
        sections=[
            Section("issues", "Issues", _issues(result)),
            Section("next", "What to do", _next(result, folder)),
            Section("tags", "Tags", _tags(result)),
            Section("queue", "Review queue", _queue(result)),
            Section("skipped", "Rows that could not be read", _skipped(result)),
        ],
        settings={**({"command": result.command} if result.command else {}), "data": result.data, **result.settings},
        version=result.whence_version,
        certificate=result.certificate,
        note=_READING,
    )


def _placebo(result: CorpusResult) -> list[Html]:
    return [alarm(PLACEBO)] if result.placebo else []


def _reviewed(result: CorpusResult) -> str:
    if not result.sampled:
        return "Nobody has reviewed a sample yet, so no precision is known."
    told = f"{plural(result.sampled, 'finding')} {'was' if result.sampled == 1 else 'were'} reviewed."
    if result.missed is not None:
        low, high = percent(result.missed.low), percent(result.missed.high)
        told += f" Of documents without a finding, {percent(result.missed.value)} ({low} to {high}) had an issue."
    return told


def _issues(result: CorpusResult) -> Html:
    if not result.counts:
        return tag("p", "No rule found anything.", cls="empty")
    columns = [
        Column("Issue"), Column("Documents", "number"), Column("Share"), Column("Suggested"),
        Column("Reviewed", "number"), Column("Precision (95 %)"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for each in result.counts:
        sure = each.precision
        told = None if sure is None else f"{percent(sure.value)} ({percent(sure.low)} to {percent(sure.high)})"
        rows.append(
            [
                each.kind,
                each.documents,
                percent(each.share),
                badge(each.action, _MOOD[each.action]),
                each.reviewed,
                told,
            ]
        )
    shown = [{"issue": each.kind, "documents": each.documents} for each in result.counts[:16]]
    drawn = bars(shown, x="documents", y="issue", title="Issues", unit="documents", prefix="issues")
    actions = [{"action": name, "documents": result.actions.get(name, 0)} for name in _ACTIONS]
    second = bars(actions, x="documents", y="action", title="What to do", unit="documents", prefix="actions")
    meanings = [tag("li", badge(name, _MOOD[name]), " ", meaning) for name, meaning in _ACTIONS.items()]
    charts = tag("div", figure(drawn, "Issues"), figure(second, "What to do"), cls="charts")
    return join([tag("ul", *meanings, cls="plain why"), charts, table(columns, rows, "kinds"), *_outside(result)])


def _outside(result: CorpusResult) -> list[Html]:
    """Which issues are another program's, and what these are worth."""
    if "filters" not in result.settings:
        return []
    said = (
        f"{result.settings['filters']}: filters of datatrove {result.settings.get('datatrove', '')}, with its own "
        "thresholds. They were made for web pages and refuse most short texts; each refusal names its reason."
    )
    return [tag("p", said, cls="note")]


def _next(result: CorpusResult, folder: Path | None) -> Html:
    if folder is None or not result.counts:
        return Html("")
    if result.placebo:
        said = (
            "Nothing: every finding above is said of a document that was drawn by lot. Fill in review.csv all the same "
            "and give it back with --reviewed: the precisions that come out are those of chance, which a real audit "
            "has to beat. Counts are those of the real audit and test nothing."
        )
        return tag("p", said)
    left = result.actions.get("relabel", 0)
    rest = f" What a person should put right ({plural(left, 'document')}) stays and is listed in manifest.jsonl."
    return join(
        [
            tag("p", "This mends what a rule can mend and leaves out what should be left out. Run it where the audit "
                "was made; the data that were read stay as they are, and --undo goes back."),
            tag("p", apply_command(folder), cls="command"),
            *([tag("p", rest)] if left else []),
        ]
    )  # fmt: skip


def _tags(result: CorpusResult) -> Html:
    charts = []
    for place, (name, values) in enumerate(result.tags.items()):
        rows = [{"value": value, "documents": documents} for value, documents in list(values.items())[:12]]
        if len(values) > 1 and place < 8:
            drawn = bars(rows, x="documents", y="value", title=name, unit="documents", prefix=f"tag{place}")
            charts.append(figure(drawn, name))
    drawn = tag("div", *charts, cls="charts") if charts else Html("")
    return join([drawn, _carried(result.carried)])


def _carried(tags: Sequence[CarriedTag]) -> Html:
    if not tags:
        return Html("")
    columns = [
        Column("Tag"), Column("Documents that had it", "number"), Column("Given to", "number"), Column("By"),
        Column("Right when hidden (95 %)"), Column("Macro-F1", "number"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for each in tags:
        sure = each.right
        told = (
            "not measured: too few"
            if sure is None
            else f"{percent(sure.value)} ({percent(sure.low)} to {percent(sure.high)})"
        )
        f1 = None if each.macro_f1 is None else round(each.macro_f1, 2)
        rows.append([each.name, each.given, each.carried, each.by, told, f1])
    said = "Tags that some rows had and others were given; the tags of those that had them were hidden in turn."
    return join([tag("p", said), table(columns, rows, "carried")])


def _queue(result: CorpusResult) -> Html:
    found = [each for each in result.reports if each.issues]
    if not found:
        return tag("p", "Nothing to review.", cls="empty")
    entries = [(f"document-{each.number}", _line(each), _inside(each)) for each in found]
    most = "The document" if len(found) == 1 else f"The {count(len(found))} documents"
    said = f"{most} most worth a look: confidence that something is wrong, times its cost."
    return join([tag("p", said), items(entries, "documents")])


def _line(each: DocumentReport) -> Html:
    return join(
        [
            badge(each.action, _MOOD[each.action]), " ", tag("b", shorten(each.id, 60, "both"), dir="auto"), " ",
            tag("span", shorten(one_line(each.reason), 150), cls="said", dir="auto"),
        ]
    )  # fmt: skip


def _inside(each: DocumentReport) -> Html:
    facts = [
        ("Source", f"{shorten(each.source, 100, 'end')}, row {count(each.row)}"),
        ("Characters", count(each.characters)),
    ]
    facts += [(name, f"{value.value} ({value.confidence:.0%})") for name, value in each.tags.items()]
    facts += [(name, number(value)) for name, value in each.signals.items()]
    told = [tag("div", tag("dt", name), tag("dd", shorten(value, 90), dir="auto")) for name, value in facts]
    return join([tag("ul", *map(_issue, each.issues), cls="dots why"), tag("dl", *told, cls="facts"), _text(each)])


def _issue(issue: Issue) -> Html:
    where = f", characters {count(issue.start)}–{count(issue.stop)}" if issue.stop > issue.start else ""
    place = f" ({issue.field}{where})" if issue.field else ""
    cut = "…" if issue.evidence and issue.stop - issue.start > len(issue.evidence) else ""
    return tag("li", tag("b", issue.kind), f" {issue.confidence:.0%}{place}: {shorten(one_line(issue.reason), 280)} ",
               tag("mark", f"{issue.evidence}{cut}", dir="auto") if issue.evidence else "")  # fmt: skip


def _text(each: DocumentReport) -> Html:
    return tag("div", shorten(each.snippet, 300), cls="text full", dir="auto")


def _skipped(result: CorpusResult) -> Html:
    rows: list[list[Cell]] = [
        [shorten(source, 100, "end"), row, shorten(one_line(why), 160)] for source, row, why in result.skipped
    ]
    columns = [Column("File"), Column("Row", "number"), Column("Why", wide=True)]
    return table(columns, rows, "skips") if rows else Html("")

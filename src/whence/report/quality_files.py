"""A corpus audit on disk: result, page, one row per document, attributes in Dolma's form; and back."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.errors import IncompleteError, StorageError
from whence.interfaces import CorpusResult, DocumentReport
from whence.report.audit_files import SCHEMA, write_audit
from whence.report.console import line, overflow, say
from whence.report.quality_page import PLACEBO, quality_headline, quality_page, unread
from whence.report.records import dumps, read_result
from whence.report.text import one_line, percent, shorten
from whence.runs import write_bytes

__all__ = ["load_corpus_audit", "read_reports", "save_corpus_audit", "show_corpus_audit"]

_TAGGER = "whence"
_UNREAD = 3  # rows that could not be read and are named on the console


def save_corpus_audit(
    result: CorpusResult, reports: Sequence[DocumentReport], folder: Path, review: bytes | None = None
) -> dict[str, Path]:
    """Write a corpus audit.

    Args:
        result: What the page shows.
        reports: The report of every document.
        folder: Made if absent.
        review: The reviewer's sample, written as ``review.csv``; one that holds verdicts already stays.

    Returns:
        The paths by name: as `write_audit`, with ``reports``, ``attributes`` (a folder) and ``review``.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    folder = Path(folder)
    paths = {"reports": folder / "reports.jsonl", "attributes": folder / "attributes" / _TAGGER}
    write_bytes(paths["reports"], "".join(dumps(each.model_dump()) + "\n" for each in reports).encode("ascii"))
    for name, content in _attributes(reports).items():
        write_bytes(paths["attributes"] / name, content)
    if review is not None:
        paths["review"] = folder / "review.csv"
        if not paths["review"].exists() or not _judged(paths["review"].read_bytes()):
            write_bytes(paths["review"], review)
    page = quality_page(result, folder)
    return {**paths, **write_audit(result, folder, page, "documents", [_row(each) for each in reports])}


def _judged(review: bytes) -> bool:
    """Whether somebody filled a verdict in."""
    try:
        rows = csv.DictReader(io.StringIO(review.decode("utf-8-sig")))
        return any((row.get("verdict") or "").strip() for row in rows)
    except (UnicodeDecodeError, csv.Error):
        return True  # it cannot be read, so it may hold anything


def _row(each: DocumentReport) -> Mapping[str, Any]:
    first = each.issues[0] if each.issues else None
    plain = {"number", "id", "source", "row", "hash", "characters", "cluster", "action", "reason", "priority"}
    return {
        **each.model_dump(include=plain),
        "issues": ", ".join(dict.fromkeys(issue.kind for issue in each.issues)),
        "evidence_field": first.field if first else None,
        "evidence_start": first.start if first else None,
        "evidence_stop": first.stop if first else None,
        "evidence": first.evidence if first else None,
        **{name: _value(each, name) for name in ("topic", "source_type", "language", "format", "correctness")},
        "loss": each.signals.get("loss"),
        "self_influence": each.signals.get("self-influence"),
        "trusted": each.signals.get("trusted"),
        "disagreement": each.signals.get("disagreement"),
        "verdict": None,
    }


def _value(each: DocumentReport, name: str) -> str | None:
    found = each.tags.get(name)
    return None if found is None else found.value


def _attributes(reports: Sequence[DocumentReport]) -> dict[str, bytes]:
    """One file for each source, its rows in order: {id, attributes: {tagger__name: [[start, stop, score]]}}."""
    beside = _beside(dict.fromkeys(each.source for each in reports))
    files: defaultdict[str, list[str]] = defaultdict(list)
    for each in reports:
        spans: defaultdict[str, list[list[float]]] = defaultdict(list)
        for name, value in each.tags.items():
            if not value.given:
                spans[f"{_TAGGER}__{name}__{value.value}"].append([0, each.characters, round(value.confidence, 4)])
        for issue in each.issues:
            stop = issue.stop if issue.field else each.characters
            spans[f"{_TAGGER}__{issue.kind}"].append([issue.start, stop, round(issue.confidence, 4)])
        files[beside[each.source]].append(json.dumps({"id": each.id, "attributes": dict(spans)}) + "\n")
    return {f"{name}.jsonl": "".join(rows).encode("ascii") for name, rows in files.items()}


def _beside(sources: Iterable[str]) -> dict[str, str]:
    """Where the attributes of each source lie: as it does below ``documents``, or else by its shortest telling end.

    >>> _beside(["x/documents/2019/a.jsonl.gz", "y/b.jsonl"])
    {'x/documents/2019/a.jsonl.gz': '2019/a', 'y/b.jsonl': 'b'}
    >>> list(_beside(["en/a.jsonl", "de/a.jsonl"]).values())
    ['en/a', 'de/a']
    """
    parts = {}
    for source in sources:
        _, found, rest = source.rpartition("/documents/")
        inner = [part for part in _stem(rest if found else source).split("/") if part not in ("", ".", "..")]
        parts[source] = inner, len(inner) if found else 1
    names = {source: "/".join(inner[-least:]) for source, (inner, least) in parts.items()}
    while len(set(names.values())) < len(names):
        seen = Counter(names.values())
        longer = {s: "/".join(parts[s][0][-n.count("/") - 2 :]) if seen[n] > 1 else n for s, n in names.items()}
        if longer == names:  # nothing tells them apart but what comes before a root, or how they are packed
            return {s: f"{n}-{place}" if seen[n] > 1 else n for place, (s, n) in enumerate(names.items())}
        names = longer
    return names


def _stem(name: str) -> str:
    for ending in (".gz", ".zst", ".jsonl", ".json", ".ndjson"):
        name = name.removesuffix(ending)
    return name


def load_corpus_audit(folder: Path) -> CorpusResult:
    """Read back the result.

    Raises:
        IncompleteError: The folder holds no result.json.
        StorageError: It is damaged or has another layout.
    """
    return read_result(folder, CorpusResult, SCHEMA, "corpus audit", "whence audit corpus")


def read_reports(folder: Path) -> Iterator[DocumentReport]:
    """Read back the report of every document. Raises as `load_corpus_audit`."""
    path = Path(folder) / "reports.jsonl"
    if not path.is_file():
        raise IncompleteError(f"{folder} holds no audited documents (no reports.jsonl); run `whence audit corpus`.")
    with path.open(encoding="ascii") as file:
        for number, text in enumerate(file, start=1):
            try:
                yield DocumentReport.model_validate_json(text)
            except ValueError as error:
                raise StorageError(f"{path} line {number} is damaged; run `whence audit corpus` again.") from error


def show_corpus_audit(result: CorpusResult, console: Console, limit: int = 16) -> None:
    """Print a corpus audit: kinds of issues, and the first of the review queue."""
    if result.placebo:
        line(console, (PLACEBO, "bold black on yellow"))
    line(console, (quality_headline(result), "bold"))
    for source, row, why in result.skipped[:_UNREAD]:
        line(console, (f"  not read: {shorten(one_line(source), 60, 'end')} row {row + 1}: {one_line(why)}", "yellow"))
    if unread(result) > _UNREAD:
        line(console, (f"  and {unread(result) - _UNREAD:,} more; the page says why", "yellow"))
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in ("issue", "documents", "share", "suggested", "precision"):
        table.add_column(name, justify="right" if name in ("documents", "share") else "left", no_wrap=True)
    for each in result.counts:
        sure = each.precision
        told = "not reviewed" if sure is None else f"{sure.value:.0%} ({sure.low:.0%} to {sure.high:.0%})"
        table.add_row(each.kind, f"{each.documents:,}", percent(each.share), each.action, told)
    console.print(table)
    queue = Table(box=None, pad_edge=False, show_edge=False, title="Most worth a look", title_justify="left")
    shown = [each for each in result.reports if each.issues][:limit]
    longest = max([len("document"), *(len(one_line(each.id)) for each in shown)])
    names = min(longest, max(8, min(32, (console.width - 9) // 3)))
    rest = max(10, console.width - 7 - names - 4)  # a blank on either side of what stands between two columns
    queue.add_column("do", no_wrap=True, min_width=7)
    queue.add_column("document", no_wrap=True, overflow=overflow(console))
    queue.add_column("why", no_wrap=True, overflow=overflow(console))
    for report in shown:
        name = say(console, shorten(one_line(report.id), names, "both"))
        why = say(console, shorten(one_line(report.reason), rest))
        queue.add_row(report.action, Text(name), Text(why))
    if queue.row_count:
        console.print(queue)

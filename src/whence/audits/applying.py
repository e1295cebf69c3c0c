"""`whence apply`: write the corpus as the audit suggests, and be able to go back.

The cleaned corpus is one JSON line per kept row, in order, in the fields it had; documents to drop are left out, and
what can be mended by rule is mended (encoding, tags of a page, swapped fields). What is to be relabelled is kept and
listed, also of rows that were mended of something else: no rule knows the right label.

``manifest.jsonl`` has a line for every row that was changed or left out, with
why and with the row as it was, so that `undo` writes the corpus as it was read. The input is never touched.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whence.audits.corpus_rows import RawDocument, read_rows
from whence.audits.format_rules import mended
from whence.errors import InputError, StaleRunError
from whence.interfaces import DocumentReport, Skip
from whence.runs import write_bytes

__all__ = ["MENDED", "Applied", "apply_audit", "undo"]

MENDED = ("mojibake", "html", "swapped")
"""Issues that a rule can mend."""

_CORPUS, _MANIFEST = "corpus.jsonl", "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done.

    Attributes:
        kept: Rows that are as they were, with nothing left to do.
        fixed: Rows that were mended.
        dropped: Rows that were left out.
        relabel: Rows that are left for a person to put right; `both` of them were mended as well.
        corpus: The rows.
        manifest: What changed, what is left, and why.
    """

    kept: int
    fixed: int
    dropped: int
    relabel: int
    both: int
    corpus: Path
    manifest: Path


def apply_audit(
    data: Sequence[str], reports: Sequence[DocumentReport], out: Path, *, least: float = 0.6, drop: bool = True
) -> Applied:
    """Write the cleaned corpus and its manifest.

    Args:
        data: What was audited.
        reports: The report of every document.
        out: Folder for both files; must not hold a corpus yet.
        least: Confidence from which an issue is acted on.
        drop: Whether documents are left out; otherwise they are only mended.

    Raises:
        InputError: The folder holds a corpus already.
        StaleRunError: The data are not what was audited.
    """
    for name in (_CORPUS, _MANIFEST):
        if (out / name).exists():
            raise InputError(f"{out / name} is there already; give another --out, or delete it.")
    lines, log, counts = [], [], Counter[str]()
    for document, report in _paired(data, reports):
        row, action, why, left = _cleaned(document, report, least, drop)
        counts[action] += 1
        counts["left"] += bool(left)
        counts["both"] += bool(left) and action == "fix"
        if row is not None:
            lines.append(json.dumps(row, ensure_ascii=False, default=str))
        if action != "keep":
            told: dict[str, Any] = {
                "number": document.number, "id": document.id, "source": document.source, "row": document.row
            }  # fmt: skip
            told |= {"action": action, "why": why, **({"left": left} if left else {})}
            log.append(json.dumps({**told, "was": dict(document.fields)}, default=str))
    write_bytes(out / _MANIFEST, _joined(log))  # first: rows without what changed in them could not be taken back
    write_bytes(out / _CORPUS, _joined(lines))
    return Applied(
        counts["keep"], counts["fix"], counts["drop"], counts["left"], counts["both"], out / _CORPUS, out / _MANIFEST
    )


def _joined(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def _lines(path: Path) -> list[str]:
    """Lines as they were written: texts may hold other signs that end a line, as U+2028, which JSON lets stand."""
    return (
        path.read_bytes().decode("utf-8", "surrogatepass").removesuffix("\n").split("\n") if path.stat().st_size else []
    )


def _paired(data: Sequence[str], reports: Sequence[DocumentReport]) -> Iterator[tuple[RawDocument, DocumentReport]]:
    skipped: list[Skip] = []
    count = 0
    for document in read_rows(data, skipped):
        if count >= len(reports) or reports[count].hash != document.hash:
            raise StaleRunError(
                f"row {document.row} of {document.source} is not what was audited; run whence audit corpus again."
            )
        yield document, reports[count]
        count += 1
    if count < len(reports):
        raise StaleRunError(f"{len(reports) - count} audited documents are no longer there; audit the corpus again.")


def _cleaned(
    document: RawDocument, report: DocumentReport, least: float, drop: bool
) -> tuple[dict[str, Any] | None, str, list[str], list[str]]:
    """The row to write, what was done to it, why, and what is left for a person."""
    called = [issue for issue in report.issues if issue.confidence >= least and issue.action != "keep"]
    gone = [issue for issue in called if issue.action == "drop"]
    if gone and drop:
        return None, "drop", [f"{issue.kind}: {issue.reason}" for issue in gone], []
    row = json.loads(json.dumps(dict(document.fields), default=str))
    done = []
    mend = [issue for issue in called if issue.kind in MENDED and issue.action == "fix"]
    for issue in sorted(mend, key=lambda each: each.kind == "swapped"):  # fields are named as they were read
        if _mend(row, document, issue.kind, issue.field):
            done.append(f"{issue.kind}: {issue.reason}")
    left = [f"{issue.kind}: {issue.reason}" for issue in called if issue.action == "relabel"]
    if done:
        return row, "fix", done, left
    return (row, "relabel", left, left) if left else (row, "keep", [], [])


def _mend(row: dict[str, Any], document: RawDocument, kind: str, field: str) -> bool:
    """Mend one issue in place; whether anything changed."""
    if kind == "swapped":
        if document.prompt is None or document.answer is None or document.prompt not in row:
            return False
        row[document.prompt], row[document.answer] = row[document.answer], row[document.prompt]
        return True
    if field.startswith("messages["):
        holder, key = row["messages"][int(field[9:-1])], "content"
    else:
        holder, key = row, field
    before = holder.get(key)
    if not isinstance(before, str):
        return False
    holder[key] = mended(before, kind)
    return bool(holder[key] != before)


def undo(cleaned: Path, out: Path) -> int:
    """Write the corpus as it was before `apply_audit`.

    Args:
        cleaned: The folder that it wrote.
        out: File for the corpus, one JSON line per row, in the order it was read; must not exist.

    Returns:
        Number of rows.

    Raises:
        InputError: The folder holds no cleaned corpus or not all of it, or the file exists.
    """
    if out.exists():
        raise InputError(f"{out} is there already; give another --out, or delete it.")
    if not (cleaned / _MANIFEST).is_file():
        raise InputError(f"{cleaned} holds no {_MANIFEST}; give the folder that whence apply wrote.")
    changed: dict[int, Mapping[str, Any]] = {}
    for line in _lines(cleaned / _MANIFEST):
        entry = json.loads(line)
        changed[int(entry["number"])] = entry
    kept = _lines(cleaned / _CORPUS)
    lines: list[str] = []
    place = 0
    while place < len(kept) or len(lines) in changed:
        entry = changed.get(len(lines))
        stays = entry is None or entry["action"] != "drop"
        if stays and place == len(kept):
            raise InputError(f"{cleaned / _CORPUS} has fewer rows than were written; it cannot be taken back.")
        lines.append(kept[place] if entry is None else json.dumps(entry["was"], ensure_ascii=False))
        place += stays
    write_bytes(out, _joined(lines))
    return len(lines)

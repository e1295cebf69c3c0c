"""People's verdicts on a sample: how often the audit is right, and what it misses.

`sample` draws documents for a reviewer: for each kind of issue some of its documents, and some without any issue. Their
verdicts (``right`` or ``wrong`` in the column ``verdict``: is what the row says true of the document?) give each kind's
precision with Wilson's interval, and the share of documents without an issue that have one after all. The column
``of`` says which document and which finding a row is about: verdicts are never taken for those of another audit.
"""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whence.audits.statistics import wilson
from whence.errors import InputError
from whence.interfaces import CorpusResult, DocumentReport

__all__ = ["NOTHING", "reviewed", "sample"]

NOTHING = "nothing"
"""The kind of rows that ask whether a document has no issue at all."""

_COLUMNS = ("id", "number", "kind", "says", "evidence", "snippet", "of", "verdict")


def sample(reports: Sequence[DocumentReport], each: int = 20, clean: int = 40, seed: int = 0) -> bytes:
    """A CSV file for a reviewer, its rows in random order; the column ``verdict`` is empty."""
    draw = np.random.default_rng(seed)
    groups: defaultdict[str, list[DocumentReport]] = defaultdict(list)
    for report in reports:
        for kind in {issue.kind for issue in report.issues} or {NOTHING}:
            groups[kind].append(report)
    rows = []
    for kind, members in sorted(groups.items()):
        count = min(len(members), clean if kind == NOTHING else each)
        for place in draw.choice(len(members), count, replace=False).tolist():
            report = members[place]
            issue = next((issue for issue in report.issues if issue.kind == kind), None)
            says, evidence = (issue.reason, issue.evidence) if issue else ("nothing is wrong with it", "")
            told = [_inert(each) for each in (kind, says, evidence, report.snippet)]
            rows.append([_inert(report.id), report.number, *told, _finding(report, kind), ""])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([rows[n] for n in draw.permutation(len(rows)).tolist()])
    return out.getvalue().encode("utf-8", "backslashreplace")


def _finding(report: DocumentReport, kind: str) -> str:
    """A document and what is said of it, as a hash that no spreadsheet takes for a number."""
    said = next((issue.reason for issue in report.issues if issue.kind == kind), "")
    told = "\0".join((report.hash, str(report.number), kind, said))
    return "r" + hashlib.sha256(told.encode("utf-8", "backslashreplace")).hexdigest()[:12]


def _inert(text: str) -> str:
    """Text that a spreadsheet takes for text: a formula of a hostile document is set off by an apostrophe.

    >>> _inert("=HYPERLINK(1)"), _inert("plain")
    ("'=HYPERLINK(1)", 'plain')
    """
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") or text[:1] in tuple("\t\r") else text


def reviewed(result: CorpusResult, reports: Sequence[DocumentReport], path: Path) -> CorpusResult:
    """The result with the reviewer's verdicts taken in.

    Args:
        result: The audit.
        reports: Its report of every document.
        path: The sample with verdicts filled in.

    Raises:
        InputError: The file cannot be read, is of another audit, or a verdict is neither right nor wrong.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--reviewed {path} cannot be read as CSV: {error}.") from error
    if not rows or not {"number", "kind", "of", "verdict"} <= set(rows[0]):
        raise InputError(
            f"--reviewed {path} needs the columns number, kind, of and verdict, as review.csv beside the page has "
            "them; fill that in and give it."
        )
    said: defaultdict[str, list[bool]] = defaultdict(list)
    other = []
    for number, row in enumerate(rows, start=2):
        verdict = (row["verdict"] or "").strip().lower()
        if verdict and verdict not in ("right", "wrong"):
            raise InputError(f"{path} line {number}: the verdict is {verdict!r}; give right or wrong, or nothing.")
        if verdict and not _is_of(row, reports):
            other.append(number)
        elif verdict:
            said[row["kind"]].append(verdict == "right")
    if other:
        count = f"{len(other)} of its verdicts are" if len(other) > 1 else "one of its verdicts is"
        raise InputError(
            f"{path} is of another audit: {count} of a document or a finding that this one has not (first: line "
            f"{other[0]}). Fill in the sample of this audit, review.csv beside its page."
        )
    precisions = {kind: wilson(sum(found), len(found)) for kind, found in said.items() if found}
    counts = tuple(
        each.model_copy(update={"reviewed": len(said[each.kind]), "precision": precisions.get(each.kind)})
        for each in result.counts
    )
    clean = said[NOTHING]
    missed = wilson(len(clean) - sum(clean), len(clean)) if clean else None
    return result.model_copy(update={"counts": counts, "sampled": sum(map(len, said.values())), "missed": missed})


def _is_of(row: dict[str, str], reports: Sequence[DocumentReport]) -> bool:
    """Whether a row of a sample is about a document of this audit, and what this audit says of it."""
    try:
        report = reports[int(row["number"])]
    except (ValueError, TypeError, IndexError):
        return False
    return _finding(report, row["kind"]) == (row["of"] or "").strip()

"""People's verdicts on a sample: how often the audit is right, and what it misses.

`sample` draws documents for a reviewer: for each kind of issue some of its documents, and some without any issue. Their
verdicts (``right`` or ``wrong`` in the column ``verdict``: is what the row says true of the document?) give each kind's
precision with Wilson's interval, and the share of documents without an issue that have one after all.
"""

import csv
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

_COLUMNS = ("id", "number", "kind", "says", "evidence", "snippet", "verdict")


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
            rows.append([_inert(report.id), report.number, *told, ""])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([rows[n] for n in draw.permutation(len(rows)).tolist()])
    return out.getvalue().encode("utf-8", "backslashreplace")


def _inert(text: str) -> str:
    """Text that a spreadsheet takes for text: a formula of a hostile document is set off by an apostrophe.

    >>> _inert("=HYPERLINK(1)"), _inert("plain")
    ("'=HYPERLINK(1)", 'plain')
    """
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") or text[:1] in tuple("\t\r") else text


def reviewed(result: CorpusResult, path: Path) -> CorpusResult:
    """The result with the reviewer's verdicts taken in.

    Raises:
        InputError: The file cannot be read, or a verdict is neither right nor wrong.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--reviewed {path} cannot be read as CSV: {error}.") from error
    if not rows or not {"kind", "verdict"} <= set(rows[0]):
        raise InputError(f"--reviewed {path} needs the columns kind and verdict; fill in review.csv and give that.")
    judged: defaultdict[str, list[bool]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):
        verdict = (row["verdict"] or "").strip().lower()
        if verdict and verdict not in ("right", "wrong"):
            raise InputError(f"{path} line {number}: the verdict is {verdict!r}; give right or wrong, or nothing.")
        if verdict:
            judged[row["kind"]].append(verdict == "right")
    precisions = {kind: wilson(sum(said), len(said)) for kind, said in judged.items() if said}
    counts = tuple(
        each.model_copy(update={"reviewed": len(judged[each.kind]), "precision": precisions.get(each.kind)})
        for each in result.counts
    )
    clean = judged[NOTHING]
    missed = wilson(len(clean) - sum(clean), len(clean)) if clean else None
    return result.model_copy(update={"counts": counts, "sampled": sum(map(len, judged.values())), "missed": missed})

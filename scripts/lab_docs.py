"""Writes the tables of docs/choosing-a-method.md from the lab results in docs/lab, between the page's markers.

    python scripts/lab_docs.py           write them
    python scripts/lab_docs.py --check   exit with 1 if they are stale

A result is ``docs/lab/SETUP.json``, or ``docs/lab/SETUP.ANYTHING.json`` for further measurements of the same set-up:
what ``whence evaluate`` left in ``fidelity/lab/results.json``, or an object with that under ``result`` and the
``command``; those in ``docs/lab/named`` compare named methods, on banks of their own. Where two files measure the
same, the one whose name comes first counts. The text around the markers is written by hand. A test runs the check.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from whence.interfaces import LabResult, Measure, MethodKind, MethodSummary
from whence.report.lab_table import Sheet, sheet
from whence.report.lab_words import WORDS, figure, interval

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "choosing-a-method.md"
RESULTS = ROOT / "docs" / "lab"
NAMED = RESULTS / "named"
NOTHING = "*Not measured yet.*"
_MARKED = re.compile(r"(<!-- lab: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_RANKS: tuple[MethodKind, ...] = ("influence", "imported", "baseline", "oracle")
_BUDGETS = ((0, "nothing"), (1e2, "100 bytes"), (1e3, "1 kB"), (1e4, "10 kB"), (1e5, "100 kB"), (float("inf"), "any"))

Results = Mapping[str, LabResult]


def read_results(folder: Path = RESULTS) -> dict[str, LabResult]:
    """The result of each set-up, by its name; files of one set-up are put together."""
    found: dict[str, LabResult] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        inner = content.get("result", content)
        result = LabResult.model_validate({**inner, "command": content.get("command") or inner.get("command", "")})
        name = path.stem.partition(".")[0]
        found[name] = _joined(found[name], result) if name in found else result
    return found


def _joined(first: LabResult, second: LabResult) -> LabResult:
    """What either measured; where both did, the first."""
    seen = {(each.measure, each.method) for each in first.readings}
    taken = {each.measure for each in first.truths}
    names = {each.name for each in first.methods}
    changes = {
        "readings": (*first.readings, *(r for r in second.readings if (r.measure, r.method) not in seen)),
        "truths": (*first.truths, *(t for t in second.truths if t.measure not in taken)),
        "methods": (*first.methods, *(m for m in second.methods if m.name not in names)),
        "command": f"{first.command}\n{second.command}",
    }
    return first.model_copy(update=changes)


def page(text: str, results: Results, named: Results) -> str:
    """The page with every marked section written anew; `named` are the results that named methods are shown from.

    Raises:
        SystemExit: A marker names no section, or a section has no marker.
    """
    found = [match["name"] for match in _MARKED.finditer(text)]
    if sorted(found) != sorted(SECTIONS):
        raise SystemExit(f"{PAGE} must have each of these markers once: {', '.join(SECTIONS)}; it has {found}.")

    def section(match: re.Match[str]) -> str:
        shown = SECTIONS[match["name"]](named if match["name"].startswith("named-") else results)
        return f"{match[1]}\n{shown}\n\n{match[3]}"

    return _MARKED.sub(section, text)


def setups(results: Results) -> str:
    """One row per set-up: the model, its training, and how noisy retraining is."""
    rows = []
    for name, result in results.items():
        truth = result.truth("lds")
        ceiling = f"{truth.ceiling.value:.2f}" if truth and truth.ceiling else ""
        retrained = f"{truth.subsets} × {truth.seeds}" if truth else ""
        rows.append([name, result.model, result.training, result.documents, result.queries, retrained, ceiling])
    return table(["set-up", "model", "training", "documents", "queries", "halves × seeds", "LDS ceiling"], rows)


def compared(measure: Measure) -> Callable[[Results], str]:
    """A section with one measure of all methods, one column per set-up, best first within each kind."""

    def section(results: Results) -> str:
        sheets = {name: sheet(result) for name, result in results.items() if result.truth(measure)}
        if not sheets:
            return NOTHING
        summaries = _methods({name: results[name] for name in sheets})
        order = sorted(summaries, key=lambda each: (_RANKS.index(each.kind), -_mean(results, measure, each.name)))
        rows = [[each.name, *(_cell(sheets[name], measure, each.name) for name in sheets)] for each in order]
        rows = [row for row in rows if any(row[1:])]
        ceilings = [_ceiling(made, measure) for made in sheets.values()]
        if any(ceilings):
            rows.append(["*noise ceiling*", *ceilings])
        return f"{WORDS[measure].name}, {WORDS[measure].unit}.\n\n" + table(["method", *sheets], rows)

    return section


def _cell(made: Sheet, measure: Measure, method: str) -> str:
    """Value and interval; bold where no method is told apart as better."""
    row = next((row for row in made.rows if row.method.name == method), None)
    if row is None or measure not in row.estimates:
        return ""
    estimate, places = row.estimates[measure], made.places[measure]
    value = figure(estimate.value, places)
    return f"{f'**{value}**' if measure in row.leads else value} {interval(estimate, places)}"


def _ceiling(made: Sheet, measure: Measure) -> str:
    estimate = made.ceilings.get(measure)
    return "" if estimate is None else f"{figure(estimate.value, made.places[measure])}"


def costs(results: Results) -> str:
    """One row per method: bytes, passes and LDS as a share of the ceiling, means over the set-ups."""
    rows = []
    for each in _methods(results):
        found = [_price(result, each.name) for result in results.values()]
        priced = [one for one in found if one is not None]
        if priced:
            stored, passes, share = (fmean(values) for values in zip(*priced, strict=True))
            rows.append((share, [each.name, size(stored), f"{passes:.1f}", f"{share:.2f}"]))
    ordered = [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
    head = ["method", "bytes per document", "forward + backward passes", "LDS / ceiling"]
    return table(head, ordered)


def budgets(results: Results) -> str:
    """The best method for each number of bytes per document, by mean LDS as a share of the ceiling."""
    rows = []
    for most, words in _BUDGETS:
        best = max(_affordable(results, most), default=None)
        if best is not None:
            share, stored, passes, name = best
            row = [words, name, size(stored), f"{passes:.1f}", f"{share:.2f}"]
            if not rows or rows[-1][1:] != row[1:]:
                rows.append(row)
    return table(["up to, per document", "best", "it stores", "it costs (passes)", "LDS / ceiling"], rows)


def _affordable(results: Results, most: float) -> list[tuple[float, float, float, str]]:
    """(share of the ceiling, bytes, passes, name) of what every set-up measured and fits, exact scores aside."""
    found = []
    for each in _methods(results):
        priced = [_price(result, each.name) for result in results.values()]
        complete = [one for one in priced if one is not None]
        stores = each.kind == "baseline" or each.settings.get("bits") != "exact"
        if len(complete) == len(results) and stores and each.kind in ("influence", "baseline"):
            stored, passes, share = (fmean(values) for values in zip(*complete, strict=True))
            if stored <= most:
                found.append((share, stored, passes, each.name))
    return found


def _price(result: LabResult, method: str) -> tuple[float, float, float] | None:
    """Bytes per document, passes and LDS as a share of the ceiling."""
    cost = next((each.cost for each in result.methods if each.name == method), None)
    reading, truth = result.reading("lds", method), result.truth("lds")
    if cost is None or reading is None or truth is None or truth.ceiling is None or truth.ceiling.value <= 0:
        return None
    return cost.bytes_per_document, cost.passes, reading.estimate.value / truth.ceiling.value


def commands(results: Results) -> str:
    """The commands that made the results."""
    lines = [f"# {name}\n{result.command}" for name, result in results.items() if result.command]
    return "```\n" + "\n\n".join(lines) + "\n```" if lines else NOTHING


def _methods(results: Results) -> list[MethodSummary]:
    """Every method of any set-up, once."""
    found: dict[str, MethodSummary] = {}
    for result in results.values():
        for each in result.methods:
            found.setdefault(each.name, each)
    return list(found.values())


def _mean(results: Results, measure: Measure, method: str) -> float:
    values = [r.estimate.value for result in results.values() if (r := result.reading(measure, method))]
    return fmean(values) if values else float("-inf")


def size(stored: float) -> str:
    """Bytes for people.

    >>> size(0), size(812.4), size(13_200), size(2.5e6)
    ('0', '812', '13.2 kB', '2.5 MB')
    """
    if stored < 1000:
        return f"{stored:.0f}"
    return f"{stored / 1e3:.1f} kB" if stored < 1e6 else f"{stored / 1e6:.1f} MB"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, or a line that says there is nothing to show."""
    if not rows:
        return NOTHING
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


SECTIONS: dict[str, Callable[[Results], str]] = {
    "setups": setups,
    "budgets": budgets,
    "costs": costs,
    **{measure: compared(measure) for measure in get_args(Measure)},
    "commands": commands,
    "named-lds": compared("lds"),
    "named-costs": costs,
    "named-commands": commands,
}


if __name__ == "__main__":
    now = PAGE.read_text(encoding="utf-8")
    fresh = page(now, read_results(), read_results(NAMED))
    if "--check" in sys.argv[1:]:
        sys.exit("docs/choosing-a-method.md is stale: run scripts/lab_docs.py" if fresh != now else 0)
    PAGE.write_text(fresh, encoding="utf-8")

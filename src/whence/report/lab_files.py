"""A lab result on disk: results.json (all of it) and its views: tables, plots and a page.

Each file appears whole or not at all, and results.json comes last: it is the one that is read back.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from whence.errors import IncompleteError
from whence.interfaces import Certificate, Estimate, LabResult, Measure
from whence.report.lab_page import Drawing, lab_page
from whence.report.lab_points import picture
from whence.report.lab_table import Row, Sheet, sheet
from whence.report.lab_words import KINDS, WORDS, figure, interval
from whence.report.plots import AXES_OF, TITLES, Plot, explanation, interactive, png, spec, svg
from whence.report.records import dumps, read_record
from whence.report.text import MISSING, compact, number, one_line, visible
from whence.runs import storage_errors, write_bytes

__all__ = ["as_csv", "as_markdown", "load_lab", "save_lab"]

SCHEMA = 1
_PLOTS: tuple[Plot, ...] = ("cost", "bytes")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&!$])")


def save_lab(result: LabResult, folder: Path, certificate: Certificate | None = None) -> dict[str, Path]:
    """Write a lab result for people and for programs.

    Args:
        result: What the lab found.
        folder: Made if absent; files of the same names are replaced, others stay. A plot that cannot be drawn from
            this result (nothing measured, no cost known) is removed.
        certificate: What was concluded for one index, shown on top of the page.

    Returns:
        The paths by name: ``result``, ``csv``, ``markdown``, ``page``, and for each plot ``pareto-cost.png`` and so on.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    content = _content(result, certificate)  # everything is rendered before anything is written
    folder = Path(folder)
    paths = {}
    for key, (name, data) in content.items():
        paths[key] = folder / name
        write_bytes(paths[key], data)
    with storage_errors(folder):
        for stale in set(_plot_names()) - set(content):
            (folder / stale).unlink(missing_ok=True)
    return paths


def load_lab(folder: Path) -> LabResult:
    """Read back what `save_lab` wrote.

    Raises:
        IncompleteError: The folder holds no results.json.
        StorageError: It cannot be read, is damaged or has another layout.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise IncompleteError(
            f"{folder} holds no finished lab result (no results.json); run `whence evaluate` to make one."
        )
    return read_record(path, LabResult, SCHEMA, "a lab result", "run `whence evaluate` again")


def _plot_names() -> list[str]:
    return [f"pareto-{plot}.{kind}" for plot in _PLOTS for kind in ("png", "svg", "html", "json")]


def _content(result: LabResult, certificate: Certificate | None) -> dict[str, tuple[str, bytes]]:
    found = sheet(result)
    plots: dict[str, bytes] = {}
    drawings = {}
    for plot in _PLOTS:
        content, live = spec(result, plot), interactive(result, plot)
        drawn = picture(result, AXES_OF[plot][0])
        if content is None or live is None or drawn is None:
            continue
        drawings[TITLES[plot]] = Drawing(svg(content, f"{plot}-clip"), explanation(drawn), f"pareto-{plot}.html")
        plots[f"pareto-{plot}.png"] = png(content)
        plots[f"pareto-{plot}.svg"] = svg(content).encode("utf-8")
        plots[f"pareto-{plot}.html"] = live.encode("utf-8")
        plots[f"pareto-{plot}.json"] = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode("ascii")
    links = ["results.json", "table.csv", "table.md", *plots]
    text = dumps({"schema": SCHEMA, **result.model_dump()}, indent=1) + "\n"
    return {
        "csv": ("table.csv", as_csv(found).encode("utf-8")),
        "markdown": ("table.md", as_markdown(found).encode("utf-8")),
        **{name: (name, data) for name, data in plots.items()},
        "page": ("page.html", lab_page(result, drawings, links, certificate).encode("utf-8")),
        "result": ("results.json", text.encode("ascii")),
    }


def as_csv(found: Sheet) -> str:
    """One row per method, plain numbers; the noise ceiling is a row of kind ``ceiling``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{measure}{end}" for measure in found.measures for end in ("", "_low", "_high")]
    costs = ("passes", "fit", "index", "query", "seconds", "bytes_per_document")
    writer.writerow(["method", "kind", "settings", *costs, *ends])
    for row in found.rows:
        cost = row.method.cost
        spent = [getattr(cost, name) for name in costs] if cost is not None else [""] * len(costs)
        writer.writerow(
            [visible(row.method.name), row.method.kind, dumps(row.method.settings), *spent, *_ends(found, row)]
        )
    if found.ceilings:
        writer.writerow(["noise ceiling", "ceiling", "{}", *[""] * len(costs), *_ends(found, None)])
    return out.getvalue()


def _ends(found: Sheet, row: Row | None) -> Iterator[float | str]:
    for measure in found.measures:
        estimate = _estimates(found, row).get(measure)
        yield from ("", "", "") if estimate is None else (estimate.value, estimate.low, estimate.high)


def _estimates(found: Sheet, row: Row | None) -> Mapping[Measure, Estimate]:
    return found.ceilings if row is None else row.estimates


def as_markdown(found: Sheet) -> str:
    """The table as Markdown, the leading values bold."""
    heads = ["method", "kind", *(f"{WORDS[m].title} ({WORDS[m].unit})" for m in found.measures), "passes", "seconds",
             "bytes per document"]  # fmt: skip
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for row in found.rows:
        cost = row.method.cost
        spent = [MISSING] * 3
        if cost is not None:
            spent = [number(cost.passes, 2), number(cost.seconds, 2), compact(cost.bytes_per_document)]
        lines.append([_escaped(row.name), KINDS[row.method.kind], *_figures(found, row), *spent])
    if found.ceilings:
        lines.append(["noise ceiling", "", *_figures(found, None), "", "", ""])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def _figures(found: Sheet, row: Row | None) -> Iterator[str]:
    for measure in found.measures:
        estimate = _estimates(found, row).get(measure)
        if estimate is None:
            yield MISSING
            continue
        value, ends = figure(estimate.value, found.places[measure]), interval(estimate, found.places[measure])
        leads = row is not None and measure in row.leads
        yield f"**{value}** {_escaped(ends)}" if leads else f"{value} {_escaped(ends)}"

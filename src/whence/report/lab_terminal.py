"""A lab result and a certificate as tables on a console. Knows nothing of files, pages or plots."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import Certificate, LabResult, Measure
from whence.report.console import line, overflow, say
from whence.report.lab_certificate import certificate_rows
from whence.report.lab_table import Row, Sheet, sheet
from whence.report.lab_words import LEADING, WORDS, basis, figure, interval, reading
from whence.report.text import MISSING, compact, count, number, one_line, shorten

__all__ = ["show_certificate", "show_lab"]

_NAME = 30  # characters of a method's name, at most
_LEADS = "*"
_INTERVAL = "95 %"
_GAP = 2

Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    """Heads, and the cell of a row: texts side by side that belong together. `of` None stands for the ceiling."""

    heads: Cells
    of: Callable[[Row | None], Cells]

    def widths(self, rows: Sequence[Row]) -> list[int]:
        cells = [self.of(row) for row in (None, *rows)]
        return [max(len(head), *(len(cell[i]) for cell in cells)) for i, head in enumerate(self.heads)]


def show_lab(result: LabResult, console: Console) -> None:
    """Print a lab result: a row per method, a column per measure, what each means and what it rests on.

    Args:
        result: What the lab found.
        console: Where to; its width, colours and encoding are respected. Columns that do not fit beside each other
            come below each other, with the names again.
    """
    found = sheet(result)
    _show_head(result, console)
    if not found.rows:
        line(console, "No method was measured.")
    else:
        for columns in _pages(found, console):
            console.print()
            console.print(_table(found, columns, console))
        _show_notes(result, found, console)


def _show_head(result: LabResult, console: Console) -> None:
    line(console, ("Fidelity lab", "bold"), f"  {one_line(result.model)}")
    line(
        console,
        f"{count(result.documents)} documents, {count(result.queries)} queries; retrained {one_line(result.training)}",
    )


def _measure_column(found: Sheet, measure: Measure) -> _Column:
    places = found.places[measure]

    def of(row: Row | None) -> Cells:
        estimate = (found.ceilings if row is None else row.estimates).get(measure)
        if estimate is None:
            return (MISSING, "")
        mark = _LEADS if row is not None and measure in row.leads else " "
        return f"{figure(estimate.value, places)}{mark}", interval(estimate, places)

    return _Column((WORDS[measure].title + " ", _INTERVAL), of)


def _cost_column() -> _Column:
    def of(row: Row | None) -> Cells:
        if row is None:
            return ("", "", "")
        cost = row.method.cost
        if cost is None:
            return (MISSING, MISSING, MISSING)
        return number(cost.passes, 2), number(cost.seconds, 2), compact(cost.bytes_per_document)

    return _Column(("passes", "seconds", "bytes/doc"), of)


def _pages(found: Sheet, console: Console) -> Iterator[list[_Column]]:
    """Columns, as many beside each other as the console is wide."""
    room = console.width - min(_NAME, max(len(row.name) for row in found.rows)) - 4
    page: list[_Column] = []
    used = 0
    for column in [*(_measure_column(found, m) for m in found.measures), _cost_column()]:
        width = sum(column.widths(found.rows)) + _GAP * len(column.heads)
        if page and used + width > room:
            yield page
            page, used = [], 0
        page.append(column)
        used += width
    yield page


def _table(found: Sheet, columns: Sequence[_Column], console: Console) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("method", no_wrap=True, overflow=overflow(console), min_width=12)
    for column in columns:
        for head in column.heads:
            side: Literal["left", "right"] = "left" if head == _INTERVAL else "right"
            table.add_column(say(console, head), justify=side, no_wrap=True, overflow=overflow(console))
    for title, rows in found.groups:
        if len(found.groups) > 1 or title != "Methods":
            table.add_row(Text(say(console, title), style="bold dim"))
        for row in rows:
            table.add_row(_name(row, console), *_cells(row, columns, console))
    if found.ceilings and any(cell.strip(f" {MISSING}") for column in columns for cell in column.of(None)):
        table.add_row(Text(""))
        table.add_row(Text("noise ceiling", style="italic"), *_cells(None, columns, console))
    return table


def _name(row: Row, console: Console) -> Text:
    text = f"  {shorten(say(console, row.name), _NAME, 'both')}"
    return Text(say(console, text), style="yellow" if row.method.kind == "baseline" else "")


def _cells(row: Row | None, columns: Sequence[_Column], console: Console) -> list[Text]:
    return [
        Text(say(console, cell), style="bold" if cell.endswith(_LEADS) else "")
        for column in columns
        for cell in column.of(row)
    ]


def _show_notes(result: LabResult, found: Sheet, console: Console) -> None:
    console.print()
    line(console, f"{_LEADS} {LEADING}. Intervals are 95 % bootstrap intervals.")
    if found.ceilings:
        line(
            console,
            "Noise ceiling: what a perfect predictor would be expected to score, as retraining itself is noisy.",
        )
    for measure in found.measures:
        line(console, (WORDS[measure].name, "bold"), f" ({WORDS[measure].unit}): {WORDS[measure].meaning}")
        truth = result.truth(measure)
        if truth is not None:
            line(console, (f"  {one_line(basis(truth))}", "dim"))
    line(console, f"Passes: the work in plain forward+backward passes over the corpus{_plain(result)}.")


def _plain(result: LabResult) -> str:
    return f", one of which took {number(result.plain_seconds)} seconds" if result.plain_seconds > 0 else ""


def show_certificate(certificate: Certificate, console: Console) -> None:
    """Print a certificate: its line, and the figures behind it where there are any.

    Args:
        certificate: In either state.
        console: Where to.
    """
    measured = certificate.state == "measured"
    line(console, (one_line(certificate.line), "bold" if measured else "yellow"))
    rows = certificate_rows(certificate)
    if not rows:
        return
    names = ("this index", "noise ceiling", "BM25", "over BM25")
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for name in ("measure", *names):
        table.add_column(name, overflow=overflow(console))
    for row in rows:
        cells = [
            MISSING if e is None else reading(e, row.places) for e in (row.method, row.ceiling, row.bm25, row.over)
        ]
        table.add_row(*[Text(say(console, cell)) for cell in (WORDS[row.measure].name, *cells)])
    console.print(table)
    if certificate.truth is not None:
        line(console, (one_line(basis(certificate.truth)), "dim"))
    line(console, (one_line(f"{certificate.model}; {certificate.training}"), "dim"))

"""A lab result as rows and columns, rendered nowhere: who is compared with whom, in which order, and who leads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from whence.interfaces import Estimate, LabResult, Measure, MethodKind, MethodSummary
from whence.report.lab_words import decimals, is_bm25
from whence.report.text import one_line

__all__ = ["GROUPS", "Row", "Sheet", "bm25", "main_measure", "measured", "sheet"]

GROUPS: tuple[tuple[str, tuple[MethodKind, ...]], ...] = (
    ("Methods", ("influence", "imported")),
    ("Baselines", ("baseline",)),
    ("Oracle, for reference", ("oracle",)),
)
_COMPARED = ("influence", "imported", "baseline")  # an oracle is not in the race


@dataclass(frozen=True, slots=True)
class Row:
    """One method.

    Attributes:
        method: Its summary.
        name: Its name in one visible line.
        estimates: By measure; a measure that was not taken, or came out not finite, is absent.
        leads: The measures in which no method is told apart from it as better, by the intervals.
    """

    method: MethodSummary
    name: str
    estimates: Mapping[Measure, Estimate]
    leads: frozenset[Measure]


@dataclass(frozen=True, slots=True)
class Sheet:
    """All rows and columns.

    Attributes:
        measures: Columns, in order.
        groups: (title, rows), best of the main measure first; empty groups are left out.
        ceilings: The noise ceiling by measure, where known.
        places: Decimals by measure.
    """

    measures: tuple[Measure, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    ceilings: Mapping[Measure, Estimate]
    places: Mapping[Measure, int]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row, in order."""
        return tuple(row for _, rows in self.groups for row in rows)


def measured(result: LabResult) -> tuple[Measure, ...]:
    """The measures that were taken of any method, in their usual order."""
    found = {reading.measure for reading in result.readings}
    return tuple(measure for measure in get_args(Measure) if measure in found)


def main_measure(result: LabResult) -> Measure | None:
    """The measure that plots show: lds if it was taken, else the first that was; None if nothing was measured."""
    return next(iter(measured(result)), None)


def bm25(result: LabResult) -> str | None:
    """Name of the method that is BM25, if there is one."""
    return next((m.name for m in _methods(result) if m.kind == "baseline" and is_bm25(m.name)), None)


def _finite(estimate: Estimate) -> bool:
    """Whether there is a value; it may lack an interval."""
    return math.isfinite(estimate.value) and not (math.isnan(estimate.low) or math.isnan(estimate.high))


def _methods(result: LabResult) -> list[MethodSummary]:
    """The methods, and one without cost for each name that only the readings know."""
    known = {method.name for method in result.methods}
    extra = dict.fromkeys(reading.method for reading in result.readings if reading.method not in known)
    return [*result.methods, *(MethodSummary(name=name, kind="imported") for name in extra)]


def _leaders(readings: Mapping[str, Estimate]) -> set[str]:
    """The best, and those whose interval overlaps the best's."""
    if not readings:
        return set()
    best = max(readings.values(), key=lambda estimate: estimate.value)
    return {name for name, estimate in readings.items() if estimate.high >= best.low or estimate.value >= best.value}


def sheet(result: LabResult) -> Sheet:
    """Arrange a lab result."""
    measures, methods = measured(result), _methods(result)
    tables: dict[Measure, dict[str, Estimate]] = {measure: {} for measure in measures}
    for reading in result.readings:
        if _finite(reading.estimate):
            tables[reading.measure].setdefault(reading.method, reading.estimate)
    ceilings = {t.measure: t.ceiling for t in result.truths if t.ceiling is not None and _finite(t.ceiling)}
    compared = {method.name for method in methods if method.kind in _COMPARED}
    leaders = {m: _leaders({k: v for k, v in table.items() if k in compared}) for m, table in tables.items()}
    rows = [
        Row(
            method,
            one_line(method.name) or "(no name)",
            {m: table[method.name] for m, table in tables.items() if method.name in table},
            frozenset(m for m in measures if method.name in leaders[m]),
        )
        for method in methods
    ]
    places = {m: decimals([*table.values(), *([ceilings[m]] if m in ceilings else [])]) for m, table in tables.items()}
    return Sheet(measures, _grouped(rows, measures), ceilings, places)


def _grouped(rows: Sequence[Row], measures: Sequence[Measure]) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    def place(row: Row) -> tuple[float, ...]:
        return tuple(-row.estimates[m].value if m in row.estimates else math.inf for m in measures[:1])

    groups = [(title, [row for row in rows if row.method.kind in kinds]) for title, kinds in GROUPS]
    return tuple((title, tuple(sorted(found, key=place))) for title, found in groups if found)

"""All that an intervention will train, counted before any of it: one estimate, one bar, workers kept busy.

A training is a cell of a bank; arms that take the same documents share theirs. Knows nothing of effects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whence.fidelity.bank import Bank, Cell
from whence.fidelity.expected import duration
from whence.fidelity.retrain import retrain_cells, seconds_of

if TYPE_CHECKING:
    from whence.audits.jobs import Job

__all__ = ["OneBar", "Plan", "plan_of"]

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """Trainings that are missing.

    Attributes:
        cells: Bank and cells, each training once.
        first: The one whose model is kept, which is trained before the others; None if it is there.
        there: Trainings that were done before.
        words: Where they start.
        workers: Processes that train at once.
        edits: Whether models are edited besides.
    """

    cells: Sequence[tuple[Bank, Sequence[Cell]]]
    first: tuple[Bank, Cell] | None
    there: int
    words: str
    workers: int
    edits: bool

    @property
    def models(self) -> int:
        """How many."""
        return sum(len(cells) for _, cells in self.cells)

    @property
    def steps(self) -> int:
        """Training steps of all of them."""
        return sum(bank.task.steps(cell.kept) for bank, cells in self.cells for cell in cells)

    def seconds(self) -> float:
        """What they take here, from a few real steps of each kind."""
        first = "" if self.first is None else self.first[1].name
        alone = 0.0 if self.first is None else seconds_of(self.first[0].task, [self.first[1]])
        rest = [(bank, [cell for cell in cells if cell.name != first]) for bank, cells in self.cells]
        return alone + sum(seconds_of(bank.task, cells, self.workers) for bank, cells in rest)

    def line(self) -> str:
        """For people."""
        more = "; editing and scoring come on top" if self.edits else "; scoring comes on top"
        if not self.models:
            return f"Nothing has to be trained: all {self.there} models are there{more}."
        together = self.models - (self.first is not None)
        several = f" with {self.workers} workers" if self.workers > 1 and together > 1 else ""
        before = f" ({self.there} more are there)" if self.there else ""
        noun = "model" if self.models == 1 else "models"
        took = duration(self.seconds())
        return f"Training: {self.models} {noun} {self.words}{before}, about {took}{several}{more}."

    def train(self, report: Report | None) -> None:
        """Train what is missing still."""
        for bank, cells in self.cells:
            retrain_cells(bank, bank.still_missing(cells), self.workers, report)


def plan_of(job: "Job") -> Plan:
    """Every training of an intervention that no bank has."""
    banks: dict[str, Bank] = {}
    missing: dict[str, dict[str, Cell]] = {}
    every: set[tuple[str, str]] = set()
    for altered, seeds in job.trainings():
        bank = job.workshop.bank(altered.task)
        name = bank.folder.name
        banks.setdefault(name, bank)
        every |= {(name, cell.name) for cell in bank.cells(altered.kept[None], seeds)}
        missing.setdefault(name, {}).update({each.name: each for each in bank.missing(altered.kept[None], seeds)})
    kept = job.kept_cell()
    if kept is not None:  # the model itself is wanted, so it is trained though its losses may be known
        missing[kept[0].folder.name][kept[1].name] = kept[1]
    cells = [(banks[name], list(found.values())) for name, found in missing.items() if found]
    there = len(every) - sum(len(found) for _, found in cells)
    return Plan(cells, kept, there, job.start.words, job.options.workers, job.options.action == "unlearn")


class OneBar:
    """Adds up the trainings that follow one another into one count of steps.

    Args:
        report: Called with (step, done, total); what is no training passes as it is.

    Attributes:
        total: Steps of all of them.

    >>> said = []
    >>> bar = OneBar(lambda *each: said.append(each[1:]))
    >>> bar.total = 6
    >>> for done in (1, 3): bar("retrain", done, 3)
    >>> bar("retrain", 1, 3)
    >>> said
    [(1, 6), (3, 6), (4, 6)]
    """

    def __init__(self, report: Report) -> None:
        self.report, self.total = report, 0
        self._before, self._last, self._size = 0, 0, 0

    def __call__(self, step: str, done: int, total: int) -> None:
        """One training, or several at once, have come so far."""
        if step != "retrain":
            self.report(step, done, total)
            return
        if done < self._last or total != self._size or self._last >= self._size:
            self._before += self._last  # another one has begun
        self._last, self._size = done, total
        whole = self._before + done
        self.report(step, whole, max(self.total, whole))

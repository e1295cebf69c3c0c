"""Fills a bank: trains what is missing, here or in worker processes, and stores each model's losses as it is done.

A run that is killed loses the models in training and nothing else; the same call goes on. What is stored depends
neither on the number of workers nor on who trained what.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from whence.errors import InputError, NumericalError
from whence.fidelity.bank import Bank, Cell, Outcome
from whence.fidelity.tasks import LanguageTask, Task
from whence.fidelity.workers import Crew
from whence.runs import take_share

__all__ = ["estimate", "processors", "retrain", "retrain_cells", "seconds_of", "train_cell"]

Report = Callable[[str, int, int], None]

_TIMED_STEPS = 6
_WORKER_START = 6.0


def retrain(
    bank: Bank,
    kept: NDArray[np.bool_],
    seeds: Sequence[int],
    workers: int = 1,
    shares: tuple[int, int] = (0, 1),
    report: Report | None = None,
) -> int:
    """Train every model that the bank lacks.

    Args:
        bank: Where losses go.
        kept: Training sets, bool [S, N].
        seeds: One model for each training set and each of these.
        workers: Processes that train at once; 1 trains in this one. Each uses `training.threads` threads, and on CUDA
            the devices in turn.
        shares: (i, n): of all cells, train every n-th from the i-th on; other calls, on any machine that sees the
            folder, take the others.
        report: Called with ("retrain", training steps done, steps in all).

    Returns:
        Number of models trained.

    Raises:
        NumericalError: A training or a query loss is not finite; names the cell.
        StaleRunError: A model trained again for more queries gives other losses than before.
        InputError: Several workers are asked for a task that lives in this process alone.
        RunError: A worker died.
    """
    mine = {cell.name for cell in take_share(bank.cells(kept, seeds), shares)}
    return retrain_cells(bank, [cell for cell in bank.missing(kept, seeds) if cell.name in mine], workers, report)


def retrain_cells(bank: Bank, cells: Sequence[Cell], workers: int = 1, report: Report | None = None) -> int:
    """Train these cells' models, whichever they are. Arguments and errors as for `retrain`."""
    task = bank.task
    if workers < 1 or (workers > 1 and not isinstance(task, LanguageTask)):
        raise InputError(
            f"{workers} workers: give 1 or more, and 1 for a task of tensors, which no other process can see."
        )
    progress = _Progress(task, cells, report)
    if workers == 1 or len(cells) <= 1 or not isinstance(task, LanguageTask):
        for cell in cells:
            bank.record(cell, train_cell(task, cell, progress.within(cell)))
            progress.finish(cell)
        return len(cells)
    with Crew(task, min(workers, len(cells)), progress.at) as crew:
        for cell, outcome in crew.train(cells):
            bank.record(cell, outcome)
            progress.finish(cell)
    return len(cells)


def train_cell(task: Task, cell: Cell, report: Callable[[int, int, float], None] | None = None) -> Outcome:
    """Train one cell's model and ask it all queries.

    Raises:
        NumericalError: Its training loss is not finite; names the cell.
    """
    try:
        trained = task.fit(cell.kept, cell.seed, report)
    except NumericalError as error:
        raise NumericalError(f"subset {cell.subset} with seed {cell.seed}: {error}") from error
    return Outcome(tuple(task.losses(trained.model).tolist()), trained.final_loss, len(trained.losses))


class _Progress:
    """Adds up the steps of all cells."""

    def __init__(self, task: Task, cells: Sequence[Cell], report: Report | None) -> None:
        self.report = report
        self.steps = {cell.name: task.steps(cell.kept) for cell in cells}
        self.total = sum(self.steps.values())
        self.finished = 0
        self.running: dict[str, int] = {}

    def at(self, name: str, step: int) -> None:
        """A cell has come to a step."""
        self.running[name] = step
        self._say()

    def within(self, cell: Cell) -> Callable[[int, int, float], None]:
        """What the training of a cell calls."""
        return lambda step, _steps, _loss: self.at(cell.name, step)

    def finish(self, cell: Cell) -> None:
        """A cell is stored."""
        self.running.pop(cell.name, None)
        self.finished += self.steps[cell.name]
        self._say()

    def _say(self) -> None:
        if self.report is not None:
            self.report("retrain", self.finished + sum(self.running.values()), self.total)


def estimate(bank: Bank, kept: NDArray[np.bool_], seeds: Sequence[int], workers: int = 1) -> float:
    """Seconds that `retrain` would take here, from a few real training steps and one round of queries.

    0 if nothing is missing. For lbfgs, whose number of steps is not known before, it is an upper bound.

    Raises:
        NumericalError: Already the first steps are not finite.
    """
    return seconds_of(bank.task, bank.missing(kept, seeds), workers)


def seconds_of(task: Task, cells: Sequence[Cell], workers: int = 1) -> float:
    """Seconds that training these cells takes here. As `estimate`."""
    if not cells:
        return 0.0
    around, step = _time(task, cells[0])
    alone = [around + step * task.steps(cell.kept) for cell in cells]
    at_once = min(workers, len(cells), processors(task))
    start = _WORKER_START if at_once > 1 else 0.0
    return start + max(max(alone), sum(alone) / at_once)


def processors(task: Task) -> int:
    """Workers that this machine can serve at full speed; on CUDA, as many as are asked for."""
    if torch.cuda.is_available():
        return sys.maxsize
    return max(1, (os.cpu_count() or 1) // task.training.threads)


def _time(task: Task, cell: Cell) -> tuple[float, float]:
    """Seconds around the training of a cell (start, queries), and of one of its steps."""
    moments = [time.perf_counter()]
    trained = task.fit(cell.kept, cell.seed, lambda *_: moments.append(time.perf_counter()), stop=_TIMED_STEPS)
    asked = time.perf_counter()
    task.losses(trained.model)
    queries = time.perf_counter() - asked
    later = np.diff(moments[1:])
    first = moments[1] - moments[0] if len(moments) > 1 else 0.0
    step = float(np.median(later)) if len(later) else first
    return max(0.0, first - step) + queries, step

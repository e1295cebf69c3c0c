"""Runs the steps of a run in this process, with progress that people can read; the engine of shares is chosen here.

Any number of processes or machines may each call `run_here` with their own ``(i, n)`` on one run folder: they never
talk to each other, and whoever finds every item of a step done merges it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from whence.attributor import Step, run_steps
from whence.model import dismiss, follow, join_team, load_model

__all__ = ["follow_leader", "merge", "progress", "run_here", "waiting"]

_SAID = {
    "corpus": "Reading the corpus",
    "covariance": "Fitting covariances",
    "eigenvalues": "Fitting eigenvalues",
    "diagonal": "Fitting the diagonal",
    "index": "Coding documents",
    "decomposition": "Decomposing layers",
    "alignment": "Aligning the proxy",
    "comparison": "Comparing it",
    "scoring": "Running documents",
    "trace": "Looking at hits",
    "retrain": "Retraining",
    "tail-patch": "Patching documents",
    "methods": "Scoring by each method",
}


_EVERY = 30.0  # seconds
_COUNTED = {
    "decomposition": "parameters",
    "trace": "queries",
    "retrain": "steps",
    "tail-patch": "documents",
    "methods": "methods",
}
_UNITS = {"decomposition": "param", "trace": "query", "retrain": "step", "tail-patch": "doc", "methods": "method"}


class _Rate(ProgressColumn):
    """Tokens per second."""

    def render(self, task: Task) -> Text:
        """Draw it."""
        speed = task.finished_speed or task.speed
        unit = _UNITS.get(task.fields.get("step", ""), "tok")
        return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="progress.data.speed")


class _Report:
    """Feeds a rich progress display from ``(step, done, total)`` calls."""

    def __init__(self, display: Progress) -> None:
        self.display = display
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show how far a step is; a total of 0 is unknown."""
        if step not in self.tasks:
            self.tasks[step] = self.display.add_task(_SAID.get(step, step), total=total or None, step=step)
        self.display.update(self.tasks[step], completed=min(done, total) if total else done, total=total or None)


def _clock(seconds: float) -> str:
    """Time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


class _Lines:
    """A line every half a minute, for output that goes into a file: no step that takes less says anything."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.begun: dict[str, float] = {}
        self.said: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """Say how far a step is, if it is time to; a total of 0 is unknown."""
        now = self.clock()
        begun = self.begun.setdefault(step, now)
        if now - self.said.setdefault(step, begun) < _EVERY:
            return
        self.said[step] = now
        line = f"{_SAID.get(step, step) or 'Done'}: {done:,}"
        if total:
            left = (now - begun) / max(done, 1) * (total - done)
            line += f" of {total:,} {_COUNTED.get(step, 'tokens')} ({done / total:.0%})"
            line += f", about {_clock(left)} left" if 0 < done < total else ""
        self.console.print(f"{line}, {_clock(now - begun)} so far", highlight=False, soft_wrap=True)


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress display with tokens per second and the time that is left; plain lines where there is no terminal."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as display:
        yield _Report(display)


def run_here(steps: Sequence[Step], console: Console, shares: tuple[int, int] = (0, 1)) -> Step | None:
    """Do this worker's share of the steps.

    Returns:
        The step that waits for other workers, or None when everything is over.
    """
    with progress(console) as report:
        return run_steps(steps, shares, report)


def follow_leader() -> bool:
    """In a process of torchrun other than the first: serve the first until it is done.

    Call it before anything else in a script that torchrun starts, and stop where it is true::

        if not follow_leader():
            run = whence.Attributor("run", model="large", data=["corpus.jsonl"])

    Returns:
        Whether this was such a process, and has nothing left to do.

    Raises:
        ModelError: The processes could not meet, or the model cannot be shared.
    """
    if not join_team():
        return False
    follow(load_model)
    dismiss()
    return True


def merge(steps: Sequence[Step]) -> Step | None:
    """Merge what is complete, doing no item; the first step that is not complete, or None."""
    for step in steps:
        if step.name == "corpus" and not step.finished():
            return step
        if not step.finish():
            return step
    return None


def waiting(step: Step) -> tuple[int, int]:
    """(done, all) items of a step."""
    items: list[Any] = step.items()
    return sum(step.done(item) for item in items), len(items)

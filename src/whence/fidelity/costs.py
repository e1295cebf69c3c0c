"""What a method costs, in seconds and in plain forward+backward passes over the same corpus, timed side by side.

A pass is what training spends on the corpus once: forward, backward, every weight's gradient, in the run's own batches.
Work is timed whole: a piece that was interrupted is done again from the start, so no figure leaves anything out. On a
CPU the unit is the process's CPU time, which other programs do not disturb; on CUDA it is wall time.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whence.attributor import Attributor, batches
from whence.model import CausalLM
from whence.runs import read_json, write_json

__all__ = ["Ledger", "Meter", "Span", "Spent", "plain_pass"]

_ENOUGH_SECONDS = 1.0
_MOST_PASSES = 5


@dataclass(frozen=True, slots=True)
class Spent:
    """What a piece of work took.

    Attributes:
        seconds: Wall-clock seconds.
        passes: The same work in plain passes over the corpus.
    """

    seconds: float = 0.0
    passes: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, self.passes + other.passes)


@dataclass(slots=True)
class Span:
    """A stretch of time: wall seconds, and the seconds (CPU time, or wall on CUDA) that passes are counted in."""

    seconds: float = 0.0
    busy: float = 0.0


@contextmanager
def _span(device: torch.device) -> Iterator[Span]:
    """Times its body: wall seconds, and the seconds that passes are counted in."""
    span = Span()
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.synchronize(device)
    wall, busy = time.perf_counter(), time.process_time()
    yield span
    if on_cuda:
        torch.cuda.synchronize(device)
    span.seconds = time.perf_counter() - wall
    span.busy = span.seconds if on_cuda else time.process_time() - busy


def plain_pass(owner: Attributor) -> None:
    """Forward and backward over the whole corpus with the gradient of every trained parameter, as in training."""
    objective, model, trained = CausalLM(), owner.loaded.model, owner.loaded.trained
    parameters = [(each, each.requires_grad) for each in model.parameters()]
    for name, each in model.named_parameters():
        each.requires_grad_(trained is None or name in trained)
    try:
        for _, examples, _ in batches(owner, np.arange(owner.corpus.windows, dtype=np.int64)):
            objective.losses(model, examples.inputs).sum().backward()
            model.zero_grad(set_to_none=True)
    finally:
        for each, before in parameters:
            each.requires_grad_(before)


class Meter:
    """Times work in this process against a plain pass in the same process.

    Attributes:
        owner: The run whose corpus a pass goes over.
    """

    def __init__(self, owner: Attributor) -> None:
        self.owner = owner

    @cached_property
    def plain(self) -> Span:
        """One plain pass: the median of a few where it is short, after one that warms up."""
        plain_pass(self.owner)
        spans: list[Span] = []
        while not spans or (sum(each.seconds for each in spans) < _ENOUGH_SECONDS and len(spans) < _MOST_PASSES):
            with _span(self.owner.loaded.device) as span:
                plain_pass(self.owner)
            spans.append(span)
        return sorted(spans, key=lambda each: each.busy)[len(spans) // 2]

    def measure(self, work: Callable[[], Any]) -> tuple[Any, Spent]:
        """Do some work; what it returned and what it took."""
        per_pass = max(self.plain.busy, 1e-9)
        with _span(self.owner.loaded.device) as span:
            made = work()
        return made, Spent(span.seconds, span.busy / per_pass)


class Ledger:
    """What the shared steps of a run folder took, kept beside them.

    Args:
        path: The JSON file.
        meter: What measures.
    """

    def __init__(self, path: Path, meter: Meter) -> None:
        self.path, self.meter = path, meter

    def charge(self, name: str, work: Callable[[], Any], there: Callable[[], bool], undo: Callable[[], None]) -> Spent:
        """Do a step once, timed from its start to its end.

        Args:
            name: Of the step.
            work: Does it.
            there: Whether its result is there.
            undo: Removes whatever an interrupted or untimed attempt has left.

        Returns:
            What it took, now or when it was done.
        """
        stored = read_json(self.path) if self.path.is_file() else {}
        if name not in stored or not there():
            undo()
            _, spent = self.meter.measure(work)
            stored[name] = {"seconds": spent.seconds, "passes": spent.passes}
            write_json(self.path, stored)
        return Spent(**stored[name])

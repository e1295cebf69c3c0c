"""Worker processes that train cells for this one. Knows no bank.

Each is ``python -m whence.fidelity.worker``, fed through its standard input one cell at a time, so that all stay busy
until the last. It answers with lines of JSON. The open pipe is its licence to live: when this process ends, by whatever
cause, the pipe closes and the worker ends.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch

import whence.errors
from whence.errors import RunError, WhenceError
from whence.fidelity.bank import Cell, Outcome
from whence.fidelity.tasks import LanguageTask

__all__ = ["Crew"]

_TAIL = 2000
Message = dict[str, Any]


class Crew:
    """Workers for one task, from entering a ``with`` block until leaving it.

    Args:
        task: What they train.
        size: How many.
        report: Called with a cell's name and the step that it has come to.
    """

    def __init__(self, task: LanguageTask, size: int, report: Callable[[str, int], None]) -> None:
        self.report = report
        self._said: queue.Queue[tuple[_Worker, Message | None]] = queue.Queue()
        self._specs = [{**task.spec(), "device": _device(task.device, number)} for number in range(size)]
        self._threads = task.training.threads
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Crew":
        """Start them."""
        try:
            for spec in self._specs:
                self._workers.append(_Worker(spec, self._threads, self._said))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop them, whatever they are doing."""
        self._stop()

    def train(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        """Outcomes in the order in which they are ready.

        Raises:
            WhenceError: What a worker raised, as it raised it.
            RunError: A worker died without a word.
        """
        waiting = list(reversed(cells))
        at_work = {worker: waiting.pop() for worker in self._workers if waiting}
        for worker, cell in at_work.items():
            worker.give(cell)
        while at_work:
            worker, message = self._said.get()
            if message is None:
                raise worker.death()
            if "step" in message:
                self.report(message["cell"], message["step"])
            elif "error" in message:
                raise _error(message)
            else:
                cell = at_work.pop(worker)
                if waiting:
                    at_work[worker] = waiting.pop()
                    worker.give(at_work[worker])
                yield cell, Outcome(tuple(message["losses"]), message["train_loss"], message["steps"])

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process, and a thread that listens to it."""

    def __init__(self, spec: Message, threads: int, said: "queue.Queue[tuple[_Worker, Message | None]]") -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "whence.fidelity.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **counts},
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops its workers
        )
        self._send(spec)
        self._listener = threading.Thread(target=self._listen, args=(said,), daemon=True)
        self._listener.start()

    def give(self, cell: Cell) -> None:
        """Have a cell trained."""
        kept = np.packbits(cell.kept).tobytes().hex()
        self._send({"subset": cell.subset, "seed": cell.seed, "kept": kept})

    def death(self) -> RunError:
        """Why it is gone."""
        code = self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read()[-_TAIL:].decode(errors="replace").strip()
        cause = " (killed, perhaps because memory ran out)" if code == -9 else ""
        return RunError(
            f"a worker ended with code {code}{cause}. What was finished is stored; call again to go on, with fewer "
            f"workers if memory is short. Its last words:\n{tail or '(none)'}"
        )

    def stop(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            _close(stream)

    def _send(self, message: Message) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone; the listener says so

    def _listen(self, said: "queue.Queue[tuple[_Worker, Message | None]]") -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said.put((self, json.loads(line)))
        said.put((self, None))


def _close(stream: IO[bytes] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except BrokenPipeError:
        pass  # a message that nobody will read


def _device(asked: str, number: int) -> str:
    """CUDA devices in turn."""
    if asked in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{number % torch.cuda.device_count()}"
    return asked


def _error(message: Message) -> WhenceError:
    kind = getattr(whence.errors, message["error"], None)
    if isinstance(kind, type) and issubclass(kind, WhenceError):
        return kind(message["message"])
    return RunError(f"a worker failed with {message['error']}: {message['message']}")

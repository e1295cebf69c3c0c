"""A process that trains cells for another: ``python -m whence.fidelity.worker``. Writes nothing to disk.

Standard input: a line with the task, then one line per cell (subset, seed, packed bits of the kept documents). Standard
output, nothing but JSON lines: how far it is, and for each cell its losses, or the error that stopped it. The process
ends when its input does, in the middle of a step if need be.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from typing import IO, Any

import numpy as np

from whence.fidelity.bank import Cell
from whence.fidelity.retrain import train_cell
from whence.fidelity.tasks import LanguageTask

__all__ = ["main"]

_SECONDS_BETWEEN_REPORTS = 0.5


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    asked: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    try:
        task = LanguageTask.from_spec(asked.get())
        while True:
            _serve(task, _cell(asked.get(), task.documents), answers)
    except Exception as error:
        _say(answers, {"error": type(error).__name__, "message": str(error)})
        traceback.print_exc()
        os._exit(1)  # the listening thread holds standard input, which an orderly exit would wait for


def _listen(asked: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin.buffer:
        asked.put(json.loads(line))
    os._exit(0)


def _serve(task: LanguageTask, cell: Cell, answers: IO[str]) -> None:
    last = time.monotonic()

    def report(step: int, _steps: int, _loss: float) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            _say(answers, {"cell": cell.name, "step": step})

    outcome = train_cell(task, cell, report)
    _say(answers, {"losses": outcome.losses, "train_loss": outcome.train_loss, "steps": outcome.steps})


def _cell(message: dict[str, Any], documents: int) -> Cell:
    bits = np.frombuffer(bytes.fromhex(message["kept"]), dtype=np.uint8)
    return Cell(message["subset"], message["seed"], np.unpackbits(bits, count=documents).astype(bool))


def _say(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

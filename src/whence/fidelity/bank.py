"""Query losses of retrained models, on disk: measured once, read by every measure of every method. Trains nothing.

    bank/
      bank.json           what decides the trained models, and with what they were made
      queries/<key>.json  tokens of each query that was ever asked
      subsets/<key>.npy   the documents of each training set, as packed bits
      cells/<subset>-<seed>.json   one trained model's query losses by query, its training loss and steps

A *cell* is one training set with one seed. Nothing in the folder tells when or in which order it was made. More
training sets and seeds are more cells; for more queries the cells that lack them are trained again, and must give the
losses they gave before.
"""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whence.errors import IncompleteError, InputError, NumericalError, StaleRunError, StorageError
from whence.fidelity.subsets import subset_key
from whence.fidelity.tasks import Task
from whence.runs import SCHEMA, clear_abandoned, read_json, refuse_if_changed, storage_errors, write_bytes, write_json

__all__ = ["Bank", "Cell", "Outcome"]

_REPRODUCED = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One model to train: its training set [N] and seed."""

    subset: str
    seed: int
    kept: NDArray[np.bool_]

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.subset}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one trained model said: query losses [Q] (nats), its final training loss, steps taken."""

    losses: tuple[float, ...]
    train_loss: float
    steps: int


class Bank:
    """The cells of one task in a folder.

    Args:
        folder: Made if it is not there.
        task: What its models are.

    Raises:
        StaleRunError: The bank is of another training, corpus or start; says what differs.
        StorageError: The folder cannot be read or written.
    """

    def __init__(self, folder: str | Path, task: Task) -> None:
        self.folder, self.task = Path(folder), task
        path = self.folder / "bank.json"
        fingerprint = json.loads(json.dumps(dict(task.fingerprint)))
        with storage_errors(path):
            exists = path.is_file()
        if exists:
            self._refuse_another(path, fingerprint)
            if os.access(self.folder, os.W_OK):
                clear_abandoned(self.folder)
        else:
            write_json(path, {"schema": SCHEMA, "fingerprint": fingerprint, "made_with": _made_with(task)})

    def missing(self, kept: NDArray[np.bool_], seeds: Sequence[int]) -> list[Cell]:
        """The cells of training sets [S, N] and seeds [R] that lack a query of the task, each once."""
        return self.still_missing(self.cells(kept, seeds))

    def still_missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those of some cells that lack a query of the task."""
        return [cell for cell in cells if not self._has_all(self._stored(cell))]

    def cells(self, kept: NDArray[np.bool_], seeds: Sequence[int]) -> list[Cell]:
        """All cells of training sets [S, N] and seeds [R], each once.

        Raises:
            InputError: They are not training sets of this corpus, or a seed is negative.
        """
        self._refuse_misfit(kept, seeds)
        sets = {subset_key(row): row for row in kept}
        return [Cell(key, seed, row) for key, row in sets.items() for seed in dict.fromkeys(seeds)]

    def losses(self, kept: NDArray[np.bool_], seeds: Sequence[int]) -> NDArray[np.float64]:
        """Query losses after training, float64 [S, R, Q] in nats.

        Args:
            kept: Training sets, bool [S, N].
            seeds: R of them.

        Raises:
            IncompleteError: Some cells have not been trained, or not been asked all queries.
        """
        stored = {cell.name: self._stored(cell) for cell in self.cells(kept, seeds)}
        lacking = [name for name, losses in stored.items() if not self._has_all(losses)]
        if lacking:
            raise IncompleteError(
                f"{self.folder} has {len(stored) - len(lacking)} of the {len(stored)} retrained models that are asked "
                f"for; {len(lacking)} are missing or lack a query. Retrain them: what is there is kept."
            )
        keys = self.task.query_keys
        names = [[f"{subset_key(row)}-{seed}" for seed in seeds] for row in kept]
        rows = [[[stored[name][key] for key in keys] for name in line] for line in names]
        return np.array(rows, dtype=np.float64).reshape(len(kept), len(seeds), len(keys))

    def record(self, cell: Cell, outcome: Outcome) -> None:
        """Store what a cell's model said, beside what an earlier one of the same cell said.

        Raises:
            NumericalError: A query loss is not finite.
            StaleRunError: The cell was trained before and gave other losses.
        """
        new = dict(zip(self.task.query_keys, outcome.losses, strict=True))
        self._refuse_overflow(cell, new)
        old = self._stored(cell)
        self._refuse_unlike(cell, old, new)
        self._record_inputs(cell)
        train_loss = outcome.train_loss if math.isfinite(outcome.train_loss) else None
        content = {"losses": {**new, **old}, "train_loss": train_loss, "steps": outcome.steps}
        write_json(self._path(cell), content)

    def _record_inputs(self, cell: Cell) -> None:
        for key, record in self.task.query_records.items():
            path = self.folder / "queries" / f"{key}.json"
            if not path.is_file():
                write_json(path, record)
        path = self.folder / "subsets" / f"{cell.subset}.npy"
        if not path.is_file():
            content = io.BytesIO()
            np.save(content, np.packbits(cell.kept), allow_pickle=False)
            write_bytes(path, content.getvalue())

    def _path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.name}.json"

    def _stored(self, cell: Cell) -> dict[str, float]:
        path = self._path(cell)
        if not path.is_file():
            return {}
        try:
            return {str(key): float(loss) for key, loss in read_json(path)["losses"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"{path} is damaged ({error!r}); delete it and retrain.") from error

    def _has_all(self, losses: Mapping[str, float]) -> bool:
        return bool(losses) and all(key in losses for key in self.task.query_keys)

    def _refuse_another(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        stored = read_json(path)
        try:
            before = stored["fingerprint"] if stored["schema"] == SCHEMA else {"schema": stored["schema"]}
        except (KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged ({error!r}); give another folder, or delete this one.") from error
        remedy = "Its losses are of other models. Train as before, or give the bank another folder."
        refuse_if_changed(path, before, fingerprint, remedy)

    def _refuse_misfit(self, kept: NDArray[np.bool_], seeds: Sequence[int]) -> None:
        if kept.ndim != 2 or kept.dtype != np.bool_ or kept.shape[1] != self.task.documents:
            raise InputError(
                f"training sets are truth values [S, N] over the corpus's {self.task.documents} documents; "
                f"got {kept.dtype} {list(kept.shape)}."
            )
        if not kept.any(axis=1).all():
            raise InputError(
                f"training set {int(np.argmin(kept.any(axis=1)))} holds no document; nothing can be trained"
            )
        if any(seed < 0 for seed in seeds):
            raise InputError(f"seeds are 0 or more; got {list(seeds)}")

    def _refuse_overflow(self, cell: Cell, losses: Mapping[str, float]) -> None:
        wrong = [key for key, loss in losses.items() if not math.isfinite(loss)]
        if wrong:
            raise NumericalError(
                f"the model trained on subset {cell.subset} with seed {cell.seed} at learning rate "
                f"{self.task.training.learning_rate:g} gives {losses[wrong[0]]} for {len(wrong)} of {len(losses)} "
                "queries; lower the learning rate, clip gradients, or train in float32."
            )

    def _refuse_unlike(self, cell: Cell, old: Mapping[str, float], new: Mapping[str, float]) -> None:
        unlike = [k for k in new if k in old and abs(new[k] - old[k]) > _REPRODUCED * max(1.0, abs(old[k]))]
        if unlike:
            key = unlike[0]
            raise StaleRunError(
                f"the model of subset {cell.subset} with seed {cell.seed}, trained again for more queries, gives other "
                f"losses than before: {new[key]!r} instead of {old[key]!r} for query {key} ({len(unlike)} of them "
                f"differ). {self._blame()} Extend the bank where it was made, or start one in another folder."
            )

    def _blame(self) -> str:
        before, now = read_json(self.folder / "bank.json").get("made_with", {}), _made_with(self.task)
        changed = [f"{key} was {before.get(key)}, now {now[key]}" for key in now if before.get(key) != now[key]]
        return f"What changed: {'; '.join(changed) or 'the machine, most likely'}."


def _made_with(task: Task) -> dict[str, Any]:
    """What moves the last bits of a training, as information."""
    version = ".".join(torch.__version__.split(".")[:2])
    return {"torch": version, "threads": task.training.threads, "cuda": torch.cuda.is_available()}

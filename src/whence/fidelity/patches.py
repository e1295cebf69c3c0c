"""Tail-patch gains on disk, document by document, so that a lab that was killed patches only what is missing.

patches/<hash>/<document>.json   rise of log p (nats) of each query by its key
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from whence.fidelity.patch import patch_training, tail_patch
from whence.fidelity.tasks import LanguageTask
from whence.runs import read_json, write_json

__all__ = ["Patches"]

_AT_ONCE = 16
"""Documents between two writes: what a kill can cost."""


class Patches:
    """Gains of one model, its corpus and the step that suits it.

    Args:
        folder: Where they are kept.
        task: Whose stored model is patched, and whose queries are asked.
    """

    def __init__(self, folder: Path, task: LanguageTask) -> None:
        self.task = task
        self.model = task.stored_model()
        self.step = patch_training(task, model=self.model)
        bound = {"task": dict(task.fingerprint), "step": self.step.model_dump(mode="json")}
        self.folder = folder / xxhash.xxh3_64_hexdigest(json.dumps(bound, sort_keys=True).encode())

    def gains(
        self, documents: Sequence[int], report: Callable[[str, int, int], None] | None = None
    ) -> NDArray[np.float64]:
        """Rise of log p of every query after one step on each document, [M, Q]; see `whence.fidelity.patch`."""
        known = {document: self._stored(document) for document in documents}
        keys = self.task.query_keys
        lacking = [document for document, gains in known.items() if not set(keys) <= set(gains)]
        for start in range(0, len(lacking), _AT_ONCE):
            part = lacking[start : start + _AT_ONCE]
            for document, row in zip(part, tail_patch(self.task, part, model=self.model, step=self.step), strict=True):
                known[document] = {**known[document], **dict(zip(keys, row.tolist(), strict=True))}
                write_json(self._path(document), known[document])
            if report is not None:
                report("tail-patch", start + len(part), len(lacking))
        return np.array([[known[document][key] for key in keys] for document in documents])

    def _path(self, document: int) -> Path:
        return self.folder / f"{document}.json"

    def _stored(self, document: int) -> dict[str, float]:
        path = self._path(document)
        stored: dict[str, float] = read_json(path) if path.is_file() else {}
        return stored

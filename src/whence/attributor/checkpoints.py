"""Earlier states of the training that led to a run's model, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of a training.

    Attributes:
        path: Directory with the model's weights.
        step: Optimizer steps taken before it was saved.
        learning_rate: Rate of the step that followed, or of the last one at the end.
        optimizer: File of the optimizer's state, if it was saved.
        fingerprint: What decides its weights and states; see `whence.model.LoadedModel`.
    """

    path: Path
    step: int
    learning_rate: float
    optimizer: Path | None
    fingerprint: Mapping[str, Any]

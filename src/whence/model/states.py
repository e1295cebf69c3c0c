"""States of a training, as its loop shows them and as folders. Knows no corpus and no schedule.

    checkpoint-120/
        config.json, *.safetensors   the model, as ``save_pretrained`` has it
        checkpoint.json              a `StoredState`: step, rates, how the optimizer steps
        optimizer.safetensors        ``exp_avg:<parameter>`` and ``exp_avg_sq:<parameter>`` under Adam,
                                     ``momentum:<parameter>`` under SGD with momentum and Muon; never a pickle

Parameters are named as ``named_parameters`` does, one that is used twice by its first name. A folder appears whole.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn

from whence.model.training import Training
from whence.runs import is_done, publish, storage_errors, write_json

__all__ = [
    "OPTIMIZER_FILE",
    "STATE_FILE",
    "StoredState",
    "TrainingState",
    "evenly",
    "keep_states",
    "optimizer_tensors",
    "write_state",
]

STATE_FILE, OPTIMIZER_FILE = "checkpoint.json", "optimizer.safetensors"
_KINDS = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "momentum_buffer": "momentum", "momentum": "momentum"}


class StoredState(BaseModel):
    """What ``checkpoint.json`` says of a state.

    Attributes:
        step: Optimizer steps taken.
        learning_rate: Rate of the step that followed, or of the last one at the end.
        rate_sum: Sum of the rates of all steps taken; ``step * learning_rate`` if it is not given.
        optimizer: Its name: adamw, sgd, muon …
        betas: Adam's decays.
        eps: Adam's.
        momentum: Plain SGD's; its steps are as long as ``rate / (1 - momentum)`` in the end.
        weight_decay: Decoupled for Adam, L2 for SGD: both take off ``rate * weight_decay`` a step.
        reduction: What a batch's summed loss is divided by: its target tokens, or its documents.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int = Field(ge=0)
    learning_rate: float = Field(ge=0)
    rate_sum: float | None = Field(default=None, ge=0)
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    reduction: Literal["tokens", "documents"] = "tokens"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A training between two steps; to be read, never changed.

    Attributes:
        model: The model.
        optimizers: Its optimizers.
        training: How it is trained.
        step: Steps taken.
        steps: Steps in all.
        rate_sum: Sum of the rates of the steps taken.
    """

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    training: Training
    step: int
    steps: int
    rate_sum: float

    @property
    def stored(self) -> StoredState:
        """As `checkpoint.json` says it."""
        training = self.training
        return StoredState(
            step=self.step,
            learning_rate=training.rate(min(self.step, self.steps - 1), self.steps),
            rate_sum=self.rate_sum,
            optimizer=training.optimizer,
            betas=training.betas,
            eps=training.eps,
            momentum=training.momentum if training.optimizer == "sgd" else 0.0,
            weight_decay=training.weight_decay,
            reduction=training.reduction,
        )


def evenly(steps: int, count: int) -> tuple[int, ...]:
    """Steps at `count` evenly spaced points of a training, the end among them.

    >>> evenly(20, 3)
    (7, 13, 20)
    """
    return tuple(sorted({round(steps * point / count) for point in range(1, count + 1)} - {0}))


def optimizer_tensors(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What optimizers keep of every parameter, by ``kind:name``; see the module."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    out: dict[str, Tensor] = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            kept = {_KINDS[key]: value for key, value in state.items() if key in _KINDS and value is not None}
            out |= {f"{kind}:{names[id(parameter)]}": value for kind, value in kept.items()}
    return out


def write_state(
    folder: Path, model: nn.Module, state: StoredState, tensors: Mapping[str, Tensor], marker: Mapping[str, Any] = {}
) -> None:
    """Write a state of a training; a folder that is there already stays as it is.

    Args:
        folder: Appears whole or not at all.
        model: A transformers model.
        state: What is said of it.
        tensors: What the optimizer keeps, by ``kind:name``.
        marker: What ``done.json`` says beside it.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    if is_done(folder):
        return
    found: Any = model
    with publish(folder, marker) as temporary:
        with storage_errors(folder):
            found.save_pretrained(temporary)
            if tensors:
                copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
                save_file(copies, temporary / OPTIMIZER_FILE)
        write_json(temporary / STATE_FILE, state.model_dump(mode="json"))


def keep_states(folder: Path, steps: Collection[int]) -> Callable[[TrainingState], None]:
    """An observer of `whence.model.optimise` that writes ``folder/checkpoint-<step>`` after some of the steps.

    Args:
        folder: Where they go.
        steps: After how many steps; `evenly` spreads them.
    """
    wanted = frozenset(steps)

    def observe(state: TrainingState) -> None:
        if state.step in wanted:
            tensors = optimizer_tensors(state.model, state.optimizers)
            write_state(folder / f"checkpoint-{state.step}", state.model, state.stored, tensors)

    return observe

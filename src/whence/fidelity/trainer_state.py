"""The ``trainer_state.json`` of transformers' checkpoints as a training: what its log gives away of rates and steps."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from whence.errors import InputError
from whence.model import Training

__all__ = ["from_state", "is_state"]

Notes = tuple[str, ...]
Log = list[tuple[int, float]]

Shape = Literal["constant", "linear", "cosine"]

_ROUNDS = 20


def is_state(content: Mapping[str, Any]) -> bool:
    """Whether a mapping is the state of a ``Trainer``."""
    return "log_history" in content and "global_step" in content


def from_state(content: Mapping[str, Any]) -> tuple[Training, Notes]:
    """The training whose rates fit the log best; the optimizer is not in it and is taken to be AdamW.

    Raises:
        InputError: No learning rate was logged.
    """
    log = [(int(e["step"]), float(e["learning_rate"])) for e in content["log_history"] if "learning_rate" in e]
    steps = int(content.get("max_steps") or content["global_step"])
    if not log or steps < 1 or max(rate for _, rate in log) <= 0:
        raise InputError("its log has no learning rate above 0, so nothing can be told of the training.")
    batch = int(content.get("train_batch_size") or 8)
    candidates = [_candidate(shape, log, steps, batch) for shape in get_args(Shape)]
    training = min(candidates, key=lambda candidate: _misfit(candidate, log, steps))
    return training, _notes(training, log, steps, batch)


def _candidate(shape: Shape, log: Log, steps: int, batch: int) -> Training:
    """Peak and warm-up such that the shape meets the largest logged rate and the line of the first, rising ones."""
    at, largest = max(log, key=lambda entry: entry[1])
    slope = _slope(log, at)
    peak, training = largest, Training()
    for _ in range(_ROUNDS):  # the peak itself may have passed between two entries of the log
        warmup = max(1, round(peak / slope)) if slope else 0
        training = Training(
            learning_rate=peak,
            schedule=shape,
            warmup=float(warmup),
            max_steps=steps,
            batch=batch,
            clip=1.0,
            rate_at="start",
        )
        share = training.rate(at - 1, steps) / peak
        peak = largest / share if share > 0 else largest
    return training


def _slope(log: Log, top: int) -> float:
    """Rise of the rate by step before its largest entry; 0 if none was logged."""
    rising = [(step, rate) for step, rate in log if 1 < step < top]
    return rising[0][1] / (rising[0][0] - 1) if rising and rising[0][1] < max(rate for _, rate in log) else 0.0


def _misfit(training: Training, log: Log, steps: int) -> float:
    return sum(abs(training.rate(step - 1, steps) - rate) for step, rate in log)


def _notes(training: Training, log: Log, steps: int, batch: int) -> Notes:
    error = _misfit(training, log, steps) / len(log) / training.learning_rate
    return (
        f"the schedule was guessed from {len(log)} logged rates: {training.schedule}, warm-up of {training.warmup:g} "
        f"steps, peak {training.learning_rate:g}; it misses them by {100 * error:.1f} % of the peak on average.",
        "the state does not name the optimizer, betas, weight decay or clipping: AdamW with transformers' defaults.",
        f"{steps} steps of {batch} examples: accumulation and the number of devices are not in the file; multiply.",
    )

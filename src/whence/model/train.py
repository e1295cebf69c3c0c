"""The one loop that trains. Knows no corpus and no tokens.

A step is taken on a *batch*: a sequence of pieces, each small enough for memory, whose losses add up to the step's. The
caller says what the loss of a piece is. Training is deterministic for a given seed, number of threads, kind of device
and version of torch.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from whence.errors import InputError, ModelError, NumericalError
from whence.model.optimizers import decay_groups, make_optimizers
from whence.model.states import TrainingState
from whence.model.training import LBFGS_STEPS, Training

__all__ = ["Summed", "optimise", "reproducible", "take_step", "trained_parameters"]

Report = Callable[[int, int, float], None]
Observer = Callable[[TrainingState], None]
Piece = TypeVar("Piece")

_LBFGS_CLOSE = {torch.float64: 1e-7, torch.float32: 1e-4}


def optimise(
    model: nn.Module,
    batches: Iterable[Sequence[Piece]],
    loss: Callable[[nn.Module, Piece], Tensor],
    steps: int,
    training: Training,
    *,
    seed: int = 0,
    report: Report | None = None,
    observer: Observer | None = None,
) -> list[float]:
    """Train a model in place, one step per batch; parameters that do not require gradients stay as they are.

    Args:
        model: Left in evaluation mode.
        batches: In the order of training, each a sequence of pieces. An empty one takes no step, but time passes for
            the schedule. lbfgs takes the first alone.
        loss: What a piece adds to the loss of its step, a scalar; already divided by the batch's count.
        steps: Length of the schedule.
        training: Optimizer, rates, clipping.
        seed: Decides dropout, anew for each step.
        report: Called after every step with (steps done, steps in all, loss).
        observer: Shown the state of the training after every step, as in `whence.model.keep_states`; changes nothing.

    Returns:
        Loss of every step, before its update; for lbfgs at every evaluation. Empty batches have none.

    Raises:
        NumericalError: A loss is not finite, or lbfgs does not converge within its own limit.
        ModelError: No parameter requires a gradient.
        InputError: lbfgs, whose steps have no rate, is to be observed.
    """
    if training.full_batch and observer is not None:
        raise InputError("lbfgs takes no steps at a rate, so it leaves no checkpoints; train with adamw, sgd or muon.")
    pieces_loss = Summed(model, loss)
    optimizers = make_optimizers(model, training)
    model.train()
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        if training.full_batch:
            losses = _minimise(optimizers[0], pieces_loss, next(iter(batches)), training, seed, steps, report)
        else:
            losses = _descend(optimizers, pieces_loss, batches, training, seed, steps, report, observer)
    model.eval()
    return losses


class Summed:
    """Loss of a batch, gradients accumulated piece by piece."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        self.model, self.loss = model, loss
        self.parameters = trained_parameters(model)
        self.on_cuda = bool(_cuda_devices(model))

    def backward(self, pieces: Sequence[Any], seed: int) -> float:
        """Set the gradients of a batch and give its loss."""
        self._seed(seed)
        for parameter in self.parameters:
            parameter.grad = None
        total = 0.0
        for piece in pieces:
            value = self.loss(self.model, piece)
            value.backward()
            total += float(value.detach())
        return total

    def _seed(self, seed: int) -> None:
        """As ``torch.manual_seed``, which without CUDA would note down each call for later."""
        torch.default_generator.manual_seed(seed)
        if self.on_cuda:
            torch.cuda.manual_seed_all(seed)


def _descend(
    optimizers: Sequence[torch.optim.Optimizer],
    summed: Summed,
    batches: Iterable[Sequence[Any]],
    training: Training,
    seed: int,
    steps: int,
    report: Report | None,
    observer: Observer | None,
) -> list[float]:
    losses: list[float] = []
    rate_sum = 0.0
    for number, pieces in enumerate(batches):
        if pieces:
            rate_sum += training.rate(number, steps)
            losses.append(take_step(optimizers, summed, pieces, training, seed, number, steps))
        if report is not None:
            report(number + 1, steps, losses[-1] if losses else math.nan)
        if observer is not None:
            observer(TrainingState(summed.model, optimizers, training, number + 1, steps, rate_sum))
    return losses


def take_step(
    optimizers: Sequence[torch.optim.Optimizer],
    summed: Summed,
    pieces: Sequence[Any],
    training: Training,
    seed: int,
    number: int,
    steps: int,
    watch: Callable[[], None] | None = None,
) -> float:
    """One step of `optimise`.

    Args:
        optimizers: See `make_optimizers`.
        summed: The model and its loss.
        pieces: The batch.
        training: How to train; not with lbfgs.
        seed: Of the training.
        number: Steps before this one.
        steps: Length of the schedule.
        watch: Called once the gradients are there, before they are clipped.

    Returns:
        The loss before the update.
    """
    rate = training.rate(number, steps)
    loss = summed.backward(pieces, _step_seed(seed, number))
    _refuse_overflow(loss, number, rate)
    if watch is not None:
        watch()
    _step(optimizers, rate, summed.parameters, training.clip)
    return loss


def _step(
    optimizers: Sequence[torch.optim.Optimizer], rate: float, parameters: Sequence[nn.Parameter], clip: float | None
) -> None:
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def _minimise(
    optimizer: torch.optim.Optimizer,
    summed: Summed,
    pieces: Sequence[Any],
    training: Training,
    seed: int,
    steps: int,
    report: Report | None,
) -> list[float]:
    """L-BFGS with strong Wolfe line search on one batch, the squared weights being a term of the loss."""
    decayed = [
        p for group in decay_groups(summed.parameters, training) if group["weight_decay"] for p in group["params"]
    ]
    losses: list[float] = []

    def closure() -> float:
        value = summed.backward(pieces, _step_seed(seed, 0)) + _add_decay(decayed, training.weight_decay)
        _refuse_overflow(value, len(losses), 1.0)
        losses.append(value)
        if report is not None:
            report(min(len(losses), steps), steps, value)
        return value

    optimizer.step(closure)
    _refuse_unconverged(summed, closure, training)
    return losses


def _add_decay(decayed: Sequence[nn.Parameter], decay: float) -> float:
    """w/2 |θ|², its gradient added to those that are there."""
    value = 0.0
    with torch.no_grad():
        for parameter in decayed:
            value += float(parameter.square().sum()) * decay / 2
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(parameter, alpha=decay)
    return value


def _refuse_unconverged(summed: Summed, closure: Callable[[], float], training: Training) -> None:
    if training.max_steps is not None:
        return
    closure()
    largest = max((float(p.grad.abs().max()) for p in summed.parameters if p.grad is not None), default=0.0)
    if largest > _LBFGS_CLOSE[summed.parameters[0].dtype]:
        raise NumericalError(
            f"lbfgs did not converge: after {LBFGS_STEPS} iterations the largest gradient is {largest:.1e}. Train in "
            "float64, give some weight_decay, or set max_steps to accept where it then stands."
        )


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient.

    Raises:
        ModelError: There is none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError(
            f"no parameter of this {type(model).__name__} requires a gradient, so there is nothing to train; thaw some "
            "with requires_grad_()."
        )
    return parameters


def _refuse_overflow(loss: float, step: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise NumericalError(
            f"the training loss is {loss} at step {step + 1} (learning rate {rate:g}); "
            "lower the learning rate, clip gradients, or train in float32."
        )


def _step_seed(seed: int, step: int) -> int:
    """A seed of its own for every step, so that dropout does not depend on which steps were taken before."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) % 2**63


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    return sorted(device.index or 0 for device in devices)


@contextmanager
def reproducible(training: Training) -> Iterator[None]:
    """Threads as asked for and, on CUDA, deterministic algorithms wherever there are any; put back afterwards."""
    threads = torch.get_num_threads()
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(training.threads)
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(was, warn_only=warned)

"""Tail-patch: one training step on one document alone, from a trained model, and what it does to the queries.

Chang, Rajagopal, Bolukbasi, Dixon and Tenney, "Scalable influence and fact tracing for large language model
pretraining" (2024). It asks what a document would add to the finished model, not what it did in training, and it
depends on the step: so one step, of one rate, is used for all documents.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from whence.errors import InputError, NumericalError
from whence.fidelity.subsets import PATCHES, keys
from whence.fidelity.tasks import Task
from whence.model import Training, optimise, reproducible, set_dropout, trained_parameters

__all__ = ["patch_training", "tail_patch"]

_FALL = 0.05
_SAMPLE = 32


def tail_patch(
    task: Task,
    documents: Sequence[int],
    *,
    model: nn.Module | None = None,
    step: Training | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Rise of log p of every query after one training step on each document alone.

    Every step starts from the very same weights: the model itself is never touched, a copy of it is set back exactly.
    Dropout is off. An optimizer with a state starts without one, which makes AdamW's step one of equal size for all
    weights.

    Args:
        task: Documents and queries.
        documents: M numbers of documents.
        model: The trained model; the task's stored one if None.
        step: The step: optimizer, learning rate, reduction, clipping. Its schedule, length and batch mean nothing.
            `patch_training` if None; ``task.training`` takes a step as in training, at its peak rate.
        report: Called with ("tail-patch", documents done, documents in all).

    Returns:
        float64 [M, Q], in nats: above 0 where the step made the output likelier (against its contrast, if any).

    Raises:
        NumericalError: A step leads out of the finite numbers.
        InputError: There is no such document, or the step is lbfgs.
        ModelError: All parameters are frozen.
    """
    _refuse_unknown(task, documents)
    start = task.stored_model() if model is None else model
    with reproducible(task.training):
        step = _single(step or patch_training(task, model=start))
        before = task.losses(start)
        patched = copy.deepcopy(start)
        set_dropout(patched, 0.0)
        rises = np.empty((len(documents), len(before)), dtype=np.float64)
        for row, document in enumerate(documents):
            optimise(patched, [task.alone(document, step)], task.piece_loss(patched), 1, step)
            rises[row] = before - task.losses(patched)
            _set_back(patched, start)
            if report is not None:
                report("tail-patch", row + 1, len(documents))
    _refuse_overflow(rises, documents, step)
    return rises


def patch_training(task: Task, *, model: nn.Module | None = None, fall: float = _FALL) -> Training:
    """Plain gradient descent of a rate that suits the model.

    Gradient descent, because a fresh AdamW's first step has the same size for every weight, however little a document
    says about it. The rate is the one at which, by first order, half of a fixed sample of the corpus's documents would
    lower their own mean token loss (their own loss, for a module) by more than `fall` nats: small enough to be a
    step, large enough to rise above rounding. It depends on the model and the corpus, and not on which documents are
    patched, so that methods can be compared.

    Raises:
        NumericalError: No document of the sample has a gradient.
    """
    start = task.stored_model() if model is None else model
    order = np.argsort(keys(task.documents, PATCHES, 0, 0), kind="stable")
    probe = Training(optimizer="sgd", max_steps=1, reduction="tokens", dtype=task.training.dtype)
    with reproducible(task.training):
        squares = [_squared_gradient(task, int(document), start, probe) for document in order[:_SAMPLE]]
    middle = float(np.median(squares))
    if not (np.isfinite(middle) and middle > 0):
        raise NumericalError(
            f"the squared gradients of {len(squares)} documents have the median {middle}; no learning rate for "
            "tail-patch follows from that. Give the step yourself."
        )
    return probe.model_copy(update={"learning_rate": fall / middle})


def _squared_gradient(task: Task, document: int, model: nn.Module, step: Training) -> float:
    trained = trained_parameters(model)
    loss = task.piece_loss(model)
    sums = [torch.zeros_like(parameter) for parameter in trained]
    for piece in task.alone(document, step):
        gradients = torch.autograd.grad(loss(model, piece), trained, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient
    return float(sum(float(total.double().square().sum()) for total in sums))


def _single(step: Training) -> Training:
    if step.full_batch:
        raise InputError(
            "tail-patch takes one step; lbfgs goes on until the gradient vanishes. Give another optimizer."
        )
    return step.model_copy(update={"max_steps": 1, "schedule": "constant", "warmup": 0.0, "grouping": "refill"})


def _set_back(patched: nn.Module, start: nn.Module) -> None:
    with torch.no_grad():
        for parameter, original in zip(patched.parameters(), start.parameters(), strict=True):
            parameter.copy_(original)
        for buffer, kept in zip(patched.buffers(), start.buffers(), strict=True):
            buffer.copy_(kept)


def _refuse_unknown(task: Task, documents: Sequence[int]) -> None:
    unknown = [number for number in documents if not 0 <= number < task.documents]
    if unknown:
        raise InputError(f"there is no document {unknown[0]} in a corpus of {task.documents}.")


def _refuse_overflow(rises: NDArray[np.float64], documents: Sequence[int], step: Training) -> None:
    wrong = np.flatnonzero(~np.isfinite(rises).all(axis=1))
    if len(wrong):
        raise NumericalError(
            f"one step on document {documents[wrong[0]]} at learning rate {step.learning_rate:g} leads out of the "
            "finite numbers; lower the rate."
        )

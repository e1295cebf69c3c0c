"""Relearning: how fast a model learns forgotten documents again, against one that never saw them.

What was only hidden comes back in a few steps (Lynch et al. 2024, arXiv:2402.16835; Lucki et al. 2024,
arXiv:2409.18025). So the edited model and the one trained without the documents are both trained on them for as many
steps, with the same optimizer and rate, and the losses are laid side by side.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.audits.unlearning import Texts, mean_losses, text_losses
from whence.fidelity.pieces import PIECE_TOKENS
from whence.interfaces import Relearning
from whence.model import Training, as_loaded, optimise, reproducible, set_dropout

__all__ = ["relearn", "relearning_of"]


def relearn(model: nn.Module, texts: Texts, training: Training, steps: int, seed: int = 0) -> list[float]:
    """Mean -log p per token of the texts before each of some training steps on them, and after the last.

    Args:
        model: Copied, not changed.
        texts: The forgotten texts.
        training: Its optimizer, batch and a tenth of its rate are taken; the rate is constant and nothing decays.
        steps: How many.
        seed: Of the order.
    """
    fixed = {"schedule": "constant", "warmup": 0.0, "max_steps": 1, "weight_decay": 0.0}
    optimizer = "adamw" if training.full_batch else training.optimizer
    how = training.model_copy(
        update={**fixed, "optimizer": optimizer, "learning_rate": training.learning_rate / 10, "max_steps": steps}
    )
    loaded = as_loaded(copy.deepcopy(model))
    set_dropout(loaded.model, 0.0)
    losses: list[float] = []

    def loss(_: nn.Module, rows: NDArray[np.int64]) -> Tensor:
        found = text_losses(loaded, texts, rows)
        return found.sum() / texts.tokens[rows].sum().to(found)

    def measured() -> None:
        losses.append(float(mean_losses(loaded, texts).mean()))

    with reproducible(training):
        measured()
        batches = _batches(texts, training.batch, steps, seed)
        optimise(loaded.model, batches, loss, steps, how, seed=seed, report=lambda *_: measured())
    return losses


def _batches(texts: Texts, batch: int, steps: int, seed: int) -> Iterator[Sequence[NDArray[np.int64]]]:
    count = len(texts.sequences)
    size = min(count, batch, max(1, PIECE_TOKENS // max(len(tokens) for tokens, _ in texts.sequences)))
    order = np.random.default_rng([seed, 23]).permutation(count)
    for step in range(steps):
        yield [order[(step * size + np.arange(size)) % count]]


def relearning_of(curves: Sequence[Sequence[float]], halfway: float) -> Relearning:
    """What curves of several seeds say together.

    Args:
        curves: Losses before each step and after the last, one curve per seed.
        halfway: The loss that counts as learnt again, nats per token.

    >>> relearning_of([[3.0, 2.0, 1.0], [3.0, 1.0, 1.0]], 1.5).steps
    1.5
    """
    table = np.asarray(curves, dtype=np.float64)
    mean = table.mean(0)
    there = table <= halfway
    reached = [float(row.argmax()) for row in there if row.any()]
    steps = float(np.mean(reached)) if len(reached) == len(table) else None
    return Relearning(losses=tuple(mean.tolist()), lowest=float(mean.min()), steps=steps)

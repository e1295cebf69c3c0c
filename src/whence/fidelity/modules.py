"""A task for any torch module on rows of tensors. Knows no text and no disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.errors import InputError
from whence.fidelity.places import places, steps_of
from whence.fidelity.records import content_hash
from whence.fidelity.tasks import Report, Trained, refuse_empty, training_fingerprint
from whence.model import Objective, Training, has_dropout, optimise, reproducible, set_dropout

__all__ = ["ModuleTask"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Rows = tuple[Tensor, Tensor, Tensor]
"""Features, labels and the weight of each row in the loss of its step."""


class ModuleTask:
    """Trains any torch module on rows of tensors; a document is a row.

    Args:
        make: Makes the untrained module from a seed.
        objective: Summed loss of each example, as `whence.model.Classification`.
        train: Features [N, ...] and labels [N, ...].
        queries: Features [Q, ...] and labels [Q, ...]; the loss of each is measured.
        training: How to train. The tensors decide the device; floating features are cast to its dtype.
    """

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        objective: Objective,
        train: tuple[Tensor, Tensor],
        queries: tuple[Tensor, Tensor],
        training: Training,
    ) -> None:
        self.make, self.objective, self.training = make, objective, training
        self.rows, self.queries = (self._cast(train), self._cast(queries))

    @property
    def documents(self) -> int:
        """N."""
        return len(self.rows[0])

    @cached_property
    def query_keys(self) -> tuple[str, ...]:
        """Hashes of features and labels, [Q]."""
        return tuple(_tensor_hash(features, label) for features, label in zip(*self.queries, strict=True))

    @property
    def query_records(self) -> Mapping[str, Any]:
        """The keys stand for rows that only the caller has."""
        return {key: {"row": number} for number, key in enumerate(self.query_keys)}

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """Training, rows, objective, and the module that seed 0 makes."""
        state = self._module(0).state_dict()
        return {
            "task": "module",
            "rows": _tensor_hash(*self.rows),
            "objective": repr(self.objective),
            "start": content_hash(" ".join(state) + _tensor_hash(*state.values())),
            **training_fingerprint(self.training),
        }

    def steps(self, kept: Bools) -> int:
        """Training steps on the rows `kept` [N]."""
        return steps_of(kept, self.training)

    def fit(self, kept: Bools, seed: int, report: Report | None = None, stop: int | None = None) -> Trained:
        """Train on the rows `kept` [N]; `stop` ends after so many steps of the whole schedule, to time them.

        Raises:
            NumericalError: The loss is not finite, or lbfgs does not converge.
            InputError: No row is kept.
        """
        refuse_empty(kept, self.documents)
        with reproducible(self.training):
            model = self._module(seed)
            if self.training.dropout is not None:
                set_dropout(model, self.training.dropout)
            batches = islice(self._batches(kept, seed, has_dropout(model)), stop)
            losses = optimise(
                model, batches, self.piece_loss(model), self.steps(kept), self.training, seed=seed, report=report
            )
        return Trained(model, tuple(losses))

    def train(self, kept: Bools, seed: int, report: Report | None = None) -> nn.Module:
        """The module of `fit` alone."""
        return self.fit(kept, seed, report).model

    def losses(self, model: nn.Module) -> Floats:
        """Query losses [Q], each asked for alone."""
        model.eval()
        features, labels = self.queries
        with torch.no_grad(), reproducible(self.training):
            single = (
                self.objective.losses(model, (features[i : i + 1], labels[i : i + 1])) for i in range(len(labels))
            )
            return np.array([float(loss.double().sum()) for loss in single], dtype=np.float64)

    def stored_model(self) -> nn.Module:
        """There is none.

        Raises:
            InputError: Always.
        """
        raise InputError("a task of tensors knows of no trained model; give one, as task.train(everything, seed).")

    def alone(self, document: int, training: Training) -> Sequence[Rows]:
        """One row as a batch of its own."""
        chosen = slice(document, document + 1)
        return [(self.rows[0][chosen], self.rows[1][chosen], torch.ones(1, device=self.rows[0].device))]

    def piece_loss(self, model: nn.Module) -> Callable[[nn.Module, Rows], Tensor]:
        """What a piece of a batch adds to the loss of its step."""

        def loss(module: nn.Module, piece: Rows) -> Tensor:
            losses = self.objective.losses(module, piece[:2])
            return (losses * piece[2].to(losses.dtype)).sum()

        return loss

    def _cast(self, tensors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        dtype = getattr(torch, self.training.dtype)
        features, labels = (tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)
        return features, labels

    def _module(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make(seed).to(self.rows[0].device, getattr(torch, self.training.dtype))

    def _batches(self, kept: Bools, seed: int, dropout: bool) -> Iterator[list[Rows]]:
        for place in places(kept, self.training, seed):
            stays = np.ones_like(place.present) if dropout else place.present
            chosen = torch.from_numpy(place.examples[stays]).to(self.rows[0].device)
            weights = torch.from_numpy(place.present[stays] / len(place.examples)).to(chosen.device)
            yield [(self.rows[0][chosen], self.rows[1][chosen], weights)] if place.present.any() else []


def _tensor_hash(*tensors: Tensor) -> str:
    """Hash of values, shapes and types."""
    parts = []
    for tensor in tensors:
        array = tensor.detach().cpu()
        array = array.float() if array.dtype == torch.bfloat16 else array
        parts.append(f"{tensor.dtype} {tuple(tensor.shape)} {array.numpy().tobytes().hex()}")
    return content_hash(" ".join(parts))

"""The training of a run's model, as something that methods can run again and differentiate. Trains nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.errors import ModelError
from whence.fidelity.pieces import Piece, piece_loss, piece_shares
from whence.fidelity.tasks import LanguageTask
from whence.interfaces import EncodedQuery
from whence.model import Training, as_loaded

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.fidelity.experiments import Start

__all__ = ["LanguageReplay", "replay_of", "task_of"]

_TWICE_DIFFERENTIABLE = ("eager", "sdpa")


@dataclass(frozen=True)
class LanguageReplay:
    """The training of a task on its whole corpus, step by step (`whence.model.TrainingReplay`).

    Attributes:
        task: What is trained, how, and from where.
        seed: Of the order of documents and, from scratch, of the first weights.
    """

    task: LanguageTask
    seed: int = 0

    @property
    def training(self) -> Training:
        """How it trains."""
        return self.task.training

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Training, corpus, start and seed."""
        return {**self.task.fingerprint, "seed": self.seed}

    @property
    def steps(self) -> int:
        """Length of the schedule."""
        return self.task.steps(self._everything)

    def start(self) -> nn.Module:
        """A model of its own before the first step.

        Raises:
            ModelError: Its attention cannot be differentiated twice.
        """
        model = self.task.initial(self.seed).model
        attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
        if attention not in (None, *_TWICE_DIFFERENTIABLE):
            raise ModelError(
                f"attention {attention!r} cannot be differentiated twice, which the derivative of a training needs; "
                f"give --attention {' or '.join(_TWICE_DIFFERENTIABLE)}."
            )
        return model

    def batches(self, first: int, stop: int) -> Iterator[Sequence[Piece]]:
        """The batches of the steps from `first` to before `stop`."""
        return self.task.windows.batches(self._everything, self.seed, False, first, stop)

    def piece_loss(self, model: nn.Module) -> Callable[[nn.Module, Piece], Tensor]:
        """What a piece adds to the loss of its step."""
        return piece_loss(as_loaded(model))

    def shares(self, model: nn.Module) -> Callable[[nn.Module, Piece], Tensor]:
        """The same window by window, [E]."""
        return piece_shares(as_loaded(model))

    def documents(self, piece: Piece) -> NDArray[np.int64]:
        """Document of each window of a piece, [E]."""
        return self.task.windows.owners[piece.batch.rows]

    @cached_property
    def _everything(self) -> NDArray[np.bool_]:
        return np.ones(self.task.documents, dtype=bool)


def replay_of(owner: "Attributor", training: Training, start: "Start", seed: int = 0) -> LanguageReplay:
    """The training of a run's model on the run's corpus.

    Args:
        owner: The run; its corpus must have been read.
        training: How the model was trained.
        start: From where.
        seed: Of that training.
    """
    return LanguageReplay(task_of(owner, training, start, ()), seed)


def task_of(owner: "Attributor", training: Training, start: "Start", queries: Sequence[EncodedQuery]) -> LanguageTask:
    """A training on a run's corpus, with the run's device, attention and tokenizer."""
    source, own = owner.source, start.path == owner.source.model
    return LanguageTask(
        owner.run.corpus,
        start.path,
        training,
        queries,
        scratch=start.scratch,
        adapter=start.adapter,
        device=owner.device,
        revision=source.revision if own else None,
        attention=source.attention,
        tokenizer=source.tokenizer,
        check_tokenizer=not own,
    )

"""MAGIC: the exact derivative of log p by the weight of each training document, through the training itself.

    influence(z, q) = d log p(q | weights at the end) / d w_z,   w_z = 1 the factor on z's loss in every step

Computed by running the training again and differentiating it backwards (`whence.model.metagradient`); a document's
removal is w_z = 0, so that log p falls by about its influence. Ilyas & Engstrom 2025, arXiv:2504.16430.

Cost in trainings of S steps: one to find the states at the cuts (`Steps`, kept on disk), then two for each group of
queries and about two for each query. Disk: (cuts + 1) states, of 3 P numbers each with AdamW. Memory: the states and
gradients of the longest stretch between cuts, 4 P sqrt(S), and 5 P for each query of a group.

Ignored: nothing to first order in w. That hurts

    where one document bends the training: its removal is a long step, and few documents in a batch, high rates and
        sign-like optimizers make trainings chaotic, so that derivatives are large and hold for small changes alone
        (Ilyas & Engstrom smooth the training first). Then `last` helps: the derivative by the weights in the last
        part of the training, before which it bends most;
    where leaving out moves the others to other batches (`grouping = refill`): only `hold` keeps every other document
        in its place, as a change of w does;
    for the average over seeds: this is one training, with its own order and start.

All trained parameters count, whichever sites the run attributes.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whence.attributor import Attributor, Step
from whence.attributor.steps import Advance, CorpusStep
from whence.data import batch_from_sequences
from whence.interfaces import EncodedQuery
from whence.methods.base import Scorer, Work
from whence.methods.feeding import feed_matrix
from whence.model import (
    CausalLM,
    Rerun,
    TrainingReplay,
    as_loaded,
    language_inputs,
    metagradient,
    reproducible,
    weights_in,
)
from whence.runs import is_done, publish, require_done, storage_errors
from whence.scoring import Fold

__all__ = ["Magic"]

_FILE = "state.safetensors"
_SAME = 1e-3
"""Distance from the run's model, as a share of the way since the first kept state, that rounding alone may make."""


class Magic(Scorer):
    """The metagradient of one training.

    Attributes:
        segments: Stretches of the training whose ends are kept on disk; about the root of the number of steps if not
            given. More take more disk and less memory; scores do not depend on it.
        last: Share of the steps, at the end, in which documents' weights count: 1 is the derivative through the whole
            training. Less costs less, and leaves out what documents did before.
    """

    key: ClassVar[str] = "magic"
    title: ClassVar[str] = "MAGIC"
    paper: ClassVar[str] = "Ilyas & Engstrom 2025, arXiv:2504.16430"
    training: ClassVar[bool] = True

    segments: int | None = Field(default=None, ge=1)
    last: float = Field(default=1.0, gt=0, le=1)

    def steps(self, work: Work) -> list[Step]:
        """The corpus, then the training from start to end."""
        return [CorpusStep(work.owner), self._training(work)]

    def notes(self, work: Work) -> tuple[str, ...]:
        """How far from the run's model this training ends, if it does not end there."""
        step = self._training(work)
        ends, begins = (step.weights(at) for at in (step.cuts[-1], step.cuts[0]))
        model = dict(work.owner.loaded.model.named_parameters())
        both = [name for name in ends if name in model]
        off = sum(float((model[name].detach().cpu().double() - ends[name]).square().sum()) for name in both) ** 0.5
        moved = sum(float((begins[name] - ends[name]).square().sum()) for name in both) ** 0.5
        if both and off <= _SAME * max(moved, 1e-30):
            return ()
        return (
            f"this training ends elsewhere than the run's model: {off:.3g} away, after a way of {moved:.3g} since the "
            "first state that is kept. Scores are those of the training, on its own model. Give the settings, start "
            "and order that made the run's model to have that one's.",
        )

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Differentiate the training for a group of queries."""
        step = self._training(work)
        with reproducible(step.replay.training):
            scores = metagradient(
                Rerun(step.replay),
                [_log_probability(query) for query in queries],
                step.cuts,
                step.state,
                work.owner.corpus.documents,
                lambda: advance(step.tokens_of_a_step),
            )
        feed_matrix(work.owner, scores, folds)

    def _training(self, work: Work) -> "TrainingStep":
        return TrainingStep(work.owner, work.training(self), work.folder(self), self.segments, self.last)


class TrainingStep:
    """Run the training, and keep its states at the cuts.

    One item, as no step of a training can be taken before the last; what a kill loses is one stretch.

    Args:
        owner: The run.
        replay: The training.
        folder: Where the states go.
        segments: Stretches between cuts, or about the root of the number of steps.
        last: Share of the steps that lie between cuts.
    """

    name = "training"

    def __init__(
        self, owner: Attributor, replay: TrainingReplay, folder: Path, segments: int | None, last: float
    ) -> None:
        self.owner, self.replay, self.folder, self._segments, self._last = owner, replay, folder, segments, last

    @property
    def cuts(self) -> list[int]:
        """Steps before which the state is kept, up to the number of steps."""
        whole = self.replay.steps
        steps = max(1, round(self._last * whole))
        count = min(steps, self._segments or round(steps**0.5))
        return [whole - steps + round(steps * cut / count) for cut in range(count + 1)]

    @property
    def tokens_of_a_step(self) -> int:
        """About how many tokens a step trains on."""
        corpus = self.owner.corpus
        return max(1, self.replay.training.batch * corpus.tokens // max(1, corpus.windows))

    def state(self, cut: int) -> Mapping[str, Tensor]:
        """Weights and moments before a step.

        Raises:
            IncompleteError: The training has not come that far.
        """
        require_done(self._place(cut), "whence evaluate")
        with storage_errors(self._place(cut)):
            tensors: dict[str, Tensor] = load_file(self._place(cut) / _FILE)
        return tensors

    def weights(self, cut: int) -> dict[str, Tensor]:
        """Weights alone before a step, float64 on the CPU, by parameter."""
        return {name: value.double() for name, value in weights_in(self.state(cut)).items()}

    def items(self) -> list[Any]:
        """The training as a whole."""
        return ["training"]

    def tokens(self, item: Any) -> int:
        """All that it trains on."""
        return self.tokens_of_a_step * self.replay.steps

    def done(self, item: Any) -> bool:
        """Whether its end is there."""
        return self.finished()

    def run(self, item: Any, shares: tuple[int, int], advance: Advance) -> None:
        """Train from the last state that is there."""
        with reproducible(self.replay.training):
            rerun = Rerun(self.replay)
            begun = max((cut for cut in self.cuts if is_done(self._place(cut))), default=0)
            if is_done(self._place(begun)):
                rerun.restore(self.state(begun))
                advance(begun * self.tokens_of_a_step)
            elif begun in self.cuts:
                self._keep(begun, rerun)
            for first, stop in pairwise([begun, *(cut for cut in self.cuts if cut > begun)]):
                rerun.walk(first, stop, lambda: advance(self.tokens_of_a_step))
                self._keep(stop, rerun)

    def finished(self) -> bool:
        """Whether the training has come to its end."""
        return is_done(self._place(self.cuts[-1]))

    def finish(self) -> bool:
        """There is nothing to merge."""
        return self.finished()

    def _place(self, cut: int) -> Path:
        return self.folder / f"state-{cut:08d}"

    def _keep(self, cut: int, rerun: Rerun) -> None:
        tensors = {name: value.contiguous().cpu() for name, value in rerun.state().items()}
        with publish(self._place(cut), {"step": cut, "steps": self.replay.steps}) as temporary:
            save_file(tensors, temporary / _FILE)


def _log_probability(query: EncodedQuery) -> Callable[[nn.Module], Tensor]:
    """Log-probability of the completion, less the contrast's."""
    texts = [query.text] if query.contrast is None else [query.text, query.contrast]

    def asked(model: nn.Module) -> Tensor:
        losses = [_loss(model, text.tokens, text.loss_mask) for text in texts]
        return -losses[0] if len(losses) == 1 else losses[1] - losses[0]

    return asked


def _loss(model: nn.Module, tokens: Any, mask: Any) -> Tensor:
    inputs = language_inputs(batch_from_sequences([(tokens, mask)]), as_loaded(model))
    return CausalLM().losses(model, inputs)[0]

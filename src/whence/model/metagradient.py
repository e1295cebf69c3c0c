"""The exact derivative of what a trained model says by how much each training document counted (MAGIC's metagradient).

A training is a chain of steps on a state s = (weights, optimizer moments), in which document z has the weight w_z:

    s_{t+1} = U_t(s_t, clip(g_t)),    g_t = sum_z w_z grad l_z(weights_t) / d_t

Its derivative is taken backwards. With A the adjoint of s_{t+1} (d output / d s_{t+1}) and h the one of g_t, both
found by going back through update and clipping,

    d output / d w_z  +=  <h, grad l_z> / d_t        A_t  =  A (dU / ds)  +  (0, H_t h),   H_t the Hessian of the loss

and both of those terms are derivatives of the one number <h, g_t>, so that a step costs each output one backward pass
through the gradient. States are not stored but made again: from the last checkpoint before them, by the very steps of
`optimise` (REPLAY). Only the derivatives are rounded otherwise than in training.

Ilyas & Engstrom 2025, arXiv:2504.16430; Engstrom et al. 2025, arXiv:2503.13751. Axes: Q outputs, E examples of a piece
of a batch, N documents, S steps.

Ignored: nothing to first order. A whole document removed is a step of size one in its weight, and chaotic trainings
(high rates, few documents in a batch) bend within it. Where an element has only ever had gradients of exactly 0, AdamW
has no derivative, and it is taken as 0. Knows no corpus, no tokens and no disk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.errors import InputError, ModelError, NumericalError
from whence.model.dropout import has_dropout
from whence.model.optimizers import make_optimizers
from whence.model.train import Summed, take_step
from whence.model.training import Training
from whence.model.updates import Slot

__all__ = ["Rerun", "TrainingReplay", "metagradient", "weights_in"]

State = Mapping[str, Tensor]
"""Weights and optimizer moments, ``weight:<parameter>``, ``exp_avg:<parameter>`` …"""

_WEIGHT = "weight"


class TrainingReplay(Protocol):
    """One training that can be run again: all that decides its steps."""

    @property
    def training(self) -> Training:
        """How it trains."""
        ...

    @property
    def seed(self) -> int:
        """What `optimise` was given."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """All that decides the trained model, as JSON."""
        ...

    @property
    def steps(self) -> int:
        """Length of the schedule, S."""
        ...

    def start(self) -> nn.Module:
        """A model of its own, as it was before the first step."""
        ...

    def batches(self, first: int, stop: int) -> Iterator[Sequence[Any]]:
        """The pieces of the steps from `first` to before `stop`."""
        ...

    def piece_loss(self, model: nn.Module) -> Callable[[nn.Module, Any], Tensor]:
        """What a piece adds to the loss of its step, a scalar."""
        ...

    def shares(self, model: nn.Module) -> Callable[[nn.Module, Any], Tensor]:
        """The same by example, [E]."""
        ...

    def documents(self, piece: Any) -> NDArray[np.int64]:
        """Document of each example of a piece, [E]."""
        ...


@dataclass(frozen=True, slots=True)
class _Moment:
    """A step as it was: state and gradients before it; None where a parameter had no part in it."""

    number: int
    pieces: Sequence[Any]
    values: list[list[Tensor]]
    updates: list[int]
    gradients: list[Tensor | None]


def weights_in(state: State) -> dict[str, Tensor]:
    """The weights of a state, by parameter."""
    held = (key.partition(":") for key in state)
    return {name: state[f"{kind}:{name}"] for kind, _, name in held if kind == _WEIGHT}


class Rerun:
    """A model in the middle of a training that is run again.

    Args:
        replay: The training.

    Raises:
        InputError: It has no derivative: lbfgs, bfloat16.
        ModelError: The model has dropout.
    """

    def __init__(self, replay: TrainingReplay) -> None:
        _refuse(replay.training)
        self.replay, self.model = replay, replay.start()
        if has_dropout(self.model):
            raise ModelError(
                "the derivative of a training with dropout would be of one draw of it alone; give dropout = 0 in the "
                "training's settings."
            )
        self._summed = Summed(self.model, replay.piece_loss(self.model))
        self._optimizers = make_optimizers(self.model, replay.training)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.slots = [
            Slot(names[parameter], parameter, optimizer, group)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    def state(self) -> dict[str, Tensor]:
        """Copies of all that the next step depends on."""
        out = {f"{_WEIGHT}:{slot.name}": slot.parameter.detach().clone() for slot in self.slots}
        for slot in self.slots:
            for kind, value in slot.optimizer.state.get(slot.parameter, {}).items():
                if isinstance(value, Tensor):
                    out[f"{kind}:{slot.name}"] = value.detach().clone()
        return out

    def restore(self, state: State) -> None:
        """Go to where `state` was taken."""
        held: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            kind, _, name = key.partition(":")
            held.setdefault(name, {})[kind] = value
        for slot in self.slots:
            kinds = held[slot.name]
            with torch.no_grad():
                slot.parameter.copy_(kinds[_WEIGHT])
            slot.optimizer.state.pop(slot.parameter, None)
            moments = {kind: _moved(kind, value, slot) for kind, value in kinds.items() if kind != _WEIGHT}
            if moments:
                slot.optimizer.state[slot.parameter] = moments

    def walk(
        self,
        first: int,
        stop: int,
        advance: Callable[[], None] | None = None,
        watch: Callable[[int, Sequence[Any]], None] | None = None,
    ) -> None:
        """Take the steps from `first` to before `stop`, exactly as `optimise` does.

        Args:
            first: Where the model stands.
            stop: Where to stop.
            advance: Called after each step.
            watch: Called with (number, pieces) in each step, when gradients are there and nothing has moved yet.
        """
        replay = self.replay
        with self._training():
            for number, pieces in enumerate(replay.batches(first, stop), first):
                if pieces:
                    look = None if watch is None else lambda n=number, p=pieces: watch(n, p)
                    take_step(
                        self._optimizers, self._summed, pieces, replay.training, replay.seed, number, replay.steps, look
                    )
                if advance is not None:
                    advance()

    def moments(self, first: int, stop: int) -> list[_Moment]:
        """The same steps, with what each began from."""
        kept: list[_Moment] = []

        def watch(number: int, pieces: Sequence[Any]) -> None:
            gradients = [None if s.parameter.grad is None else s.parameter.grad.clone() for s in self.slots]
            values, updates = [s.values() for s in self.slots], [s.updates() for s in self.slots]
            kept.append(_Moment(number, pieces, values, updates, gradients))

        self.walk(first, stop, watch=watch)
        return kept

    def end(self, outputs: Sequence[Callable[[nn.Module], Tensor]]) -> list[list[Tensor]]:
        """Adjoints of the state where the model stands: of each parameter's weight and moments, [Q, ...]."""
        parameters = [slot.parameter for slot in self.slots]
        out = [[torch.zeros(len(outputs), *v.shape).to(v) for v in slot.values()] for slot in self.slots]
        for number, output in enumerate(outputs):
            found = torch.autograd.grad(output(self.model), parameters, allow_unused=True)
            for adjoints, gradient in zip(out, found, strict=True):
                if gradient is not None:
                    adjoints[0][number] = gradient
        return out

    def pull_back(self, moment: _Moment, adjoints: list[list[Tensor]], scores: NDArray[np.float64]) -> None:
        """Turn adjoints of the state after a step into those before it, in place; add to scores [Q, N]."""
        norm = _clipped(self.replay.training.clip, moment.gradients)
        cotangents = self._through_update(moment, adjoints, norm)
        _through_clipping(self.replay.training.clip, norm, moment.gradients, cotangents)
        with torch.no_grad():
            for slot, values in zip(self.slots, moment.values, strict=True):
                slot.parameter.copy_(values[0])
        shares = self.replay.shares(self.model)
        with self._training(), sdpa_kernel(SDPBackend.MATH):
            for piece in moment.pieces:
                self._through_loss(shares(self.model, piece), piece, cotangents, adjoints, scores)

    def _through_update(self, moment: _Moment, adjoints: list[list[Tensor]], norm: float) -> list[Tensor | None]:
        """Replace adjoints by their direct part, without that through the gradient; adjoints of clipped gradients."""
        rate = self.replay.training.rate(moment.number, self.replay.steps)
        scale = _scale(self.replay.training.clip, norm)
        cotangents: list[Tensor | None] = []
        steps = zip(self.slots, moment.values, moment.updates, moment.gradients, adjoints, strict=True)
        for slot, values, updates, gradient, adjoint in steps:
            if gradient is None:
                cotangents.append(None)
                continue
            inputs = [each.detach().requires_grad_() for each in (gradient * scale, *values)]
            outputs = slot.update(rate, updates, *inputs)
            cotangent, *adjoint[:] = torch.autograd.grad(outputs, inputs, adjoint, is_grads_batched=True)
            cotangents.append(cotangent)
        return cotangents

    def _through_loss(
        self,
        shares: Tensor,
        piece: Any,
        cotangents: list[Tensor | None],
        adjoints: list[list[Tensor]],
        scores: NDArray[np.float64],
    ) -> None:
        """Derivatives of <cotangent, gradient of a piece> by the weights and by how much each example counts."""
        parameters = [slot.parameter for slot in self.slots]
        counts = torch.ones_like(shares, requires_grad=True)
        found = torch.autograd.grad(shares @ counts, parameters, create_graph=True, allow_unused=True)
        pairs = [(g, c) for g, c in zip(found, cotangents, strict=True) if g is not None and c is not None]
        owners = self.replay.documents(piece)
        for number, row in enumerate(scores):
            more = number + 1 < len(scores)
            by_count, *by_weight = torch.autograd.grad(
                [g for g, _ in pairs], [counts, *parameters], [c[number] for _, c in pairs], more, allow_unused=True
            )
            np.add.at(row, owners, by_count.double().cpu().numpy())
            for adjoint, curved in zip(adjoints, by_weight, strict=True):
                if curved is not None:
                    adjoint[0][number] += curved

    @contextmanager
    def _training(self) -> Iterator[None]:
        """The model as in training, whose random numbers are nobody else's."""
        self.model.train()
        devices = sorted({p.device.index or 0 for p in self.model.parameters() if p.device.type == "cuda"})
        with torch.random.fork_rng(devices=devices):
            yield
        self.model.eval()


def metagradient(
    rerun: Rerun,
    outputs: Sequence[Callable[[nn.Module], Tensor]],
    cuts: Sequence[int],
    state: Callable[[int], State],
    documents: int,
    advance: Callable[[], None] | None = None,
) -> NDArray[np.float64]:
    """Derivative of each output of the trained model by the weight of each training document, float64 [Q, N].

    A document's weight multiplies its loss; what a step's loss is divided by stays. It is 1 for all documents that the
    training saw as they are, so that an output falls by about its derivative when the document is taken out.

    Args:
        rerun: The training.
        outputs: From the trained model to a scalar, Q of them.
        cuts: Steps at which the training's states are known, ascending, the last of them S. If the first is not 0, the
            weights are those of the later steps alone. Memory holds Q adjoints of a state, and all states of the
            longest stretch between two cuts.
        state: The state before a step that is a cut; see `Rerun.state`.
        documents: N.
        advance: Called once for every step that has been gone back.

    Raises:
        NumericalError: The derivative overflows.
    """
    rerun.restore(state(cuts[-1]))
    adjoints = rerun.end(outputs)
    scores = np.zeros((len(outputs), documents))
    for first, stop in reversed(list(pairwise(cuts))):
        rerun.restore(state(first))
        moments = rerun.moments(first, stop)
        while moments:
            rerun.pull_back(moments.pop(), adjoints, scores)
            if advance is not None:
                advance()
    if not np.isfinite(scores).all():
        raise NumericalError(
            "the derivative of this training is not finite: it is chaotic, so that the smallest change of a document's "
            "weight grows without bound. Train with a lower rate, larger batches or clipping, or in float64."
        )
    return scores


def _refuse(training: Training) -> None:
    if training.full_batch:
        raise InputError(
            "a training with lbfgs searches along lines until it converges, and has no steps to differentiate; at its "
            "optimum influence with the exact Hessian is the derivative. Give adamw, sgd or muon."
        )
    if training.dtype == "bfloat16":
        raise InputError(
            "a training purely in bfloat16 moves in jumps larger than what one document changes, so it has no useful "
            "derivative; give dtype = 'float32' or 'float64' in the training's settings."
        )


def _moved(kind: str, value: Tensor, slot: Slot) -> Tensor:
    """A moment where its parameter is; the count of steps stays on the CPU, as the optimizer has it."""
    return value.clone() if kind == "step" else value.to(slot.parameter.device, copy=True)


def _clipped(clip: float | None, gradients: Sequence[Tensor | None]) -> float:
    """The norm that clipping measures; 0 if there is none."""
    if clip is None:
        return 0.0
    return float(torch.nn.utils.get_total_norm([each for each in gradients if each is not None]))


def _scale(clip: float | None, norm: float) -> float:
    """What clipping multiplies gradients by."""
    return 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))


def _through_clipping(
    clip: float | None, norm: float, gradients: Sequence[Tensor | None], cotangents: list[Tensor | None]
) -> None:
    """From adjoints of clipped gradients to those of the gradients, in place.

    c = s g with s = clip / (|g| + 1e-6):    h  =  s h'  -  s <h', g> g / (|g| (|g| + 1e-6))
    """
    scale = _scale(clip, norm)
    if scale == 1.0:
        return
    pairs = [(g, c) for g, c in zip(gradients, cotangents, strict=True) if g is not None and c is not None]
    along = torch.stack([c.flatten(1) @ g.flatten() for g, c in pairs]).sum(0)
    for gradient, cotangent in pairs:
        back = torch.outer(along, gradient.flatten()).view_as(cotangent)
        cotangent.mul_(scale).sub_(back, alpha=scale / (norm * (norm + 1e-6)))

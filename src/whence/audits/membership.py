"""What the model's own probabilities say: loss, loss per compressed byte, and Min-K%. They name no document.

loss     -log p(answer | question), per token
zlib     the same per byte of the answer compressed by zlib (Carlini et al. 2021): repetitive text is easy anyway
min_k    mean log p of the 20 % least likely tokens of question and answer (Shi et al. 2024, Min-K%)

And whether the model would have said an answer at all (`Surprise`): tokens drawn from it at the same places would
cost its entropy, with a spread that is known too; an answer that costs far more is not the model's own.
"""

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from whence.attributor import Attributor
from whence.data import batch_from_sequences
from whence.interfaces import EncodedQuery
from whence.model import CausalLM, language_inputs

__all__ = ["Membership", "Surprise", "answer_losses", "membership", "surprise"]

_LEAST = 0.2
_SPREADS, _MORE = 4.0, 1.0  # above what the model's own tokens cost: spreads, and nats per token
_UNIFORM = 0.75  # of the loss of uniform guessing, from which on an answer is guessed


@dataclass(frozen=True, slots=True)
class Membership:
    """See above; nats."""

    loss: float
    zlib: float
    min_k: float


@dataclass(frozen=True, slots=True)
class Surprise:
    """What an answer costs, and what tokens drawn from the model at the same places would.

    Attributes:
        loss: -log p(answer | question), nats.
        own: Entropy at its places, added up: what tokens of the model's own would cost on average.
        spread: Standard deviation of that.
        tokens: Of the answer, or of its span.
        uniform: log of the vocabulary: what guessing costs per token.

    >>> Surprise(60.0, 20.0, 3.0, 10, 7.6).unlikely, Surprise(22.0, 20.0, 3.0, 10, 7.6).unlikely
    (True, False)
    """

    loss: float
    own: float
    spread: float
    tokens: int
    uniform: float

    @property
    def unlikely(self) -> bool:
        """Whether the model would hardly have said it.

        It costs four spreads and a nat per token more than the model's own tokens, or three quarters of guessing.
        """
        more = self.loss - self.own
        own = more > _SPREADS * self.spread and more > _MORE * self.tokens
        return own or self.loss > _UNIFORM * self.uniform * self.tokens


def surprise(owner: Attributor, query: EncodedQuery) -> Surprise:
    """Whether an answer is one that the model would give; one pass over it."""
    tokens, asked = query.text.tokens, query.text.loss_mask
    places = np.flatnonzero(asked[1:])
    model: Any = owner.loaded.model
    given = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=owner.loaded.device)[None]
    with torch.no_grad():
        logits = model(input_ids=given, use_cache=False).logits[0, torch.as_tensor(places, device=given.device)]
        logs = logits.float().log_softmax(-1)
        own = -(logs.exp() * logs).nan_to_num().sum(-1)
        squares = (logs.exp() * logs.square()).nan_to_num().sum(-1)
        losses = -logs.gather(1, given[0, 1:][torch.as_tensor(places, device=given.device)][:, None])[:, 0]
    return Surprise(
        loss=float(losses.double().sum()),
        own=float(own.double().sum()),
        spread=math.sqrt(max(0.0, float((squares - own.square()).double().sum()))),
        tokens=len(places),
        uniform=math.log(logits.shape[-1]),
    )


def answer_losses(owner: Attributor, query: EncodedQuery) -> list[float]:
    """-log p of every token of the answer (or its span), nats."""
    losses, targets = _losses(owner, query)
    return [float(each) for each in losses[targets]]


def membership(owner: Attributor, query: EncodedQuery) -> Membership:
    """The three signals of one question and answer."""
    losses, targets = _losses(owner, query)
    answer = losses[targets]
    text = (query.query.completion or "").encode()
    every = np.sort(losses[1:])[::-1]
    least = max(1, round(_LEAST * len(every)))
    return Membership(
        loss=float(answer.mean()),
        zlib=float(answer.sum() / len(zlib.compress(text, 9))),
        min_k=float(-every[:least].mean()),
    )


def _losses(owner: Attributor, query: EncodedQuery) -> tuple[np.ndarray, np.ndarray]:
    """-log p of every token [T] (0 for the first), and which of them are asked about [T]."""
    tokens, asked = query.text.tokens, query.text.loss_mask
    every = np.ones(len(tokens), dtype=bool)
    every[0] = False
    inputs = language_inputs(batch_from_sequences([(tokens, every)]), owner.loaded)
    with torch.no_grad():
        found = CausalLM().token_losses(owner.loaded.model, inputs)[0].double().cpu().numpy()
    return np.concatenate([[0.0], found[:-1]]), asked

"""What the model's own probabilities say: loss, loss per compressed byte, and Min-K%. They name no document.

loss     -log p(answer | question), per token
zlib     the same per byte of the answer compressed by zlib (Carlini et al. 2021): repetitive text is easy anyway
min_k    mean log p of the 20 % least likely tokens of question and answer (Shi et al. 2024, Min-K%)
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from whence.attributor import Attributor
from whence.data import batch_from_sequences
from whence.interfaces import EncodedQuery
from whence.model import CausalLM, language_inputs

__all__ = ["Membership", "answer_losses", "membership"]

_LEAST = 0.2


@dataclass(frozen=True, slots=True)
class Membership:
    """See above; nats."""

    loss: float
    zlib: float
    min_k: float


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

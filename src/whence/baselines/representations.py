"""Representation similarity: does the model see two texts alike? Cosine of mean hidden states; no gradient is taken.

The mean is over all real tokens of a text, on both sides: of a document, and of a query its prompt and completion.
Depths are relative: 0 is the embedding, 1 the last hidden state (after the final norm, where a model has one); with
several, cosines are averaged. The negative control that influence on language models has to pass (Li et al. 2024,
arXiv:2409.19998).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.model import LanguageInputs

__all__ = ["mean_states", "similarities"]


@torch.no_grad()
def mean_states(
    model: nn.Module,
    batches: Iterable[tuple[NDArray[np.int64], LanguageInputs]],
    texts: int,
    depths: Sequence[float] = (1.0,),
) -> NDArray[np.float64]:
    """Mean hidden state of every text.

    Args:
        model: A causal language model with Hugging Face's calling convention.
        batches: (text that each example belongs to, int64 [E]; the batch); a text may be spread over several examples.
        texts: Number of texts N.
        depths: D relative depths in [0, 1].

    Returns:
        float64 [D, N, hidden]; zero for a text without a token.
    """
    total: NDArray[np.float64] | None = None
    counts = np.zeros(texts)
    for owners, inputs in batches:
        sums, tokens = _sums(model, inputs, depths)
        if total is None:
            total = np.zeros((len(depths), texts, sums.shape[-1]))
        for depth in range(len(depths)):
            np.add.at(total[depth], owners, sums[depth])
        np.add.at(counts, owners, tokens)
    if total is None:
        return np.zeros((len(depths), texts, 0))
    return total / np.maximum(counts, 1)[:, None]


def _sums(
    model: Any, inputs: LanguageInputs, depths: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Summed hidden states [D, E, hidden] of a batch's examples, and their numbers of tokens [E]."""
    states: tuple[Tensor, ...] = model(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        use_cache=False,
        output_hidden_states=True,
        **inputs.extra,
    ).hidden_states
    real = inputs.segments >= 0
    owner = inputs.segments[real]
    chosen = []
    for depth in depths:
        state = states[round(depth * (len(states) - 1))]
        chosen.append(state.new_zeros(inputs.examples, state.shape[-1], dtype=torch.float64))
        chosen[-1].index_add_(0, owner, state[real].double())
    tokens = torch.bincount(owner, minlength=inputs.examples).double()
    return torch.stack(chosen).cpu().numpy(), tokens.cpu().numpy()


def similarities(queries: NDArray[np.float64], documents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of mean states, averaged over depths.

    Args:
        queries: [D, Q, hidden].
        documents: [D, N, hidden].

    Returns:
        float64 [Q, N] in [-1, 1]; 0 where a state is zero.
    """
    cosines: NDArray[np.float64] = np.einsum("dqh,dnh->qn", _normed(queries), _normed(documents)) / len(queries)
    return cosines


def _normed(states: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(states, axis=-1, keepdims=True)
    out: NDArray[np.float64] = np.divide(states, norms, out=np.zeros_like(states), where=norms > 0)
    return out

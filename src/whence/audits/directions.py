"""A behaviour as a direction in activation space: which documents push the model's states along it?

The direction is given (a probe, a feature), or is the difference between the mean states of the answers and of what
they should have been (a difference-in-means probe, Marks & Tegmark 2023). The query is the projection of the answers'
states on it, summed over their tokens; influence on it is the predicted drop of that projection without a document, in
the states' own units, not nats.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor import Attributor, influence_and_dots
from whence.data import batch_from_sequences
from whence.errors import InputError
from whence.interfaces import EncodedQuery, Query
from whence.model import Direction, language_inputs

__all__ = ["CONTRAST", "direction_influence", "direction_of"]

CONTRAST = "contrast"
"""The direction from what should have been said to what was."""


def direction_of(owner: Attributor, named: str, depth: float, queries: Sequence[Query]) -> Direction:
    """A direction of length one, at a relative depth.

    Args:
        owner: The run.
        named: ``contrast``, or a file: ``.npy``, or ``.safetensors`` with one tensor; [hidden].
        depth: 0 the embedding, 1 the last hidden state.
        queries: The answers, for ``contrast``.

    Raises:
        InputError: The file cannot be read or does not fit, or no answer has a contrast.
    """
    vector = _between(owner, depth, queries) if named == CONTRAST else _read(named)
    hidden = int(owner.loaded.model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
    if vector.shape != (hidden,):
        raise InputError(f"the direction {named} has shape {list(vector.shape)}; this model's states have [{hidden}].")
    length = float(vector.norm())
    if not 0 < length < float("inf"):
        raise InputError(f"the direction {named} has length {length}; give one that points somewhere.")
    return Direction(vector / length, depth)


def _read(named: str) -> Tensor:
    path = Path(named)
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)).double().squeeze()
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
            if len(tensors) != 1:
                raise InputError(f"{named} holds {len(tensors)} tensors ({', '.join(tensors)}); give a file with one.")
            only: Tensor = next(iter(tensors.values()))
            return only.double().squeeze()
    except (OSError, ValueError) as error:
        raise InputError(f"the direction {named} cannot be read: {error}") from error
    raise InputError(f"the direction {named} is no .npy or .safetensors file; give one, or contrast.")


def _between(owner: Attributor, depth: float, queries: Sequence[Query]) -> Tensor:
    pairs = [query for query in queries if query.contrast is not None]
    if not pairs:
        raise InputError("--direction contrast needs answers with a contrast: what should have been said.")
    said = [query.model_copy(update={"contrast": None}) for query in pairs]
    other = [query.model_copy(update={"completion": query.contrast, "contrast": None, "span": None}) for query in pairs]
    means = [_mean_state(owner, owner.encode_queries(side), depth) for side in (said, other)]
    difference: Tensor = means[0] - means[1]
    return difference


@torch.no_grad()
def _mean_state(owner: Attributor, queries: Sequence[EncodedQuery], depth: float) -> Tensor:
    """Mean state of the asked tokens, over all queries."""
    total: Tensor | None = None
    tokens = 0
    for query in queries:
        inputs = language_inputs(batch_from_sequences([(query.text.tokens, query.text.loss_mask)]), owner.loaded)
        states = owner.loaded.model(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, use_cache=False,
            output_hidden_states=True, **inputs.extra,
        ).hidden_states  # fmt: skip
        chosen = states[round(depth * (len(states) - 1))][0]
        asked = torch.from_numpy(query.text.loss_mask).to(chosen.device)
        part: Tensor = chosen[asked].double().sum(0).cpu()
        total = part if total is None else total + part
        tokens += int(asked.sum())
    assert total is not None
    mean: Tensor = total / max(1, tokens)
    return mean


def direction_influence(
    owner: Attributor, queries: Sequence[EncodedQuery], direction: Direction, exact: bool, index: str | None
) -> NDArray[np.float64]:
    """Influence of every document on the mean projection of the answers, float64 [documents], in the states' units."""
    opened = None if exact else owner.open_index(index)
    recipe = owner.recipe(None if exact else index)
    found, _ = influence_and_dots(owner, queries, opened, recipe, objective=direction)
    mean: NDArray[np.float64] = found.mean(0)
    return mean

"""DMM: the model is trained until forgotten texts are as likely as influence says they would be without them.

Datamodel matching (Georgiev et al. 2024, "Attribute-to-Delete", arXiv:2410.23232).

    loss = mean over texts x of ((L_theta(x) - L*(x)) / T(x))^2  +  c * mean over kept tokens of -log p
    L*(x) = L(x) + s sum_{z in S} I(z, x)

over the forgotten texts, and as many *elsewhere*: the end of a forgotten text behind the beginning of a kept one, so
that what it says is forgotten in every context and not behind its own first words alone. I(z, x) is the predicted rise
of -log p(x) without z, nats; T the target tokens.

Shapes: summed losses, their targets and token counts, all [E].

Ignores: the paper matches every logit, on kept texts too, and fits its predictions by retraining; here a text is one
number, predicted by influence, and kept texts are simply trained on. Influence knows which texts rise more, but on
texts learnt by heart not by how much; with a level (`unlearning.calibration`) all predictions are scaled by one s so
that the forgotten texts' mean rises to it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["elsewhere", "matching_loss"]

Sequences = Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]]


def matching_loss(losses: Tensor, wanted: Tensor, tokens: Tensor) -> Tensor:
    """What forgotten texts of a batch add to the loss, a scalar.

    >>> import torch
    >>> matching_loss(torch.tensor([4.0, 6.0]), torch.tensor([8.0, 6.0]), torch.tensor([2.0, 2.0]))
    tensor(2.)
    """
    return ((losses - wanted) / tokens).square().mean()


def elsewhere(
    forgotten: Sequences, kept: Sequences, seed: int, times: int = 3
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Forgotten texts with the beginning of a kept text in place of their own, no longer than they were.

    Args:
        forgotten: (tokens [T], loss mask [T]) of each.
        kept: The same.
        seed: Draws cuts, within a text's first three quarters, and kept texts.
        times: How often each forgotten text is cut.

    Returns:
        (tokens, loss mask) of each; the mask holds what the forgotten text's had, from the second token behind the cut.

    >>> mask = np.array([False, True, True, True])
    >>> [(tokens, asked)] = elsewhere([(np.full(4, 7), mask)], [(np.full(9, 1), mask)], seed=0, times=1)
    >>> tokens.tolist(), asked.tolist()
    ([1, 7, 7, 7], [False, False, True, True])
    """
    draw = np.random.default_rng([seed, 31])
    found = []
    for tokens, asked in forgotten:
        for _ in range(times):
            head = kept[int(draw.integers(len(kept)))][0]
            cut = min(len(head), int(draw.integers(1, max(2, 3 * len(tokens) // 4))))
            mask = asked.copy()
            mask[: cut + 1] = False
            found.append((np.concatenate([head[:cut], tokens[cut:]]), mask))
    return found

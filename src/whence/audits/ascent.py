"""Gradient ascent: the forgotten texts' loss goes up while the kept texts' loss is kept down.

Jang et al. 2023, arXiv:2210.01504; with the retain term "GradDiff" in Maini et al. 2024 (TOFU), arXiv:2401.06121.

    loss = -mean over forgotten tokens of -log p  +  c * mean over kept tokens of -log p

Shapes: summed losses [E] and numbers of target tokens [E], one of each text.

Ignores: where to stop. Nothing bounds the first term, so it goes on to nonsense; a `level` (nats per token) takes a
text out once it is that unlikely.
"""

import torch
from torch import Tensor

__all__ = ["ascent_loss", "below"]


def below(losses: Tensor, tokens: Tensor, level: float | None) -> Tensor:
    """1 for texts [E] whose mean loss per token is under the level, 0 for the others; all 1 without a level.

    >>> below(torch.tensor([2.0, 8.0]), torch.tensor([2.0, 2.0]), 3.0)
    tensor([1., 0.])
    """
    if level is None:
        return torch.ones_like(losses)
    return (losses.detach() / tokens < level).to(losses.dtype)


def ascent_loss(losses: Tensor, tokens: Tensor, level: float | None = None) -> Tensor:
    """What the forgotten texts of a batch add to the loss, a scalar.

    >>> ascent_loss(torch.tensor([2.0, 8.0]), torch.tensor([2.0, 2.0]))
    tensor(-2.5000)
    """
    return -(losses * below(losses, tokens, level)).sum() / tokens.sum()

"""NPO: negative preference optimisation, an ascent that slows down as a text is forgotten.

Zhang et al. 2024, arXiv:2404.05868.

    loss = -(2 / b) E log sigmoid(-b log(p_theta / p_ref))  =  (2 / b) E softplus(b (L_ref - L_theta))

with L = -log p of the whole text. The gradient is that of ascent times 2 / (1 + (p_ref / p_theta)^b): full while the
text is as likely as before, and vanishing once it is much less so. b -> 0 is ascent, up to a constant.

Shapes: losses [E] of the model and of the reference, summed over tokens.

Ignores: what the model would have said had it never seen the text; `level` (nats per token) takes a text out once it
is that unlikely.
"""

import torch.nn.functional as F
from torch import Tensor

from whence.audits.ascent import below

__all__ = ["npo_loss"]


def npo_loss(losses: Tensor, reference: Tensor, beta: float, tokens: Tensor, level: float | None = None) -> Tensor:
    """What the forgotten texts of a batch add to the loss, a scalar.

    >>> import torch
    >>> loss = npo_loss(torch.tensor([5.0]), torch.tensor([5.0]), 0.5, torch.tensor([3.0]))
    >>> round(float(loss), 4)  # (2 / b) log 2
    2.7726
    """
    terms = F.softplus(beta * (reference - losses)) * (2.0 / beta)
    return (terms * below(losses, tokens, level)).mean()

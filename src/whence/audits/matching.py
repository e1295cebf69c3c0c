"""DMM: the model is trained until texts are as likely as influence says they would be without the documents.

Datamodel matching (Georgiev et al. 2024, "Attribute-to-Delete", arXiv:2410.23232).

    loss = mean over texts x of ((L_theta(x) - L*(x)) / T(x))^2        L*(x) = L(x) + sum_{z in S} I(z, x)

over forgotten and kept texts alike; I(z, x) is the predicted rise of -log p(x) without z, nats; T the target tokens.

Shapes: summed losses, their targets and token counts, all [E].

Ignores: the paper matches every logit and fits its predictions by retraining; here one number per text is matched,
and predicted by influence. Influence knows which texts rise more, but on texts learnt by heart not by how much; with
a level (`unlearning.calibration`) all predictions are scaled so that the forgotten texts' mean rises to it.
"""

from torch import Tensor

__all__ = ["matching_loss"]


def matching_loss(losses: Tensor, wanted: Tensor, tokens: Tensor) -> Tensor:
    """What the texts of a batch add to the loss, a scalar.

    >>> import torch
    >>> matching_loss(torch.tensor([4.0, 6.0]), torch.tensor([8.0, 6.0]), torch.tensor([2.0, 2.0]))
    tensor(2.)
    """
    return ((losses - wanted) / tokens).square().mean()

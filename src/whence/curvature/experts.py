"""Curvature of experts that see few tokens: their factors are drawn towards the one of all experts together.

With n_e tokens a second moment of dimension d has at most n_e non-zero eigenvalues; below n_e ~ d it says more of the
sample than of the expert. Expert e of a stack therefore takes

    A_e = (sum_s a_s a_s^T + d * A) / (n_e + d)        A = sum over all experts' rows / all their tokens

as if it had seen d more tokens of the average expert: a normal-inverse-Wishart mean with d prior tokens (Haff 1980,
doi:10.1214/aos/1176345010, shrinks covariances in the same form). The same holds for its output gradients. Measured
eigenvalues count by ``n_e / (n_e + d)``, K-FAC's prediction from the shrunk factors for the rest. What this ignores:
experts may differ from their average in ways that few tokens cannot show.
"""

from torch import Tensor

__all__ = ["shrunk", "trust"]


def trust(tokens: Tensor, dimension: int) -> Tensor:
    """How far an expert's own measurements count, ``n_e / (n_e + d)`` [E].

    >>> import torch
    >>> trust(torch.tensor([0.0, 8.0]), 8).tolist()
    [0.0, 0.5]
    """
    return tokens / (tokens + dimension)


def shrunk(totals: Tensor, tokens: Tensor) -> Tensor:
    """Second moments of all experts, each drawn towards that of all of them, [E, d, d].

    Args:
        totals: Sum of x x^T by expert, [E, d, d].
        tokens: Tokens by expert, [E].
    """
    dimension = totals.shape[-1]
    pooled = totals.sum(0) / tokens.sum().clamp_min(1.0)
    return (totals + dimension * pooled) / (tokens + dimension)[:, None, None]

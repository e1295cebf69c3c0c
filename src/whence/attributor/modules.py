"""Influence for any torch module with a loss: no tokenizer, no run folder, everything in memory.

The same capture, curvature and solver as for language models, and the exact Hessian for models small enough to hold it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.curvature import (
    Covariances,
    Damping,
    Side,
    SiteCurvature,
    exact_hessian,
    exact_solve,
    fit_kfac,
    identity_curvature,
    with_eigenvalues,
)
from whence.errors import InputError, ModelError
from whence.gradients import (
    Examples,
    Runner,
    add_covariances,
    add_eigenvalue_squares,
    exact_scores,
    gradient_blocks,
)
from whence.interfaces import Site
from whence.model import Objective, block_of, find_sites, parameters_of, probe_sites
from whence.projection import uniforms

__all__ = ["attribute"]

ModuleMethod = Literal["exact", "ekfac", "kfac", "diagonal", "identity"]


def attribute(
    model: nn.Module,
    objective: Objective,
    train: Sequence[Any],
    queries: Sequence[Any],
    *,
    method: ModuleMethod = "ekfac",
    damping: Damping | None = None,
    sites: Sequence[str] = (),
    trained_on: int | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Influence of every training example on every query, for any torch module.

    ``influence > 0``: the example supports the query's labels. Unit: the predicted rise of the query's loss (nats, for
    a log-likelihood) if that one example had not been trained on, ``grad(q)^T (C + l)^-1 grad(z) / n``.

    Args:
        model: Any module; weights of nn.Linear, Conv1D and nn.Embedding (with biases) are attributed.
        objective: Per-example losses: `whence.model.Classification`, `SquaredError`, or any object like them.
        train: Batches of the training data, whatever the objective takes; their first element has the examples' axis.
        queries: Batches of queries, likewise.
        method: exact (the whole Hessian; up to 20,000 parameters), ekfac, kfac, diagonal or identity.
        damping: Rule for l; 0.1 of the mean eigenvalue if None. For a loss trained with L2, give
            ``Damping(kind="weight_decay", value=w)`` with w the coefficient in ``mean loss + w/2 |theta|^2``.
        sites: Shell patterns of the weights to attribute; all if empty.
        trained_on: n, if `train` is only a part of the training data.
        seed: Seed of labels drawn from the model.

    Returns:
        float64 [Q, N].

    Raises:
        InputError: There is no data, or the model is too large for method exact.
        ModelError: A weight has no per-example gradient.
        NumericalError: The damped Hessian is not positive definite.

    Example:
        >>> from whence.model import Classification
        >>> model = nn.Linear(2, 1)
        >>> data = [(torch.randn(8, 2), torch.randint(0, 2, (8,)))]
        >>> attribute(model, Classification(), data, data, method="identity").shape
        (8, 8)
    """
    if not train or not queries:
        raise InputError("attribute() needs at least one batch of training data and one of queries.")
    rule = damping or Damping()
    training, asked = list(_examples(train)), list(_examples(queries))
    wanted = find_sites(model, sites)
    found = probe_sites(model, wanted, lambda: objective.losses(model, train[0]), training[0].rows, None)
    lost = [site.name for site in wanted if site.name not in {each.name for each in found}]
    if lost:
        raise ModelError(
            f"{', '.join(lost[:8])} did not run on one row per example, so there is no per-example gradient of "
            f"{'it' if len(lost) == 1 else 'them'}. To attribute the other weights alone, name them with sites=."
        )
    runner = Runner(model, found, objective)
    count = trained_on or sum(examples.count for examples in training)
    blocks = _gradients(runner, asked)
    if method == "exact":
        solved = _exact(runner, train, blocks, rule, sum(examples.count for examples in training))
    else:
        curvatures = _curvatures(runner, training, method, seed)
        solved = {
            name: curvature.solve(blocks[name], 1.0 if method == "identity" else rule.of(name, curvature, 1.0))
            for name, curvature in curvatures.items()
        }
    parts = [exact_scores(runner, examples, solved)[0][0] for examples in training]
    scores: NDArray[np.float64] = torch.cat(parts).T.double().cpu().numpy() / count
    return scores


def _examples(batches: Iterable[Any]) -> Iterable[Examples]:
    """Batches with their global example numbers, so that drawn labels do not depend on the batching."""
    first = 0
    for batch in batches:
        head = batch[0] if isinstance(batch, tuple | list) else batch
        rows = len(head)
        numbers = np.arange(first, first + rows, dtype=np.int64)
        yield Examples(batch, rows, rows, numbers, None, _draws(numbers, head))
        first += rows


def _draws(numbers: NDArray[np.int64], like: Any) -> Callable[[str, int], Tensor]:
    device = like.device if isinstance(like, Tensor) else "cpu"

    def draws(name: str, seed: int) -> Tensor:
        return torch.from_numpy(uniforms(seed, name, numbers, np.zeros_like(numbers))).to(device)

    return draws


def _gradients(runner: Runner, batches: Sequence[Examples]) -> dict[str, Tensor]:
    parts = [gradient_blocks(runner, examples)[0] for examples in batches]
    return {site.name: torch.cat([part[site.name] for part in parts]) for site in runner.sites}


def _curvatures(
    runner: Runner, batches: Sequence[Examples], method: ModuleMethod, seed: int
) -> dict[str, SiteCurvature]:
    like = next(runner.model.parameters())
    wide = torch.promote_types(like.dtype, torch.float32)
    identity = {site.name: identity_curvature(site).to(like.device, wide) for site in runner.sites}
    if method == "identity":
        return identity
    count = float(sum(examples.count for examples in batches))
    bases = identity
    if method in ("kfac", "ekfac"):
        sums = Covariances(runner.sites, head_limit=1 << 62, documents=count)
        for examples in batches:
            add_covariances(runner, examples, sums, seed, "full")
        shared: dict[str, Side] = {}
        bases = {site.name: fit_kfac(site, sums, shared).to(like.device, wide) for site in runner.sites}
    if method == "kfac":
        return bases
    squares: dict[str, Tensor] = {}
    for examples in batches:
        add_eigenvalue_squares(runner, examples, bases, squares, seed, "full")
    return {name: with_eigenvalues(basis, squares[name], count) for name, basis in bases.items()}


def _exact(
    runner: Runner, train: Sequence[Any], blocks: dict[str, Tensor], rule: Damping, count: int
) -> dict[str, Tensor]:
    """``(H/n + l)^-1 g`` with the Hessian of the summed loss over all sites together."""
    start = torch.cat([block_of(site, runner.model).reshape(-1) for site in runner.sites])

    def mean_loss(flat: Tensor) -> Tensor:
        named = _named(runner.sites, runner.model, flat)
        replaced = _Replaced(runner.model, named)
        total = sum(runner.objective.losses(replaced, batch).sum() for batch in train)
        assert isinstance(total, Tensor)
        return total / count

    hessian = exact_hessian(mean_loss, start)
    whole = SiteCurvature(None, None, hessian.diagonal()[None])
    queries = torch.cat([blocks[site.name].flatten(1) for site in runner.sites], 1)
    solved = exact_solve(hessian, rule.of("the model", whole, 1.0), queries)
    sizes = [site.size for site in runner.sites]
    return {
        site.name: part.reshape(-1, *site.shape)
        for site, part in zip(runner.sites, solved.split(sizes, 1), strict=True)
    }


def _named(sites: Sequence[Site], model: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for site, part in zip(sites, flat.split([site.size for site in sites]), strict=True):
        out |= parameters_of(site, model, part.reshape(site.shape))
    return out


class _Replaced(nn.Module):
    """A model run with other values for some of its parameters."""

    def __init__(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.inner, self.values = [model], values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return torch.func.functional_call(self.inner[0], self.values, args, kwargs, tie_weights=True)

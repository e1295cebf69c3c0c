"""Newton: one damped second-order step away from the documents that are to be forgotten.

At the trained weights the gradients of all n documents add up to nothing, so those of the n - k kept ones add up to
minus those of the k forgotten: g(kept) = -sum_S g_z. One Newton step down the mean loss of the kept documents is

    theta' = theta + s / (n - k) (C + l)^-1 sum_S g_z        g_z = grad of -log p of document z, summed over tokens

(Koh & Liang 2017, arXiv:1703.04730; as a way to remove data Guo et al. 2020, arXiv:1911.03030). The sign: it moves
*up* the forgotten documents' loss. s = 1 is the step itself.

Shapes: g_z and theta as blocks [O, I] by site, C as `SiteCurvature` of the site, per document.

Ignores: that the weights are no minimum (a language model stops early), that C is of all documents and not of the
kept, coupling between sites, weights without a site, and everything beyond second order: forgetting what was learnt by
heart is a long way, and a step of s = 1 then falls short. With an L2 penalty w/2 |theta|^2 beside the *mean* loss, take
l = w (`--weight-decay`); what is then left out is the curvature of k documents, and k / (n - k) of the penalty's own
gradient.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.attributor import Attributor
from whence.attributor.search import ask, group_size
from whence.curvature import SiteCurvature
from whence.data import batch_from_sequences, plan_batches
from whence.gradients import Recipe, gradient_blocks, language_examples
from whence.interfaces import EncodedQuery, Site
from whence.model import block_of, parameters_of

__all__ = ["Blocks", "direction", "foretold", "move", "newton_step", "sequences_of", "total_gradient"]

Blocks = Mapping[str, Tensor]
Sequences = Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]]


def newton_step(
    gradient: Blocks, damped: Mapping[str, tuple[SiteCurvature, float]], kept: float, strength: float = 1.0
) -> dict[str, Tensor]:
    """The change of the weights by site, blocks [O, I].

    Args:
        gradient: Sum over the forgotten documents of the gradient of -log p, by site, [O, I].
        damped: Curvature per document and damping of every site.
        kept: n - k, the documents that stay.
        strength: s.

    >>> curvature = SiteCurvature(None, None, torch.tensor([[3.0]]))
    >>> newton_step({"w": torch.tensor([[8.0]])}, {"w": (curvature, 1.0)}, kept=4)["w"].item()
    0.5
    """
    return {
        name: damped[name][0].solve(block[None], damped[name][1])[0] * (strength / kept)
        for name, block in gradient.items()
    }


def move(model: nn.Module, sites: Sequence[Site], step: Blocks) -> None:
    """Add blocks [O, I] by site to a model's weights, in place."""
    with torch.no_grad():
        for site in sites:
            block = block_of(site, model)
            for name, value in parameters_of(site, model, block + step[site.name].to(block)).items():
                model.get_parameter(name).copy_(value)


def sequences_of(corpus: Any, documents: Sequence[int]) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Windows of documents as (tokens [T], loss mask [T])."""
    owners = corpus.documents_of_windows(np.arange(corpus.windows, dtype=np.int64))
    return [corpus.window_tokens(int(row)) for row in np.flatnonzero(np.isin(owners, list(documents)))]


def total_gradient(owner: Attributor, sequences: Sequences) -> dict[str, Tensor]:
    """Sum of the gradients of -log p of texts at the run's model, by site, [O, I], full precision."""
    total = {site.name: torch.zeros(site.shape, dtype=owner.wide, device=_home(owner, site)) for site in owner.sites}
    for batch in _batches(owner, sequences):
        for name, blocks in gradient_blocks(owner.runner, language_examples(batch, owner.loaded))[0].items():
            total[name] += blocks.sum(0)
    return total


def _batches(owner: Attributor, sequences: Sequences) -> Iterator[Any]:
    lengths = np.array([len(tokens) for tokens, _ in sequences], dtype=np.int64)
    for places in plan_batches(lengths, owner.config.fit.batch_tokens) if len(lengths) else ():
        yield batch_from_sequences([sequences[place] for place in places])


def _home(owner: Attributor, site: Site) -> torch.device:
    return owner.loaded.device_of(site)


def direction(owner: Attributor, gradient: Blocks, recipe: Recipe) -> dict[str, Tensor]:
    """``(C + l)^-1 g`` of a gradient by site: a Newton step of strength 1 with nothing to divide by."""
    damped, homes = owner.damped(recipe.alike), {site.name: _home(owner, site) for site in owner.sites}
    here = {name: (each.to(homes[name], owner.wide), damping) for name, (each, damping) in damped.items()}
    return newton_step(gradient, here, 1.0)


def foretold(owner: Attributor, towards: Blocks, queries: Sequence[EncodedQuery]) -> NDArray[np.float64]:
    """Predicted change of -log p of each text if what `towards` was made of is removed, nats, float64 [Q].

    The sum of the removed documents' influences: the text's gradient times `direction`, over n.

    Args:
        owner: The run.
        towards: As `direction` gives for the removed documents' gradients (less those of added ones).
        queries: The texts.
    """
    parts = []
    step = group_size(owner)
    for start in range(0, len(queries), step):
        blocks = ask(owner, queries[start : start + step]).blocks
        found = [(blocks[name] * towards[name]).flatten(1).double().sum(1).cpu() for name in blocks]
        parts.append(torch.stack(found).sum(0).numpy())
    change: NDArray[np.float64] = np.concatenate(parts) / owner.trained_on
    return change

"""Whole matrices of scores [Q, documents] in memory, each made by no more work than it needs, and self-influence.

For comparing methods on corpora small enough; `trace` keeps only what it shows. Documents without a target token have
no gradient, and score 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor.search import against, ask, from_index, from_model, group_size
from whence.attributor.steps import Advance, batches
from whence.curvature import SiteCurvature
from whence.gradients import (
    Bases,
    Examples,
    Measured,
    Recipe,
    dots_and_squares,
    measure_each,
    measure_together,
    squares_and_solved,
)
from whence.interfaces import EncodedQuery
from whence.model import Objective
from whence.scoring import Dense
from whence.store import Index

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["SelfScores", "exact_influence", "gradient_cosines", "index_influence", "influence_and_dots", "self_scores"]

Damped = dict[str, tuple[SiteCurvature, float]]


def _ignore(_: int) -> None:
    return None


def exact_influence(
    owner: "Attributor", queries: Sequence[EncodedQuery], recipe: Recipe, advance: Advance = _ignore
) -> NDArray[np.float64]:
    """Influence in nats by running the model over the corpus; no index is read.

    Args:
        owner: A run whose corpus is read and whose curvature is fitted.
        queries: The queries, Q of them.
        recipe: Method and damping; how codes are made does not matter. Method identity gives gradient dots over n.
        advance: Told of tokens as they are done.

    Returns:
        float64 [Q, documents].
    """
    damped = _here(owner, recipe)

    def scores(group: Sequence[EncodedQuery], dense: Dense) -> None:
        blocks = ask(owner, group).blocks
        inverse = {name: curvature.solve(blocks[name], damping) for name, (curvature, damping) in damped.items()}
        against(owner, [inverse], [dense], 1.0 / owner.trained_on, None, advance, recipe.objective)

    return _by_group(owner, queries, scores)


def index_influence(
    owner: "Attributor", queries: Sequence[EncodedQuery], index: Index, recipe: Recipe
) -> NDArray[np.float64]:
    """Influence in nats, float64 [Q, documents], read off an index that was made with `recipe`."""
    encoders = owner.encoders(recipe)

    def scores(group: Sequence[EncodedQuery], dense: Dense) -> None:
        from_index(
            ask(owner, group), index, encoders, [dense], 1.0 / owner.trained_on, owner.corpus.weights, plain=False
        )

    return _by_group(owner, queries, scores)


def influence_and_dots(
    owner: "Attributor",
    queries: Sequence[EncodedQuery],
    index: Index | None,
    recipe: Recipe,
    advance: Advance = _ignore,
    objective: Objective | None = None,
    solve: Recipe | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Influence in nats and gradient dots over n of every document on every query, each float64 [Q, documents].

    Args:
        owner: A run whose corpus is read and whose curvature is fitted.
        queries: The queries.
        index: Read from it; None runs the model over the corpus.
        recipe: That of the index, or the method and damping to run with.
        advance: Told of tokens as they are done, where the model runs.
        objective: What is asked of the queries; -log p of the completion if None. Influence is then in its units.
        solve: Whose curvature and weights queries are solved with, if not the recipe's own.
    """
    encoders, scale = owner.encoders(recipe), 1.0 / owner.trained_on
    damped = None if solve is None else _here(owner, solve)
    influence, dots = [], []
    step = group_size(owner)
    for start in range(0, len(queries), step):
        question = ask(owner, queries[start : start + step], objective)
        count = len(question.queries)
        dense = Dense(2 * count, owner.corpus.documents)
        inverse = None if damped is None else {n: c.solve(question.blocks[n], d) for n, (c, d) in damped.items()}
        if index is None:
            from_model(owner, question, encoders, [dense], scale, None, advance, inverse, recipe.objective)
        else:
            from_index(question, index, encoders, [dense], scale, owner.corpus.weights, inverse=inverse)
        found = np.nan_to_num(dense.scores, nan=0.0)
        influence.append(found[:count])
        dots.append(found[count:])
    return np.concatenate(influence), np.concatenate(dots)


def _by_group(
    owner: "Attributor", queries: Sequence[EncodedQuery], scores: Callable[[Sequence[EncodedQuery], Dense], None]
) -> NDArray[np.float64]:
    step = group_size(owner)
    parts = []
    for start in range(0, len(queries), step):
        group = queries[start : start + step]
        dense = Dense(len(group), owner.corpus.documents)
        scores(group, dense)
        parts.append(np.nan_to_num(dense.scores, nan=0.0))
    return np.concatenate(parts)


def _here(owner: "Attributor", recipe: Recipe) -> Damped:
    """Curvature and damping of every site where the model is."""
    damped, where = owner.damped(recipe), owner.loaded.device_of
    return {site.name: (damped[site.name][0].to(where(site), owner.wide), damped[site.name][1]) for site in owner.sites}


def gradient_cosines(
    owner: "Attributor", queries: Sequence[EncodedQuery], advance: Advance = _ignore
) -> NDArray[np.float64]:
    """Cosine of each document's gradient with each query's, over all sites together, float64 [Q, documents]."""

    def scores(group: Sequence[EncodedQuery], dense: Dense) -> None:
        blocks = ask(owner, group).blocks
        found = _by_document(owner, dots_and_squares(blocks), None, advance)
        norms = np.sqrt(np.outer(_squares(blocks), found[-1]))
        dense.scores[:] = np.divide(found[:-1], norms, out=np.zeros_like(norms), where=norms > 0)

    return _by_group(owner, queries, scores)


def _squares(blocks: Mapping[str, Tensor]) -> NDArray[np.float64]:
    total = torch.stack([each.double().square().flatten(1).sum(1).cpu() for each in blocks.values()]).sum(0)
    values: NDArray[np.float64] = total.numpy()
    return values


@dataclass(frozen=True, slots=True)
class SelfScores:
    """What documents' own gradients say.

    Attributes:
        influence: Self-influence ``G^T (C + l)^-1 G / n`` times the document's weight, in nats, at least 0, float64
            [documents]: the predicted rise of the document's own loss if it had not been trained on.
        squares: Squared norm of the gradient, float64 [documents].
    """

    influence: NDArray[np.float64]
    squares: NDArray[np.float64]


def self_scores(owner: "Attributor", recipe: Recipe, advance: Advance = _ignore) -> SelfScores:
    """Self-influence and squared gradient norm of every document in one pass, under a curvature and damping.

    A document meets its own plain gradient, and all sites count alike: weights and unsaturated gradients of a recipe
    are for predicting other texts, and find wrong documents no better.
    """
    damped = _here(owner, recipe.alike)
    bases = {name: curvature for name, (curvature, _) in damped.items()}
    squares, solved = _by_document(owner, squares_and_solved(damped), bases, advance)
    weights = owner.corpus.weights(np.arange(owner.corpus.documents))
    return SelfScores(solved * weights / owner.trained_on, squares)


def _by_document(owner: "Attributor", measured: Measured, bases: Bases, advance: Advance) -> NDArray[np.float64]:
    """A measure of each document's gradient, float64 [K, documents]; windows of one document are added first."""
    rows = np.arange(owner.corpus.windows, dtype=np.int64)
    owners = owner.corpus.documents_of_windows(rows)
    windows = np.bincount(owners, minlength=owner.corpus.documents)
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    alone = rows[windows[owners] == 1]
    for places, examples, tokens in batches(owner, alone):
        parts.append((owners[alone[places]], measure_each(owner.runner, examples, measured, bases)))
        advance(tokens)
    for document in np.flatnonzero(windows > 1).tolist():
        together = _examples(owner, rows[owners == document], advance)
        found = measure_together(owner.runner, together, measured, bases)
        parts.append((np.array([document]), found[:, None]))
    out = np.zeros((len(parts[0][1]), owner.corpus.documents))
    for documents, values in parts:
        out[:, documents] = values
    return out


def _examples(owner: "Attributor", rows: NDArray[np.int64], advance: Advance) -> Iterator[Examples]:
    for _, examples, tokens in batches(owner, rows):
        yield examples
        advance(tokens)

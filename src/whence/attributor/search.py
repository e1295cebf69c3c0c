"""Scores of all documents for a group of queries: from an index, or by running the model over the corpus.

Both give the same stream of (documents, [influence; gradient dot]) to the same folds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor.selection import Selection
from whence.attributor.steps import batches
from whence.data import batch_from_sequences
from whence.gradients import Recipe, SiteEncoder, exact_scores, gradient_blocks, language_examples
from whence.interfaces import EncodedQuery
from whence.model import Objective
from whence.scoring import Fold, Groups, Moments, Only, Spool, Top, Weighted, by_document, scan
from whence.store import Index

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["Question", "Ranking", "against", "ask", "from_index", "from_model", "group_size", "search", "solved"]

_GROUP_BYTES = 2 << 30

Advance = Callable[[int], None]
Weights = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Question:
    """Gradients of a group of queries.

    Attributes:
        queries: The queries, Q of them.
        blocks: Site -> gradient of -log p(completion) (minus the contrast's), [Q, O, I], full precision.
        losses: -log p of each, minus the contrast's, nats.
    """

    queries: Sequence[EncodedQuery]
    blocks: Mapping[str, Tensor]
    losses: tuple[float, ...]


class Ranking(Protocol):
    """A named method bound to a run, instead of the run's own curvature; `whence.methods.Bound` is one."""

    @property
    def name(self) -> str:
        """The method as typed."""
        ...

    @property
    def unit(self) -> str:
        """Of its scores: nats, or score if they have none."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its scores has to know, once it is prepared."""
        ...

    @property
    def recipe(self) -> Recipe | None:
        """The index it reads, and whose gradients documents have; the run's own if None."""
        ...

    @property
    def reads_index(self) -> bool:
        """Whether it has vectors of queries alone, with which an index of gradients can be read."""
        ...

    def prepare(self, report: Callable[[str, int, int], None] | None = None) -> None:
        """Do the steps that it still needs."""
        ...

    def solve(self, question: Question) -> Mapping[str, Tensor] | None:
        """The queries' vectors by site, [Q, O, I]; None if documents have vectors of their own too."""
        ...

    def stream(self, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Feed scores [Q, M] of all documents to folds."""
        ...


def group_size(owner: "Attributor") -> int:
    """How many queries are held at once: about 2 GiB of gradients, so that memory does not grow with their number."""
    per_query = 4 * 4 * sum(site.size for site in owner.sites)
    return max(1, _GROUP_BYTES // per_query)


def ask(owner: "Attributor", queries: Sequence[EncodedQuery], objective: Objective | None = None) -> Question:
    """Gradients of a group of queries, one after another, in full precision.

    Args:
        owner: The run.
        queries: The queries.
        objective: What is asked of them; -log p of the completion if None.
    """
    runner = owner.runner if objective is None else replace(owner.runner, objective=objective)
    first = next(owner.loaded.model.parameters())
    wide = torch.float64 if first.dtype == torch.float64 else torch.float32
    out = {
        site.name: torch.empty(len(queries), *site.shape, dtype=wide, device=owner.loaded.device_of(site))
        for site in owner.sites
    }
    losses = []
    for number, query in enumerate(queries):
        sequences = [(query.text.tokens, query.text.loss_mask)]
        if query.contrast is not None:
            sequences.append((query.contrast.tokens, query.contrast.loss_mask))
        examples = language_examples(batch_from_sequences(sequences), owner.loaded)
        blocks, loss = gradient_blocks(runner, examples)
        losses.append(float(loss[0] - (loss[1] if query.contrast is not None else 0.0)))
        for name, block in blocks.items():
            out[name][number] = block[0] if query.contrast is None else block[0] - block[1]
        del blocks
    return Question(queries, out, tuple(losses))


def from_index(
    question: Question,
    index: Index,
    encoders: Mapping[str, SiteEncoder],
    folds: Sequence[Fold],
    scale: float,
    weights: Weights,
    plain: bool = True,
    inverse: Mapping[str, Tensor] | None = None,
) -> None:
    """Stream scores of every document out of an index; folds see [2Q, M], influence then gradient dot.

    Codes know nothing of how often a document was trained on: `weights` multiplies its scores. Without `plain` folds
    see influence alone, [Q, M]. With `inverse`, other vectors of the queries than those of the index's own curvature:
    influence is then their inner product with documents' gradients.
    """
    vectors: dict[str, NDArray[np.float32]] = {}
    for name, encoder in encoders.items():
        blocks = question.blocks[name]
        first = encoder.query(blocks) if inverse is None else encoder.query(inverse[name], plain=True)
        wanted = [first, *([encoder.query(blocks, plain=True)] if plain else [])]
        vectors[name] = torch.cat(wanted).float().cpu().numpy()
    scan(index, index.layouts, vectors, [Weighted(folds, weights)], scale)


def solved(question: Question, encoders: Mapping[str, SiteEncoder]) -> dict[str, Tensor]:
    """``(C + l)^-1 grad`` of every query by site, [Q, O, I]."""
    return {name: each.curvature.solve(question.blocks[name], each.damping) for name, each in encoders.items()}


def from_model(
    owner: "Attributor",
    question: Question,
    encoders: Mapping[str, SiteEncoder],
    folds: Sequence[Fold],
    scale: float,
    candidates: NDArray[np.int64] | None,
    advance: Advance,
    inverse: Mapping[str, Tensor] | None = None,
    objective: Objective | None = None,
) -> None:
    """Stream exact influence and gradient dot by running the model over the corpus, or over some documents of it."""
    targets = solved(question, encoders) if inverse is None else inverse
    against(owner, [targets, question.blocks], folds, scale, candidates, advance, objective)


def _from_ranking(
    owner: "Attributor",
    question: Question,
    ranking: Ranking,
    influence: Sequence[Fold],
    spool: Spool,
    selection: Selection,
    advance: Advance,
) -> None:
    """Stream the scores of a method that has no vectors for an index, then gradient dots by running the model."""
    count = len(question.queries)
    scores: list[Fold] = [*influence, _Rows(spool, 0)]
    ranking.stream(question.queries, scores if selection.chosen is None else [Only(scores, selection.chosen)], advance)
    against(owner, [question.blocks], [_Rows(spool, count)], 1.0 / owner.trained_on, selection.numbers, advance)


def against(
    owner: "Attributor",
    targets: Sequence[Mapping[str, Tensor]],
    folds: Sequence[Fold],
    scale: float,
    candidates: NDArray[np.int64] | None,
    advance: Advance,
    objective: Objective | None = None,
) -> None:
    """Stream inner products of documents' gradients with fixed blocks, site -> [Q, O, I], by running the model.

    `objective` says whose gradients documents have; those of -log p if None.
    """
    runner = owner.runner if objective is None else replace(owner.runner, objective=objective)
    count = sum(len(next(iter(target.values()))) for target in targets)
    for share in owner.corpus.shares:
        windows = owner.corpus.share_windows(share)
        local = np.arange(len(windows)) if candidates is None else np.flatnonzero(np.isin(windows[:, 0], candidates))
        if not len(local):
            continue
        scores = np.zeros((count, len(local)))
        for places, examples, tokens in batches(owner, share.first_window + local.astype(np.int64)):
            totals, _ = exact_scores(runner, examples, *targets)
            scores[:, places] = totals[0].T.double().cpu().numpy()
            advance(tokens)
        documents, summed = by_document(windows[local], scores * (scale * share.weight))
        for fold in folds:
            fold.update(documents, summed)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search left: the ends of each ranking, moments, every score on disk, sums by group of documents."""

    top: Top
    bottom: Top
    moments: Moments
    spool: Spool
    groups: tuple[Groups, ...] = ()

    def influence(self, query: int, document: int) -> float:
        """Influence of a document on a query, as searched."""
        return float(self.spool.scores[query, document])


class _Halves:
    """Feeds the influence half of [2Q, M] to some folds and all of it to the spool."""

    def __init__(self, influence: Sequence[Fold], everything: Sequence[Fold]) -> None:
        self.influence = influence
        self.everything = everything

    def update(self, documents: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Take in the scores [2Q, M]."""
        for fold in self.influence:
            fold.update(documents, scores[: len(scores) // 2])
        for fold in self.everything:
            fold.update(documents, scores)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Feeds scores [Q, M] to a spool of more rows, from row `first` on."""

    spool: Spool
    first: int

    def update(self, documents: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Take in the scores [Q, M]."""
        self.spool.update(documents, scores, self.first)


def search(
    owner: "Attributor",
    question: Question,
    encoders: Mapping[str, SiteEncoder],
    index: Index | None,
    depth: int,
    spool_path: Path,
    selection: Selection,
    advance: Advance,
    ranking: Ranking | None = None,
    inverse: Mapping[str, Tensor] | None = None,
    objective: Objective | None = None,
) -> Found:
    """Score all documents (or those selected) for a group of queries, by the model if no index is given.

    Args:
        owner: The run.
        question: Gradients of the queries.
        encoders: Those of the index.
        index: Its codes; None runs the model.
        depth: How many documents to keep at each end.
        spool_path: Where all scores are kept meanwhile.
        selection: Which documents, and groups of them.
        advance: Told of tokens as they are done.
        ranking: A method to score by instead of the index's own curvature.
        inverse: What its `solve` gave; None if documents have vectors of their own too.
        objective: Whose gradients documents have; those of -log p if None.
    """
    count = len(question.queries)
    found = Found(
        Top(count, depth),
        Top(count, depth, largest=False),
        Moments(count),
        Spool(spool_path, 2 * count, owner.corpus.documents),
        tuple(Groups(count, len(grouping.names), grouping.of) for grouping in selection.groupings),
    )
    ends: list[Fold] = [found.top, found.bottom, found.moments, *found.groups]
    if ranking is not None and inverse is None:
        _from_ranking(owner, question, ranking, ends, found.spool, selection, advance)
        return found
    folds: list[Fold] = [_Halves(ends, [found.spool])]
    scale = 1.0 / owner.trained_on
    if index is None:
        from_model(owner, question, encoders, folds, scale, selection.numbers, advance, inverse, objective)
    else:
        folds = folds if selection.chosen is None else [Only(folds, selection.chosen)]
        from_index(question, index, encoders, folds, scale, owner.corpus.weights, inverse=inverse)
    return found

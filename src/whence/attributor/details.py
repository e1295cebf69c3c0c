"""A closer look at a few documents: exact influence by site, window and token, on both sides.

Runs the model over the documents that a search found. The index's influence is an estimate from coarse codes; this
is the same quantity without them, so it also re-ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor.steps import batches
from whence.data import batch_from_sequences
from whence.gradients import Runner, SiteEncoder, exact_scores, gradient_blocks, language_examples, token_scores
from whence.interfaces import EncodedQuery
from whence.model import Objective

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["Detail", "document_details", "query_token_shares", "refine"]

_TARGET_BYTES = 1 << 30
_EXPERTS = 16  # a model may have tens of thousands; a reader looks at a few


@dataclass(frozen=True, slots=True)
class Detail:
    """Exact influence of one document on one query, nats.

    Attributes:
        influence: The whole.
        gradient_dot: Plain inner product of gradients over n.
        sites: By site, in the sites' order.
        experts: By expert of each stack of experts, as ``site[expert]``; the strongest of them.
        windows: (start, stop, influence) of every window; a start below 0 is that many tokens before the document.
        window: Index of the window with the largest |influence|.
        tokens: Influence by token of that window, shifted so that it lies on the token being predicted.
    """

    influence: float
    gradient_dot: float
    sites: NDArray[np.float64]
    experts: dict[str, float]
    windows: tuple[tuple[int, int, float], ...]
    window: int
    tokens: NDArray[np.float64]


def windows_of(owner: "Attributor", documents: Sequence[int]) -> NDArray[np.int64]:
    """Global window numbers of some documents, in order."""
    wanted = np.unique(np.asarray(documents, dtype=np.int64))
    out = []
    for share in owner.corpus.shares:
        inside = wanted[(wanted >= share.first_document) & (wanted < share.first_document + share.documents)]
        if len(inside):
            windows = owner.corpus.share_windows(share)
            out.append(share.first_window + np.flatnonzero(np.isin(windows[:, 0], inside)))
    return np.concatenate(out).astype(np.int64) if out else np.empty(0, dtype=np.int64)


def refine(
    owner: "Attributor",
    documents: Sequence[int],
    inverse: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    objective: Objective | None = None,
) -> dict[int, tuple[float, float]]:
    """Exact (influence, gradient dot) of some documents on one query.

    Args:
        owner: The run.
        documents: Document numbers.
        inverse: Site -> ``(C + l)^-1 grad q`` [1, O, I].
        plain: Site -> ``grad q`` [1, O, I].
        objective: Whose gradients documents have; those of -log p if None.
    """
    runner = _runner(owner, objective)
    rows = windows_of(owner, documents)
    out: dict[int, tuple[float, float]] = dict.fromkeys(map(int, documents), (0.0, 0.0))
    for places, examples, _ in batches(owner, rows):
        totals, _ = exact_scores(runner, examples, inverse, plain)
        for document, (influence, dot) in zip(
            owner.corpus.documents_of_windows(rows[places]).tolist(), totals[0].double().cpu().numpy(), strict=True
        ):
            before, unit = out[document], owner.unit(document)
            out[document] = (before[0] + influence * unit, before[1] + dot * unit)
    return out


def _runner(owner: "Attributor", objective: Objective | None) -> Runner:
    return owner.runner if objective is None else replace(owner.runner, objective=objective)


def document_details(
    owner: "Attributor",
    documents: Sequence[int],
    inverse: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    objective: Objective | None = None,
) -> dict[int, Detail]:
    """Exact influence of some documents on one query, taken apart. Arguments as for `refine`."""
    runner = _runner(owner, objective)
    rows = windows_of(owner, documents)
    targets = {name: torch.cat([inverse[name], plain[name]]) for name in inverse}
    pieces: dict[int, list[_Piece]] = {}
    for places, examples, _ in batches(owner, rows):
        found = token_scores(runner, examples, targets)
        for number, row in enumerate(rows[places].tolist()):
            document, start, stop = owner.corpus.window(row)
            unit = owner.unit(document)
            experts = {name: each[0, number] * unit for name, each in found.experts.items()}
            piece = _Piece(
                start, stop, found.tokens[:, number, : stop - start] * unit, found.sites[:, :, number] * unit, experts
            )
            pieces.setdefault(document, []).append(piece)
    for parts in pieces.values():
        parts.sort(key=lambda part: part.start)
    return {document: _combine(parts) for document, parts in pieces.items()}


@dataclass(frozen=True, slots=True)
class _Piece:
    """One window of a document: tokens [2, T] and sites [S, 2] for influence and gradient dot, experts of influence."""

    start: int
    stop: int
    tokens: NDArray[np.float64]
    sites: NDArray[np.float64]
    experts: dict[str, NDArray[np.float64]]


def _combine(parts: Sequence[_Piece]) -> Detail:
    windows = tuple((part.start, part.stop, float(part.tokens[0].sum())) for part in parts)
    best = int(np.argmax([abs(influence) for _, _, influence in windows]))
    return Detail(
        influence=sum(influence for _, _, influence in windows),
        gradient_dot=float(sum(part.tokens[1].sum() for part in parts)),
        sites=np.sum([part.sites[:, 0] for part in parts], axis=0),
        experts=_strongest({name: np.sum([part.experts[name] for part in parts], axis=0) for name in parts[0].experts}),
        windows=windows,
        window=best,
        tokens=shifted(parts[best].tokens[0]),
    )


def _strongest(experts: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The experts with the largest |influence| of all stacks, strongest first."""
    every = [(f"{name}[{e}]", float(value)) for name, values in experts.items() for e, value in enumerate(values)]
    return dict(sorted(every, key=lambda item: -abs(item[1]))[:_EXPERTS])


def shifted(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move each position's share onto the token that it predicts; the last position predicts nothing and has none."""
    out = np.zeros_like(shares)
    out[..., 1:] = shares[..., :-1]
    out[..., 0] += shares[..., -1] if shares.shape[-1] == 1 else 0.0
    return out


def query_token_shares(
    owner: "Attributor",
    query: EncodedQuery,
    documents: Sequence[int],
    encoders: Mapping[str, SiteEncoder],
    objective: Objective | None = None,
) -> dict[int, NDArray[np.float64]]:
    """Influence of each document by token of the query, on the token being predicted; without the contrast's part."""
    per_document = 4 * sum(site.size for site in owner.sites)
    step = max(1, _TARGET_BYTES // per_document)
    sequences = [(query.text.tokens, query.text.loss_mask)]
    examples = language_examples(batch_from_sequences(sequences), owner.loaded)
    out: dict[int, NDArray[np.float64]] = {}
    for start in range(0, len(documents), step):
        chosen = list(documents[start : start + step])
        targets = _document_targets(owner, chosen, encoders, _runner(owner, objective))
        by_token = token_scores(owner.runner, examples, targets).tokens
        for number, document in enumerate(chosen):
            out[document] = shifted(by_token[number, 0]) * owner.unit(document)
    return out


def _document_targets(
    owner: "Attributor", documents: Sequence[int], encoders: Mapping[str, SiteEncoder], runner: Runner
) -> dict[str, Tensor]:
    """``(C + l)^-1 grad z`` of documents by site, [M, O, I]."""
    sums: dict[str, Tensor] = {}
    place = {document: number for number, document in enumerate(documents)}
    every = windows_of(owner, documents)
    few = max(1, _TARGET_BYTES // (4 * sum(site.size for site in owner.sites)))  # windows whose gradients are held
    pieces = [every[start : start + few] for start in range(0, len(every), few)]
    for rows, (places, examples, _) in ((piece, batch) for piece in pieces for batch in batches(owner, piece)):
        blocks, _ = gradient_blocks(runner, examples)
        numbers = [place[document] for document in owner.corpus.documents_of_windows(rows[places]).tolist()]
        for name, block in blocks.items():
            if name not in sums:
                sums[name] = block.new_zeros(len(documents), *block.shape[1:])
            sums[name].index_add_(0, torch.tensor(numbers, device=block.device), block)
    return {name: each.curvature.solve(sums[name], each.damping) for name, each in encoders.items()}

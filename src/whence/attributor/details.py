"""A closer look at a few documents: exact influence by site, window and token, on both sides.

Runs the model over the documents that a search found. The index's influence is an estimate from coarse codes; this
is the same quantity without them, so it also re-ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor.steps import batches
from whence.data import batch_from_sequences
from whence.gradients import SiteEncoder, exact_scores, gradient_blocks, language_examples, token_scores
from whence.interfaces import EncodedQuery

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["Detail", "document_details", "query_token_shares", "refine"]

_TARGET_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Detail:
    """Exact influence of one document on one query, nats.

    Attributes:
        influence: The whole.
        gradient_dot: Plain inner product of gradients over n.
        sites: By site, in the sites' order.
        windows: (start, stop, influence) of every window.
        window: Index of the window with the largest |influence|.
        tokens: Influence by token of that window, shifted so that it lies on the token being predicted.
    """

    influence: float
    gradient_dot: float
    sites: NDArray[np.float64]
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
    owner: "Attributor", documents: Sequence[int], inverse: Mapping[str, Tensor], plain: Mapping[str, Tensor]
) -> dict[int, tuple[float, float]]:
    """Exact (influence, gradient dot) of some documents on one query.

    Args:
        owner: The run.
        documents: Document numbers.
        inverse: Site -> ``(C + l)^-1 grad q`` [1, O, I].
        plain: Site -> ``grad q`` [1, O, I].
    """
    rows = windows_of(owner, documents)
    out: dict[int, tuple[float, float]] = dict.fromkeys(map(int, documents), (0.0, 0.0))
    for places, examples, _ in batches(owner, rows):
        totals, _ = exact_scores(owner.runner, examples, inverse, plain)
        for document, (influence, dot) in zip(
            owner.corpus.documents_of_windows(rows[places]).tolist(), totals[0].double().cpu().numpy(), strict=True
        ):
            before = out[document]
            out[document] = (before[0] + influence / owner.trained_on, before[1] + dot / owner.trained_on)
    return out


def document_details(
    owner: "Attributor", documents: Sequence[int], inverse: Mapping[str, Tensor], plain: Mapping[str, Tensor]
) -> dict[int, Detail]:
    """Exact influence of some documents on one query, taken apart. Arguments as for `refine`."""
    rows = windows_of(owner, documents)
    targets = {name: torch.cat([inverse[name], plain[name]]) for name in inverse}
    pieces: dict[int, list[tuple[int, int, NDArray[np.float64], NDArray[np.float64]]]] = {}
    for places, examples, _ in batches(owner, rows):
        by_token, by_site = token_scores(owner.runner, examples, targets)
        for number, row in enumerate(rows[places].tolist()):
            document, start, stop = owner.corpus.window(row)
            scaled = by_token[:, number, : stop - start] / owner.trained_on, by_site[:, :, number] / owner.trained_on
            pieces.setdefault(document, []).append((start, stop, *scaled))
    for parts in pieces.values():
        parts.sort(key=lambda part: part[0])
    return {document: _combine(parts) for document, parts in pieces.items()}


def _combine(parts: Sequence[tuple[int, int, NDArray[np.float64], NDArray[np.float64]]]) -> Detail:
    windows = tuple((start, stop, float(by_token[0].sum())) for start, stop, by_token, _ in parts)
    best = int(np.argmax([abs(influence) for _, _, influence in windows]))
    return Detail(
        influence=sum(influence for _, _, influence in windows),
        gradient_dot=float(sum(by_token[1].sum() for _, _, by_token, _ in parts)),
        sites=np.sum([by_site[:, 0] for _, _, _, by_site in parts], axis=0),
        windows=windows,
        window=best,
        tokens=shifted(parts[best][2][0]),
    )


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
) -> dict[int, NDArray[np.float64]]:
    """Influence of each document by token of the query, on the token being predicted; without the contrast's part."""
    per_document = 4 * sum(site.size for site in owner.sites)
    step = max(1, _TARGET_BYTES // per_document)
    sequences = [(query.text.tokens, query.text.loss_mask)]
    examples = language_examples(batch_from_sequences(sequences), owner.loaded)
    out: dict[int, NDArray[np.float64]] = {}
    for start in range(0, len(documents), step):
        chosen = list(documents[start : start + step])
        targets = _document_targets(owner, chosen, encoders)
        by_token, _ = token_scores(owner.runner, examples, targets)
        for number, document in enumerate(chosen):
            out[document] = shifted(by_token[number, 0]) / owner.trained_on
    return out


def _document_targets(
    owner: "Attributor", documents: Sequence[int], encoders: Mapping[str, SiteEncoder]
) -> dict[str, Tensor]:
    """``(C + l)^-1 grad z`` of documents by site, [M, O, I]."""
    sums: dict[str, Tensor] = {}
    place = {document: number for number, document in enumerate(documents)}
    every = windows_of(owner, documents)
    few = max(1, _TARGET_BYTES // (4 * sum(site.size for site in owner.sites)))  # windows whose gradients are held
    pieces = [every[start : start + few] for start in range(0, len(every), few)]
    for rows, (places, examples, _) in ((piece, batch) for piece in pieces for batch in batches(owner, piece)):
        blocks, _ = gradient_blocks(owner.runner, examples)
        numbers = [place[document] for document in owner.corpus.documents_of_windows(rows[places]).tolist()]
        for name, block in blocks.items():
            if name not in sums:
                sums[name] = block.new_zeros(len(documents), *block.shape[1:])
            sums[name].index_add_(0, torch.tensor(numbers, device=block.device), block)
    return {name: each.curvature.solve(sums[name], each.damping) for name, each in encoders.items()}

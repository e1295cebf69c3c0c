"""LESS: the cosine of the step that Adam would take on a document with the query's gradient, over checkpoints.

    score(z, q) = sum_c rate_c cos(grad q, Gamma(z))
    Gamma = m' / (sqrt(v') + eps)
    m' = (b1 m + (1 - b1) g) / (1 - b1^t)      v' = (b2 v + (1 - b2) g^2) / (1 - b2^t)

Xia et al. 2024 (arXiv:2402.04333), equations 4 to 6. m and v are Adam's running means at checkpoint c, t the number of
the step that would follow, g the document's gradient as a batch of its own: of its loss divided as in training, by its
target tokens (or, where the loss was a mean over documents, by its windows). rate_c is the mean rate of the steps up to
c. Query gradients are plain. The paper projects both sides on 8,192 random directions, which keeps cosines on average,
in order to store them; here they are dense and documents are a stream.

The cosine has no unit, and scores no counterfactual: they rank. A score is positive if Adam's step on z would raise
log p of the answer. Ignored: how large a step is; what later steps do to it; and the momentum m is in every Gamma, so
with b1 = 0.9 documents differ by a tenth of their gradients, and their scores by little. Sites without Adam's moments
(Muon's matrices) are refused.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor import Attributor, Checkpoint, ask, batches, optimizer_moments, rates_between
from whence.errors import NumericalError
from whence.factors import AnyFactors, block_pieces
from whence.gradients import Examples, products
from whence.interfaces import EncodedQuery, Site
from whence.methods.base import Advance, Scorer, Work
from whence.methods.feeding import feed_matrix
from whence.methods.visits import Scores, visited
from whence.scoring import Fold

__all__ = ["Less"]

Measured = Callable[[str, Tensor, Tensor], Tensor]
"""(site, summed gradients [n, O, I], divisors [n]) -> float64 [K, n]; added over sites."""


class Less(Scorer):
    """Cosines of Adam's steps with query gradients; no settings."""

    key: ClassVar[str] = "less"
    title: ClassVar[str] = "LESS"
    paper: ClassVar[str] = "Xia et al. 2024, arXiv:2402.04333"
    checkpoints: ClassVar[bool] = True

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Sums over checkpoints of a group of queries."""
        steps = np.diff([0, *(each.step for each in work.checkpoints)])
        rates = rates_between(work.checkpoints)
        means = [rate / step if step else each.learning_rate
                 for each, rate, step in zip(work.checkpoints, rates, steps.tolist(), strict=True)]  # fmt: skip

        def scores(at: Attributor, checkpoint: Checkpoint, advance: Advance) -> Scores:
            return _cosines(at, checkpoint, queries, advance)

        weights = list(zip(work.checkpoints, means, strict=True))
        feed_matrix(work.owner, visited(work, len(queries), weights, scores, advance), folds)


def _cosines(at: Attributor, checkpoint: Checkpoint, queries: Sequence[EncodedQuery], advance: Advance) -> Scores:
    """Cosines at one checkpoint, float64 [Q, documents]; 0 for documents without a target."""
    blocks = ask(at, queries).blocks
    steps = adam_steps(at, checkpoint)

    def measured(site: str, gradients: Tensor, divisors: Tensor) -> Tensor:
        flat = steps(site, gradients, divisors).flatten(1)
        dots = blocks[site].flatten(1).to(flat.dtype) @ flat.T
        return torch.cat([dots.double(), flat.double().square().sum(1)[None]])

    found = _by_document(at, checkpoint, measured, len(queries) + 1, advance)
    squares = torch.stack([each.double().square().flatten(1).sum(1).cpu() for each in blocks.values()]).sum(0)
    norms = np.sqrt(np.outer(squares.numpy(), found[-1]))
    return np.divide(found[:-1], norms, out=np.zeros_like(norms), where=norms > 0)


def adam_steps(at: Attributor, checkpoint: Checkpoint) -> Callable[[str, Tensor, Tensor], Tensor]:
    """From (site, summed gradients [n, O, I], divisors [n]) to Adam's step on each, [n, O, I]."""
    moments, (b1, b2), t = optimizer_moments(checkpoint, at), checkpoint.betas, checkpoint.step + 1
    where = {site.name: at.loaded.device_of(site) for site in at.sites}
    means = {name: (each * (b1 / (1 - b1**t))).to(where[name], at.wide) for name, each in moments.mean.items()}
    squares = {name: (each * (b2 / (1 - b2**t))).to(where[name], at.wide) for name, each in moments.square.items()}

    def steps(site: str, gradients: Tensor, divisors: Tensor) -> Tensor:
        own = gradients / divisors.to(gradients).reshape(-1, *[1] * (gradients.ndim - 1))
        mean = means[site] + own * ((1 - b1) / (1 - b1**t))
        return mean / ((squares[site] + own.square() * ((1 - b2) / (1 - b2**t))).sqrt() + checkpoint.eps)

    return steps


def _by_document(at: Attributor, checkpoint: Checkpoint, measured: Measured, size: int, advance: Advance) -> Scores:
    """A measure of each document's gradient, float64 [K, documents]; windows of one document are added first."""
    rows = np.arange(at.corpus.windows, dtype=np.int64)
    owners = at.corpus.documents_of_windows(rows)
    windows = np.bincount(owners, minlength=at.corpus.documents)
    targets = np.array([int(at.corpus.window_tokens(row)[1].sum()) for row in rows.tolist()], dtype=np.float64)
    told = np.bincount(owners, targets, minlength=at.corpus.documents)
    divisors = np.maximum(told if checkpoint.reduction == "tokens" else windows, 1.0)
    out = np.zeros((size, at.corpus.documents))
    alone = rows[windows[owners] == 1]
    for places, examples, tokens in batches(at, alone):
        documents = owners[alone[places]]
        out[:, documents] = _each(at, examples, measured, divisors[documents])
        advance(tokens)
    for document in np.flatnonzero(windows > 1).tolist():
        out[:, document] = _together(at, rows[owners == document], measured, divisors[[document]], advance)
    if not np.isfinite(out).all():
        raise NumericalError(
            "a document's gradient is not finite. Run the model in another --dtype (bfloat16 or float32 instead of "
            "float16), or take the document out."
        )
    return out * (told > 0)


def _each(at: Attributor, examples: Examples, measured: Measured, divisors: NDArray[np.float64]) -> Scores:
    """Measures of the gradient of each example of a batch, float64 [K, E]."""
    parts: dict[str, Tensor] = {}

    def take(site: Site, pieces: Iterable[Tensor]) -> None:
        done, found = 0, []
        for blocks in pieces:
            some = torch.from_numpy(divisors[done : done + len(blocks)])
            found.append(measured(site.name, blocks, some))
            done += len(blocks)
        parts[site.name] = torch.cat(found, 1).cpu()

    _visit(at, examples, take)
    for site in at.sites:  # one that saw no gradient still has its momentum
        if site.name not in parts:
            blocks = torch.zeros(len(divisors), *site.shape, dtype=at.wide, device=at.loaded.device_of(site))
            parts[site.name] = measured(site.name, blocks, torch.from_numpy(divisors)).cpu()
    return _total(at, parts)


def _together(
    at: Attributor, rows: NDArray[np.int64], measured: Measured, divisor: NDArray[np.float64], advance: Advance
) -> NDArray[np.float64]:
    """Measures of the one gradient that some windows add up to, float64 [K]."""
    sums = {
        site.name: torch.zeros(1, *site.shape, dtype=at.wide, device=at.loaded.device_of(site)) for site in at.sites
    }

    def take(site: Site, pieces: Iterable[Tensor]) -> None:
        for blocks in pieces:
            sums[site.name] += blocks.sum(0, keepdim=True)

    for _, examples, tokens in batches(at, rows):
        _visit(at, examples, take)
        advance(tokens)
    parts = {name: measured(name, total, torch.from_numpy(divisor)).cpu() for name, total in sums.items()}
    return _total(at, parts)[:, 0]


def _total(at: Attributor, parts: Mapping[str, Tensor]) -> Scores:
    """Added over sites, in their order."""
    values: Scores = torch.stack([parts[site.name] for site in at.sites]).sum(0).numpy()
    return values


def _visit(at: Attributor, examples: Examples, take: Callable[[Site, Iterable[Tensor]], None]) -> None:
    def consume(site: Site, uses: list[AnyFactors]) -> None:
        with products("full"):
            take(site, block_pieces(uses))

    at.runner.examples(examples, consume)

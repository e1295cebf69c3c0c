"""The passes over documents: covariances, eigenvalues, codes, exact scores, token-wise scores.

Each is a function of a `Runner` and a batch that adds to, or returns, plain tensors; none knows where batches come
from or where results go. Matrix products of documents may run in fast precision; those of queries never do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.curvature import Covariances, SiteCurvature, add_squares
from whence.errors import NumericalError
from whence.factors import AnyFactors, Factors, OneHot, Routed, Side, block_pieces, map_side, total_blocks
from whence.gradients.encoder import SiteEncoder
from whence.gradients.runner import Examples, Precision, Runner, products
from whence.interfaces import Site
from whence.projection import SiteLayout, code_dtype

__all__ = [
    "TokenScores",
    "add_covariances",
    "add_eigenvalue_squares",
    "encode_documents",
    "exact_scores",
    "gradient_blocks",
    "token_scores",
]


def add_covariances(runner: Runner, examples: Examples, sums: Covariances, seed: int, precision: Precision) -> None:
    """Add a batch's second moments, with labels drawn from the model."""
    sums.start_batch()

    def consume(site: Site, uses: list[AnyFactors], masks: list[Tensor | None]) -> None:
        with products(precision):
            sums.add(site, uses, masks)

    runner.tokens(examples, consume, ("covariance", seed))


def add_eigenvalue_squares(
    runner: Runner,
    examples: Examples,
    bases: Mapping[str, SiteCurvature],
    squares: dict[str, Tensor],
    seed: int,
    precision: Precision,
) -> None:
    """Add a batch's squared gradients in the eigenbasis, with labels drawn afresh from the model."""
    cache: dict[str, Side] = {}

    def consume(site: Site, uses: list[AnyFactors]) -> None:
        with products(precision):
            for blocks in rotated_blocks(site, uses, bases[site.name], cache):
                if site.name not in squares:
                    squares[site.name] = blocks.new_zeros(blocks.shape[1:])
                add_squares(squares[site.name], blocks)

    runner.examples(examples, consume, ("eigenvalues", seed))


def rotated_blocks(
    site: Site, uses: Sequence[AnyFactors], basis: SiteCurvature, cache: dict[str, Side]
) -> Iterator[Tensor]:
    """``Q_S^T G Q_A`` [n, O, I], a few examples at a time; tokens or blocks are rotated, whichever is cheaper."""
    tokens = max(_tokens(use) for use in uses)
    by_token = tokens * (site.outputs**2 + site.inputs**2) < site.size * (site.outputs + site.inputs)
    if not by_token and not any(_one_hot(use) for use in uses):
        return map(basis.rotate, block_pieces(uses))
    left = None if basis.outputs is None else basis.outputs.mT
    right = None if basis.inputs is None else basis.inputs.mT
    first = uses[0]
    if len(uses) > 1 or isinstance(first, Routed):
        return block_pieces([use.map(left, right) for use in uses])
    if site.group not in cache:
        cache[site.group] = map_side(first.inputs, right)
    return block_pieces([Factors(cache[site.group], map_side(first.grads, left))])


def _one_hot(use: AnyFactors) -> bool:
    return isinstance(use.inputs, OneHot) or isinstance(use.grads, OneHot)


def _tokens(use: AnyFactors) -> float:
    """Tokens (rows, where tokens are routed) of an example."""
    if isinstance(use, Routed):
        return len(use.expert) / max(use.examples, 1)
    side = use.grads if isinstance(use.grads, Tensor) else use.inputs
    return int(cast(Tensor, side).shape[1])


def encode_documents(
    runner: Runner,
    examples: Examples,
    encoders: Mapping[str, SiteEncoder],
    layouts: Sequence[SiteLayout],
    precision: Precision,
) -> tuple[NDArray[np.generic], NDArray[np.float32], NDArray[np.float32]]:
    """Codes [E, elements], scales [E, blocks] and losses [E] (nats) of a batch of documents."""
    codes = np.zeros((examples.count, layouts[-1].last), dtype=code_dtype(layouts[0].bits))
    scales = np.zeros((examples.count, layouts[-1].last_scale), dtype=np.float32)
    cache: dict[str, Side] = {}

    def consume(site: Site, uses: list[AnyFactors]) -> None:
        encoder = encoders[site.name]
        at = encoder.layout
        with products(precision):
            made = encoder.document(uses, cache)
        codes[:, at.first : at.last], scales[:, at.first_scale : at.last_scale] = made

    losses = runner.examples(examples, consume)
    _refuse_not_finite(np.isfinite(scales).all(1) & torch.isfinite(losses).cpu().numpy(), examples)
    return codes, scales, losses.float().cpu().numpy()


def _refuse_not_finite(fine: NDArray[np.bool_], examples: Examples) -> None:
    """A gradient that overflowed must not pass for one without influence."""
    if not fine.all():
        named = ", ".join(map(str, examples.numbers[~fine][:8].tolist()))
        raise NumericalError(
            f"loss or gradient is not finite for {int((~fine).sum())} of {examples.count} examples (windows {named}). "
            "Run the model in another --dtype (bfloat16 or float32 instead of float16), or take the documents out."
        )


def gradient_blocks(runner: Runner, examples: Examples) -> tuple[dict[str, Tensor], Tensor]:
    """Full-precision weight gradients [E, O, I] (of a stack [E, experts, O, I]) of -log p by site, and losses [E]."""
    out: dict[str, Tensor] = {}

    def consume(site: Site, uses: list[AnyFactors]) -> None:
        with products("full"):
            blocks = total_blocks(uses)
        out[site.name] = blocks if blocks.dtype == torch.float64 else blocks.float()

    losses = runner.examples(examples, consume)
    finite = torch.isfinite(losses)
    for blocks in out.values():
        finite &= torch.isfinite(blocks.flatten(1).sum(1)).to(finite.device)
    _refuse_not_finite(finite.cpu().numpy(), examples)
    for site in runner.sites:  # a site may have seen no gradient at all
        if site.name not in out:
            out[site.name] = losses.new_zeros(examples.count, *site.shape)
    return out, losses


def exact_scores(
    runner: Runner, examples: Examples, *targets: Mapping[str, Tensor], per_site: bool = False
) -> tuple[Tensor, Tensor]:
    """Inner products of documents' gradients with fixed blocks, running the model.

    Args:
        runner: Model, sites and loss.
        examples: A batch of documents.
        targets: Site -> [M, O, I], for instance preconditioned query gradients; several are scored one after another.
        per_site: Keep sites apart.

    Returns:
        [S or 1, E, M] in the sites' order (M of all targets together), and losses [E].
    """
    order = {site.name: i if per_site else 0 for i, site in enumerate(runner.sites)}
    firsts = [next(iter(target.values())) for target in targets]
    totals = firsts[0].new_zeros(max(order.values()) + 1, examples.count, sum(map(len, firsts)))

    def consume(site: Site, uses: list[AnyFactors]) -> None:
        wanted = [target[site.name] for target in targets]
        with products("full"):
            totals[order[site.name]] += sum(_inner(use, wanted) for use in uses).to(totals)  # type: ignore[union-attr]

    losses = runner.examples(examples, consume)
    _refuse_not_finite(torch.isfinite(totals.sum((0, 2))).cpu().numpy(), examples)
    return totals, losses


def _inner(use: AnyFactors, targets: Sequence[Tensor]) -> Tensor:
    """[E, M]: blocks once for all targets, or token by token where a side is one-hot and a block mostly zero."""
    if _one_hot(use):
        return torch.cat([use.against(target.to(use.dtype)).sum(-1).T for target in targets], 1)
    flat = [target.flatten(1).T.to(use.dtype) for target in targets]
    pieces = (blocks.flatten(1) for blocks in block_pieces([use]))
    return torch.cat([torch.cat([piece @ each for each in flat], 1) for piece in pieces])


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Inner products with M fixed blocks, taken apart three ways that sum to the same totals.

    Attributes:
        tokens: [M, E, T], the share that arises at each position.
        sites: [S, M, E], in the runner's order.
        experts: For every stack of experts by site name, [M, E, experts].
    """

    tokens: NDArray[np.float64]
    sites: NDArray[np.float64]
    experts: dict[str, NDArray[np.float64]]


def token_scores(runner: Runner, examples: Examples, targets: Mapping[str, Tensor]) -> TokenScores:
    """Inner products with fixed blocks, token by token: a token is an example of length one.

    What arises from a parameter without a layer (a decay, a convolution) is not known by token: it is spread evenly
    over the positions from which a loss can be reached.

    Args:
        runner: Model, sites and loss.
        examples: A batch (not packed) of E examples of T tokens.
        targets: Site -> [M, O, I].
    """
    reaches, _ = runner.objective.token_masks(examples.inputs)
    by_token: list[Tensor] = []
    by_site: dict[str, Tensor] = {}
    by_expert: dict[str, Tensor] = {}

    def consume(site: Site, uses: list[AnyFactors]) -> None:
        target = targets[site.name].to(uses[0].dtype)
        with products("full"):
            if site.experts:
                found = [use.shares(target) for use in uses if isinstance(use, Routed)]
                by_expert[site.name] = cast(Tensor, sum(experts for _, experts in found)).double()
                shares = cast(Tensor, sum(tokens for tokens, _ in found)).double()
            else:
                shares = cast(Tensor, sum(use.against(target) for use in uses)).double()
        shares = shares if reaches is None else shares.to(reaches.device)
        by_site[site.name] = shares.sum(-1)
        if not site.by_token and reaches is not None:
            shares = shares * (reaches.double() / reaches.sum(1, keepdim=True).clamp_min(1))
        by_token[:] = [shares if not by_token else by_token[0] + shares]

    runner.examples(examples, consume)
    none = torch.zeros_like(next(iter(by_site.values())))
    sites = torch.stack([by_site.get(site.name, none) for site in runner.sites])
    experts = {name: values.cpu().numpy() for name, values in by_expert.items()}
    return TokenScores(by_token[0].cpu().numpy(), sites.cpu().numpy(), experts)

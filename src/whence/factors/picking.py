"""Some coordinates of weight gradients, ``G_rc = sum_t g_tr a_tc``, without forming what is not asked for.

Axes: N examples, T tokens, O and I sides (E experts of a stack), S rows of routed tokens, c coordinates asked for.

    dense sides   few: rows of both sides, multiplied and summed over tokens; many: the block, and then some of it
    one-hot side  a token adds to the coordinates of its own row alone
    experts       rows of an expert add to the coordinates of that expert alone
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.factors.plain import Factors, OneHot
from whence.factors.routed import Routed
from whence.factors.sums import PIECE, AnyFactors

__all__ = ["Places", "picked", "picked_pieces"]

_FEW = 128
"""A coordinate picked by itself takes as long as about so many of a block, on a processor with matrix units."""


@dataclass(frozen=True, slots=True)
class Places:
    """Coordinates of a site's block.

    Attributes:
        rows: int64 [c], in 0..O-1.
        columns: int64 [c], in 0..I-1.
        experts: int64 [c], ascending, in 0..E-1; None where the site is one matrix.
    """

    rows: Tensor
    columns: Tensor
    experts: Tensor | None = None

    def to(self, device: torch.device) -> "Places":
        """The same on another device."""
        experts = None if self.experts is None else self.experts.to(device)
        return Places(self.rows.to(device), self.columns.to(device), experts)


def picked(uses: Sequence[AnyFactors], places: Places) -> Tensor:
    """Coordinates [N, c] of a weight's gradient: the sum over its uses.

    >>> g, a = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 5.0]]])
    >>> picked([Factors(a, g)], Places(torch.tensor([1, 0]), torch.tensor([0, 1])))
    tensor([[6., 5.]])
    """
    total = _picked(uses[0], places)
    for use in uses[1:]:
        total = total + _picked(use, places)
    return total


def picked_pieces(uses: Sequence[AnyFactors], places: Places) -> Iterator[Tensor]:
    """The same of a few examples at a time, [n, c], in order."""
    step = max(1, PIECE // len(places.rows))
    for start in range(0, uses[0].examples, step):
        yield picked([use.rows(slice(start, start + step)) for use in uses], places)


def _picked(use: AnyFactors, places: Places) -> Tensor:
    if isinstance(use, Routed):
        return _of_experts(use, places)
    if isinstance(use.inputs, OneHot):
        assert isinstance(use.grads, Tensor)
        return _of_ones(use.inputs, use.grads, places.columns, places.rows)
    if isinstance(use.grads, OneHot):
        return _of_ones(use.grads, use.inputs, places.rows, places.columns)
    return _of_dense(use, places)


def _of_dense(use: Factors, places: Places) -> Tensor:
    g, a = use.grads, use.inputs
    assert isinstance(g, Tensor)
    assert isinstance(a, Tensor)
    size, count = math.prod(use.sizes), len(places.rows)
    out = g.new_empty(len(g), count)
    if count * _FEW >= size:
        step = max(1, PIECE // size)
        for start in range(0, len(g), step):
            part = slice(start, start + step)
            blocks = torch.bmm(g[part].transpose(1, 2), a[part])
            out[part] = blocks.flatten(1)[:, places.rows * use.sizes[1] + places.columns]
        return out
    g, a = g.transpose(1, 2).contiguous(), a.transpose(1, 2).contiguous()  # a coordinate's tokens side by side
    step = max(1, PIECE // 64 // (len(g) * g.shape[-1]))
    for start in range(0, count, step):
        part = slice(start, start + step)
        out[:, part] = torch.einsum("nct,nct->nc", g[:, places.rows[part]], a[:, places.columns[part]])
    return out


def _of_ones(ones: OneHot, values: Tensor, at_one: Tensor, at_value: Tensor) -> Tensor:
    """Where a side is one-hot: coordinates in the order of that side, a run of them for each of its numbers."""
    order = at_one.argsort(stable=True)
    counts = torch.bincount(at_one, minlength=ones.size)
    first = counts.cumsum(0) - counts
    (n, t), tokens = ones.index.shape, ones.index.reshape(-1)
    flat, out = values.reshape(n * t, -1), values.new_zeros(n * len(at_one))
    here = torch.arange(n * t, device=tokens.device) if ones.weight is None else ones.weight.reshape(-1).nonzero()[:, 0]
    lengths = counts[tokens[here]]
    for part in _parts(lengths, PIECE // 32):
        run, inside = _runs(lengths[part])
        token = here[part][run]
        coordinate = order[first[tokens[token]] + inside]
        added = flat[token, at_value[coordinate]]
        if ones.weight is not None:
            added = added * ones.weight.reshape(-1)[token].to(added)
        out.index_add_(0, token // t * len(at_one) + coordinate, added)
    return out.reshape(n, -1)


def _parts(lengths: Tensor, limit: int) -> Iterator[slice]:
    """Consecutive runs whose lengths add up to about a limit, at most one run more.

    >>> [(each.start, each.stop) for each in _parts(torch.tensor([2, 2, 2, 9, 1]), 5)]
    [(0, 2), (2, 3), (3, 5)]
    """
    start = 0
    groups = (lengths.cumsum(0) // max(limit, 1)).unique_consecutive(return_counts=True)[1]
    for count in groups.tolist():
        yield slice(start, start + count)
        start += count


def _runs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Of runs of these lengths, one after another: which run each element is of, and its place in it.

    >>> [each.tolist() for each in _runs(torch.tensor([2, 0, 1]))]
    [[0, 0, 2], [0, 1, 0]]
    """
    which = torch.repeat_interleave(counts)
    return which, torch.arange(len(which), device=counts.device) - (counts.cumsum(0) - counts)[which]


def _of_experts(use: Routed, places: Places) -> Tensor:
    assert places.experts is not None, "a stack's coordinates say of which expert they are"
    out = use.grads.new_zeros(use.examples, len(places.rows))
    stops = torch.bincount(places.experts, minlength=use.experts).cumsum(0).tolist()
    row = 0
    for expert, end in enumerate(use.ends.tolist()):
        start, stop = (stops[expert - 1] if expert else 0), stops[expert]
        if end > row and stop > start:
            here, there = slice(row, end), slice(start, stop)
            step = max(1, PIECE // 64 // (end - row))
            for at in range(there.start, there.stop, step):
                part = slice(at, min(at + step, there.stop))
                made = use.grads[here][:, places.rows[part]] * use.inputs[here][:, places.columns[part]]
                out[:, part].index_add_(0, use.example[here], made)
        row = end
    return out

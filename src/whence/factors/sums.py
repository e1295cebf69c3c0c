"""Blocks of a weight that acts in several places, and of many examples a few at a time."""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from whence.factors.plain import Factors
from whence.factors.routed import Routed

__all__ = ["AnyFactors", "block_pieces", "total_blocks"]

AnyFactors = Factors | Routed

PIECE = 1 << 26
"""Numbers in the blocks that are formed at once: 256 MiB of float32, however large the vocabulary and the batch."""


def block_pieces(uses: Sequence[AnyFactors]) -> Iterator[Tensor]:
    """Weight gradients of a few examples at a time, [n, O, I], in order; together they are `total_blocks`."""
    step = max(1, PIECE // math.prod(uses[0].sizes))
    for start in range(0, uses[0].examples, step):
        yield total_blocks([use.rows(slice(start, start + step)) for use in uses])


def total_blocks(uses: Sequence[AnyFactors]) -> Tensor:
    """Weight gradient [N, O, I] (of a stack [N, E, O, I]) of a weight used several times: the sum over its uses."""
    total = uses[0].blocks()
    for use in uses[1:]:
        total = total + use.blocks()
    return total

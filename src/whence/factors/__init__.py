"""The algebra of G = sum_t g_t a_t^T, one example's weight gradient at one site, kept as its two factors.

plain.py     one matrix: `Factors`, with one-hot sides
routed.py    a stack of experts' matrices, of which each token uses a few: `Routed`
grouped.py   products of rows in groups, one matrix per group
sums.py      a weight used in several places, blocks of many examples in pieces
picking.py   some coordinates of the product, without the rest
"""

from whence.factors.grouped import add_grouped_outer, group_ends, grouped_outer, grouped_product
from whence.factors.picking import Places, picked, picked_pieces
from whence.factors.plain import Factors, OneHot, Side, map_side
from whence.factors.routed import Routed
from whence.factors.sums import AnyFactors, block_pieces, total_blocks

__all__ = [
    "AnyFactors",
    "Factors",
    "OneHot",
    "Places",
    "Routed",
    "Side",
    "add_grouped_outer",
    "block_pieces",
    "group_ends",
    "grouped_outer",
    "grouped_product",
    "map_side",
    "picked",
    "picked_pieces",
    "total_blocks",
]

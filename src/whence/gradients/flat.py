"""The order in which a site's coordinates lie in a code (docs/format.md)."""

from torch import Tensor

from whence.factors import Places
from whence.interfaces import Site

__all__ = ["flattened", "unflattened"]


def flattened(site: Site, blocks: Tensor) -> Tensor:
    """Blocks [..., O, I] (of a stack [..., E, O, I]) as vectors, row by row.

    Where the inputs are the vocabulary, column by column: then one token's coordinates lie side by side.

    Args:
        site: Whose.
        blocks: Of the site's shape, or of fewer outputs and inputs, behind one axis or none.
    """
    turned = blocks.mT if site.vocabulary == "inputs" else blocks
    return turned.flatten(blocks.ndim - len(site.shape))


def unflattened(site: Site, numbers: Tensor) -> Places:
    """Where in a site's block the coordinates with these numbers of the vector are, int64 [c]."""
    if site.vocabulary == "inputs":
        return Places(numbers % site.outputs, numbers // site.outputs)
    size = site.outputs * site.inputs
    matrix = numbers % size
    return Places(matrix // site.inputs, matrix % site.inputs, numbers // size if site.experts else None)

"""Random-sign Hadamard rotations: they spread a heavy-tailed vector evenly, so that signs alone describe it well.

Ailon & Chazelle 2006 (fast Johnson-Lindenstrauss); in one-bit inner-product codes, RaBitQ (Gao & Long 2024,
arXiv:2405.12497). The rotation acts on blocks of consecutive coordinates, each with a scale of its own, so that blocks
where a gradient is zero (tokens a document does not hold) stay zero.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from whence.projection.random import signs, words

__all__ = ["block_size", "hadamard_matrix", "rotate_blocks", "srht"]

LARGEST_BLOCK = 4096
SMALLEST_BLOCK = 64


@functools.lru_cache(maxsize=64)
def _matrix(size: int, dtype: torch.dtype, device: str) -> Tensor:
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return (h / math.sqrt(size)).to(device, dtype)


def hadamard_matrix(size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Orthonormal Hadamard matrix [size, size] in Sylvester's order; size a power of two.

    >>> hadamard_matrix(2).sign()
    tensor([[ 1.,  1.],
            [ 1., -1.]])
    """
    if size & (size - 1):
        raise ValueError(f"a Hadamard matrix here has a power of two as its size; got {size}")
    return _matrix(size, dtype, str(device))


def rotate_blocks(values: Tensor, block: int) -> Tensor:
    """Multiply every block of `block` consecutive coordinates of [..., D] by the Hadamard matrix.

    A block of 64·64 is done as two products with small matrices, since H_ab = H_a (x) H_b.
    """
    right = min(block, 64)
    left = block // right
    shaped = values.reshape(-1, left, right) @ hadamard_matrix(right, values.dtype, values.device)
    if left > 1:
        shaped = hadamard_matrix(left, values.dtype, values.device) @ shaped
    return shaped.reshape(values.shape)


def block_size(count: int) -> int:
    """Block for a site of `count` coordinates: the largest up to 4,096 that pads it by at most an eighth."""
    block = LARGEST_BLOCK
    while block > SMALLEST_BLOCK and -count % block > count / 8:
        block //= 2
    return block


def srht(rows: int, size: int, seed: int, name: str) -> Tensor:
    """Subsampled randomised Hadamard transform, float32 [rows, size], with E[P^T P] = identity.

    Row r, column j: ``sign_j * (-1)^popcount(row_r & j) / sqrt(rows)``; the rows are the first `rows` distinct values
    of the word stream modulo the next power of two, so they are orthogonal over that power of two (Tropp 2011,
    arXiv:1011.1595).
    """
    padded = 1 << max(size - 1, 1).bit_length()
    if not 0 < rows <= padded:
        raise ValueError(f"a sketch of {size} coordinates has 1 to {padded} rows; got {rows}")
    chosen: dict[int, None] = {}
    start = 0
    while len(chosen) < rows:
        drawn = words(seed, f"{name}/rows", start, 2 * padded) % np.uint64(padded)
        chosen.update(dict.fromkeys(drawn.tolist()))
        start += 2 * padded
    picked = np.fromiter(list(chosen)[:rows], dtype=np.uint64, count=rows)
    odd = np.bitwise_count(picked[:, None] & np.arange(size, dtype=np.uint64)) & 1
    matrix = np.where(odd, -1.0, 1.0) * signs(seed, f"{name}/signs", size)
    return torch.from_numpy((matrix / math.sqrt(rows)).astype(np.float32))

"""How a document's vector is stored: signs, int8 or fp16, with one scale per block of coordinates.

One bit: the block's code is sign(x) and its scale ||x||^2 / ||x||_1, for which the stored inner product with any fixed
vector is unbiased over a uniformly random rotation (RaBitQ, arXiv:2405.12497). One random-sign Hadamard rotation is not
quite that: measured, no bias where a block has no dominant coordinate, up to a quarter of one code's noise where all of
it lies in eight coordinates, and where one or two hold it all, the smaller is lost. int8: scale max|x|/127. fp16: scale
max|x|, so that no value overflows. A query is never quantised.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Bits", "SiteLayout", "decode", "encode", "layout_sites"]

Bits = Literal[1, 8, 16]


@dataclass(frozen=True, slots=True)
class SiteLayout:
    """Where one site's code lies in a row, and how it is made.

    Attributes:
        name: The site.
        count: Coordinates before padding.
        block: Coordinates per rotated block.
        kept: Coordinates kept of each block (a power of two up to `block`).
        blocks: Number of blocks.
        bits: Bits per stored coordinate.
        first: First element of the row of codes (bytes, int8 or fp16 elements).
        first_scale: First element of the row of scales.
    """

    name: str
    count: int
    block: int
    kept: int
    blocks: int
    bits: Bits
    first: int
    first_scale: int

    @property
    def stored(self) -> int:
        """Stored coordinates."""
        return self.blocks * self.kept

    @property
    def elements(self) -> int:
        """Elements of the row of codes."""
        return self.stored // 8 if self.bits == 1 else self.stored

    @property
    def last(self) -> int:
        """One past the last element of the row of codes."""
        return self.first + self.elements

    @property
    def last_scale(self) -> int:
        """One past the last element of the row of scales."""
        return self.first_scale + self.blocks

    @property
    def bytes(self) -> int:
        """Bytes per document window, scales included."""
        return self.stored * self.bits // 8 + 4 * self.blocks


def layout_sites(counts: dict[str, tuple[int, int, int]], bits: Bits) -> list[SiteLayout]:
    """Lay sites side by side.

    Args:
        counts: Site -> (coordinates, block, kept per block).
        bits: Bits per stored coordinate.
    """
    out: list[SiteLayout] = []
    for name, (count, block, kept) in counts.items():
        first, scale = (out[-1].last, out[-1].last_scale) if out else (0, 0)
        out.append(SiteLayout(name, count, block, kept, -(-count // block), bits, first, scale))
    return out


def code_dtype(bits: Bits) -> np.dtype[np.generic]:
    """Element type of the stored codes."""
    return np.dtype({1: np.uint8, 8: np.int8, 16: np.float16}[bits])


def encode(values: Tensor, layout: SiteLayout) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Codes and scales of rotated coordinates.

    Args:
        values: [N, stored] float.
        layout: The site's layout.

    Returns:
        Codes [N, elements] (uint8 bits, int8 or float16) and scales float32 [N, blocks].
    """
    blocks = values.reshape(len(values), layout.blocks, layout.kept)
    if layout.bits == 1:
        total = blocks.abs().sum(-1)
        scales = torch.where(total == 0, 0.0, blocks.square().sum(-1) / total)  # not a number stays one, to be seen
        return _pack(values > 0), scales.float().cpu().numpy()
    top = blocks.abs().amax(-1)
    scales = (top / 127 if layout.bits == 8 else top).float()
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales)
    scaled = (blocks * inverse[..., None]).flatten(1)
    codes = scaled.round().to(torch.int8) if layout.bits == 8 else scaled.to(torch.float16)
    return codes.cpu().numpy(), scales.cpu().numpy()


def _pack(positive: Tensor) -> NDArray[np.uint8]:
    """Little-endian bits of booleans [N, D], uint8 [N, D/8]; packed on the device before it leaves it."""
    if positive.device.type == "cpu":
        return np.packbits(positive.numpy(), axis=1, bitorder="little")
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=positive.device)
    packed = (positive.reshape(len(positive), -1, 8).to(torch.uint8) * weights).sum(-1, dtype=torch.uint8)
    return packed.cpu().numpy()


def decode(codes: NDArray[np.generic], scales: NDArray[np.float32], layout: SiteLayout) -> NDArray[np.float32]:
    """The coordinates that codes stand for, float32 [N, stored]."""
    if layout.bits == 1:
        raw = np.unpackbits(codes.astype(np.uint8, copy=False), axis=1, bitorder="little").astype(np.float32) * 2 - 1
    else:
        raw = codes.astype(np.float32)
    return raw * np.repeat(scales, layout.kept, axis=1)

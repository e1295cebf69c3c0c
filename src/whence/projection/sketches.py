"""Sketches: random linear maps of a site's gradient to few coordinates, made from its factors without forming it.

    TwoSided       vec(P_o G P_i^T)                       a smaller site (LoGra, Choe et al. 2024, arXiv:2405.13954)
    SparseSketch   S (mask(G))                            sparse mask, then a sparse Johnson-Lindenstrauss map with one
                                                          number per column (GraSS, Hu et al. 2025, arXiv:2505.18976)
    TensorSketch   phi_k = sum s_o s_i G_oi over (h_o + h_i) mod K = k
                                                          (Pham & Pagh 2013, doi:10.1145/2487575.2487591)

Each keeps inner products on average over seeds, E[P^T P] = identity, and is decided by seed, name and shape alone. A
stack of E experts is E matrices with E sketches side by side (B = E below; B = 1 for one matrix), but a TensorSketch
adds everything up into one. A sketch of K coordinates has a noise of about |x| |y| / sqrt(K) in an inner product (a
two-sided one of sqrt(K) per side far more on gradients of low rank), whatever the curvature: directions of low
curvature, which the inverse magnifies, drown first.

Axes: N examples, T tokens, O and I sides of a site, B matrices, K coordinates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.factors import AnyFactors, Factors, OneHot, Routed, Side, block_pieces
from whence.interfaces import Site
from whence.projection.random import signs, words

__all__ = [
    "SketchMap",
    "SparseSketch",
    "TensorSketch",
    "TwoSided",
    "rademacher",
    "sides_kept",
    "sparse_sketch",
    "subset",
    "tensor_sketch",
    "two_sided",
]

_SCATTER = 1 << 22  # numbers scattered at once: 16 MiB of values and 32 of places
_BLOCK_COST = 24  # forming a block of size O I costs as much as transforms where it is this often K log2 K, measured


class SketchMap(Protocol):
    """A linear map of one site's gradient."""

    @property
    def size(self) -> tuple[int, int]:
        """(B, K)."""
        ...

    def documents(self, uses: Sequence[AnyFactors]) -> Tensor:
        """Sketches [N, B, K] of the gradients of which `uses` are the factors."""
        ...

    def queries(self, blocks: Tensor) -> Tensor:
        """Sketches [N, B, K] of blocks [N, O, I] (of a stack [N, E, O, I])."""
        ...


def rademacher(rows: int, size: int, seed: int, name: str) -> Tensor:
    """Random signs over sqrt(rows), float64 [rows, size].

    >>> rademacher(4, 3, 0, "site").abs().unique()
    tensor([0.5000], dtype=torch.float64)
    """
    flat = signs(seed, name, rows * size).astype(np.float64) / math.sqrt(rows)
    return torch.from_numpy(flat).reshape(rows, size)


def subset(count: int, size: int, seed: int, name: str) -> NDArray[np.int64]:
    """`count` distinct numbers below `size`, ascending: the first distinct values of the words modulo `size`.

    >>> subset(3, 5, 0, "site").tolist()
    [2, 3, 4]
    """
    if count >= size:
        return np.arange(size, dtype=np.int64)
    seen, start = np.empty(0, dtype=np.int64), 0
    while True:
        drawn = (words(seed, name, start, 2 * count) % np.uint64(size)).astype(np.int64)
        start += 2 * count
        seen = np.concatenate([seen, drawn])
        first = np.unique(seen, return_index=True)[1]
        seen = seen[np.sort(first)]
        if len(seen) >= count:
            return np.sort(seen[:count])


def sides_kept(site: Site, outputs: int, inputs: int) -> tuple[int, int]:
    """Sizes (K_o, K_i) of a two-sided sketch of at most outputs x inputs coordinates.

    A side that is shorter leaves its share to the other, and the experts of a stack share theirs, with at least 64 for
    each.

    >>> sides_kept(Site("scale", 100, 1, False, (), None, ("scale",)), 4, 4)
    (16, 1)
    """
    if site.experts:
        budget = max(outputs * inputs // site.experts, min(outputs * inputs, 64))
        outputs = inputs = max(math.isqrt(budget), 1)
    budget = outputs * inputs
    inputs = min(inputs, site.inputs)
    outputs = min(site.outputs, budget // inputs)
    return outputs, min(site.inputs, budget // outputs)


@dataclass(frozen=True, slots=True)
class TwoSided:
    """``vec(P_o G P_i^T)``.

    Attributes:
        site: The site.
        left: P_o [K_o, O], of a stack [E, K_o, O]; None keeps the side.
        right: P_i [K_i, I], of a stack [E, K_i, I]; None keeps the side.
    """

    site: Site
    left: Tensor | None
    right: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """(B, K)."""
        outputs = self.site.outputs if self.left is None else self.left.shape[-2]
        inputs = self.site.inputs if self.right is None else self.right.shape[-2]
        return max(self.site.experts, 1), outputs * inputs

    def documents(self, uses: Sequence[AnyFactors]) -> Tensor:
        """Maps the factors' sides, then adds up tokens."""
        return self._flat(torch.cat(list(block_pieces([use.map(self.left, self.right) for use in uses]))))

    def queries(self, blocks: Tensor) -> Tensor:
        """Maps blocks."""
        if self.left is not None:
            blocks = self.left.to(blocks.dtype) @ blocks
        return self._flat(blocks if self.right is None else blocks @ self.right.mT.to(blocks.dtype))

    def _flat(self, blocks: Tensor) -> Tensor:
        return blocks.reshape(len(blocks), *self.size)


def two_sided(site: Site, outputs: int, inputs: int, seed: int, device: torch.device, dtype: torch.dtype) -> TwoSided:
    """Random signs on both sides, down to about outputs x inputs coordinates; a side that is as short stays."""
    sides = []
    for kept, size, side in zip(
        sides_kept(site, outputs, inputs), (site.outputs, site.inputs), ("outputs", "inputs"), strict=True
    ):
        made = None
        if kept < size:
            names = [f"{site.name}/{side}/{each}" for each in range(site.experts)] or [f"{site.name}/{side}"]
            each = [rademacher(kept, size, seed, name) for name in names]
            made = (torch.stack(each) if site.experts else each[0]).to(device, dtype)
        sides.append(made)
    return TwoSided(site, sides[0], sides[1])


@dataclass(frozen=True, slots=True)
class SparseSketch:
    """A sparse mask, then a sparse map with one random sign per column.

    Attributes:
        site: The site.
        outputs: Output row of every masked coordinate, int64; those of the mask's side if `factored`.
        inputs: Input column of every masked coordinate, likewise.
        factored: The mask is rows x columns (FactGraSS); otherwise single coordinates.
        place: Sketch coordinate of each of the M masked ones, int64 [M].
        signs: Signs with the mask's scale, [M].
        kept: K.
    """

    site: Site
    outputs: Tensor
    inputs: Tensor
    factored: bool
    place: Tensor
    signs: Tensor
    kept: int

    @property
    def size(self) -> tuple[int, int]:
        """(B, K)."""
        return max(self.site.experts, 1), self.kept

    def documents(self, uses: Sequence[AnyFactors]) -> Tensor:
        """Picks rows and columns from the factors first."""
        if self.factored:
            return self._hashed(torch.cat(list(block_pieces([self._smaller(use) for use in uses]))))
        parts = [self._pairs(use) for use in uses]
        return self._hashed(torch.stack(parts).sum(0) if len(parts) > 1 else parts[0])

    def queries(self, blocks: Tensor) -> Tensor:
        """Picks from blocks."""
        if self.factored:
            return self._hashed(blocks[..., self.outputs, :][..., self.inputs])
        return self._hashed(blocks[..., self.outputs, self.inputs])

    def _hashed(self, masked: Tensor) -> Tensor:
        flat = masked.reshape(len(masked), self.size[0], len(self.place))
        out = flat.new_zeros(len(flat), *self.size)
        return out.index_add_(2, self.place, flat * self.signs.to(flat.dtype))

    def _smaller(self, use: AnyFactors) -> AnyFactors:
        if isinstance(use, Routed):
            return replace(use, grads=use.grads[:, self.outputs], inputs=use.inputs[:, self.inputs])
        return Factors(_picked(use.inputs, self.inputs, use.dtype), _picked(use.grads, self.outputs, use.dtype))

    def _pairs(self, use: AnyFactors) -> Tensor:
        """Masked coordinates ``sum_t g_t,o a_t,i`` [N, M] (of a stack [N, E, M]), some examples at a time."""
        if isinstance(use, Routed):
            rows = use.grads[:, self.outputs] * use.inputs[:, self.inputs]
            out = rows.new_zeros(use.examples * use.experts, rows.shape[-1])
            return out.index_add_(0, use.example * use.experts + use.expert, rows).reshape(
                use.examples, use.experts, -1
            )
        found = []
        for piece in _pieces(use, len(self.place)):
            picked = _picked(piece.grads, self.outputs, use.dtype) * _picked(piece.inputs, self.inputs, use.dtype)
            found.append(picked.sum(1))
        return torch.cat(found)


def sparse_sketch(
    site: Site, kept: int, spread: int, factored: bool, seed: int, device: torch.device, dtype: torch.dtype
) -> SparseSketch:
    """A mask of about spread x kept coordinates, then `kept` of them; all experts of a stack share the mask.

    Where the mask would hold everything there is none; where the site has no more than `kept` coordinates, all stay as
    they are.
    """
    size = site.outputs * site.inputs
    if site.experts:
        kept = max(kept // site.experts, min(kept, 64))
    kept = min(kept, size)
    masked = size if kept == size else min(size, spread * kept)
    if factored:
        plain = replace(site, experts=0)
        half = max(math.isqrt(masked), 1)
        rows, columns = (site.outputs, site.inputs) if masked == size else sides_kept(plain, half, half)
        outputs = subset(rows, site.outputs, seed, f"{site.name}/mask/outputs")
        inputs = subset(columns, site.inputs, seed, f"{site.name}/mask/inputs")
        masked = rows * columns
        kept = min(kept, masked)
    else:
        chosen = subset(masked, size, seed, f"{site.name}/mask")
        outputs, inputs = chosen // site.inputs, chosen % site.inputs
    scale = math.sqrt(size / masked)
    if masked == kept:
        place, sign = np.arange(masked), np.ones(masked)
    else:
        place = (words(seed, f"{site.name}/place", 0, masked) % np.uint64(kept)).astype(np.int64)
        sign = signs(seed, f"{site.name}/signs", masked).astype(np.float64)
    return SparseSketch(
        site=site,
        outputs=torch.from_numpy(outputs).to(device),
        inputs=torch.from_numpy(inputs).to(device),
        factored=factored,
        place=torch.from_numpy(place).to(device),
        signs=torch.from_numpy(sign * scale).to(device, dtype),
        kept=kept,
    )


def _picked(side: Side, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Some coordinates of every vector of a side, [N, T, M]."""
    if not isinstance(side, OneHot):
        return side[..., index]
    ones = (side.index[..., None] == index).to(dtype)
    return ones if side.weight is None else ones * side.weight.to(dtype)[..., None]


def _pieces(use: Factors, width: int) -> list[Factors]:
    """Some examples at a time, so that N x T x width stays small."""
    side = use.grads if isinstance(use.grads, Tensor) else use.grads.index
    step = max(1, _SCATTER // max(side.shape[1] * width, 1))
    return [use.rows(slice(start, start + step)) for start in range(0, use.examples, step)]


@dataclass(frozen=True, slots=True)
class TensorSketch:
    """Coordinate (o, i) goes to ``(h_o + h_i) mod K`` with sign ``s_o s_i``; memory O + I, whatever O x I.

    A token's sketch is the circular convolution of the count sketches of its two vectors, so tokens are added up as
    products of Fourier transforms; where the block is cheaper to form, it is formed.

    Attributes:
        site: The site.
        kept: K.
        rows: h_o, int64 [O]; of a stack [E * O], each expert its own.
        row_signs: s_o, likewise.
        columns: h_i, int64 [I].
        column_signs: s_i [I].
    """

    site: Site
    kept: int
    rows: Tensor
    row_signs: Tensor
    columns: Tensor
    column_signs: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(1, K): the experts of a stack go into one sketch."""
        return 1, self.kept

    def documents(self, uses: Sequence[AnyFactors]) -> Tensor:
        """Sketches of gradients given by their factors."""
        if self.site.size <= _BLOCK_COST * self.kept * math.log2(max(self.kept, 2)):
            return torch.cat([self.queries(blocks) for blocks in block_pieces(uses)])
        return self.by_token(uses)

    def by_token(self, uses: Sequence[AnyFactors]) -> Tensor:
        """The same without forming a block."""
        total = sum(self._spectra(use) for use in uses)
        assert isinstance(total, Tensor)
        found: Tensor = torch.fft.irfft(total, n=self.kept)
        return found[:, None]

    def queries(self, blocks: Tensor) -> Tensor:
        """Sketches of blocks, some rows at a time."""
        flat = blocks.reshape(len(blocks), len(self.rows), self.site.inputs)
        out = flat.new_zeros(len(flat), self.kept)
        step = max(1, _SCATTER // (self.site.inputs * max(len(flat), 1)))
        for start in range(0, len(self.rows), step):
            part = slice(start, start + step)
            place = (self.rows[part, None] + self.columns) % self.kept
            sign = self.row_signs[part, None] * self.column_signs
            out.index_add_(1, place.reshape(-1), (flat[:, part] * sign.to(flat.dtype)).flatten(1))
        return out[:, None]

    def _spectra(self, use: AnyFactors) -> Tensor:
        """Transforms [N, K // 2 + 1] of the sketches of some examples."""
        if isinstance(use, Routed):
            shape = (use.experts, self.site.outputs)
            rows, row_signs = self.rows.reshape(shape)[use.expert], self.row_signs.reshape(shape)[use.expert]
            left = use.grads.new_zeros(len(use.grads), self.kept)
            left.scatter_add_(1, rows, use.grads * row_signs.to(use.dtype))
            right = self._counted(use.inputs, self.columns, self.column_signs, use.dtype)
            product: Tensor = torch.fft.rfft(left) * torch.fft.rfft(right)
            return product.new_zeros(use.examples, product.shape[-1]).index_add_(0, use.example, product)
        found = []
        for piece in _pieces(use, 2 * self.kept):
            left = self._counted(piece.grads, self.rows, self.row_signs, use.dtype)
            right = self._counted(piece.inputs, self.columns, self.column_signs, use.dtype)
            found.append((torch.fft.rfft(left) * torch.fft.rfft(right)).sum(1))
        return torch.cat(found)

    def _counted(self, side: Side, place: Tensor, sign: Tensor, dtype: torch.dtype) -> Tensor:
        """Count sketch [..., K] of every vector of a side."""
        if isinstance(side, OneHot):
            values = sign.to(dtype)[side.index]
            values = values if side.weight is None else values * side.weight.to(dtype)
            out = values.new_zeros(*values.shape, self.kept)
            return out.scatter_(-1, place[side.index][..., None], values[..., None])
        return side.new_zeros(*side.shape[:-1], self.kept).index_add_(-1, place, side * sign.to(side.dtype))


def tensor_sketch(site: Site, kept: int, seed: int, device: torch.device, dtype: torch.dtype) -> TensorSketch:
    """One sketch of `kept` coordinates; those of several sites may be added up."""

    def side(size: int, name: str) -> tuple[Tensor, Tensor]:
        place = (words(seed, f"{site.name}/{name}/place", 0, size) % np.uint64(kept)).astype(np.int64)
        sign = signs(seed, f"{site.name}/{name}/signs", size)
        return torch.from_numpy(place).to(device), torch.from_numpy(sign).to(device, dtype)

    rows, columns = side(site.outputs * max(site.experts, 1), "outputs"), side(site.inputs, "inputs")
    return TensorSketch(site, kept, *rows, *columns)

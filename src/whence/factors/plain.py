"""The algebra of G = sum_t g_t a_t^T, one example's weight gradient at one site, kept as its two factors.

Axes: N examples, T tokens, I site inputs, O site outputs, K sketch coordinates, M other examples.
A side is either a dense tensor [N, T, K] or, where the vectors are one-hot (the input of an embedding), just the
positions of the ones [N, T]. Padding is zero in `grads`, which makes it zero in every product.

    blocks()        sum_t g_t a_t^T                            [N, O, I]
    inner(other)    <G, G'> = sum_ts (a_t.a'_s)(g_t.g'_s)      [N, M]   without forming a block
    map(Po, Pi)     factors of Po G Pi^T: a projected site is a smaller site
    per_token()     a token is an example of length one        [N*T] examples

"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factors", "OneHot", "Side", "map_side"]


@dataclass(frozen=True, slots=True)
class OneHot:
    """One-hot vectors given by the index of their one.

    Attributes:
        index: int64 [N, T].
        size: Length K of the vectors.
        weight: [N, T] or None; multiplies the vectors (0 in padding).
    """

    index: Tensor
    size: int
    weight: Tensor | None = None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The same vectors, [N, T, K]."""
        out = torch.nn.functional.one_hot(self.index, self.size).to(dtype)
        return out if self.weight is None else out * self.weight.to(dtype)[..., None]

    def only(self, columns: Tensor) -> "OneHot":
        """Some coordinates of the vectors, int64 [K'], in their order; a vector whose one is elsewhere is zero.

        >>> OneHot(torch.tensor([[2, 0, 1]]), 3).only(torch.tensor([2, 1])).dense(torch.float32)[0].tolist()
        [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
        """
        places = torch.full((self.size,), -1, dtype=torch.int64, device=self.index.device)
        places[columns] = torch.arange(len(columns), device=self.index.device)
        index = places[self.index]
        there = (index >= 0).float()
        return OneHot(index.clamp_min(0), len(columns), there if self.weight is None else there * self.weight)


Side = Tensor | OneHot


def map_side(side: Side, matrix: Tensor | None) -> Side:
    """Apply `matrix` [K', K] to every vector of a side; None is the identity, numbers int64 [K'] take coordinates.

    >>> map_side(OneHot(torch.tensor([[1]]), 2), torch.tensor([[3.0, 4.0]]))
    tensor([[[4.]]])
    """
    if matrix is None:
        return side
    if matrix.ndim == 1:
        return side.only(matrix) if isinstance(side, OneHot) else side[..., matrix]
    if isinstance(side, OneHot):
        out = matrix.T[side.index]
        return out if side.weight is None else out * side.weight.to(out.dtype)[..., None]
    return side @ matrix.T.to(side.dtype)


def _dense(side: Side, dtype: torch.dtype) -> Tensor:
    return side.dense(dtype) if isinstance(side, OneHot) else side


@dataclass(frozen=True, slots=True)
class Factors:
    """The two factors of N examples' weight gradients at one use of one site.

    Attributes:
        inputs: [N, T, I], or one-hot.
        grads: [N, T, O], or one-hot; zero in padding (or the other side is).
    """

    inputs: Side
    grads: Side

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the dense side."""
        side = self.grads if isinstance(self.grads, Tensor) else self.inputs
        assert isinstance(side, Tensor), "one side of a gradient is always dense"
        return side.dtype

    @property
    def examples(self) -> int:
        """N."""
        return len(self.inputs.index if isinstance(self.inputs, OneHot) else self.inputs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of one example's block, (O, I)."""
        outputs, inputs = (
            side.size if isinstance(side, OneHot) else side.shape[-1] for side in (self.grads, self.inputs)
        )
        return outputs, inputs

    def blocks(self) -> Tensor:
        """Weight gradients [N, O, I]: ``nto,nti->noi``."""
        a, g = self.inputs, self.grads
        if isinstance(a, OneHot):
            assert isinstance(g, Tensor)
            return _scatter(a, g).transpose(1, 2)
        if isinstance(g, OneHot):
            return _scatter(g, a)
        return torch.bmm(g.transpose(1, 2), a)

    def inner(self, other: "Factors") -> Tensor:
        """Inner products of weight gradients, [N, M], through token-by-token products.

        Cheaper than blocks when T is far below I and O; both are exact.
        """
        dtype = self.dtype
        a = torch.einsum("nti,msi->ntms", _dense(self.inputs, dtype), _dense(other.inputs, dtype))
        g = torch.einsum("nto,mso->ntms", _dense(self.grads, dtype), _dense(other.grads, dtype))
        return torch.einsum("ntms,ntms->nm", a, g)

    def map(self, outputs: Tensor | None, inputs: Tensor | None) -> "Factors":
        """Factors of ``P_o G P_i^T``; None leaves a side as it is.

        Args:
            outputs: P_o [K_o, O], or int64 [K_o], coordinates to take.
            inputs: P_i [K_i, I], or int64 [K_i].
        """
        return Factors(map_side(self.inputs, inputs), map_side(self.grads, outputs))

    def rows(self, rows: slice) -> "Factors":
        """Some of the examples."""
        return Factors(_rows(self.inputs, rows), _rows(self.grads, rows))

    def unpacked(self, gather: Tensor) -> "Factors":
        """Packed rows as one row per example, zero in padding.

        Args:
            gather: int64 [N', T'], flat positions in (N, T) of every example's tokens; -1 is padding.
        """
        return Factors(_unpack(self.inputs, gather), _unpack(self.grads, gather))

    def per_token(self) -> "Factors":
        """Every token as an example of its own: N*T examples of length one."""
        return Factors(_flatten(self.inputs), _flatten(self.grads))

    def against(self, blocks: Tensor) -> Tensor:
        """Token-wise inner products with fixed blocks.

        Args:
            blocks: [M, O, I].

        Returns:
            [M, N, T]: ``g_t^T B_m a_t``; its sum over t is ``<B_m, G_n>``.
        """
        out = []
        for block in blocks:
            a, g = self.inputs, self.grads
            if isinstance(a, OneHot):
                assert isinstance(g, Tensor)
                picked = map_side(a, block)
                assert isinstance(picked, Tensor)
                out.append((picked * g).sum(-1))
            else:
                pulled = map_side(g, block.T)
                assert isinstance(pulled, Tensor)
                out.append((pulled * a).sum(-1))
        return torch.stack(out)


def _rows(side: Side, rows: slice) -> Side:
    if isinstance(side, OneHot):
        return OneHot(side.index[rows], side.size, None if side.weight is None else side.weight[rows])
    return side[rows]


def _unpack(side: Side, gather: Tensor) -> Side:
    index = gather.clamp_min(0)
    real = gather >= 0
    if isinstance(side, OneHot):
        flat = side.index.reshape(-1)[index]
        weight = real.float() if side.weight is None else side.weight.reshape(-1)[index] * real
        return OneHot(flat, side.size, weight)
    return side.reshape(-1, side.shape[-1])[index] * real[..., None]


def _flatten(side: Side) -> Side:
    if isinstance(side, OneHot):
        weight = None if side.weight is None else side.weight.reshape(-1, 1)
        return OneHot(side.index.reshape(-1, 1), side.size, weight)
    return side.reshape(-1, 1, side.shape[-1])


def _scatter(ones: OneHot, values: Tensor) -> Tensor:
    """``sum_t onehot_t v_t^T`` [N, K, V]: rows of `values` added where the ones are."""
    n, _, width = values.shape
    if ones.weight is not None:
        values = values * ones.weight.to(values.dtype)[..., None]
    out = values.new_zeros(n, ones.size, width)
    return out.scatter_add_(1, ones.index[..., None].expand_as(values), values)

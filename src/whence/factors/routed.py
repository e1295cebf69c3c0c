"""Factors of a stack of matrices of which each token uses a few: the experts of a mixture.

Axes: E experts, S rows, one for every (token, expert it was sent to); N examples, T tokens, I inputs, O outputs. The
gradient of expert e for example n is the sum of g_s a_s^T over the rows of both, so every operation of `Factors` is
the same operation in groups of rows, and nothing is computed for experts that a token did not go to.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from whence.factors.grouped import group_ends, grouped_outer, grouped_product

__all__ = ["Routed"]


@dataclass(frozen=True, slots=True)
class Routed:
    """The two factors of N examples' gradients at one stack of experts.

    Attributes:
        inputs: [S, I], rows sorted by expert.
        grads: [S, O]; zero where the token is padding.
        expert: int64 [S], ascending.
        example: int64 [S], the example 0..N-1 of each row.
        token: int64 [S], its position 0..T-1 there.
        experts: E.
        shape: (N, T).
    """

    inputs: Tensor
    grads: Tensor
    expert: Tensor
    example: Tensor
    token: Tensor
    experts: int
    shape: tuple[int, int]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the rows."""
        return self.grads.dtype

    @property
    def examples(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of one example's block, (E, O, I)."""
        return self.experts, self.grads.shape[-1], self.inputs.shape[-1]

    @property
    def ends(self) -> Tensor:
        """Where each expert's rows end, int32 [E]."""
        return group_ends(self.expert, self.experts)

    def blocks(self) -> Tensor:
        """Weight gradients [N, E, O, I]."""
        n = self.examples
        group = self.example * self.experts + self.expert
        order = torch.argsort(group, stable=True)
        ends = group_ends(group, n * self.experts)
        out = grouped_outer(self.grads[order], self.inputs[order], ends)
        return out.reshape(n, self.experts, *out.shape[1:])

    def map(self, outputs: Tensor | None, inputs: Tensor | None) -> "Routed":
        """Factors of ``P_o G P_i^T`` for each expert; None leaves a side as it is.

        Args:
            outputs: P_o [E, K_o, O], or int64 [K_o], coordinates that are taken of all.
            inputs: P_i [E, K_i, I], or int64 [K_i].
        """
        ends = self.ends
        return replace(self, inputs=_mapped(self.inputs, inputs, ends), grads=_mapped(self.grads, outputs, ends))

    def rows(self, rows: slice) -> "Routed":
        """Some of the examples."""
        start, stop, _ = rows.indices(self.examples)
        if (start, stop) == (0, self.examples):
            return self
        here = (self.example >= start) & (self.example < stop)
        return self._only(here, self.example - start, self.token, (max(stop - start, 0), self.shape[1]))

    def against(self, blocks: Tensor) -> Tensor:
        """Token-wise inner products with fixed blocks.

        Args:
            blocks: [M, E, O, I].

        Returns:
            [M, N, T]; its sum over t is ``<B_m, G_n>``.
        """
        return self.shares(blocks)[0]

    def shares(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Inner products with fixed blocks [M, E, O, I], by token [M, N, T] and by expert [M, N, E]."""
        (n, t), ends = self.shape, self.ends
        values = torch.stack(
            [(grouped_product(self.grads, block, ends) * self.inputs).sum(-1) for block in blocks]
        )  # [M, S]
        out = []
        for place, size in ((self.token, t), (self.expert, self.experts)):
            total = values.new_zeros(len(blocks), n * size).index_add_(1, self.example * size + place, values)
            out.append(total.reshape(-1, n, size))
        return out[0], out[1]

    def unpacked(self, gather: Tensor) -> "Routed":
        """Rows of packed examples under their own numbers.

        Args:
            gather: int64 [N', T'], flat positions in (N, T) of every example's tokens; -1 is padding.
        """
        places = torch.full((self.shape[0] * self.shape[1],), -1, dtype=torch.int64, device=gather.device)
        real = gather >= 0
        places[gather[real]] = torch.arange(gather.numel(), device=gather.device).reshape(gather.shape)[real]
        place = places[self.example * self.shape[1] + self.token]
        width = gather.shape[1]
        return self._only(place >= 0, place // width, place % width, (len(gather), width))

    def at(self, mask: Tensor) -> Tensor:
        """A mask of tokens [N, T] as one of rows [S]."""
        return mask[self.example, self.token]

    def _only(self, here: Tensor, example: Tensor, token: Tensor, shape: tuple[int, int]) -> "Routed":
        return Routed(
            self.inputs[here], self.grads[here], self.expert[here], example[here], token[here], self.experts, shape
        )


def _mapped(rows: Tensor, matrices: Tensor | None, ends: Tensor) -> Tensor:
    if matrices is None:
        return rows
    return rows[:, matrices] if matrices.ndim == 1 else grouped_product(rows, matrices.mT, ends)

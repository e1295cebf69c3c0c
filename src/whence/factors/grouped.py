"""Matrix products of rows that come in consecutive groups, one matrix per group, in one call.

Axes: S rows, G groups, I and O sides. `ends` is int32 [G], where each group's rows end; groups may be empty.
torch's grouped product is used where it has the dtype and the memory layout; float64, which only tests need, and
matrices of odd sizes (a bias column) go group by group.
"""

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, pad

__all__ = ["add_grouped_outer", "group_ends", "grouped_outer", "grouped_product"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ALIGNED = 16  # bytes, of every row and of the first element


def group_ends(groups: Tensor, count: int) -> Tensor:
    """Where each group's rows end, int32 [G], from the group numbers of the rows int64 [S], ascending or not.

    >>> group_ends(torch.tensor([0, 0, 2]), 3).tolist()
    [2, 2, 3]
    """
    return torch.bincount(groups, minlength=count).cumsum(0).to(torch.int32)


def _slices(ends: Tensor) -> list[slice]:
    stops = ends.tolist()
    return [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def _fits(tensor: Tensor) -> bool:
    """Whether the grouped kernel takes a tensor: dtype, and 16-byte alignment of its rows (or of its columns)."""
    if tensor.dtype not in _DTYPES or tensor.data_ptr() % _ALIGNED:
        return False
    strides = sorted(tensor.stride()[-2:])
    return strides[0] == 1 and strides[1] * tensor.element_size() % _ALIGNED == 0


def grouped_product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """``x_s M_g(s)``, differentiable in the rows.

    Args:
        rows: [S, I], sorted by group.
        matrices: [G, I, O].
        ends: int32 [G].

    Returns:
        [S, O].
    """
    rows, matrices = rows.contiguous(), matrices.to(rows.dtype)
    if len(rows) and _fits(rows) and _fits(matrices):
        return grouped_mm(rows, matrices, offs=ends)
    return torch.cat([rows[part] @ matrices[group] for group, part in enumerate(_slices(ends))])


def _even(rows: Tensor) -> Tensor:
    """Rows with zeros at their end, so that the grouped kernel takes them."""
    size = rows.shape[-1]
    return pad(rows, (0, -size % 8)) if size % 8 else rows.contiguous()


def add_grouped_outer(total: Tensor, left: Tensor, right: Tensor, ends: Tensor) -> None:
    """Add what `grouped_outer` returns to a sum [G, O, I].

    On a processor each product goes straight into the sum, which for many groups of few rows saves most of the memory
    traffic; a GPU has one launch for all groups.
    """
    if total.device.type != "cpu":
        total += grouped_outer(left, right, ends)
        return
    left, right = left.to(total.dtype), right.to(total.dtype)
    for group, part in enumerate(_slices(ends)):
        if part.stop > part.start:
            total[group].addmm_(left[part].T, right[part])


def grouped_outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """``sum_s l_s r_s^T`` over the rows of each group.

    Args:
        left: [S, O], sorted by group.
        right: [S, I].
        ends: int32 [G].

    Returns:
        [G, O, I]; zero for empty groups.
    """
    right = right.to(left.dtype)
    if len(left) and left.dtype in _DTYPES:
        out = grouped_mm(_even(left).T, _even(right), offs=ends)
        return out[:, : left.shape[-1], : right.shape[-1]]
    return torch.stack([left[part].T @ right[part] for part in _slices(ends)])

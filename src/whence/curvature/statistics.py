"""Sums over examples from which curvature is made: second moments of inputs and of output gradients, token by token.

Everything here is a sum, so that parts fitted by different workers are added. Labels are drawn from the model by
the caller, which makes the moments those of the Fisher matrix (Martens & Grosse 2015, arXiv:1503.05671).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from whence.factors import Factors, OneHot, Side
from whence.interfaces import Site

__all__ = ["Covariances", "diagonal_sides", "moment_names"]


def diagonal_sides(site: Site, head_limit: int) -> tuple[bool, bool]:
    """Whether the output and the input factor of a site are kept diagonal.

    One-hot inputs have a diagonal second moment (token frequencies). Logits of a vocabulary above `head_limit`
    are treated as if theirs were, which leaves out the correlation between tokens' probabilities.
    """
    wide_head = site.head and site.outputs > head_limit
    return site.vocabulary == "outputs" or wide_head, site.vocabulary == "inputs"


def moment_names(site: Site) -> list[tuple[str, str]]:
    """Names of the (outputs, inputs) moments of every use; sites of one group share the inputs' name."""
    if len(site.uses) == 1:
        return [(f"{site.name}|outputs", f"{site.group}|inputs")]
    return [(f"{site.name}|outputs|{i}", f"{site.name}|inputs|{i}") for i in range(len(site.uses))]


def _add(total: Tensor, side: Side, mask: Tensor | None) -> None:
    """Add ``sum_t x_t x_t^T`` (or its diagonal, where `total` is a vector) of the unmasked tokens."""
    if isinstance(side, OneHot):
        weight = torch.ones_like(side.index, dtype=total.dtype) if side.weight is None else side.weight.to(total.dtype)
        if mask is not None:
            weight = weight * mask
        total.index_add_(0, side.index.reshape(-1), weight.reshape(-1))
        return
    tokens = side.reshape(-1, side.shape[-1]).to(total.dtype)
    if mask is not None:
        tokens = tokens * mask.reshape(-1, 1)
    if total.ndim == 1:
        total += tokens.square().sum(0)
    else:
        total.addmm_(tokens.T, tokens)


@dataclass(slots=True)
class Covariances:
    """Running second moments of one part of the fit.

    Attributes:
        sites: The sites.
        head_limit: See `diagonal_sides`.
        totals: Moment name -> sum of x x^T, [K, K] or its diagonal [K].
        counts: Moment name -> tokens summed over.
        documents: Documents summed over.
    """

    sites: Sequence[Site]
    head_limit: int
    totals: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    documents: float = 0.0
    _shared: set[str] = field(default_factory=set)

    def start_batch(self) -> None:
        """Forget which shared inputs this batch has already added."""
        self._shared.clear()

    def add(self, site: Site, uses: Sequence[Factors], masks: Sequence[Tensor | None]) -> None:
        """Add one batch's factors of one site.

        Args:
            site: The site.
            uses: Factors of its uses, or of every call of its only module: calls are more tokens.
            masks: For each of them, the tokens [N, T] that count; None is all.
        """
        flat_outputs, flat_inputs = diagonal_sides(site, self.head_limit)
        names = moment_names(site)
        names = names * len(uses) if len(names) == 1 else names
        added = set(self._shared)
        for (outputs, inputs), use, mask in zip(names, uses, masks, strict=True):
            self._add_side(outputs, use.grads, site.outputs, flat_outputs, mask, use.dtype)
            if inputs not in added:
                self._shared.add(inputs)
                self._add_side(inputs, use.inputs, site.inputs, flat_inputs, mask, use.dtype)

    def _add_side(self, name: str, side: Side, size: int, flat: bool, mask: Tensor | None, dtype: torch.dtype) -> None:
        values = side.index if isinstance(side, OneHot) else side
        if mask is not None and mask.shape != values.shape[:2]:
            mask = None  # a module that folds tokens differently (a feature vector per example): every row counts
        if name not in self.totals:
            shape = (size,) if flat else (size, size)
            wide = dtype if dtype == torch.float64 else torch.float32
            self.totals[name] = torch.zeros(shape, dtype=wide, device=values.device)
            self.counts[name] = 0.0
        _add(self.totals[name], side, None if mask is None else mask.to(self.totals[name].dtype))
        self.counts[name] += float(mask.sum()) if mask is not None else float(values.shape[0] * values.shape[1])

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors, for a safetensors file."""
        out = {f"total:{name}": total.cpu().contiguous() for name, total in self.totals.items()}
        out |= {f"count:{name}": torch.tensor(count, dtype=torch.float64) for name, count in self.counts.items()}
        return out | {"documents": torch.tensor(self.documents, dtype=torch.float64)}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add another part's `state`."""
        for key, value in state.items():
            kind, _, name = key.partition(":")
            if kind == "total":
                wide = value.double()
                self.totals[name] = self.totals[name] + wide if name in self.totals else wide
            elif kind == "count":
                self.counts[name] = self.counts.get(name, 0.0) + float(value)
            else:
                self.documents += float(value)

"""Sums over examples from which curvature is made: second moments of inputs and of output gradients, token by token.

Everything here is a sum, so that parts fitted by different workers are added. Labels are drawn from the model by
the caller, which makes the moments those of the Fisher matrix (Martens & Grosse 2015, arXiv:1503.05671).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from whence.factors import AnyFactors, OneHot, Routed, Side, add_grouped_outer
from whence.interfaces import Site

__all__ = ["Covariances", "diagonal_sides", "moment_names"]


def diagonal_sides(site: Site, head_limit: int) -> tuple[bool, bool]:
    """Whether the output and the input factor of a site are kept diagonal.

    One-hot inputs have a diagonal second moment (token frequencies). Logits of a vocabulary above `head_limit`
    are treated as if theirs were, which leaves out the correlation between tokens' probabilities; so are the elements
    of a vector (a norm's scale), which are few, and of which a convolution or a gate may have very many.
    """
    wide_head = site.head and site.outputs > head_limit
    return site.vocabulary == "outputs" or wide_head or site.elementwise, site.vocabulary == "inputs"


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


def _routed_mask(use: Routed, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """1 for every row [S] whose token counts."""
    return (
        torch.ones(len(use.expert), dtype=dtype, device=use.expert.device) if mask is None else use.at(mask).to(dtype)
    )


@dataclass(slots=True)
class Covariances:
    """Running second moments of one part of the fit.

    Attributes:
        sites: The sites.
        head_limit: See `diagonal_sides`.
        totals: Moment name -> sum of x x^T, [K, K] or its diagonal [K]; for a stack [E, K, K].
        counts: Moment name -> tokens summed over, float64, a scalar or for a stack [E].
        documents: Documents summed over.
    """

    sites: Sequence[Site]
    head_limit: int
    totals: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    documents: float = 0.0
    _shared: set[str] = field(default_factory=set)

    def start_batch(self) -> None:
        """Forget which shared inputs this batch has already added."""
        self._shared.clear()

    def add(self, site: Site, uses: Sequence[AnyFactors], masks: Sequence[Tensor | None]) -> None:
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
            if isinstance(use, Routed):
                self._add_routed(outputs, inputs, use, mask)
                continue
            like = use.grads if isinstance(use.grads, Tensor) else use.inputs
            assert isinstance(like, Tensor), "one side of a gradient is always dense"
            self._add_side(outputs, use.grads, site.outputs, flat_outputs, mask, like)
            if inputs not in added:
                self._shared.add(inputs)
                self._add_side(inputs, use.inputs, site.inputs, flat_inputs, mask, like)

    def _add_routed(self, outputs: str, inputs: str, use: Routed, mask: Tensor | None) -> None:
        weight = _routed_mask(use, mask, torch.float64)
        tokens = torch.zeros(use.experts, dtype=torch.float64, device=weight.device).index_add_(0, use.expert, weight)
        for name, rows in ((outputs, use.grads), (inputs, use.inputs)):
            size = rows.shape[-1]
            total = self._total(name, (use.experts, size, size), rows)
            rows = rows.to(total.dtype)
            counted = rows if mask is None else rows * weight[:, None].to(total.dtype)
            add_grouped_outer(total, rows, counted, use.ends)
            self.counts[name] += tokens

    def _total(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The running sum of a moment, made if this is its first."""
        if name not in self.totals:
            wide = like.dtype if like.dtype == torch.float64 else torch.float32
            self.totals[name] = torch.zeros(shape, dtype=wide, device=like.device)
            self.counts[name] = torch.zeros(shape[:-2], dtype=torch.float64, device=like.device)
        return self.totals[name]

    def _add_side(self, name: str, side: Side, size: int, flat: bool, mask: Tensor | None, like: Tensor) -> None:
        values = side.index if isinstance(side, OneHot) else side
        if mask is not None and mask.shape != values.shape[:2]:
            mask = None  # a module that folds tokens differently (a feature vector per example): every row counts
        total = self._total(name, (size,) if flat else (size, size), like)
        _add(total, side, None if mask is None else mask.to(total.dtype))
        self.counts[name] += mask.sum() if mask is not None else float(values.shape[0] * values.shape[1])

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors, for a safetensors file."""
        out = {f"total:{name}": total.cpu().contiguous() for name, total in self.totals.items()}
        out |= {f"count:{name}": count.cpu() for name, count in self.counts.items()}
        return out | {"documents": torch.tensor(self.documents, dtype=torch.float64)}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add another part's `state`."""
        for key, value in state.items():
            kind, _, name = key.partition(":")
            if kind == "total":
                wide = value.double()
                self.totals[name] = self.totals[name] + wide if name in self.totals else wide
            elif kind == "count":
                self.counts[name] = self.counts[name] + value if name in self.counts else value
            else:
                self.documents += float(value)

"""Whether a document's gradients depend on what shares its batch, beyond rounding.

Attention that mixes rows up, or a kernel that reads padding, would give every document the gradients of its neighbours
and show in no loss. Two short documents run alone and together, and the longer one's tokens are exchanged for others of
the same number: with equal shapes nothing but its content has changed. What then changes at a layer is a leak if it is
more than the dtype's rounding. In a mixture of experts, rounding can send a token to another expert, after which
everything differs; so layers are compared only up to the first token that went elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.factors import AnyFactors, Factors
from whence.interfaces import Invariance, Site, TokenBatch, Verdict
from whence.model.capture import Capture
from whence.model.load import LoadedModel, language_inputs
from whence.model.objectives import CausalLM

__all__ = ["check_invariance"]

_LENGTHS = (5, 9)
_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
"""Relative difference of a layer's inputs or gradients that other shapes may make by rounding, through all layers."""
_GRAVITY: tuple[Verdict, ...] = ("same", "rounding", "routing", "leak")
_SAME_SHAPES = 0.1  # of that, where only a batch-mate's content differs: kernels then round the same


@dataclass(slots=True)
class _Seen:
    """What one document did in one batch, by site.

    Attributes:
        inputs: What layers were given, where that is dense.
        grads: Gradients of what they put out.
        routes: (token, expert) pairs, for stacks of experts.
    """

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    grads: dict[str, list[Tensor]] = field(default_factory=dict)
    routes: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Change:
    """The largest difference between two runs of a document, as a share of what the limit allows.

    Attributes:
        verdict: What it means.
        change: Largest relative difference of a layer's inputs or gradients.
        excess: That over the limit.
        site: Where.
    """

    verdict: Verdict
    change: float
    excess: float
    site: str


def check_invariance(loaded: LoadedModel, sites: Sequence[Site]) -> Invariance:
    """Compare gradients' factors of documents alone, together, and with other company.

    Args:
        loaded: The model.
        sites: What is read of it.
    """
    sites = [site for site in sites if site.by_token]  # a decay's gradient may cancel to less than its rounding
    first, second, third = _documents(loaded)
    alone = _run(loaded, sites, [first])[0], _run(loaded, sites, [second])[0]
    together, others = _run(loaded, sites, [first, second]), _run(loaded, sites, [first, third])
    dtype = next(loaded.model.parameters()).dtype
    limit = _ROUNDING.get(dtype, 1e-3)
    comparisons = [
        (alone[0], together[0], limit),
        (alone[1], together[1], limit),
        (together[0], others[0], limit * _SAME_SHAPES),
    ]
    found = [_compare(sites, one, two, allowed) for one, two, allowed in comparisons]
    worst = max(found, key=lambda each: (_GRAVITY.index(each.verdict), each.excess))
    return Invariance(
        verdict=worst.verdict,
        change=worst.change,
        site=worst.site,
        attention=str(getattr(loaded.model.config, "_attn_implementation", None) or "the model's own"),
        dtype=str(dtype).removeprefix("torch."),
    )


def _documents(loaded: LoadedModel) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(0)
    short, long = (min(length, loaded.context) for length in _LENGTHS)
    return [random.integers(0, loaded.vocabulary, length) for length in (short, long, long)]


def _run(loaded: LoadedModel, sites: Sequence[Site], documents: Sequence[NDArray[np.int64]]) -> list[_Seen]:
    batch = _batch(documents)
    inputs = language_inputs(batch, loaded)
    seen = [_Seen() for _ in documents]

    def consume(site: Site, uses: list[AnyFactors]) -> None:
        for number, document in enumerate(documents):
            _note(seen[number], site, uses, number, len(document))

    rows, width = batch.input_ids.shape
    Capture(loaded.model, sites).run(lambda: CausalLM().losses(loaded.model, inputs), rows, consume, width)
    return seen


def _batch(documents: Sequence[NDArray[np.int64]]) -> TokenBatch:
    count, width = len(documents), max(map(len, documents))
    ids, segments = np.zeros((count, width), dtype=np.int64), np.full((count, width), -1, dtype=np.int64)
    for row, document in enumerate(documents):
        ids[row, : len(document)], segments[row, : len(document)] = document, row
    real = segments >= 0
    targets = real.copy()
    targets[:, 0] = False
    return TokenBatch(np.arange(count), ids, real, targets, segments)


def _note(seen: _Seen, site: Site, uses: Sequence[AnyFactors], row: int, length: int) -> None:
    for use in uses:
        if isinstance(use, Factors):
            _keep(seen.inputs, site, use.inputs[row, :length] if isinstance(use.inputs, Tensor) else None)
            _keep(seen.grads, site, use.grads[row, :length] if isinstance(use.grads, Tensor) else None)
            continue
        here = ((use.example == row) & (use.token < length)).nonzero()[:, 0]
        order = here[torch.argsort(use.token[here] * use.experts + use.expert[here])]
        pairs = zip(use.token[order].tolist(), use.expert[order].tolist(), strict=True)
        seen.routes.setdefault(site.name, []).extend(pairs)
        _keep(seen.inputs, site, use.inputs[order])
        _keep(seen.grads, site, use.grads[order])


def _keep(kept: dict[str, list[Tensor]], site: Site, side: Tensor | None) -> None:
    if side is not None:
        kept.setdefault(site.name, []).append(side.detach().double().cpu())


def _compare(sites: Sequence[Site], one: _Seen, two: _Seen, limit: float) -> _Change:
    """How two runs of one document differ, up to the first token that was sent to other experts."""
    places = [number for number, site in enumerate(sites) if one.routes.get(site.name) != two.routes.get(site.name)]
    before = sites[: places[0]] if places else sites
    change, where = _largest(before, one.inputs, two.inputs)
    if not places:
        change, where = max((change, where), _largest(sites, one.grads, two.grads))
    if change > limit:
        return _Change("leak", change, change / limit, where)
    if places:
        return _Change("routing", change, change / limit, sites[places[0]].name)
    return _Change("rounding" if change else "same", change, change / limit, where)


def _largest(
    sites: Sequence[Site], one: Mapping[str, list[Tensor]], two: Mapping[str, list[Tensor]]
) -> tuple[float, str]:
    changes = [(_relative(one[site.name], two[site.name]), site.name) for site in sites if site.name in one]
    return max(changes, default=(0.0, ""))


def _relative(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """Norm of the difference over the norm."""
    difference = sum(float((a - b).square().sum()) for a, b in zip(one, two, strict=True))
    size = sum(float(a.square().sum()) for a in one)
    return 0.0 if difference == 0 else (difference / max(size, 1e-300)) ** 0.5

"""Exact products of many vectors at once with the curvature of a language model's loss over a batch.

    ggn       C v = sum_z w_z sum_t J_t^T (diag p_t - p_t p_t^T) J_t v     J_t: derivative of the logits at target t
    hessian   H v = sum_z w_z d/de grad loss_z(theta + e v)                 loss_z: -log p summed over its targets

The Gauss-Newton matrix is the Fisher matrix of a softmax, labels averaged out (Schraudolph 2002,
doi:10.1162/08997660260028683; Martens 2020, arXiv:1412.1193). It is positive semidefinite; the Hessian is so only where
the model has converged. Vectors come and go as the sites' blocks, [Q, O, I] (of a stack of experts [Q, E, O, I]): what
is differentiated is the model as a function of blocks.

A product costs one forward pass, which all Q vectors share, and for each vector a forward and a backward pass of
tangents: per token 4 P and 4 P floating-point operations. Forward mode keeps no activations; `together` vectors go
through at once, at about that many times the memory of one. On a Llama of 95,000 parameters and 4,096 tokens a vector
costs 1.4 to 2 forward+backward passes, together or one after another. Works with every class whose forward pass
torch.func can transform: attention runs as plain matrix products, experts as their class's own loop. Not for a model
that lies in several processes. Knows nothing of corpora, damping or solvers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.errors import ModelError
from whence.interfaces import Site
from whence.model import experts, parallel
from whence.model.capture import frozen
from whence.model.checkpointing import kept_whole
from whence.model.objectives import CausalLM, LanguageInputs
from whence.model.sites import block_of, parameters_of

__all__ = ["CurvatureKind", "curvature_products"]

CurvatureKind = Literal["ggn", "hessian"]

Blocks = Mapping[str, Tensor]

_TOKENS = 1 << 15
_LOGITS = 1 << 27


class _Rebuilt(nn.Module):
    """A model called with its sites' blocks in place of its parameters."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], blocks: Blocks) -> None:
        super().__init__()
        self.inner = [model]
        self.values: dict[str, Tensor] = {}
        for site in sites:
            self.values |= parameters_of(site, model, blocks[site.name])

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the model."""
        return functional_call(self.inner[0], self.values, args, kwargs, tie_weights=True)


@contextmanager
def _transformable(model: nn.Module) -> Iterator[None]:
    """The model as torch.func can take it apart, twice."""
    if parallel.size() > 1:
        raise ModelError(
            "products with the exact curvature need the whole model in one process; run without torchrun, or use a "
            "method that only needs gradients (ekfac)."
        )
    kind = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if kind not in (None, "eager", "sdpa"):
        raise ModelError(
            f"attention {kind!r} has no second derivative; open the run's model with --attention sdpa or eager for "
            "methods with exact curvature."
        )
    with frozen(model), experts.eager(model), kept_whole(), sdpa_kernel(SDPBackend.MATH):
        yield


def curvature_products(
    model: nn.Module,
    sites: Sequence[Site],
    batch: LanguageInputs,
    vectors: Blocks,
    kind: CurvatureKind = "ggn",
    weights: Tensor | None = None,
    together: int | None = None,
) -> dict[str, Tensor]:
    """Products with the curvature of a batch's summed loss.

    Args:
        model: A causal language model, in one process.
        sites: The sites whose blocks are the parameters; all others stay fixed.
        batch: Documents, padded or packed.
        vectors: Site -> [Q, O, I]; the products have the same dtype.
        kind: ggn or hessian.
        weights: How often each document counts, [E]; once if None.
        together: Vectors that go through the model at once; few enough for little memory if None.

    Returns:
        Site -> [Q, O, I].

    Raises:
        ModelError: The model lies in several processes, or its attention has no second derivative.
    """
    with _transformable(model):
        point = {site.name: block_of(site, model) for site in sites}
        product = (_gauss_newton if kind == "ggn" else _hessian)(model, sites, batch, point, weights)
        parts, together = [], together or _together(batch, model)
        for start in range(0, len(next(iter(vectors.values()))), together):
            some = {name: vectors[name][start : start + together].to(point[name]) for name in point}
            parts.append(product(some))
    return {name: torch.cat([part[name] for part in parts]).to(vectors[name].dtype) for name in point}


def _together(batch: LanguageInputs, model: nn.Module) -> int:
    """Vectors at once, so that neither activations nor logits of all of them are much."""
    vocabulary = int(getattr(getattr(model, "config", None), "vocab_size", 1))
    most = min(_TOKENS // batch.input_ids.numel(), _LOGITS // max(int(batch.predicts.sum()) * vocabulary, 1))
    return max(1, most)


def _gauss_newton(
    model: nn.Module, sites: Sequence[Site], batch: LanguageInputs, point: Blocks, weights: Tensor | None
) -> Callable[[Blocks], dict[str, Tensor]]:
    where = batch.predicts.flatten().nonzero()[:, 0]
    counts = None if weights is None else weights[batch.segments.flatten()[where]][:, None]

    def logits(blocks: Blocks) -> Tensor:
        return CausalLM.logits(_Rebuilt(model, sites, blocks), batch).flatten(0, 1)[where]

    values, pull = vjp(logits, point)[:2]
    p = values.softmax(-1)
    p_weighted = p if counts is None else p * counts.to(p)

    def product(some: Blocks) -> dict[str, Tensor]:
        moved = vmap(lambda tangent: jvp(logits, (point,), (tangent,))[1])(some)  # [q, S, V]
        pulled = p_weighted * (moved - (p * moved).sum(-1, keepdim=True))
        found: dict[str, Tensor] = vmap(lambda each: pull(each)[0])(pulled)
        return found

    return product


def _hessian(
    model: nn.Module, sites: Sequence[Site], batch: LanguageInputs, point: Blocks, weights: Tensor | None
) -> Callable[[Blocks], dict[str, Tensor]]:
    def loss(blocks: Blocks) -> Tensor:
        losses = CausalLM().losses(_Rebuilt(model, sites, blocks), batch)
        return losses.sum() if weights is None else (losses * weights.to(losses)).sum()

    def product(some: Blocks) -> dict[str, Tensor]:
        found: dict[str, Tensor] = vmap(lambda tangent: jvp(grad(loss), (point,), (tangent,))[1])(some)
        return found

    return product

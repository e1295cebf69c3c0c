"""From factors to codes, for documents and for queries, so that their inner product is influence.

In the eigenbasis a document's block is ``z = Q_S^T G Q_A`` and influence is ``sum q z / (Lambda + l)``. A document
stores P(w * z): whitening weights w, then an orthonormal map P (random signs, Hadamard, perhaps a sketch). A query
carries the rest, P(q / ((Lambda + l) w)), so the inner product estimates influence without bias whatever w is (where
coordinates are left out: their part of it), and P(q / w) reads the plain gradient dot product off the same index.
(Apply the full inverse to the query, then sketch both sides with one P: Hu et al. 2026, arXiv:2602.10449, has the
reasons.)

    whole codes        w = (Lambda + l)^(-1/2), every coordinate
    leading            the same, of the coordinates with the largest Lambda alone (leading.py)
    Kronecker sketch   w = w_o (x) w_i, the separable part of it, folded into the factor maps: P_o diag(w_o) Q_S^T
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.curvature import SiteCurvature
from whence.factors import AnyFactors, Factors, Routed, Side, block_pieces, map_side, picked_pieces
from whence.gradients.flat import flattened
from whence.gradients.leading import Taken, taken
from whence.gradients.recipe import Recipe
from whence.interfaces import Site
from whence.projection import SiteLayout, encode, rotate_blocks, signs, srht

__all__ = ["SiteEncoder", "build_encoders"]


@dataclass(frozen=True, slots=True)
class SiteEncoder:
    """Everything needed to make one site's codes.

    Attributes:
        site: The site.
        layout: Where its code lies in a row.
        curvature: Its basis and eigenvalues.
        damping: Lambda.
        left: Map of a document's output gradients [K_o, O], or None; [E, K_o, O] for a stack of experts.
        right: Map of its inputs [K_i, I], or None; [E, K_i, I] for a stack.
        weights: Whitening and random signs of a document, flat [padded]; zero in padding.
        signs: Random signs alone, int8, flat [padded].
        separable: Whitening weights (w_o [O], w_i [I]) of a sketch; None where whitening is whole.
        sketches: (P_o, P_i) of a Kronecker sketch, each None where the side is kept whole.
        shared: Whether `right` is that of the site's group, so that mapped inputs can be shared.
        taken: Which coordinates the code keeps, if those are the leading ones.
    """

    site: Site
    layout: SiteLayout
    curvature: SiteCurvature
    damping: float
    left: Tensor | None
    right: Tensor | None
    weights: Tensor
    signs: Tensor
    separable: tuple[Tensor, Tensor] | None
    sketches: tuple[Tensor | None, Tensor | None]
    shared: bool
    taken: Taken | None = None

    def document(
        self, uses: Sequence[AnyFactors], cache: dict[str, Side]
    ) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        """Codes [N, elements] and scales [N, blocks] of N examples.

        Args:
            uses: Factors of the site's uses.
            cache: Mapped inputs of this batch by group, filled as they are made.
        """
        mapped = [self._map(use, cache if len(uses) == 1 else None) for use in uses]
        if self.taken is None:
            made = [self._encode(flattened(self.site, blocks)) for blocks in block_pieces(mapped)]
        else:
            made = [self._encode(each) for each in picked_pieces(mapped, self.taken.places)]
        return np.concatenate([codes for codes, _ in made]), np.concatenate([scales for _, scales in made])

    def _encode(self, blocks: Tensor) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        rows = blocks.shape[0]
        padded = blocks.new_empty(rows, len(self.weights))
        torch.mul(blocks, self.weights[: self.layout.count], out=padded[:, : self.layout.count])
        padded[:, self.layout.count :] = 0
        return encode(self._keep(rotate_blocks(padded, self.layout.block)), self.layout)

    def _map(self, use: AnyFactors, cache: dict[str, Side] | None) -> AnyFactors:
        if isinstance(use, Routed) or not self.shared or cache is None:
            return use.map(self.left, self.right)
        if self.site.group not in cache:
            cache[self.site.group] = map_side(use.inputs, self.right)
        return Factors(cache[self.site.group], map_side(use.grads, self.left))

    def query(self, blocks: Tensor, plain: bool = False) -> Tensor:
        """Full-precision vectors [Q, stored] of query gradients.

        Args:
            blocks: Gradients of -log p, [Q, O, I]; of a stack [Q, E, O, I].
            plain: For the gradient dot product instead of influence.
        """
        turned = self.curvature.rotate(blocks) * self._query_weights(plain)
        outputs, inputs = self.sketches
        if outputs is not None:
            turned = outputs.to(turned.dtype) @ turned
        if inputs is not None:
            turned = turned @ inputs.T.to(turned.dtype)
        flat = flattened(self.site, turned)
        if self.taken is not None:
            flat = flat[:, self.taken.coordinates]
        padded = flat.new_zeros(len(flat), len(self.signs))
        padded[:, : self.layout.count] = flat * self.signs[: self.layout.count]
        return self._keep(rotate_blocks(padded, self.layout.block)) * (self.layout.block / self.layout.kept)

    def _query_weights(self, plain: bool) -> Tensor:
        """``1 / w`` for the gradient dot, ``1 / ((Lambda + l) w)`` for influence, [O, I]; w is what documents carry."""
        damped = self.curvature.eigenvalues + self.damping
        if self.separable is None:
            return damped.sqrt_() if plain else damped.rsqrt_()
        whitening = self.separable[0][..., :, None] * self.separable[1][..., None, :]
        return whitening.reciprocal_() if plain else whitening.mul_(damped).reciprocal_()

    def _keep(self, rotated: Tensor) -> Tensor:
        if self.layout.kept == self.layout.block:
            return rotated
        shaped = rotated.reshape(len(rotated), self.layout.blocks, self.layout.block)
        return shaped[:, :, : self.layout.kept].flatten(1)


def separable_weights(eigenvalues: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The rank-one part of ``(Lambda + l)^(-1/2)``: output weights [O] and input weights [I], or [E, O] and [E, I].

    From the marginal means of Lambda with factored damping: ``(o/m + s)(i/m + s) m`` with ``s = sqrt(l/m)``, m their
    mean.
    """
    mean = eigenvalues.mean((-2, -1)).clamp_min(1e-12 * damping)[..., None]
    shift = (damping / mean).sqrt()
    outputs = eigenvalues.mean(-1) / mean + shift
    inputs = eigenvalues.mean(-2) / mean + shift
    return (outputs * mean).rsqrt(), inputs.rsqrt()


def build_encoders(
    sites: Sequence[Site],
    curvatures: Mapping[str, SiteCurvature],
    dampings: Mapping[str, float],
    recipe: Recipe,
    device: torch.device | Callable[[Site], torch.device],
    dtype: torch.dtype,
) -> dict[str, SiteEncoder]:
    """Encoders of all sites under one recipe.

    Args:
        sites: The sites.
        curvatures: Fitted curvature by site.
        dampings: Lambda by site.
        recipe: A resolved recipe.
        device: Where documents are encoded, or where each site is.
        dtype: float32, or float64 for tests.
    """
    layouts = {layout.name: layout for layout in recipe.layout(sites)}

    def here(site: Site) -> torch.device:
        return device if isinstance(device, torch.device) else device(site)

    return {
        site.name: _build(
            site, curvatures[site.name], dampings[site.name], recipe, layouts[site.name], here(site), dtype
        )
        for site in sites
    }


def _build(
    site: Site,
    curvature: SiteCurvature,
    damping: float,
    recipe: Recipe,
    layout: SiteLayout,
    device: torch.device,
    dtype: torch.dtype,
) -> SiteEncoder:
    here = curvature.to(device, dtype)
    size = layout.blocks * layout.block
    plus_minus = torch.from_numpy(signs(recipe.seed, site.name, size)).to(device)
    shape = recipe.sketch_shape(site)
    whole = shape == (site.outputs, site.inputs)
    separable: tuple[Tensor, Tensor] | None = None
    sketches: tuple[Tensor | None, Tensor | None] = (None, None)
    left: Tensor | None
    right: Tensor | None
    chosen = None
    if recipe.projection == "leading":
        chosen = taken(site, curvature, layout.count).to(here.eigenvalues.device)
        left, right = _restricted(here.outputs, chosen.rows), _restricted(here.inputs, chosen.columns)
        weights = flattened(site, (here.eigenvalues + damping).rsqrt_())[chosen.coordinates]
    elif whole:
        left, right = _transpose(here.outputs), _transpose(here.inputs)
        weights = flattened(site, (here.eigenvalues + damping).rsqrt_())
    else:
        separable = separable_weights(here.eigenvalues, damping)
        sketches = _sketches(site, shape, recipe.seed, device, dtype)
        left = _folded(sketches[0], separable[0], here.outputs)
        right = _folded(sketches[1], separable[1], here.inputs)
        weights = here.eigenvalues.new_ones(layout.count)
    padded = here.eigenvalues.new_zeros(size)
    padded[: layout.count] = weights * plus_minus[: layout.count]
    return SiteEncoder(
        site=site,
        layout=layout,
        curvature=here,
        damping=damping,
        left=left,
        right=right,
        weights=padded,
        signs=plus_minus,
        separable=separable,
        sketches=sketches,
        shared=whole and chosen is None and len(site.uses) == 1,
        taken=chosen,
    )


def _transpose(basis: Tensor | None) -> Tensor | None:
    return None if basis is None else basis.mT


def _restricted(basis: Tensor | None, kept: Tensor) -> Tensor:
    """Some of the eigenvectors, as rows; without a basis the numbers of the coordinates."""
    return kept if basis is None else basis.mT.index_select(-2, kept).contiguous()


def _sketches(
    site: Site, shape: tuple[int, int], seed: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    sides = []
    for kept, size, side in ((shape[0], site.outputs, "outputs"), (shape[1], site.inputs, "inputs")):
        sketch = None if kept == size else srht(kept, size, seed, f"{site.name}/{side}").to(device, dtype)
        sides.append(sketch)
    return sides[0], sides[1]


def _folded(sketch: Tensor | None, weights: Tensor, basis: Tensor | None) -> Tensor:
    """``P diag(w) Q^T``, with missing parts left out; one for each expert of a stack."""
    scaled = torch.diag_embed(weights) if sketch is None else sketch * weights[..., None, :]
    return (scaled if basis is None else scaled @ basis.mT).contiguous()

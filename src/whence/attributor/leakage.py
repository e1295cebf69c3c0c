"""What an index cannot see of a query: gradient that the damping decides, and noise of a sketch.

With q and z in the eigenbasis, influence is sum q z / (Lambda + l) over n. Over documents E z^2 = Lambda, so its mean
square is ``sum q^2 Lambda / (Lambda + l)^2 = sum a s`` with

    a = q^2 / (Lambda + l)      what a direction adds to q^T (C + l)^-1 q
    s = Lambda / (Lambda + l)   how far the fit sample, and not the damping, determines the direction, 0..1

    unseen  = sum a (1 - s) / sum a               share of q^T (C + l)^-1 q in directions that the damping determines
    dropped = noise / (noise + sum a s)           share of the variance of sketched scores that is the sketch's noise;
                                                  of a code of leading coordinates, the share of influence's that it
                                                  leaves out (noise: sum a s where it is left out)

Test gradients outside the range of the curvature *leak*: exact cross terms vanish there, sketched ones do not (Hu et
al. 2026, arXiv:2602.10449). Their bounds are worst cases; `noise` is our own: the mean of (sketched - exact)^2 over
the sketch's random numbers and over documents with E z z^T = diag(Lambda). Documents carry w z, whose squares are
r = w^2 Lambda on average, and queries q / ((Lambda + l) w), whose squares are u. What a sketch adds up meets:

    hadamard    sum u_j r_k                     over j != k of the same block, equal modulo the kept
    Kronecker   v_o sum u_ab r_cb               over a != c
                + v_i sum u_ab r_ad             over b != d
                + v_o v_i sum u_ab r_cd         over both
                v = (padded / rows - 1) / (padded - 1), the mean square of an off-diagonal element of P^T P

Where sites have weights, (Lambda + l) holds them once and documents' mean squares are Lambda as it was, so that the
terms of both sums count w_site times. Spread evenly over m coordinates, noise / (u r) is about d_l / m
(`whence.curvature.dimension`). Whole codes have none.

Ignored: the error of Lambda itself, what rounding to bits adds, coupling between sites and off the diagonal of the
eigenbasis (C is taken at its word). `dropped` is about all documents alike: those close to the query score far above
the mean square, and drown later than it says (measured, docs/method.md).

Axes: Q queries, O and I sides of a site (E experts before them), B blocks of a code.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whence.attributor.curvatures import load_spectrum
from whence.curvature import SiteCurvature, effective_dimension, recommended_coordinates
from whence.gradients import Recipe, SiteEncoder, Taken, flattened
from whence.interfaces import Leakage, Site

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["SiteDimension", "coordinates_for", "dimensions", "query_leakage", "shares", "sketch_noise"]


def shares(turned: Tensor, eigenvalues: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """``sum a`` and ``sum a s`` of query gradients in the eigenbasis [Q, O, I], each float64 [Q].

    >>> shares(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[1.0, 0.0]]), damping=1.0)
    (tensor([1.5000], dtype=torch.float64), tensor([0.2500], dtype=torch.float64))
    """
    damped = eigenvalues + damping
    added = (turned * damped.rsqrt()).square_()
    return _sum(added), _sum(added * (eigenvalues / damped))


def sketch_noise(encoder: SiteEncoder, turned: Tensor) -> Tensor:
    """Mean of (sketched - exact)^2 of a site's inner products q (C + l)^-1 z, float64 [Q]; zero for whole codes.

    Per unit of the site's weight, as `shares` is.
    """
    layout, damped = encoder.layout, encoder.curvature.eigenvalues + encoder.damping
    if encoder.taken is not None:
        return _left_out((turned / damped).square_() * encoder.curvature.eigenvalues, encoder, encoder.taken)
    if encoder.separable is not None:
        outputs, inputs = encoder.separable
        weights = outputs[..., :, None] * inputs[..., None, :]
        asked = (turned / (damped * weights)).square_()
        return _two_sided(asked, weights.square_() * encoder.curvature.eigenvalues, *map(_spread, encoder.sketches))
    if layout.kept == layout.block:
        return torch.zeros(len(turned), dtype=torch.float64, device=turned.device)
    asked, carried = (turned * damped.rsqrt()).square_(), (encoder.curvature.eigenvalues / damped)[None]
    return _meeting(_buckets(asked, encoder), _buckets(carried, encoder))


def _left_out(values: Tensor, encoder: SiteEncoder, taken: Taken) -> Tensor:
    """Sum of [Q, O, I] over what a code does not keep."""
    kept = _sum(flattened(encoder.site, values)[:, taken.coordinates])
    return (_sum(values) - kept).clamp_min_(0)


def _buckets(values: Tensor, encoder: SiteEncoder) -> Tensor:
    """[Q, O, I] as [Q, B, meeting, kept]: the first `kept` Hadamard rows add up what is equal modulo `kept`."""
    layout = encoder.layout
    padded = values.new_zeros(len(values), layout.blocks * layout.block)
    padded[:, : layout.count] = flattened(encoder.site, values)
    return padded.reshape(len(values), layout.blocks, layout.block // layout.kept, layout.kept)


def _meeting(asked: Tensor, carried: Tensor) -> Tensor:
    return _sum(asked.sum(2) * carried.sum(2)) - _sum(asked * carried)


def _spread(sketch: Tensor | None) -> float:
    """Mean square of an off-diagonal element of P^T P; zero where the side is whole."""
    if sketch is None:
        return 0.0
    rows, size = sketch.shape
    padded = 1 << max(size - 1, 1).bit_length()
    return (padded / rows - 1) / (padded - 1)


def _two_sided(asked: Tensor, carried: Tensor, outputs: float, inputs: float) -> Tensor:
    """Of squares [Q, O, I] and [O, I] (with E before O for a stack, whose experts meet nobody else)."""
    same = _sum(asked * carried)
    by_column = _sum(asked.sum(-2) * carried.sum(-2)) - same
    by_row = _sum(asked.sum(-1) * carried.sum(-1)) - same
    anywhere = _sum(asked.sum((-2, -1))[..., None] * carried.sum((-2, -1))[..., None])
    return outputs * by_column + inputs * by_row + outputs * inputs * (anywhere - by_column - by_row - same)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=torch.float64)


def query_leakage(
    blocks: Mapping[str, Tensor], encoders: Mapping[str, SiteEncoder], indexed: bool
) -> tuple[Leakage | None, ...]:
    """Leakage of each query; None where there is no curvature (gradient dot) or no gradient.

    Args:
        blocks: Gradients of queries by site, [Q, O, I].
        encoders: Those of the index.
        indexed: Whether documents were searched in an index, and not by running the model.
    """
    totals = torch.stack([_site(encoders[name], each, indexed) for name, each in blocks.items()]).sum(0)
    return tuple(_leakage(*row) for row in totals.T.tolist())


def _site(encoder: SiteEncoder, blocks: Tensor, indexed: bool) -> Tensor:
    """``sum a``, ``sum a s``, the mean square of what the code says and of what it gets wrong, float64 [4, Q]."""
    turned = encoder.curvature.rotate(blocks)
    added, seen = shares(turned, encoder.curvature.eigenvalues, encoder.damping)
    noise = sketch_noise(encoder, turned).clamp_min_(0) if indexed else torch.zeros_like(seen)
    said = seen if encoder.taken is None or not indexed else seen - noise
    weight = encoder.curvature.weight
    return torch.stack([added, seen, weight * said, weight * noise]).cpu()


def _leakage(added: float, seen: float, said: float, noise: float) -> Leakage | None:
    if not seen > 0:
        return None
    return Leakage(unseen=min(max(1 - seen / added, 0.0), 1.0), dropped=noise / (noise + said))


@dataclass(frozen=True, slots=True)
class SiteDimension:
    """How many coordinates a site needs, and how many codes keep.

    Attributes:
        name: The site.
        size: Its number of coordinates.
        dimension: d_l.
        recommended: Coordinates for the wanted error.
        kept: Coordinates that the recipe's codes keep.
        held: d_l of those coordinates alone, where the recipe keeps the leading ones; otherwise d_l.
        weight: The site's, under the recipe.
    """

    name: str
    size: int
    dimension: float
    recommended: int
    kept: int
    held: float
    weight: float


def dimensions(owner: "Attributor", recipe: Recipe, error: float = 0.1) -> Sequence[SiteDimension]:
    """Effective dimension of every site, read one by one; nothing for a recipe without curvature.

    Args:
        owner: A fitted run.
        recipe: A resolved recipe.
        error: Wanted relative error.

    Raises:
        IncompleteError: The curvature it needs has not been fitted.
    """
    return () if recipe.method == "identity" else tuple(_dimensions(owner, recipe, error))


def _dimensions(owner: "Attributor", recipe: Recipe, error: float) -> Iterator[SiteDimension]:
    per_document = owner.corpus.trained_targets / owner.corpus.trained_documents
    for site, layout in zip(owner.sites, recipe.layout(owner.sites), strict=True):
        eigenvalues = load_spectrum(owner.run.curvature, site, recipe.curvature)
        damping = recipe.rule(site).of(site.name, SiteCurvature(None, None, eigenvalues), per_document)
        found = effective_dimension(eigenvalues, damping)
        wanted = recommended_coordinates(found, site.size, error)
        kept = min(layout.stored, layout.count)
        held = found
        if recipe.projection == "leading":
            held = effective_dimension(eigenvalues.flatten().topk(kept).values, damping)
        yield SiteDimension(site.name, site.size, found, wanted, kept, held, recipe.weight(site))


def coordinates_for(recipe: Recipe, sites: Sequence[Site], found: Sequence[SiteDimension]) -> int:
    """The ``--coordinates``, a power of two, with which a sketch keeps what is recommended at every site."""
    coordinates = 64
    while True:
        kept = recipe.model_copy(update={"coordinates": coordinates}).layout(sites)
        if all(layout.stored >= each.recommended for layout, each in zip(kept, found, strict=True)):
            return coordinates
        coordinates *= 2

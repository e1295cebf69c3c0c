"""How much each kind of site counts: weights of sites and a damping of its own for the head.

    v_site = w_site (C_site + l_site)^-1 q_site        l_head = head_damping * l

Added up as they are, sites do not predict retraining equally well: the head does best by itself, attention and norms
add noise, and what training has not brought to its minimum follows the optimizer's metric and not (C + l)^-1. So each
kind of site has a weight, and the head, which sees every token, more damping. Weights are scaled such that the mean
self-influence of a document, sum of Lambda / (Lambda + l), stays what it is without them, so that the unit is still
nats. A weight is nothing but a curvature that is divided by it, so nothing else has to know of it.

The settings were fitted on three small models (a Llama, a GPT-2, an OLMo 2 fine-tune; docs/lab-notes.md has what they
are worth on each, when fitted on the other two, and on a fourth). It hurts where training moved what the weights leave
out.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from whence.curvature import SiteCurvature
from whence.errors import InputError
from whence.interfaces import Site

__all__ = ["Kind", "SiteWeights", "kind_of", "weighted"]

Kind = Literal["head", "embedding", "norm", "attention", "mlp"]

_MLP = ("mlp", "ffn", "feed_forward", "up_proj", "down_proj", "gate_proj", "expert", "router", ".fc")
_ATTENTION = ("attn", "attention", "mixer", "mamba", "ssm", "lin_att")
_LEAST = 1e-12
"""A weight of 0 counts as this share of the largest, since a curvature cannot be divided by 0."""


def kind_of(site: Site) -> Kind:
    """What a site is in a transformer, by its place and name; a mixer that takes attention's place counts as attention.

    >>> from whence.interfaces import Site
    >>> kind_of(Site("model.layers.0.mlp.up_proj", 8, 4, False, (), None, ()))
    'mlp'
    >>> kind_of(Site("backbone.layers.0.mixer.in_proj", 8, 4, False, (), None, ()))
    'attention'
    """
    if site.head:
        return "head"
    if site.vocabulary == "inputs":
        return "embedding"
    if site.elementwise:
        return "norm"
    if any(word in site.name for word in _MLP):
        return "mlp"
    return "attention" if any(word in site.name for word in _ATTENTION) else "mlp"


class SiteWeights(BaseModel):
    """Weights by kind of site.

    Attributes:
        head: Of the head (of head and embedding, where they are one).
        embedding: Of embeddings.
        mlp: Of feed-forward layers, experts and routers.
        attention: Of attention and of mixers in its place.
        norm: Of scales, shifts and other vectors.
        head_damping: Times the damping of other sites, that of the head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: float = Field(default=16.0, ge=0, allow_inf_nan=False)
    embedding: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    mlp: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    attention: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    norm: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    head_damping: float = Field(default=10.0, gt=0, allow_inf_nan=False)

    def of(self, site: Site) -> float:
        """The weight of a site's kind."""
        return float(getattr(self, kind_of(site)))

    @model_validator(mode="after")
    def _some(self) -> "SiteWeights":
        if not any((self.head, self.embedding, self.mlp, self.attention, self.norm)):
            raise ValueError("all weights of sites are 0; give at least one kind of site a weight above 0")
        return self


def weighted(
    sites: Sequence[Site], damped: Mapping[str, tuple[SiteCurvature, float]], weights: SiteWeights
) -> dict[str, tuple[SiteCurvature, float]]:
    """Curvature and lambda of every site, divided by the site's weight; sites' shares of self-influence weigh the mean.

    Args:
        sites: The sites.
        damped: Curvature and lambda by site.
        weights: The weights; those that are 0 count as next to nothing, 1e-12 of the largest there is.

    Raises:
        InputError: All kinds that there are have weight 0.
    """
    given = {site.name: weights.of(site) for site in sites}
    largest = max(given.values(), default=1.0)
    if not largest:
        kinds = ", ".join(sorted({kind_of(site) for site in sites}))
        raise InputError(
            f"weight 0 is given to all kinds of site that this model has ({kinds}); give one of them more."
        )
    given = {name: max(weight, _LEAST * largest) for name, weight in given.items()}
    shares = {name: _share(*damped[name]) for name in given}
    total = sum(given[name] * share for name, share in shares.items())
    scale = sum(shares.values()) / total if total > 0 else 1.0
    return {
        name: (curvature.divided(given[name] * scale), damping / (given[name] * scale))
        for name, (curvature, damping) in damped.items()
    }


def _share(curvature: SiteCurvature, damping: float) -> float:
    return float((curvature.eigenvalues / (curvature.eigenvalues + damping)).sum(dtype=torch.float64))

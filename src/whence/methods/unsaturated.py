"""Unsaturated EK-FAC with site weights: what predicted retraining best among methods of one checkpoint; our own.

    v_site = w_site (C_site + l_site)^-1 q_site          q: gradient of -log p of the query
    document: sum_t (1 - p_t)^-power  grad -log p_t       (`whence.model.Unsaturated`)

Two corrections of EK-FAC, both free of charge:

*Saturation.* The gradient of -log p_t holds the factor 1 - p_t: what a model has learnt by heart has no gradient left,
though it was learnt from somewhere. Half of that factor is taken back (power 0.5).

*Site weights.* Added up as they are, sites do not predict retraining equally well: the head does best by itself,
attention and norms add noise, and what training has not brought to its minimum follows the optimizer's metric and not
(C + l)^-1. So each kind of site has a weight, and the head, which sees every token, more damping. Weights are scaled
such that the mean self-influence of a document, sum of Lambda / (Lambda + l), stays what it is without them, so that
the unit is still nats.

The settings were fitted on three small models (a Llama, a GPT-2, an OLMo 2 fine-tune; docs/lab-notes.md has what they
are worth on each, when fitted on the other two, and on a fourth). What is ignored: as in EK-FAC, all coupling between
sites. It hurts where training moved what the weights leave out: attention alone, or adapters on it.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from whence.attributor import Question, Step, index_steps
from whence.attributor.curvatures import load_curvatures
from whence.curvature import Damping, SiteCurvature
from whence.errors import InputError
from whence.gradients import Recipe
from whence.interfaces import Site
from whence.methods.base import Solver, Work, ekfac_steps

__all__ = ["Unsaturated", "kind_of"]

Kind = Literal["head", "embedding", "norm", "attention", "mlp"]


def kind_of(site: Site) -> Kind:
    """What a site is in a transformer, by its place and name; a mixer that takes attention's place counts as attention.

    >>> from whence.interfaces import Site
    >>> kind_of(Site("model.layers.0.mlp.up_proj", 8, 4, False, (), None, ()))
    'mlp'
    """
    if site.head:
        return "head"
    if site.vocabulary == "inputs":
        return "embedding"
    if site.elementwise:
        return "norm"
    return "attention" if any(word in site.name for word in ("attn", "attention", "mixer", "mamba")) else "mlp"


class Unsaturated(Solver):
    """EK-FAC with unsaturated documents and a weight for each kind of site.

    Attributes:
        power: Of 1 / (1 - p) by which tokens' gradients of documents are multiplied.
        head: Weight of the head (of head and embedding, where they are one).
        embedding: Weight of embeddings.
        mlp: Weight of feed-forward layers, experts and routers.
        attention: Weight of attention and of mixers in its place.
        norm: Weight of scales, shifts and other vectors.
        damping: Lambda as a multiple of each site's mean eigenvalue.
        head_damping: The same of the head.
        bits: Bits per coordinate of the index that is read; exact runs the model over the corpus instead.
    """

    key: ClassVar[str] = "unsaturated"
    title: ClassVar[str] = "unsaturated EK-FAC"
    paper: ClassVar[str] = "this project"

    power: float = Field(default=0.5, ge=0, le=1)
    head: float = Field(default=16.0, ge=0, allow_inf_nan=False)
    embedding: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    mlp: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    attention: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    norm: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    head_damping: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    bits: Literal["1", "8", "16", "exact"] = "1"

    @property
    def indexed(self) -> bool:
        """Whether an index is read."""
        return self.bits != "exact"

    def recipe(self, work: Work) -> Recipe:
        """EK-FAC codes of unsaturated gradients."""
        bits = 16 if self.bits == "exact" else int(self.bits)
        own = work.owner.config.recipe
        kept = {"projection": own.projection, "coordinates": own.coordinates, "seed": own.seed}
        recipe = Recipe.model_validate(
            {**kept, "damping": Damping(value=self.damping), "bits": bits, "unsaturated": self.power,
             "precision": own.precision}
        )  # fmt: skip
        return recipe.resolved(work.owner.sites)

    def steps(self, work: Work) -> list[Step]:
        """EK-FAC, and the index."""
        steps = ekfac_steps(work.owner)
        return [*steps, *index_steps(work.owner, self.recipe(work))] if self.indexed else steps

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """Weighted ``(C + l)^-1 q``."""
        curvatures = load_curvatures(work.owner.run.curvature, work.owner.sites, "ekfac")
        owner, rules = work.owner, {True: Damping(value=self.head_damping), False: Damping(value=self.damping)}
        damped = {}
        for site in owner.sites:
            curvature = curvatures[site.name].to(owner.loaded.device_of(site), owner.wide)
            damped[site.name] = curvature, rules[site.head].of(site.name, curvature, 1.0)
        weights = self.weights(owner.sites, damped)
        return {
            name: weights[name] * curvature.solve(question.blocks[name], damping)
            for name, (curvature, damping) in damped.items()
        }

    def weights(self, sites: Sequence[Site], damped: Mapping[str, tuple[SiteCurvature, float]]) -> dict[str, float]:
        """Weight of each site; their mean over the sites' shares of self-influence is 1.

        Raises:
            InputError: Every site that there is has weight 0.
        """
        given = {site.name: float(getattr(self, kind_of(site))) for site in sites}
        shares = {
            name: float((curvature.eigenvalues / (curvature.eigenvalues + damping)).sum())
            for name, (curvature, damping) in damped.items()
        }
        total = sum(given[name] * share for name, share in shares.items())
        if not total > 0:
            raise InputError(f"method {self.spec!r} gives weight 0 to all of the {len(sites)} sites of this run.")
        scale = sum(shares.values()) / total
        return {name: weight * scale for name, weight in given.items()}

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of its index, if it has one."""
        if not self.indexed:
            return 0.0
        corpus = work.owner.corpus
        return self.recipe(work).bytes_per_row(work.owner.sites) * corpus.windows / corpus.documents

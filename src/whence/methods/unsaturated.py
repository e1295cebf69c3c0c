"""Unsaturated EK-FAC with site weights: what predicted retraining best among methods of one checkpoint; our own.

    v_site = w_site (C_site + l_site)^-1 q_site          q: gradient of -log p of the query
    document: sum_t (1 - p_t)^-power  grad -log p_t       (`whence.model.Unsaturated`)

Two corrections of EK-FAC, both free of charge:

*Saturation.* The gradient of -log p_t holds the factor 1 - p_t: what a model has learnt by heart has no gradient left,
though it was learnt from somewhere. Half of that factor is taken back (power 0.5).

*Site weights.* See `whence.gradients.weights`.

It is the default of a run (`whence.gradients.Recipe`, method unsaturated), so that a trace without a method is this
one; as a named method it can be tried with other settings. What is ignored: as in EK-FAC, all coupling between sites.
It hurts where training moved what the weights leave out.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from whence.attributor import Question, Step, index_steps
from whence.curvature import Damping
from whence.gradients import Recipe, SiteWeights
from whence.methods.base import Solver, Work, ekfac_steps

__all__ = ["Unsaturated", "refuse_unstored", "sketched"]


def refuse_unstored(bits: str, coordinates: int | None) -> None:
    """Refuse to keep some coordinates of what is not stored at all."""
    if bits == "exact" and coordinates is not None:
        raise ValueError("bits exact stores no coordinates; leave coordinates or bits=exact out")


def sketched(recipe: Recipe, coordinates: int | None) -> Recipe:
    """A recipe that keeps so many leading coordinates of each site on average; as it is where nothing is said."""
    if coordinates is None:
        return recipe
    return recipe.model_copy(update={"projection": "leading", "coordinates": coordinates})


class Unsaturated(Solver, SiteWeights):
    """EK-FAC with unsaturated documents and a weight for each kind of site, which are those of `SiteWeights`.

    Attributes:
        power: Of 1 / (1 - p) by which tokens' gradients of documents are multiplied.
        damping: Lambda as a multiple of each site's mean eigenvalue.
        bits: Bits per coordinate of the index that is read; exact stores none and runs the model over the corpus in
            the lab; a trace does so with --exact, and else reads an index of 16 bits.
        coordinates: Leading coordinates that the index keeps of each site on average; as the run's index if unsaid.
    """

    key: ClassVar[str] = "unsaturated"
    title: ClassVar[str] = "unsaturated EK-FAC"
    paper: ClassVar[str] = "this project"

    power: float = Field(default=0.5, ge=0, le=1)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    bits: Literal["1", "8", "16", "exact"] = "1"
    coordinates: int | None = Field(default=None, ge=64)

    @model_validator(mode="after")
    def _stored(self) -> Self:
        refuse_unstored(self.bits, self.coordinates)
        return self

    @property
    def indexed(self) -> bool:
        """Whether an index is read."""
        return self.bits != "exact"

    def recipe(self, work: Work) -> Recipe:
        """Codes of unsaturated gradients, with these weights."""
        own = work.owner.config.recipe
        recipe = Recipe(
            method="unsaturated",
            damping=Damping(value=self.damping),
            power=self.power,
            weights=SiteWeights.model_validate(self.model_dump(include=set(SiteWeights.model_fields))),
            bits={"1": 1, "8": 8, "16": 16, "exact": 16}[self.bits],  # type: ignore[arg-type]
            projection=own.projection,
            coordinates=own.coordinates,
            seed=own.seed,
            precision=own.precision,
        )
        return sketched(recipe, self.coordinates).resolved(work.owner.sites)

    def steps(self, work: Work) -> list[Step]:
        """EK-FAC, and the index."""
        steps = ekfac_steps(work.owner)
        return [*steps, *index_steps(work.owner, self.recipe(work))] if self.indexed else steps

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """Weighted ``(C + l)^-1 q``."""
        owner = work.owner
        damped = owner.damped(self.recipe(work))
        return {
            site.name: damped[site.name][0]
            .to(owner.loaded.device_of(site), owner.wide)
            .solve(question.blocks[site.name], damped[site.name][1])
            for site in owner.sites
        }

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of its index, if it has one."""
        if not self.indexed:
            return 0.0
        corpus = work.owner.corpus
        return self.recipe(work).bytes_per_row(work.owner.sites) * corpus.windows / corpus.documents

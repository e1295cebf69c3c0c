"""K-FAC and EK-FAC: (C + l)^-1 q site by site, in the Kronecker eigenbasis (see `whence.curvature.ekfac`).

    v = Q_S [(Q_S^T q Q_A) / (Lambda + l)] Q_A^T        l = damping * mean(Lambda) of the site

K-FAC predicts Lambda from the factors (Martens & Grosse 2015, arXiv:1503.05671), EK-FAC measures it (George et al.
2018, arXiv:1806.03884; Grosse et al. 2023, arXiv:2308.03296). Ignored: all coupling between sites, and within a site
everything off the diagonal of its eigenbasis.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from whence.attributor import Question, Step
from whence.curvature import Damping, SiteCurvature
from whence.gradients import Method as Curvature
from whence.gradients import Recipe
from whence.methods.base import Solver, Work, ekfac_steps

__all__ = ["Ekfac", "Kfac", "curvature_of"]


def curvature_of(work: Work, method: Curvature, damping: float) -> dict[str, tuple[SiteCurvature, float]]:
    """Curvature and lambda of every site where the model is, in the dtype of queries."""
    owner = work.owner
    damped = owner.damped(Recipe(method=method, damping=Damping(value=damping)))
    return {
        site.name: (damped[site.name][0].to(owner.loaded.device_of(site), owner.wide), damped[site.name][1])
        for site in owner.sites
    }


class Ekfac(Solver):
    """Influence with EK-FAC.

    Attributes:
        damping: Lambda as a multiple of each site's mean eigenvalue.
    """

    key: ClassVar[str] = "ekfac"
    title: ClassVar[str] = "EK-FAC"
    paper: ClassVar[str] = "Grosse et al. 2023, arXiv:2308.03296"

    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)

    def steps(self, work: Work) -> list[Step]:
        """Bases and measured eigenvalues."""
        return ekfac_steps(work.owner)

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """``(C + l)^-1 q``."""
        return {
            name: curvature.solve(question.blocks[name], damping)
            for name, (curvature, damping) in curvature_of(work, "ekfac", self.damping).items()
        }


class Kfac(Solver):
    """Influence with K-FAC.

    Attributes:
        damping: Lambda as a multiple of each site's mean eigenvalue.
    """

    key: ClassVar[str] = "kfac"
    title: ClassVar[str] = "K-FAC"
    paper: ClassVar[str] = "Martens & Grosse 2015, arXiv:1503.05671"

    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)

    def steps(self, work: Work) -> list[Step]:
        """Bases alone."""
        return ekfac_steps(work.owner, measured=False)

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """``(C + l)^-1 q``."""
        return {
            name: curvature.solve(question.blocks[name], damping)
            for name, (curvature, damping) in curvature_of(work, "kfac", self.damping).items()
        }

"""How much is added to the curvature before it is inverted.

Per site, lambda is a multiple of the mean eigenvalue (Grosse et al. 2023, arXiv:2308.03296, section 3: 0.1), or the
L2 penalty that the model was really trained with: for a mean-token loss plus w/2 |theta|^2, the penalty per document
is w times the targets per document, since a document's loss here is the sum over its tokens. A model trained with
L2 has a true inverse, and a heuristic that ignores it is worse than no curvature at all (logistic regression).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from whence.curvature.ekfac import SiteCurvature
from whence.errors import NumericalError

__all__ = ["Damping"]


class Damping(BaseModel):
    """A rule for lambda.

    Attributes:
        kind: relative (a multiple of the site's mean eigenvalue), weight_decay (L2 on the mean-token loss), or
            absolute (added as it is, in the units of the per-document curvature).
        value: The multiple, the weight decay, or lambda itself; positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["relative", "weight_decay", "absolute"] = "relative"
    value: float = Field(default=0.1, gt=0, allow_inf_nan=False)

    def __str__(self) -> str:
        return {
            "relative": f"{self.value:g} × mean eigenvalue per site",
            "weight_decay": f"weight decay {self.value:g}",
            "absolute": f"λ = {self.value:g}",
        }[self.kind]

    def of(self, site: str, curvature: SiteCurvature, targets_per_document: float) -> float:
        """Lambda of one site, per document.

        Raises:
            NumericalError: The site's curvature is zero or not finite, so that a multiple of it means nothing.
        """
        if self.kind == "absolute":
            return self.value
        if self.kind == "weight_decay":
            return self.value * targets_per_document
        mean = float(curvature.eigenvalues.double().mean())
        if not 0.0 <= mean < float("inf"):
            raise NumericalError(f"the mean eigenvalue of {site} is {mean}; fit again in another --dtype.")
        return self.value * mean if mean > 0 else 1.0

"""A site: one weight matrix to attribute. Made by the model room, known to every other."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Site", "Use", "Vocabulary"]

Vocabulary = Literal["inputs", "outputs"] | None


@dataclass(frozen=True, slots=True)
class Use:
    """One module through which a site's weight acts; `flipped` if it multiplies by the transpose."""

    module: str
    flipped: bool = False
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """One weight matrix to attribute, with its bias as a last input column.

    Attributes:
        name: The weight's parameter name without ``.weight``.
        outputs: O.
        inputs: I, with one more for the bias.
        bias: Whether the last input is the constant one.
        uses: The modules it acts through.
        vocabulary: The side that runs over the vocabulary (one-hot, or logits), if any.
        parameters: Names of the parameters it covers.
        head: Whether its outputs are the logits, so that only positions with a target have a gradient.
        group: Sites of one group see the same inputs, and share the input covariance; named after the first.
    """

    name: str
    outputs: int
    inputs: int
    bias: bool
    uses: tuple[Use, ...]
    vocabulary: Vocabulary
    parameters: tuple[str, ...]
    head: bool = False
    group: str = ""

    @property
    def size(self) -> int:
        """Number of scalars, bias included."""
        return self.outputs * self.inputs

"""A site: one weight matrix to attribute. Made by the model room, known to every other."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Site", "Use", "Vocabulary", "Way"]

Way = Literal["layer", "experts", "router", "norm", "copies", "replay"]
Vocabulary = Literal["inputs", "outputs"] | None


@dataclass(frozen=True, slots=True)
class Use:
    """One module through which a site's weight acts.

    Attributes:
        module: Its name in the model.
        flipped: Whether it multiplies by the transpose.
        bias: Whether it adds the site's bias.
        way: How the weight's gradient is read: from the input and the output's gradient of a layer, of a stack of
            experts, of a router (its logits) or of a norm; or, where a module uses the weight in its own forward, by
            giving each example a copy, or by running the module again.
    """

    module: str
    flipped: bool = False
    bias: bool = False
    way: Way = "layer"


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
        experts: E if the weight is a stack of E matrices [O, I], one per expert; 0 for one matrix. Each expert has
            its own curvature; blocks are [N, E, O, I].
        elementwise: Whether it is a vector that acts element by element (a norm's scale, a bias of its own): then
            inputs is 1, the one input is constant, and its covariance is kept diagonal.
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
    experts: int = 0
    elementwise: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its block: (O, I), or (E, O, I) for a stack of experts."""
        matrix = (self.outputs, self.inputs)
        return (self.experts, *matrix) if self.experts else matrix

    @property
    def by_token(self) -> bool:
        """Whether its gradient is known token by token, and not only for an example as a whole."""
        return all(use.way not in ("copies", "replay") for use in self.uses)

    @property
    def size(self) -> int:
        """Number of scalars, biases included."""
        return self.outputs * self.inputs * max(self.experts, 1)

"""What an evaluation is asked for, as data: which measures, and how much is retrained for them."""

from pydantic import BaseModel, ConfigDict, Field

from whence.interfaces import Measure

__all__ = ["MEASURES", "LabSettings"]

MEASURES: tuple[Measure, ...] = (
    "lds", "loo", "removal", "further-training", "tail-patch", "recall", "mrr", "mislabel",
)  # fmt: skip
"""In the order in which they are taken: those that need no scores to plan their retraining first."""


class LabSettings(BaseModel):
    """Settings of one evaluation.

    Attributes:
        measures: Which to take; recall and mrr need gold documents, mislabel known bad ones, and are left out without.
        subsets: Random training sets for the LDS.
        share: Share of the documents that each of them keeps.
        seeds: Models trained on every training set; with one there is no noise ceiling.
        removed: Documents removed together, and patched one by one, from the top of each method's ranking.
        removal_queries: Queries whose top documents are removed.
        removal_seeds: Models trained without them; as `seeds` if None.
        left_out: Documents left out one at a time.
        further_epochs: Length of further training.
        gold: Field of a query's metadata with the ids of the documents that state its answer.
        bad: Field of a document's metadata that is true for documents known to be bad.
        draws: Bootstrap resamples.
        seed: Of subsets and resamples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measures: tuple[Measure, ...] = ("lds", "tail-patch", "recall", "mrr", "mislabel")
    subsets: int = Field(default=64, ge=3)
    share: float = Field(default=0.5, gt=0, lt=1)
    seeds: int = Field(default=2, ge=1)
    removed: int = Field(default=8, ge=1)
    removal_queries: int = Field(default=8, ge=1)
    removal_seeds: int | None = Field(default=None, ge=1)
    left_out: int = Field(default=24, ge=2)
    further_epochs: float = Field(default=1.0, gt=0)
    gold: str = "gold"
    bad: str = "bad"
    draws: int = Field(default=1000, ge=100)
    seed: int = 0

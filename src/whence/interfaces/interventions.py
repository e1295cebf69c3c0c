"""What an intervention did and what came of it: documents taken, effects before and after, how sure. Plain data.

Effects are changes of -log p in nats, > 0 where the text became less likely. Knows no torch.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from whence.interfaces.fidelity import Certificate, Estimate

__all__ = [
    "Action",
    "Arm",
    "Baseline",
    "Effect",
    "InterventionResult",
    "Likeness",
    "Prediction",
    "QuestionChange",
    "Relearning",
    "UnlearningMethod",
]

Action = Literal["remove", "down-weight", "relabel", "add", "unlearn"]
"""What is done to the documents that were taken:

remove       they are left out of training
down-weight  their losses count less in training
relabel      other rows take their places in training
add          more rows are trained on; no document is taken
unlearn      the trained model is edited, without training it again
"""

UnlearningMethod = Literal["newton", "ascent", "npo", "dmm"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Effect(_Frozen):
    """What happened to the texts of one group.

    Attributes:
        group: targets, paraphrases, utility, documents (those that were taken) or kept (a sample of the others).
        texts: How many.
        before, after: Mean -log p per token, nats.
        change: Mean change of -log p of a text, nats; 95 % interval over texts and seeds.
        relative: Mean change of -log p per token, as a share of what it was.
    """

    group: str
    texts: int
    before: float
    after: float
    change: Estimate
    relative: float


class Prediction(_Frozen):
    """What influence said beforehand of a group.

    Attributes:
        group: As in `Effect`.
        change: Mean change of -log p of a text, nats.
        basis: What the interval rests on, in words.
    """

    group: str
    change: Estimate
    basis: str


class Likeness(_Frozen):
    """Whether an edited model answers like one that was trained without the documents.

    Attributes:
        of: losses (mean -log p per token of each forgotten document) or truth ratios (of each target).
        texts: How many values on each side.
        statistic: Median over seeds of the Kolmogorov-Smirnov statistic.
        p: Median over seeds of its p-value, TOFU's forget quality: small is unlike.
        least: Smallest p-value over seeds.
    """

    of: Literal["losses", "truth ratios"]
    texts: int
    statistic: float
    p: float
    least: float


class Relearning(_Frozen):
    """How fast a model learns the forgotten documents again.

    Attributes:
        losses: Mean -log p per token of the documents before each step and after the last, mean over seeds.
        lowest: The least of them.
        steps: Steps until the loss is half-way between the model trained without the documents and the original one,
            mean over seeds; None where no seed got there.
    """

    losses: tuple[float, ...]
    lowest: float
    steps: float | None


class Arm(_Frozen):
    """One way to take documents, with one way to undo them.

    Attributes:
        by: What named the documents: influence, BM25, random, oracle, given documents, the audit, or rows.
        how: retrain, or a method of unlearning.
        main: Whether it is what was asked for, the others being there to compare.
        same_as: Who named the very same documents before; the arm is then no other one. Empty otherwise.
        documents: Ids of the documents (of random: those of the first seed).
        tokens: Tokens of these documents.
        seeds: Models behind every effect.
        effects: By group.
        likeness: To models trained without the documents; only of unlearning.
        relearning: Of unlearning, and of the models trained without the documents.
        seconds: Of the edit, mean over seeds; None of a retraining.
    """

    by: str
    how: str
    main: bool = False
    same_as: str = ""
    documents: tuple[str, ...] = ()
    tokens: int = 0
    seeds: int
    effects: tuple[Effect, ...]
    likeness: tuple[Likeness, ...] = ()
    relearning: Relearning | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.by}, {self.how}"

    def effect(self, group: str) -> Effect | None:
        """What happened to a group, if it was asked."""
        return next((each for each in self.effects if each.group == group), None)


class Baseline(_Frozen):
    """Texts of a group in the run's model and in models trained again on everything: alike, if the recipe is right.

    Attributes:
        group: As in `Effect`.
        model: Mean -log p per token in the run's model, nats.
        again: The same in the models trained again, mean over seeds.
        low, high: Of the seeds with the lowest and the highest.
    """

    group: str
    model: float
    again: float
    low: float
    high: float

    @property
    def gap(self) -> float:
        """How far the run's model lies outside of what the seeds span."""
        return max(self.low - self.model, self.model - self.high, 0.0)


class QuestionChange(_Frozen):
    """One target: foretold and found.

    Attributes:
        id, prompt, completion: As asked.
        predicted: Change of -log p by influence, nats.
        observed: Mean over seeds in the main arm, nats.
        retrained: That of models trained without the documents; only of unlearning.
        before: -log p before, nats.
    """

    id: str
    prompt: str
    completion: str
    predicted: float
    observed: float
    retrained: float | None = None
    before: float


class InterventionResult(_Frozen):
    """All of one intervention.

    Attributes:
        command: As typed.
        run, model, data: Names.
        action: What was done.
        method: Of unlearning; empty otherwise.
        placebo: Whether the documents were shuffled, so that nothing beyond chance may happen.
        training: How models were trained again, in words.
        documents: Documents of the corpus.
        arms: The main arm first.
        predictions: By group, of the main arm.
        agreement: Spearman's correlation over targets between what was foretold and what training again changed.
        questions: Target by target.
        checkpoint: Folder of the edited model, beside the result; empty if none was kept.
        baselines: The run's model beside models trained again on everything; none where training goes on from it.
        certificate: How far influence was shown to be true.
        settings: Everything else that decided the result.
    """

    command: str = ""
    run: str
    model: str
    data: str
    action: Action
    method: str = ""
    placebo: bool = False
    training: str
    documents: int
    arms: tuple[Arm, ...]
    predictions: tuple[Prediction, ...]
    agreement: Estimate | None = None
    questions: tuple[QuestionChange, ...]
    checkpoint: str = ""
    baselines: tuple[Baseline, ...] = ()
    certificate: Certificate
    settings: Mapping[str, Any] = {}
    whence_version: str

    @property
    def main(self) -> Arm:
        """The arm that was asked for."""
        return next(each for each in self.arms if each.main)

    def arm(self, by: str, how: str) -> Arm | None:
        """An arm by its names, if it was run."""
        return next((each for each in self.arms if (each.by, each.how) == (by, how)), None)

    def prediction(self, group: str) -> Prediction | None:
        """What was foretold of a group."""
        return next((each for each in self.predictions if each.group == group), None)

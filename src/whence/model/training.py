"""How a model is trained, as data. Knows no model."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["LBFGS_STEPS", "Training"]

LBFGS_STEPS = 1000
"""Most iterations of lbfgs unless `max_steps` says otherwise."""


class Training(BaseModel):
    """How a model is trained; together with data and seed it decides the trained weights.

    Attributes:
        optimizer: adamw; sgd; muon (orthogonalised momentum on hidden matrices, AdamW on embeddings, output layer and
            everything that is not a matrix); lbfgs (the whole corpus in every step, until the gradient vanishes; batch,
            rate, schedule, clipping and epochs then mean nothing).
        learning_rate: At its peak. Muon's is of AdamW's size, the update being scaled to AdamW's.
        betas: AdamW's decays of the running means of the gradient and its square.
        eps: AdamW's, added to the root of the mean square.
        momentum: Of SGD and Muon. If nothing is said of it, SGD has none and Muon 0.95 that looks ahead, as Jordan et
            al. (2024) have it.
        nesterov: Whether that momentum looks ahead.
        weight_decay: w. AdamW and Muon: decoupled, each step takes off w times the rate. SGD: w times the weight is
            added to the gradient. lbfgs: w/2 times the squared weights is a term of the mean loss.
        decay: Which parameters decay: matrices (all with two or more axes), or all.
        schedule: Course of the rate after the warm-up: constant, or down to `final` in a line or half a cosine.
        warmup: Share of the steps in which the rate rises in a line from nothing; a number of steps if 1 or more.
        final: Rate at the end, as a share of the peak; for linear and cosine.
        rate_at: Which moment of a step decides its rate: its end (the first step is never lost, the last one reaches
            `final`), or its start, as transformers has it (the first step of a warm-up is at rate 0).
        epochs: Times that every example is seen; may end within an epoch.
        max_steps: Number of steps, in place of `epochs`; the most iterations for lbfgs.
        batch: Examples (windows of documents) of one step.
        grouping: refill: the documents that are there are shuffled and fill the batches, so fewer documents are fewer
            steps. hold: each document keeps the place it has in the batches of the whole corpus, and those left out
            leave their batches smaller, while the loss is still divided by the count of the whole batch: two
            trainings that differ in one document then differ in nothing else.
        reduction: What the summed loss of a batch is divided by: its target tokens, as transformers does, or its
            documents (its examples, if some documents are several windows), which makes the training loss a plain mean
            over documents.
        clip: Largest norm of a step's gradient; None does not clip.
        dropout: Probability for every dropout of the model; None leaves the model's own.
        dtype: Of the parameters, and so of gradients and of the optimizer's state. bfloat16 keeps no second copy in
            float32: updates below 1/256 of a weight are lost, as in any training purely in bfloat16.
        threads: torch's threads on the CPU; sums are ordered by it, so it decides the last bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    optimizer: Literal["adamw", "sgd", "muon", "lbfgs"] = "adamw"
    learning_rate: float = Field(default=1e-3, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    decay: Literal["matrices", "all"] = "matrices"
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(default=0.0, ge=0)
    final: float = Field(default=0.0, ge=0, le=1)
    rate_at: Literal["end", "start"] = "end"
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1)
    grouping: Literal["refill", "hold"] = "refill"
    reduction: Literal["tokens", "documents"] = "tokens"
    clip: float | None = Field(default=None, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    threads: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _momentum_of_muon(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("optimizer") == "muon" and "momentum" not in given:
            return {"momentum": 0.95, "nesterov": True, **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas lie in [0, 1); got {self.betas}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov looks ahead along the momentum; give momentum, as in 0.9")
        if self.optimizer == "lbfgs" and self.dtype == "bfloat16":
            raise ValueError("lbfgs needs float32 or, better, float64; bfloat16 cannot resolve its line search")
        return self

    @property
    def full_batch(self) -> bool:
        """Whether a step takes the whole corpus."""
        return self.optimizer == "lbfgs"

    def steps(self, examples: int) -> int:
        """Steps of a training on so many examples (with `hold`: on a corpus of so many)."""
        if self.full_batch:
            return self.max_steps or LBFGS_STEPS
        return self.max_steps or math.ceil(self.epochs * math.ceil(examples / self.batch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (from 0) of so many.

        >>> training = Training(learning_rate=1, schedule="cosine", warmup=0.1, final=0.1)
        >>> [round(training.rate(step, 100), 2) for step in (0, 9, 99)]
        [0.1, 1.0, 0.1]
        """
        rising = self._rising(steps)
        moment = step + (self.rate_at == "end")
        if moment < rising:
            return self.learning_rate * (moment / rising)
        return self.learning_rate * self._falling(moment - rising, steps - rising)

    def _rising(self, steps: int) -> int:
        count = self.warmup if self.warmup >= 1 else self.warmup * steps
        return max(1, round(count)) if self.rate_at == "end" else math.ceil(count)

    def _falling(self, moment: int, steps: int) -> float:
        if self.schedule == "constant":
            return 1.0
        done = moment / max(1, steps)
        if self.schedule == "linear":
            return self.final + (1 - self.final) * (1 - done)
        return self.final + (1 - self.final) / 2 * (1 + math.cos(math.pi * moment / max(1, steps)))

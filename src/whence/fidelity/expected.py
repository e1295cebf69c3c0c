"""What an evaluation will train and how long that takes, from a few real training steps."""

from dataclasses import dataclass

import numpy as np

from whence.fidelity.experiments import Lab
from whence.fidelity.retrain import estimate
from whence.fidelity.subsets import halves, without

__all__ = ["Expected", "expected_cost"]

_METHODS = 11  # the run's own, the baselines, and the gold documents


@dataclass(frozen=True, slots=True)
class Expected:
    """What is still to be trained.

    Attributes:
        models: Number of models, at most.
        seconds: Of training here, at most; scoring comes on top.
        line: Both in words.
    """

    models: int
    seconds: float
    line: str


def expected_cost(lab: Lab, methods: int = 0) -> Expected:
    """What retraining an evaluation needs; what is in its banks is not counted.

    Args:
        lab: The laboratory.
        methods: Methods beside the run's own and the baselines, for removal.
    """
    settings, asked = lab.settings, lab.settings.measures
    parts: list[tuple[int, float]] = []
    if "lds" in asked:
        kept = halves(lab.documents, settings.subsets, settings.seed, settings.share)
        bank = lab.bank(lab.training, lab.start)
        parts.append((len(bank.missing(kept, lab.seeds)), estimate(bank, kept, lab.seeds, lab.workers)))
    sets = {"loo": settings.left_out, "removal": settings.removal_queries * (_METHODS + methods)}
    for count in (sets[measure] for measure in ("loo", "removal") if measure in asked):
        parts.append(_left_out(lab, count, lab.held(lab.training), lab.start))
    if "further-training" in asked:
        parts.append(_left_out(lab, settings.left_out, *lab.further))
    models, seconds = sum(count for count, _ in parts), sum(each for _, each in parts)
    return Expected(models, seconds, _line(lab, models, seconds))


def _left_out(lab: Lab, count: int, training: object, start: object) -> tuple[int, float]:
    """Models and seconds for `count` training sets that lack a little, which ones not being known yet."""
    bank = lab.bank(training, start)  # type: ignore[arg-type]
    some = np.arange(min(count, lab.documents - 1))
    kept = without(lab.documents, [[], *([int(document)] for document in some)])
    models = len(kept) * len(lab.seeds)
    missing = max(1, len(bank.missing(kept, lab.seeds)))
    return models, estimate(bank, kept, lab.seeds, lab.workers) * models / missing


def _line(lab: Lab, models: int, seconds: float) -> str:
    if not models:
        return "Nothing has to be retrained: all that these measures need is there, or they need nothing."
    several = f" with {lab.workers} workers" if lab.workers > 1 else ""
    length = _duration(seconds)
    return f"Retraining: up to {models:,} models {lab.start.words}, about {length}{several}; scoring comes on top."


def _duration(seconds: float) -> str:
    """For people.

    >>> [_duration(each) for each in (20, 200, 20_000, 2_000_000)]
    ['20 seconds', '3 minutes', '5.6 hours', '23 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"

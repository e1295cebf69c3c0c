"""What an evaluation will train and how long that takes, from a few real training steps."""

from dataclasses import dataclass

from whence.fidelity.experiments import Lab, Start
from whence.fidelity.retrain import estimate, processors
from whence.fidelity.subsets import without
from whence.model import Training

__all__ = ["Expected", "duration", "expected_cost"]

_METHODS = 11  # the run's own, the baselines, and the gold documents
_NEVER_BANKED = 2**31 - 1  # a seed that nobody trains with, so that there is something to time


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
    """What retraining an evaluation needs; random subsets that are in the bank are not counted.

    Args:
        lab: The laboratory.
        methods: Methods beside the run's own and the baselines, for removal.
    """
    settings, asked = lab.settings, lab.settings.measures
    parts: list[tuple[int, float]] = []
    alone = min(settings.left_out, lab.documents)
    if "lds" in asked:
        kept = lab.subsets
        bank = lab.bank(lab.training, lab.start)
        parts.append((len(bank.missing(kept, lab.seeds)), estimate(bank, kept, lab.seeds, lab.workers)))
    if "loo" in asked:
        parts.append(_left_out(lab, alone, settings.seeds, lab.held(lab.training), lab.start))
    if "removal" in asked:
        queries = min(settings.removal_queries, len(lab.encoded))
        sets, seeds = queries * (_METHODS + methods), settings.removal_seeds or settings.seeds
        parts.append(_left_out(lab, sets, seeds, lab.held(lab.training), lab.start))
    if "further-training" in asked:
        parts.append(_left_out(lab, alone, settings.seeds, *lab.further))
    models, seconds = sum(count for count, _ in parts), sum(each for _, each in parts)
    return Expected(models, seconds, _line(lab, models, seconds))


def _left_out(lab: Lab, sets: int, seeds: int, training: Training, start: Start) -> tuple[int, float]:
    """Models and seconds for training sets that lack a little, and for the whole; which ones is not known yet."""
    bank = lab.bank(training, start)
    one = without(lab.documents, [[0]])
    models = (sets + 1) * seeds
    seconds = estimate(bank, one, [_NEVER_BANKED], 1)
    return models, seconds * models / min(lab.workers, models, processors(bank.task))


def _line(lab: Lab, models: int, seconds: float) -> str:
    if not models:
        return "Nothing has to be retrained: all that these measures need is there, or they need nothing."
    several = f" with {lab.workers} workers" if lab.workers > 1 else ""
    length = duration(seconds)
    return f"Retraining: up to {models:,} models {lab.start.words}, about {length}{several}; scoring comes on top."


def duration(seconds: float) -> str:
    """For people.

    >>> [duration(each) for each in (20, 200, 20_000, 2_000_000)]
    ['20 seconds', '3 minutes', '5.6 hours', '23 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"

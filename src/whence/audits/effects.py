"""From losses before and after to effects with intervals; what influence said beforehand, and how sure that was.

Axes: R seeds, P texts. Intervals resample texts and seeds (`whence.fidelity.bootstrap`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from whence.attributor import Attributor
from whence.attributor.certified import read_certificates
from whence.audits.probes import GROUPS, Probes
from whence.audits.statistics import bootstrap
from whence.fidelity.bootstrap import Counts, crossed, estimate, mean_over
from whence.interfaces import Baseline, Effect, Estimate, Prediction

__all__ = ["agreement", "baselines_of", "calibration", "effects_of", "mean_change", "predictions_of"]

Array = NDArray[np.float64]
_DRAWS = 2000
_CALIBRATED = ("removal", "loo", "further-training")
_FEW_SEEDS = 3


def mean_change(change: Array, seed: int = 0) -> Estimate:
    """The mean of changes [R, U] with its 95 % interval over texts and, from three seeds on, over seeds.

    Of a single text it is over seeds alone, and without three of these there is none.

    >>> mean_change(np.full((3, 4), 2.0)).value
    2.0
    """
    seeds, units = change.shape
    if units == 1 and seeds >= _FEW_SEEDS:
        return mean_over(change[:, 0], _DRAWS, seed)
    if seeds < _FEW_SEEDS:
        return mean_over(change.mean(0), _DRAWS, seed)

    def mean(texts: Counts, drawn: Counts) -> Array:
        found: Array = np.einsum("bq,rq,br->b", texts, change, drawn, optimize=True) / (units * seeds)
        return found

    def broadcast(texts: Counts, drawn: Counts) -> Array:
        count = max(len(texts), len(drawn))
        return mean(np.broadcast_to(texts, (count, units)), np.broadcast_to(drawn, (count, seeds)))

    return estimate(float(change.mean()), crossed(broadcast, (units, seeds), _DRAWS, seed), (units, seeds))


def effects_of(probes: Probes, before: Array, after: Array) -> tuple[Effect, ...]:
    """Effects by group.

    Args:
        probes: The texts.
        before: Losses [R, P] of the models before, nats.
        after: Losses [R, P] of the same seeds after.
    """
    out = []
    for group in GROUPS:
        if group not in probes.groups:
            continue
        tokens = probes.tokens[probes.groups[group]].sum()
        was, now = (probes.per_unit(group, losses) for losses in (before, after))
        level, then = was.sum(1).mean() / tokens, now.sum(1).mean() / tokens
        change = mean_change(now - was)
        out.append(
            Effect(
                group=group, texts=was.shape[1], before=float(level), after=float(then), change=change,
                relative=float((then - level) / max(level, 1e-12)),
            )
        )  # fmt: skip
    return tuple(out)


def baselines_of(probes: Probes, stored: Array, again: Array) -> tuple[Baseline, ...]:
    """The run's model beside models trained again on everything, by group.

    Args:
        probes: The texts.
        stored: Losses [1, P] of the run's model, nats.
        again: Losses [R, P] of the others.
    """
    out = []
    for group in GROUPS:
        if group in probes.groups:
            tokens = probes.tokens[probes.groups[group]].sum()
            own, others = (probes.per_unit(group, losses).sum(1) / tokens for losses in (stored, again))
            ends = float(others.min()), float(others.max())
            out.append(
                Baseline(group=group, model=float(own[0]), again=float(others.mean()), low=ends[0], high=ends[1])
            )
    return tuple(out)


def calibration(owner: Attributor, recipe: str) -> tuple[Estimate, str] | None:
    """Slope of found on foretold effects, as the run's certificate has it from retraining; None without one."""
    certificate = read_certificates(owner.run).get(recipe)
    if certificate is None or certificate.corpus != owner.corpus.fingerprint:
        return None
    for reading in certificate.readings:
        detail = reading.detail
        if reading.measure in _CALIBRATED and {"slope", "slope_low", "slope_high"} <= set(detail):
            slope = Estimate(value=detail["slope"], low=detail["slope_low"], high=detail["slope_high"])
            return slope, f"the run's certificate: {reading.measure}, found on foretold {slope.value:.2f}"
    return None


def predictions_of(probes: Probes, foretold: Array, calibrated: tuple[Estimate, str] | None) -> tuple[Prediction, ...]:
    """What influence says of each group, with its interval.

    Args:
        probes: The texts.
        foretold: Predicted change of every text [P], nats.
        calibrated: As `calibration` gives. Without one the interval is a bootstrap over texts, which knows how texts
            differ and not how wrong influence is.
    """
    out = []
    for group in GROUPS:
        if group not in probes.groups:
            continue
        change = mean_over(probes.per_unit(group, foretold), _DRAWS, 0)
        basis = "a bootstrap over texts; how wrong influence itself is was not measured on this run"
        if calibrated is not None:
            slope, basis = calibrated
            ends = sorted(change.value * end for end in (slope.low, slope.high))
            change = Estimate(value=change.value * slope.value, low=ends[0], high=ends[1])
        out.append(Prediction(group=group, change=change, basis=basis))
    return tuple(out)


def agreement(foretold: Array, found: Array) -> Estimate | None:
    """Spearman's correlation over targets, with a bootstrap interval; None for fewer than four targets."""
    if len(foretold) < 4 or np.ptp(foretold) == 0 or np.ptp(found) == 0:
        return None

    def spearman(one: Array, two: Array) -> float:
        return float(spearmanr(one, two).statistic) if np.ptp(one) > 0 and np.ptp(two) > 0 else float("nan")

    return bootstrap(spearman, foretold, found)

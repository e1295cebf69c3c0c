"""Fits the weights of a method on one half of a bank, and says on the other half what they are worth; then vice versa.

    scores = sum_p w_p scores_p,   w >= 0,   LDS(w) as large as coordinate ascent makes it

Two methods have weights: `combined` one for each of its methods, whose standard scores are added, and `unsaturated` one
for each kind of site, whose influence is added. LDS is a step function of the weights, so that each weight in turn is
tried at 0 and at powers of the root of 2, until none gains. No query and no training set is in both halves. What is
handed out was fitted on everything; the halves only say what fitting is worth.

Ignored: that LDS is one measure of fidelity, and that weights of one model, corpus and training may not be those of
another (docs/lab-notes.md has what they are worth elsewhere). The less a bank holds, the less is worth fitting.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from whence.attributor import Attributor, ask, run_steps
from whence.attributor.search import against, group_size
from whence.errors import InputError
from whence.fidelity.correlation import rank, spearman
from whence.fidelity.experiments import Lab
from whence.fidelity.halved import Halved
from whence.fidelity.lds import lds, lds_difference, predictions
from whence.fidelity.methods import MethodSpec
from whence.gradients import kind_of
from whence.interfaces import EncodedQuery, Estimate
from whence.methods import Method, Work
from whence.methods.combined import Combined, Standard
from whence.methods.unsaturated import Unsaturated
from whence.runs import Run, write_json
from whence.scoring import Dense

__all__ = [
    "Compared",
    "Fitted",
    "Parts",
    "fit_weights",
    "parts_of",
    "refuse_unweighted",
    "save_weights",
    "tune_weights",
]

GRID = (0.0, *(2.0 ** (step / 2) for step in range(-16, 17)))

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a method adds up.

    Attributes:
        method: The method.
        names: Of its P parts: specs of methods, or kinds of sites.
        weights: As the method has them, [P].
        scores: What they are multiplied by, float64 [P, Q, N].
        having: The method with other weights.
    """

    method: Method
    names: tuple[str, ...]
    weights: Array
    scores: Array
    having: Callable[[Mapping[str, float]], Method]

    def sum(self, weights: Array) -> Array:
        """Scores [Q, N] under some weights, up to a factor."""
        total: Array = np.einsum("p,pqn->qn", weights, self.scores)
        return total

    def plain(self, weights: Array) -> dict[str, float]:
        """Weights by name with three digits, the largest as large as the method had it (or 1, if it had none)."""
        largest = int(weights.argmax())
        unit = weights[largest] / (self.weights[largest] or 1.0)
        return {name: float(f"{weight / unit:.3g}") for name, weight in zip(self.names, weights, strict=True)}


@dataclass(frozen=True, slots=True)
class Compared:
    """One half's report.

    Attributes:
        weights: As fitted on the other half.
        fitted: LDS under them.
        others: LDS of the method as it was and of each part alone.
        gains: LDS under the fitted weights less each of those, on the same resamples.
    """

    weights: Mapping[str, float]
    fitted: Estimate
    others: Mapping[str, Estimate]
    gains: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting found.

    Attributes:
        given: The method as it was.
        method: The same with weights fitted on the whole bank.
        weights: Those weights.
        halves: The report of either half.
        mean: Over the two halves, which share nothing.
    """

    given: Method
    method: Method
    weights: Mapping[str, float]
    halves: tuple[Compared, Compared]

    @property
    def mean(self) -> Compared:
        """Mean of the two halves; they are independent, so that the squares of their errors add."""
        one, two = self.halves
        return Compared(
            self.weights,
            _mean(one.fitted, two.fitted),
            {name: _mean(one.others[name], two.others[name]) for name in one.others},
            {name: _mean(one.gains[name], two.gains[name]) for name in one.gains},
        )

    @property
    def best(self) -> str:
        """The best part alone."""
        alone = self.mean.others
        return max(self.weights, key=lambda name: alone[name].value)


def tune_weights(lab: Lab, method: Method) -> Fitted:
    """Fit a method's weights to retrained models.

    Args:
        lab: The run, its queries and its bank of half corpora, trained if it is not there.
        method: One with weights.

    Raises:
        InputError: It has none, or there are too few different queries or training sets to be split.
    """
    refuse_unweighted(method)
    halved = Halved(lab)
    parts = parts_of(lab, method)
    draws = {"draws": lab.settings.draws, "seed": lab.settings.seed}

    def half(report: bool) -> Compared:
        weights = _fit(parts, halved, not report)
        mine, kept, losses = halved.part(parts.sum(weights), report)
        alone = dict(zip(parts.names, np.eye(len(parts.names)), strict=True))
        others = {
            name: halved.part(parts.sum(each), report)[0]
            for name, each in {method.spec: parts.weights, **alone}.items()
        }
        return Compared(
            parts.plain(weights),
            lds(mine, kept, losses, **draws),
            {name: lds(each, kept, losses, **draws) for name, each in others.items()},
            {name: lds_difference(mine, each, kept, losses, **draws) for name, each in others.items()},
        )

    halves = half(True), half(False)
    weights = parts.plain(fit_weights([(parts.scores, *lab.halves)], parts.weights))
    return Fitted(method, parts.having(weights), weights, halves)


def _fit(parts: Parts, halved: Halved, report: bool) -> Array:
    pieces = [halved.part(each, report) for each in parts.scores]
    return fit_weights([(np.stack([each for each, _, _ in pieces]), *pieces[0][1:])], parts.weights)


def fit_weights(banks: Sequence[tuple[Array, NDArray[np.bool_], Array]], start: Array) -> Array:
    """Weights [P] under which the sum of scores has the largest LDS that was found, none of them negative.

    Args:
        banks: Scores [P, Q, N], the documents that each training set holds, bool [S, N], and query losses after
            training on each, [S, R, Q]; of several banks the mean of their LDS counts.
        start: [P]; from there and from equal weights, whichever comes further. What gains nothing stays as it is.
    """
    sides = [
        (np.stack([predictions(each, kept).T for each in scores]), rank(losses.mean(1).T))
        for scores, kept, losses in banks
    ]

    def value(weights: Array) -> float:
        found = [spearman(rank(np.einsum("p,pqs->qs", weights, parts)), observed) for parts, observed in sides]
        return float(np.mean([each.mean() for each in found]))

    reached = [_ascend(value, each.astype(np.float64)) for each in (start, np.ones_like(start))]
    return max(reached, key=lambda each: each[0])[1]


def _ascend(value: Callable[[Array], float], weights: Array) -> tuple[float, Array]:
    """One weight at a time, until no single one gains."""
    best, gained = value(weights), True
    while gained:
        gained = False
        for place in range(len(weights)):
            for each in GRID:
                tried = weights.copy()
                tried[place] = each
                if tried.any() and (now := value(tried)) > best + 1e-9:
                    best, weights, gained = now, tried, True
    return best, weights


# ---------------------------------------------------------------------- methods with weights


def parts_of(lab: Lab, method: Method) -> Parts:
    """The parts of a method with weights, scored for the lab's queries.

    Raises:
        InputError: The method has no weights.
    """
    refuse_unweighted(method)
    return _methods_of(lab, method) if isinstance(method, Combined) else _kinds_of(lab, method)


def refuse_unweighted(method: Method) -> None:
    """Refuse a method that has no weights.

    Raises:
        InputError: Names those that have.
    """
    if not isinstance(method, Combined | Unsaturated):
        raise InputError(
            f"method {method.key!r} has no weights to fit; unsaturated has one for each kind of site, and "
            "combined:of=NAME+NAME one for each of its methods."
        )


def _methods_of(lab: Lab, method: Combined) -> Parts:
    scored = lab.run([MethodSpec(method=spec) for spec in method.of])
    every = np.arange(lab.documents, dtype=np.int64)
    scores = np.stack([Standard(each.scores).of(every) for each in scored])

    def having(weights: Mapping[str, float]) -> Method:
        kept = {name: weight for name, weight in weights.items() if weight}
        if len(kept) < 2:
            return next(part for part in method.parts if part.spec in kept)
        return Combined(of=tuple(kept), weights=tuple(kept.values()))

    return Parts(method, method.of, np.array(method.weights), scores, having)


def _kinds_of(lab: Lab, method: Method) -> Parts:
    assert isinstance(method, Unsaturated)
    there = {kind_of(site) for site in lab.owner.sites}
    names = tuple(name for name in ("head", "embedding", "mlp", "attention", "norm") if name in there)
    plain = method.model_copy(update={**dict.fromkeys(names, 1.0), "bits": "exact"})
    run_steps(plain.steps(Work(lab.owner)), report=lab.report)
    scores = _by_kind(lab.owner, lab.encoded, plain, names)

    def having(weights: Mapping[str, float]) -> Method:
        return method.model_copy(update=dict(weights))

    return Parts(method, names, np.array([getattr(method, name) for name in names]), scores, having)


def _by_kind(owner: Attributor, queries: Sequence[EncodedQuery], method: Unsaturated, names: Sequence[str]) -> Array:
    """Influence through each kind of site, unweighted, float64 [kinds, Q, documents], in one pass over the corpus."""
    work, kinds = Work(owner), {site.name: kind_of(site) for site in owner.sites}
    step = max(1, group_size(owner) // len(names))
    out = []
    for start in range(0, len(queries), step):
        group = queries[start : start + step]
        solved = method.solve(work, ask(owner, group))
        targets = [
            {site: v if kinds[site] == name else torch.zeros_like(v) for site, v in solved.items()} for name in names
        ]
        dense = Dense(len(names) * len(group), owner.corpus.documents)
        against(owner, targets, [dense], 1.0 / owner.trained_on, None, lambda _: None, method.recipe(work).objective)
        out.append(np.nan_to_num(dense.scores, nan=0.0).reshape(len(names), len(group), -1))
    return np.concatenate(out, axis=1)


def save_weights(found: Fitted, run: Run) -> Path:
    """Write what was found beside the bank.

    Returns:
        The JSON file.
    """
    path = run.fidelity / f"weights-{found.given.key}.json"
    halves = [*found.halves, found.mean]
    names = ("first half", "second half", "mean")
    record = {
        "given": found.given.spec,
        "fitted": found.method.spec,
        "weights": dict(found.weights),
        "reported": {name: _record(each) for name, each in zip(names, halves, strict=True)},
    }
    write_json(path, record)
    return path


def _record(half: Compared) -> dict[str, object]:
    return {
        "weights": dict(half.weights),
        "fitted": half.fitted.model_dump(),
        "others": {name: each.model_dump() for name, each in half.others.items()},
        "gains": {name: each.model_dump() for name, each in half.gains.items()},
    }


def _mean(one: Estimate, two: Estimate) -> Estimate:
    value = (one.value + two.value) / 2
    below, above = (
        np.hypot(getattr(one, end) - one.value, getattr(two, end) - two.value) / 2 for end in ("low", "high")
    )
    return Estimate(value=value, low=value - float(below), high=value + float(above))

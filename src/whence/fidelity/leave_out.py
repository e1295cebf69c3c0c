"""Does the loss change as predicted when single documents, or a method's top k, are really left out?

Four experiments share this file: leave-one-out; the same from the final model, training further with and without the
document (Wei et al. 2024, arXiv:2412.03906), where the drift of further training is the same with and without and
cancels in the difference; leave-k-out, removal of what a method ranks highest for a query; and the tail-patch, one more
training step on each document that a method ranks highest (Chang et al. 2024, arXiv:2410.17413). Plans say what must be
trained, measures read what came of it. Knows nothing of models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.bootstrap import Array, Counts, crossed, estimate, mean_over
from whence.fidelity.correlation import pearson, rank
from whence.fidelity.lds import mean_spearman
from whence.fidelity.tables import check_observed, check_scores, top
from whence.interfaces import Estimate, Reading

__all__ = [
    "RemovalPlan",
    "changes",
    "leave_one_out",
    "removal",
    "removal_plan",
    "slope",
    "tail_patch",
    "tail_patch_plan",
]

Numbers = NDArray[np.intp]

_ENOUGH = 10


def changes(without: Array, full: Array) -> Array:
    """What leaving documents out did to the losses, seed by seed.

    For the further-training standard, `without` is after further training without the document and `full` after
    further training on everything, both from the final model: what further training does anyway is in both.

    Args:
        without: [M, R, Q], losses without each document (or set of documents).
        full: [R, Q], losses with all documents, same seeds in the same places.

    Returns:
        [M, R, Q]; > 0 where the loss rose, so that the documents had supported the query.

    Raises:
        InputError: The shapes do not fit.
    """
    if without.ndim != 3 or without.shape[1:] != full.shape:
        raise InputError(
            f"losses without documents [documents, seeds, queries] and losses of the full training [seeds, queries] "
            f"must have the same seeds and queries; given {without.shape} and {full.shape}."
        )
    return without - full


def leave_one_out(
    documents: Sequence[int] | Numbers,
    effects: Array,
    scores: Array,
    *,
    method: str,
    measure: Literal["loo", "further-training"] = "loo",
    draws: int = 1000,
    seed: int = 0,
) -> Reading:
    """Spearman's correlation over documents between influence and the change of loss when each is left out.

    The noise of the full training is the same for all documents of a query and seed, so it cannot change the
    correlation, nor the slope with an intercept; the slope through the origin it can. The ceiling is
    `whence.fidelity.ceiling.ceiling` of the effects.

    Args:
        documents: Numbers of the M documents that were left out, one at a time.
        effects: [M, R, Q], as `changes` gives.
        scores: [Q, N].
        method: Its name.
        measure: loo, or further-training (the effects are then those of further training).
        draws: Bootstrap resamples of queries and documents.
        seed: Decides them.

    Returns:
        The mean over queries, with detail (nats where not a ratio):
        slope, slope_low, slope_high: of observed on predicted effects with an intercept for each query; 1 where sign
        and unit are right, and without meaning for baselines in other units;
        slope_origin: the same through the origin;
        predicted, observed: root mean square of the effects;
        seed_error: standard error from seeds of one effect, root mean square; absent with one seed.

    Raises:
        InputError: The shapes do not fit, or a document was not scored.
        NumericalError: A score or an effect is not finite.
    """
    scores = check_scores(scores)
    chosen = _numbers(documents, scores.shape[1], "document")
    effects = check_observed(effects, len(chosen), len(scores), "document")
    predicted, observed = scores[:, chosen], effects.mean(1).T
    correlation = mean_spearman(rank(predicted), rank(observed), draws=draws, seed=seed)
    fitted = slope(predicted, observed, draws=draws, seed=seed)
    detail = {
        "slope": fitted.value,
        "slope_low": fitted.low,
        "slope_high": fitted.high,
        "slope_origin": slope(predicted, observed, intercept=False, draws=1).value,
        "predicted": float(np.sqrt(np.mean(predicted**2))),
        "observed": float(np.sqrt(np.mean(observed**2))),
    }
    if effects.shape[1] > 1:
        detail["seed_error"] = float(np.sqrt(np.mean(effects.var(1, ddof=1)) / effects.shape[1]))
    return Reading(measure=measure, method=method, estimate=correlation, detail=detail)


def slope(predicted: Array, observed: Array, *, intercept: bool = True, draws: int = 1000, seed: int = 0) -> Estimate:
    """Least-squares slope of observed on predicted effects, one for all queries, with its interval.

    Args:
        predicted: [Q, M], nats.
        observed: [Q, M], nats.
        intercept: Whether each query has its own; else the line goes through the origin.
        draws: Bootstrap resamples of queries and units.
        seed: Decides them.

    Returns:
        1 where sign and unit of the prediction are right; 0 where the prediction is constant.

    Example:
        >>> slope(np.array([[1.0, 2.0, 3.0]]), np.array([[2.5, 4.5, 6.5]]), draws=10).value
        2.0
    """
    once = (np.ones((1, size), np.int64) for size in predicted.shape)
    value = float(_slopes(predicted, observed, intercept, *once)[0])
    queries, units = predicted.shape
    drawn = crossed(partial(_slopes, predicted, observed, intercept), (queries, units), draws, seed)
    return estimate(value, drawn, (queries, units))


def _slopes(predicted: Array, observed: Array, intercept: bool, chosen: Counts, taken: Counts) -> Array:
    """[B] from counts of queries [B, Q] and of units [B, M]."""
    above, below = taken @ (predicted * observed).T, taken @ (predicted**2).T
    if intercept:
        mean = taken @ predicted.T / taken.shape[1]
        above, below = above - mean * (taken @ observed.T), below - mean * (taken @ predicted.T)
    rise, run = (above * chosen).sum(1), (below * chosen).sum(1)
    # What is left of a constant prediction after its mean is taken off is rounding.
    apart = run > 1e-12 * ((taken @ (predicted**2).T) * chosen).sum(1)
    slopes: Array = np.divide(rise, run, out=np.zeros_like(rise), where=apart)
    return slopes


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """Which sets of documents must be left out to judge methods by what they rank highest.

    Attributes:
        k: Documents in a set.
        queries: The queries whose top documents are removed, [P].
        removed: The distinct sets, documents ascending; each is one training set to retrain without.
        places: For each method, where in `removed` the set of each query is, [P].
    """

    k: int
    queries: tuple[int, ...]
    removed: tuple[tuple[int, ...], ...]
    places: Mapping[str, tuple[int, ...]]


def removal_plan(scores_by_method: Mapping[str, Array], k: int, queries: Sequence[int] | None = None) -> RemovalPlan:
    """The top k documents of each method and query; sets that several share are listed once.

    Args:
        scores_by_method: Scores [Q, N] of each method; scores of method random (any seed) give the control.
        k: How many documents are removed together; equal scores in the order of document numbers.
        queries: Numbers of the queries to remove for; all if None. Their losses are measured on all Q.

    Raises:
        InputError: No method, tables of different shapes, or k or a query out of range.
        NumericalError: A score is not finite.

    Example:
        >>> plan = removal_plan({"a": np.array([[3.0, 2.0, 1.0]]), "b": np.array([[5.0, 9.0, 0.0]])}, k=2)
        >>> plan.removed
        ((0, 1),)
    """
    tables, asked = _tables(scores_by_method, queries)
    if k == next(iter(tables.values())).shape[1]:
        raise InputError(f"removing k = {k} documents leaves none to train on; give a smaller k.")
    sets = {name: [tuple(sorted(row)) for row in top(table[asked], k).tolist()] for name, table in tables.items()}
    removed = sorted({each for rows in sets.values() for each in rows})
    place = {each: number for number, each in enumerate(removed)}
    places = {name: tuple(place[each] for each in rows) for name, rows in sets.items()}
    return RemovalPlan(k, tuple(asked.tolist()), tuple(removed), places)


def removal(
    plan: RemovalPlan,
    effects: Array,
    scores_by_method: Mapping[str, Array],
    *,
    control: str = "random",
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Reading]:
    """How much each method's removals raised the loss of the queries they were made for.

    Args:
        plan: What was removed.
        effects: [sets, R, Q], as `changes` gives: losses without each set of `plan.removed`, less those of the full
            training, for all Q queries.
        scores_by_method: The scores the plan was made from.
        control: The method that removes at random; the differences to it are left out if the plan has none.
        draws: Bootstrap resamples of queries.
        seed: Decides them; the same for every method.

    Returns:
        By method, the mean rise (nats) of the removed query's loss with its interval over queries, and detail:
        others: mean rise of the other queries' loss, the damage done; specificity: rise less damage (both absent with
        one query);
        over_random, over_random_low, over_random_high: rise less that of the control, query by query;
        predicted: mean sum of the scores removed; slope (through the origin) and correlation (Pearson) over queries of
        observed rises on predicted ones, slopes without meaning for baselines in other units;
        seed_error: standard error of the rise that is due to seeds; absent with one seed; k.

    Raises:
        InputError: The shapes do not fit the plan.
        NumericalError: A score or an effect is not finite.
    """
    lost = sorted(set(plan.places) - set(scores_by_method))
    if lost:
        raise InputError(f"the plan removes the top documents of {', '.join(lost)}; give their scores too.")
    tables, _ = _tables({name: scores_by_method[name] for name in plan.places}, plan.queries)
    queries = len(next(iter(tables.values())))
    effects = check_observed(effects, len(plan.removed), queries, "removal")
    rises = {name: _own(plan, name, effects.mean(1)) for name in plan.places}
    found = {}
    for name, places in plan.places.items():
        rise = rises[name]
        detail = {"k": float(plan.k), **_damage(rise, effects.mean(1)[list(places)])}
        if control in rises and name != control:
            over = mean_over(rise - rises[control], draws, seed)
            detail |= {"over_random": over.value, "over_random_low": over.low, "over_random_high": over.high}
        detail |= _foretold(plan, name, rise, tables[name])
        if effects.shape[1] > 1:
            by_seed = [_own(plan, name, effects[:, each]).mean() for each in range(effects.shape[1])]
            detail["seed_error"] = float(np.std(by_seed, ddof=1) / np.sqrt(len(by_seed)))
        found[name] = Reading(measure="removal", method=name, estimate=mean_over(rise, draws, seed), detail=detail)
    return found


def _own(plan: RemovalPlan, method: str, effects: Array) -> Array:
    """The rise of each planned query's own loss, [P], from effects [sets, Q]."""
    own: Array = effects[list(plan.places[method]), list(plan.queries)]
    return own


def _damage(rise: Array, effects: Array) -> dict[str, float]:
    """From own rises [P] and the effects [P, Q] of the same removals on all queries."""
    if effects.shape[1] < 2:
        return {}
    others = float(((effects.sum(1) - rise) / (effects.shape[1] - 1)).mean())
    return {"others": others, "specificity": float(rise.mean()) - others}


def _foretold(plan: RemovalPlan, method: str, rise: Array, scores: Array) -> dict[str, float]:
    rows = zip(plan.queries, plan.places[method], strict=True)
    predicted = np.array([scores[query, list(plan.removed[place])].sum() for query, place in rows])
    fitted = slope(predicted[None], rise[None], intercept=False, draws=1)
    return {"predicted": float(predicted.mean()), "slope": fitted.value, "correlation": pearson(predicted, rise)}


def tail_patch_plan(
    scores_by_method: Mapping[str, Array], k: int, queries: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The documents that `tail_patch` needs one training step on: every method's top k for every query, ascending.

    Args:
        scores_by_method: Scores [Q, N] of each method.
        k: Documents per query.
        queries: Numbers of the queries; all if None.

    Raises:
        InputError: No method, tables of different shapes, or k or a query out of range.
        NumericalError: A score is not finite.

    Example:
        >>> tail_patch_plan({"a": np.array([[3.0, 2.0, 1.0], [0.0, 0.0, 5.0]])}, k=1)
        (0, 2)
    """
    tables, asked = _tables(scores_by_method, queries)
    return tuple(sorted({int(each) for table in tables.values() for each in top(table[asked], k).flat}))


def tail_patch(
    gains: Array,
    documents: Sequence[int] | Numbers,
    scores: Array,
    k: int,
    *,
    method: str,
    queries: Sequence[int] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Reading:
    """The mean rise of a query's log p after one training step on each of the method's top k documents for it.

    It asks what the model would learn from the document now, not what it has learnt: no retraining is needed, and a
    document learnt by heart gains little.

    Args:
        gains: [M, Q], rise of log p (nats) of every query after one step on each patched document.
        documents: The numbers of those M documents.
        scores: [Q, N].
        k: Documents per query.
        method: Its name.
        queries: Numbers of the queries judged; all if None.
        draws: Bootstrap resamples of queries (and of documents, for the correlation).
        seed: Decides them.

    Returns:
        Mean rise (nats) with its interval over queries, and detail: k; patched: mean rise over all patched documents,
        which are some method's top k and so better than chance; spearman, spearman_low, spearman_high: mean over
        queries of the correlation between scores and rises over all patched documents, absent under ten of them.

    Raises:
        InputError: The shapes do not fit, or a top document was not patched.
        NumericalError: A score or a rise is not finite.
    """
    tables, asked = _tables({method: scores}, queries)
    table, patched = tables[method], _numbers(documents, scores.shape[1], "document")
    gains = check_observed(gains[:, None], len(patched), len(table), "document")[:, 0]
    highest = top(table[asked], k)
    place = np.full(table.shape[1], -1)
    place[patched] = np.arange(len(patched))
    if (place[highest] < 0).any():
        lost = sorted(set(highest[place[highest] < 0].tolist()))
        raise InputError(
            f"{len(lost)} of the top {k} documents of {method} were not patched: {lost[:8]}; make the plan with this "
            "method, k and these queries, and patch what it lists."
        )
    rise = gains[place[highest], asked[:, None]].mean(1)
    detail = {"k": float(k), "patched": float(gains[:, asked].mean())}
    if len(patched) >= _ENOUGH:
        ranked = rank(table[np.ix_(asked, patched)]), rank(gains[:, asked].T)
        agreement = mean_spearman(*ranked, draws=draws, seed=seed)
        detail |= {"spearman": agreement.value, "spearman_low": agreement.low, "spearman_high": agreement.high}
    return Reading(measure="tail-patch", method=method, estimate=mean_over(rise, draws, seed), detail=detail)


def _tables(scores_by_method: Mapping[str, Array], queries: Sequence[int] | None) -> tuple[dict[str, Array], Numbers]:
    """Checked scores of equal shape, and the numbers of the queries asked for."""
    tables = {name: check_scores(scores) for name, scores in scores_by_method.items()}
    shapes = sorted({table.shape for table in tables.values()})
    if len(shapes) != 1:
        raise InputError(f"all methods (at least one) must score the same queries and documents; given {shapes}.")
    return tables, _numbers(range(shapes[0][0]) if queries is None else queries, shapes[0][0], "query")


def _numbers(given: Sequence[int] | Numbers, count: int, word: str) -> Numbers:
    """Distinct whole numbers below `count`."""
    numbers = np.asarray(given, dtype=np.intp)
    if numbers.ndim != 1 or not len(numbers) or numbers.min() < 0 or numbers.max() >= count:
        raise InputError(f"give at least one {word} by its number, 0 to {count - 1}; given {numbers.tolist()}.")
    if len(np.unique(numbers)) < len(numbers):
        raise InputError(f"a {word} is listed more than once; list each once. Given {numbers.tolist()}.")
    return numbers

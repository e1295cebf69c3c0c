"""Leave-one-out, further training, removal and the tail-patch, against loops that do the same by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from whence.errors import InputError, NumericalError
from whence.fidelity.ceiling import ceiling
from whence.fidelity.leave_out import (
    changes,
    leave_one_out,
    removal,
    removal_plan,
    slope,
    tail_patch,
    tail_patch_plan,
)
from whence.fidelity.tables import top

Q, N, M, R = 5, 30, 12, 3
DOCUMENTS = np.array([3, 0, 7, 9, 11, 12, 14, 18, 20, 25, 28, 29])


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def scores(rng):
    return rng.normal(size=(Q, N))


def noisy(scores, rng, noise=0.5):
    return scores[:, DOCUMENTS].T[:, None] + noise * rng.normal(size=(M, R, Q))


# One document at a time


def test_changes_are_losses_without_minus_losses_with_seed_by_seed(rng):
    without, full = rng.normal(size=(M, R, Q)), rng.normal(size=(R, Q))
    assert changes(without, full)[4, 2, 1] == without[4, 2, 1] - full[2, 1]
    with pytest.raises(InputError, match="same seeds"):
        changes(without, full[:2])


def test_leave_one_out_is_the_mean_spearman_over_documents(scores, rng):
    effects = noisy(scores, rng)
    expected = [spearmanr(scores[q, DOCUMENTS], effects[:, :, q].mean(1)).statistic for q in range(Q)]
    found = leave_one_out(DOCUMENTS, effects, scores, method="ours", draws=200)
    assert (found.measure, found.method) == ("loo", "ours")
    assert found.estimate.value == pytest.approx(np.mean(expected))
    assert found.estimate.low < found.estimate.value < found.estimate.high


def test_true_effects_have_correlation_and_slopes_1(scores, rng):
    found = leave_one_out(DOCUMENTS, noisy(scores, rng, 0.0), scores, method="truth", draws=20)
    assert found.estimate.value == 1.0
    for name in ("slope", "slope_low", "slope_high", "slope_origin"):
        assert found.detail[name] == pytest.approx(1.0)
    assert found.detail["seed_error"] == pytest.approx(0.0, abs=1e-15)
    assert found.detail["predicted"] == pytest.approx(found.detail["observed"])


def test_noise_of_the_full_training_moves_only_the_slope_through_the_origin(scores, rng):
    effects = noisy(scores, rng)
    shifted = effects + 3.0 + rng.normal(size=(1, R, Q))
    one, two = (leave_one_out(DOCUMENTS, each, scores, method="m", draws=50) for each in (effects, shifted))
    assert two.estimate.model_dump() == pytest.approx(one.estimate.model_dump())
    assert two.detail["slope"] == pytest.approx(one.detail["slope"])
    assert two.detail["slope_origin"] != pytest.approx(one.detail["slope_origin"], rel=0.01)
    assert ceiling(shifted, draws=20).value == pytest.approx(ceiling(effects, draws=20).value)


def test_the_error_from_seeds_is_the_noise_over_the_root_of_seeds(scores, rng):
    effects = scores[:, DOCUMENTS].T[:, None] + 0.6 * rng.normal(size=(M, 9, Q))
    found = leave_one_out(DOCUMENTS, effects, scores, method="m", draws=5)
    assert found.detail["seed_error"] == pytest.approx(0.2, rel=0.15)
    assert "seed_error" not in leave_one_out(DOCUMENTS, effects[:, :1], scores, method="m", draws=5).detail


def test_further_training_is_measured_the_same_way_and_drift_cancels(scores, rng):
    drift, full = rng.normal(size=(R, Q)), rng.normal(size=(R, Q))
    without = scores[:, DOCUMENTS].T[:, None] + full + drift
    found = leave_one_out(
        DOCUMENTS, changes(without, full + drift), scores, method="m", measure="further-training", draws=5
    )
    assert (found.measure, found.estimate.value) == ("further-training", 1.0)
    assert found.detail["slope_origin"] == pytest.approx(1.0)


def test_slopes_are_least_squares(rng):
    predicted, observed = rng.normal(size=(1, 20)), rng.normal(size=(1, 20))
    assert slope(predicted, observed, draws=2).value == pytest.approx(np.polyfit(predicted[0], observed[0], 1)[0])
    origin = slope(predicted, observed, intercept=False, draws=2).value
    assert origin == pytest.approx(np.linalg.lstsq(predicted.T, observed[0])[0][0])


def test_a_slope_with_intercepts_is_that_within_queries(rng):
    predicted = rng.normal(size=(Q, 20)) + 10 * rng.normal(size=(Q, 1))
    observed = 1.5 * predicted + 20 * rng.normal(size=(Q, 1))
    assert slope(predicted, observed, draws=2).value == pytest.approx(1.5)


def test_constant_predictions_have_slope_0(rng):
    assert slope(np.full((Q, 9), 0.1), rng.normal(size=(Q, 9)), draws=20).model_dump() == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
    }


@pytest.mark.parametrize(
    ("documents", "words"),
    [([], "at least one"), ([0, 30], "0 to 29"), ([-1, 2], "0 to 29"), ([4, 4], "more than once"), ([1, 2], "2 doc")],
)
def test_documents_that_do_not_fit_are_refused(scores, rng, documents, words):
    with pytest.raises(InputError, match=words):
        leave_one_out(documents, noisy(scores, rng)[:, :, :], scores, method="m")


def test_a_diverged_training_is_named(scores, rng):
    effects = noisy(scores, rng)
    effects[5, 1, 2] = np.nan
    with pytest.raises(NumericalError, match="document 5, seed in place 1, query 2"):
        leave_one_out(DOCUMENTS, effects, scores, method="m")


# Top k together


def test_equal_scores_are_ranked_by_document_number():
    assert top(np.array([[1.0, 2.0, 1.0, 2.0, -0.0, 0.0]]), 6).tolist() == [[1, 3, 0, 2, 4, 5]]


def test_the_plan_lists_each_set_once(scores):
    near = scores.copy()
    near[:3] *= 2
    plan = removal_plan({"one": scores, "two": near, "random": -scores}, k=4)
    assert plan.places["one"] == plan.places["two"]
    assert len(plan.removed) == len(set(plan.removed)) == 2 * Q
    for query in range(Q):
        assert set(plan.removed[plan.places["one"][query]]) == set(np.argsort(-scores[query])[:4].tolist())


def by_hand(plan, effects, method):
    rise, others = [], []
    for query, place in zip(plan.queries, plan.places[method], strict=True):
        mean = effects[place].mean(0)
        rise.append(mean[query])
        others.append(np.delete(mean, query).mean())
    return np.array(rise), np.array(others)


@pytest.mark.parametrize("queries", [None, [4, 1, 2]])
def test_removal_is_the_mean_rise_of_the_removed_querys_loss(scores, rng, queries):
    tables = {"ours": scores, "random": rng.normal(size=(Q, N)), "worse": scores + rng.normal(size=(Q, N))}
    plan = removal_plan(tables, 3, queries)
    effects = rng.normal(size=(len(plan.removed), R, Q)) + 1.0
    found = removal(plan, effects, tables, draws=300)
    chance, _ = by_hand(plan, effects, "random")
    for name in tables:
        rise, others = by_hand(plan, effects, name)
        detail = found[name].detail
        assert found[name].estimate.value == pytest.approx(rise.mean())
        assert detail["others"] == pytest.approx(others.mean())
        assert detail["specificity"] == pytest.approx(rise.mean() - others.mean())
        assert detail["k"] == 3
        means = [effects[list(plan.places[name]), r, list(plan.queries)].mean() for r in range(R)]
        assert detail["seed_error"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(R))
        if name != "random":
            assert detail["over_random"] == pytest.approx((rise - chance).mean())
            assert detail["over_random_low"] < detail["over_random"] < detail["over_random_high"]
    assert "over_random" not in found["random"].detail


def test_effects_that_add_up_have_slope_and_correlation_1(scores, rng):
    tables = {"ours": scores, "random": rng.normal(size=(Q, N))}
    plan = removal_plan(tables, 5)
    effects = np.array([scores[:, list(each)].sum(1) for each in plan.removed])[:, None]
    found = removal(plan, effects, tables, draws=50)["ours"]
    assert found.detail["slope"] == pytest.approx(1.0)
    assert found.detail["correlation"] == pytest.approx(1.0)
    assert found.detail["predicted"] == pytest.approx(found.estimate.value)
    assert found.estimate.low > 0
    assert found.detail["specificity"] > 0
    assert "seed_error" not in found.detail


def test_one_query_has_no_others_and_an_interval_that_says_nothing(scores, rng):
    plan = removal_plan({"ours": scores[:1]}, 2)
    found = removal(plan, np.full((1, 2, 1), 0.5), {"ours": scores[:1]}, draws=20)["ours"]
    assert not found.estimate.bounded
    assert "others" not in found.detail
    assert found.detail["correlation"] == 0.0


@pytest.mark.parametrize("k", [0, -1, 30, 31])
def test_a_k_that_leaves_nothing_or_takes_nothing_is_refused(scores, k):
    with pytest.raises(InputError, match="k"):
        removal_plan({"ours": scores}, k)


def test_plans_and_tables_that_do_not_fit_are_refused(scores):
    with pytest.raises(InputError, match="same queries and documents"):
        removal_plan({"a": scores, "b": scores[:, 1:]}, 2)
    with pytest.raises(InputError, match="at least one"):
        removal_plan({}, 2)
    with pytest.raises(InputError, match="query"):
        removal_plan({"a": scores}, 2, [0, 0])
    plan = removal_plan({"a": scores, "b": -scores}, 2)
    with pytest.raises(InputError, match="scores too"):
        removal(plan, np.zeros((len(plan.removed), 1, Q)), {"a": scores})
    with pytest.raises(InputError, match="removals"):
        removal(plan, np.zeros((1, 1, Q)), {"a": scores, "b": -scores})


# Tail-patch


def test_tail_patch_is_the_mean_rise_over_each_querys_top_documents(scores, rng):
    tables = {"ours": scores, "other": rng.normal(size=(Q, N))}
    documents = tail_patch_plan(tables, 3)
    assert list(documents) == sorted({int(d) for t in tables.values() for d in np.argsort(-t, 1)[:, :3].flat})
    gains = rng.normal(size=(len(documents), Q))
    found = tail_patch(gains, documents, scores, 3, method="ours", draws=100)
    place = {document: row for row, document in enumerate(documents)}
    rises = [np.mean([gains[place[int(d)], q] for d in np.argsort(-scores[q])[:3]]) for q in range(Q)]
    assert found.estimate.value == pytest.approx(np.mean(rises))
    assert (found.measure, found.detail["k"]) == ("tail-patch", 3)
    assert found.detail["patched"] == pytest.approx(gains.mean())
    agreement = [spearmanr(scores[q, list(documents)], gains[:, q]).statistic for q in range(Q)]
    assert found.detail["spearman"] == pytest.approx(np.mean(agreement))


def test_tail_patch_of_some_queries_and_few_documents(scores, rng):
    documents = tail_patch_plan({"ours": scores}, 2, queries=[3])
    gains = rng.normal(size=(2, Q))
    found = tail_patch(gains, documents[::-1], scores, 2, method="ours", queries=[3], draws=20)
    assert found.estimate.value == pytest.approx(gains[:, 3].mean())
    assert "spearman" not in found.detail


def test_a_top_document_that_was_not_patched_is_named(scores, rng):
    documents = tail_patch_plan({"ours": scores}, 2)
    with pytest.raises(InputError, match=f"not patched: \\[{documents[0]}\\]"):
        tail_patch(rng.normal(size=(len(documents) - 1, Q)), documents[1:], scores, 2, method="ours")

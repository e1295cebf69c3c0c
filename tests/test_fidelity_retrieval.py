"""Gold documents found, and bad documents told apart."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from whence.errors import InputError, NumericalError
from whence.fidelity.mislabel import mislabel
from whence.fidelity.retrieval import gold_ranks, retrieval


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_ties_count_against_gold():
    scores = np.array([1.0, 1.0, 1.0, 2.0])
    assert gold_ranks(scores, [0]).tolist() == [4]
    assert gold_ranks(scores, [0, 1]).tolist() == [3, 4]
    assert gold_ranks(scores, [3]).tolist() == [1]
    assert gold_ranks(np.array([0.0, -0.0]), [1]).tolist() == [2]


def test_recall_and_reciprocal_rank_by_hand():
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 3.0, 2.0]])
    recall, mrr = retrieval(scores, [[0, 2], [2], [1]], method="m", ks=(1, 2, 3), draws=200)
    assert (recall.measure, mrr.measure, recall.method) == ("recall", "mrr", "m")
    assert recall.detail["recall@1"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert recall.detail["recall@2"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert recall.estimate.value == recall.detail["recall@3"] == 1.0
    assert recall.detail["possible@1"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert recall.detail["k"] == 3
    assert mrr.estimate.value == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert mrr.estimate.low < mrr.estimate.value < mrr.estimate.high


def test_the_placebo_takes_the_next_gold_that_is_not_shared():
    scores = np.eye(4)[[0, 0, 2, 3]]
    recall, mrr = retrieval(scores, [[0], [0, 1], [2], []], method="m", ks=(1,), draws=20)
    # Query 0 looks for [2] (that of query 1 holds its own), query 1 for [2], query 2 for [0]: none is first.
    assert recall.detail["placebo@1"] == 0.0
    assert mrr.detail["placebo"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 4) / 3)
    popular = np.tile([0.0, 1.0, 2.0, 3.0], (2, 1))
    assert retrieval(popular, [[3], [2]], method="m", ks=(2,), draws=9)[0].detail["placebo@2"] == 1.0
    assert "placebo@1" not in retrieval(scores[:2], [[0], [0, 1]], method="m", ks=(1,), draws=9)[0].detail


def test_queries_without_gold_are_left_out_and_constant_scores_find_nothing(rng):
    scores = rng.normal(size=(6, 50))
    gold = [[1], [], [2, 3], [], [4], [5]]
    kept = [0, 2, 4, 5]
    one = retrieval(scores, gold, method="m", draws=20)
    assert one == retrieval(scores[kept], [gold[q] for q in kept], method="m", draws=20)
    recall, mrr = retrieval(np.zeros((6, 50)), gold, method="m", draws=20)
    assert recall.estimate.high == 0.0
    assert mrr.estimate.value == pytest.approx((3 / 50 + 1 / 49) / 4)


def test_the_shown_depth_is_the_last_up_to_ten_and_one_query_has_the_whole_range(rng):
    scores = rng.normal(size=(1, 30))
    recall, mrr = retrieval(scores, [[int(scores.argmax())]], method="m", draws=20)
    assert recall.detail["k"] == 10
    assert recall.detail["recall@100"] == 1.0
    assert (recall.estimate.low, recall.estimate.high) == (mrr.estimate.low, mrr.estimate.high) == (0.0, 1.0)
    assert retrieval(scores, [[0]], method="m", ks=(20, 25), draws=9)[0].detail["k"] == 20


@pytest.mark.parametrize(
    ("gold", "ks", "words"),
    [
        ([[0]], (1,), "2 queries"),
        ([[], []], (1,), "0 with documents"),
        ([[0], [9]], (1,), r"0 to 8; given \[9\]"),
        ([[0], [-1]], (1,), r"given \[-1\]"),
        ([[0], [1]], (), "depths"),
        ([[0], [1]], (0, 3), "depths"),
    ],
)
def test_gold_and_depths_that_do_not_fit_are_refused(rng, gold, ks, words):
    with pytest.raises(InputError, match=words):
        retrieval(rng.normal(size=(2, 9)), gold, method="m", ks=ks)


# Bad documents


def test_the_area_is_sklearns_also_with_ties(rng):
    scores, flags = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.2
    found = mislabel(scores + flags, flags, method="self", draws=200)
    assert (found.measure, found.method) == ("mislabel", "self")
    assert found.estimate.value == pytest.approx(roc_auc_score(flags, scores + flags))
    assert found.estimate.low < found.estimate.value < found.estimate.high
    assert found.detail["bad"] == pytest.approx(flags.mean())


def test_perfect_opposite_and_constant_scores(rng):
    flags = np.arange(100) < 10
    for scores, area, found in ((flags * 1.0, 1.0, 1.0), (-1.0 * flags, 0.0, 0.0), (np.zeros(100), 0.5, 0.0)):
        reading = mislabel(scores, flags, method="m", draws=30)
        assert (reading.estimate.value, reading.estimate.low, reading.estimate.high) == (area, area, area)
        assert reading.detail["top_10"] == found
    assert mislabel(flags * 1.0, flags, method="m", draws=30).detail["top_5"] == 0.5


def test_the_share_found_is_of_the_documents_inspected(rng):
    scores = np.arange(40.0)
    flags = np.isin(scores, [39, 38, 30, 0])
    detail = mislabel(scores, flags, method="m", draws=9).detail
    assert [detail[f"top_{share}"] for share in (1, 5, 10, 20)] == [0.25, 0.5, 0.5, 0.5]


def test_random_scores_have_one_half_in_their_interval_nineteen_times_in_twenty(rng):
    flags = np.arange(80) < 20
    held = []
    for repeat in range(300):
        found = mislabel(rng.normal(size=80), flags, method="m", draws=200, seed=repeat).estimate
        held.append(found.low <= 0.5 <= found.high)
    assert 0.9 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("flags", [np.zeros(9, bool), np.ones(9, bool), np.arange(8) < 2])
def test_flags_that_do_not_fit_are_refused(rng, flags):
    with pytest.raises(InputError, match="both bad and good"):
        mislabel(rng.normal(size=9), flags, method="m")


def test_few_documents_have_the_whole_range_and_lost_scores_are_refused():
    found = mislabel(np.array([1.0, 0.5, 0.2]), np.array([True, False, False]), method="m", draws=9)
    assert (found.estimate.low, found.estimate.high) == (0.0, 1.0)
    with pytest.raises(NumericalError, match="not finite"):
        mislabel(np.array([1.0, np.nan, 0.2]), np.array([True, False, False]), method="m")

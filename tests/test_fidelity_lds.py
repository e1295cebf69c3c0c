"""The linear datamodelling score, its interval, its ceiling, and datamodels."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from whence.errors import InputError, NumericalError
from whence.fidelity import bootstrap
from whence.fidelity.bootstrap import crossed, drawn_counts, estimate, mean_over, narrowed, query_mean
from whence.fidelity.ceiling import ceiling
from whence.fidelity.correlation import pearson, rank, spearman
from whence.fidelity.datamodel import datamodel
from whence.fidelity.lds import lds, lds_by_query, lds_difference, mean_spearman, predictions

Q, S, N, R = 6, 24, 30, 3


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def lab(rng):
    scores = rng.normal(size=(Q, N))
    kept = rng.random((S, N)) < 0.5
    losses = predictions(scores, kept)[:, None] + 2.0 * rng.normal(size=(S, R, Q))
    return scores, kept, losses


# Rank correlation


def test_spearman_is_scipys_also_with_ties(rng):
    one, two = rng.integers(0, 6, (5, 40)).astype(float), rng.integers(0, 4, (5, 40)).astype(float)
    expected = [spearmanr(a, b).statistic for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(spearman(rank(one), rank(two))[0], expected, atol=1e-12)


def test_a_resample_has_the_correlation_of_its_repeated_units(rng):
    one, two = rng.integers(0, 9, (3, 20)).astype(float), rng.normal(size=(3, 20))
    counts = drawn_counts(20, 7, seed=3)
    found = spearman(rank(one), rank(two), counts)
    for draw, count in enumerate(counts):
        units = np.repeat(np.arange(20), count)
        expected = [spearmanr(a[units], b[units]).statistic for a, b in zip(one, two, strict=True)]
        np.testing.assert_allclose(found[draw], expected, atol=1e-12)


def test_a_constant_side_has_correlation_0(rng):
    values, constant = rng.normal(size=(2, 9)), np.full((2, 9), 0.1)
    assert (spearman(rank(values), rank(constant)) == 0).all()
    assert (spearman(rank(constant), rank(constant), drawn_counts(9, 4, 0)) == 0).all()
    assert pearson(values[0], constant[0]) == 0.0


def test_pearson_of_a_line_and_of_one_point():
    line = np.arange(4.0)
    assert pearson(line, 3 - 2 * line) == pytest.approx(-1.0)
    assert pearson(line[:1], line[:1]) == 0.0


# The score


def test_each_query_is_spearman_of_summed_left_out_scores_and_mean_losses(lab):
    scores, kept, losses = lab
    for query, found in enumerate(lds_by_query(scores, kept, losses)):
        left_out = [scores[query][~row].sum() for row in kept]
        assert found == pytest.approx(spearmanr(left_out, losses[:, :, query].mean(1)).statistic)


def test_the_value_is_the_mean_over_queries_and_lies_in_its_interval(lab):
    found = lds(*lab, draws=200)
    assert found.value == pytest.approx(lds_by_query(*lab).mean())
    assert -1 <= found.low < found.value < found.high <= 1


def test_the_truth_scores_1_its_opposite_minus_1(lab):
    scores, kept, _ = lab
    exact = predictions(scores, kept)[:, None]
    assert lds(scores, kept, exact, draws=20).value == 1.0
    flipped = lds(-scores, kept, exact, draws=20)
    assert (flipped.value, flipped.low, flipped.high) == (-1.0, -1.0, -1.0)


def test_the_unit_of_scores_and_the_order_of_documents_and_seeds_do_not_matter(lab, rng):
    scores, kept, losses = lab
    order, seeds = rng.permutation(N), rng.permutation(R)
    again = lds(scores[:, order] * rng.uniform(0.1, 9, (Q, 1)), kept[:, order], losses[:, seeds] * 7 - 3, draws=50)
    assert again.model_dump() == pytest.approx(lds(scores, kept, losses, draws=50).model_dump())


def test_equal_scores_tie_on_subsets_of_one_size_and_score_0(rng):
    kept = np.array([rng.permutation(np.arange(400) < 200) for _ in range(S)])
    found = lds(np.full((Q, 400), 0.1), kept, rng.normal(size=(S, 1, Q)), draws=50)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_interval_whatever_fits_in_memory(lab, monkeypatch):
    expected = lds(*lab, draws=60, seed=4)
    assert lds(*lab, draws=60, seed=5) != expected
    monkeypatch.setattr(bootstrap, "_BLOCK", 1)
    assert lds(*lab, draws=60, seed=4) == expected


def test_the_difference_of_a_method_to_itself_is_exactly_0(lab):
    scores, kept, losses = lab
    found = lds_difference(scores, 3 * scores, kept, losses, draws=50)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_paired_difference_is_sharper_than_two_intervals(lab, rng):
    scores, kept, losses = lab
    worse = scores + 0.2 * rng.normal(size=scores.shape)
    both = lds(scores, kept, losses), lds(worse, kept, losses)
    found = lds_difference(scores, worse, kept, losses)
    assert found.value == pytest.approx(both[0].value - both[1].value)
    assert found.high - found.low < sum(each.high - each.low for each in both) / 2


def test_too_few_queries_or_subsets_say_so_by_the_whole_range(lab):
    scores, kept, losses = lab
    one = lds(scores[:1], kept, losses[..., :1], draws=20)
    two = lds(scores, kept[:2], losses[:2], draws=20)
    single = lds(scores, kept[:1], losses[:1], draws=20)
    assert (one.low, one.high) == (two.low, two.high) == (single.low, single.high) == (-1.0, 1.0)
    assert single.value == 0.0


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda s, k, x: (s[:, 1:], k, x), InputError, "29 documents"),
        (lambda s, k, x: (s, k.astype(int), x), InputError, "bool"),
        (lambda s, k, x: (s, k, x[:, 0]), InputError, "subsets"),
        (lambda s, k, x: (s, k, x[1:]), InputError, "24 subsets"),
        (lambda s, k, x: (s, k, x[:, :0]), InputError, "at least one seed"),
        (lambda s, k, x: (s[0], k, x), InputError, "table"),
        (lambda s, k, x: (s[:0], k, x[..., :0]), InputError, "table"),
        (lambda s, k, x: (np.where(s == s[2, 3], np.nan, s), k, x), NumericalError, "query 2 and document 3"),
        (lambda s, k, x: (s, k, np.where(x == x[4, 1, 2], np.inf, x)), NumericalError, "subset 4, seed in place 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_place(lab, wrong, error, words):
    with pytest.raises(error, match=words):
        lds(*wrong(*lab))


# The bootstrap


def test_resamples_have_as_many_units_as_there_are_and_axes_differ():
    assert (drawn_counts(11, 40, 0).sum(1) == 11).all()
    assert (drawn_counts(11, 40, 0) == drawn_counts(11, 40, 0)).all()
    assert not (drawn_counts(11, 40, 0, 0) == drawn_counts(11, 40, 0, 1)).all()


def test_the_spread_of_a_mean_over_draws_is_its_standard_error(rng):
    values = rng.normal(size=50)
    found = mean_over(values, 4000, 0)
    assert (found.high - found.low) / 3.92 == pytest.approx(values.std() / np.sqrt(50), rel=0.06)


def test_both_axes_count(rng):
    rows = rng.normal(size=(30, 1)) + np.zeros((1, 40))
    table = rows + rng.normal(size=(1, 40))
    drawn = crossed(lambda chosen, taken: query_mean(taken @ table.T / 40, chosen), (30, 40), 3000, 0)
    by_row, by_column = rows[:, 0].var() / 30, table[0].var() / 40
    assert drawn.std(1) == pytest.approx(np.sqrt([by_row + by_column, by_row, by_column]), rel=0.06)
    assert narrowed(drawn, 0.5).std() == pytest.approx(drawn[0].std(), rel=0.06)


def test_differences_from_cell_to_cell_count_once_and_not_three_times(rng):
    wide, right = [], []
    for repeat in range(60):
        table = rng.normal(size=(30, 40))
        drawn = crossed(lambda one, two, cells=table: query_mean(two @ cells.T / 40, one), (30, 40), 200, repeat)
        wide.append(drawn[0].var())
        right.append(narrowed(drawn, 0.5).var())
        assert narrowed(drawn, 0.5).mean() == pytest.approx(0.5)
    assert np.mean(wide) == pytest.approx(3 / 1200, rel=0.1)
    # A little more than 1/1200: what a table seems to show under a third is raised to a third.
    assert 1 / 1200 < np.mean(right) < 1.25 / 1200


def test_an_interval_holds_its_value_and_one_query_has_none():
    assert estimate(3.0, np.array([1.0, 2.0]), (9,)).high == 3.0
    assert estimate(0.9, np.linspace(0.5, 1.5, 9), (9,), (0.0, 1.0)).high == 1.0
    assert not estimate(0.2, np.full(9, 0.2), (1,)).bounded


@pytest.mark.parametrize("given", [(0, 5), (5, 0)])
def test_nothing_to_draw_is_refused(given):
    with pytest.raises(InputError, match="at least one"):
        drawn_counts(*given, seed=0)


# The ceiling


def test_one_seed_has_no_ceiling(lab):
    assert ceiling(lab[2][:, :1]) is None


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 7])
def test_losses_without_noise_have_ceiling_1(rng, seeds):
    found = ceiling(rng.normal(size=(S, 1, Q)).repeat(seeds, 1), draws=30)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_halves_that_disagree_have_ceiling_0(rng):
    loss = rng.normal(size=(S, 1, Q))
    found = ceiling(np.concatenate([loss, -loss], 1), draws=30)
    assert (found.value, found.high) == (0.0, 0.0)


def test_the_ceiling_of_noise_alone_is_low_and_its_interval_starts_at_0(rng):
    found = ceiling(rng.normal(size=(64, 2, 32)), draws=300)
    assert found.low == 0.0
    assert found.value < 0.35


def test_the_ceiling_of_a_few_is_wide_and_finite(rng):
    for shape in ((1, 2, 1), (2, 3, 2), (5, 2, 1), (3, 6, 2)):
        found = ceiling(rng.normal(size=shape), draws=20)
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert ceiling(np.zeros((9, 2, 4)), draws=20).value == 0.0


def test_a_ceiling_needs_a_table_of_three_axes(lab):
    with pytest.raises(InputError, match="seeds"):
        ceiling(lab[2][:, 0])


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_an_oracle_scores_the_ceiling(seeds, noise):
    rng = np.random.default_rng([seeds, int(10 * noise)])
    apart, inside = [], []
    for _ in range(30):
        scores, kept = rng.normal(size=(16, 40)), rng.random((48, 40)) < 0.5
        truth = predictions(scores, kept)
        spread = noise * truth.std() * np.exp(0.5 * rng.normal(size=16))
        losses = truth[:, None] + spread * rng.normal(size=(48, seeds, 16))
        reached, limit = lds(scores, kept, losses, draws=1).value, ceiling(losses, draws=60)
        apart.append(reached - limit.value)
        inside.append(limit.low <= reached <= limit.high)
    assert abs(np.mean(apart)) < 0.03
    assert np.mean(inside) >= 0.9


# Datamodels


def test_a_datamodel_of_many_subsets_finds_the_scores(rng):
    scores, kept = rng.normal(size=(Q, N)), rng.random((400, N)) < 0.5
    losses = predictions(scores, kept)[:, None] + 0.1 * rng.normal(size=(400, 2, Q)) + 5.0
    np.testing.assert_allclose(datamodel(kept, losses, ridge=1e-6), scores, atol=0.05)
    np.testing.assert_allclose(datamodel(kept, losses), scores, atol=0.05)


def test_a_datamodel_of_few_subsets_is_weak_on_others_as_said(rng):
    scores, kept = rng.normal(size=(40, 400)), rng.random((164, 400)) < 0.5
    losses = predictions(scores, kept)[:, None]
    fitted = datamodel(kept[:100], losses[:100], ridge=1e-6)
    assert lds(fitted, kept[:100], losses[:100], draws=1).value > 0.99
    assert lds(fitted, kept[100:], losses[100:], draws=1).value == pytest.approx(np.sqrt(100 / 400), abs=0.06)


def test_the_chosen_ridge_is_the_best_by_leaving_subsets_out(rng):
    scores, kept = rng.normal(size=(4, 12)), rng.random((20, 12)) < 0.5
    losses = predictions(scores, kept)[:, None] + 3.0 * rng.normal(size=(20, 1, 4))

    def error(ridge):
        total = 0.0
        unit = np.linalg.eigvalsh(np.cov((~kept).T.astype(float)) * 19).sum() / 20
        for out in range(20):
            rest = np.arange(20) != out
            absent = (~kept).astype(float)
            mean, level = absent[rest].mean(0), losses[rest, 0].mean(0)
            x, y = absent[rest] - mean, losses[rest, 0] - level
            w = np.linalg.solve(x.T @ x + ridge * unit * np.eye(12), x.T @ y)
            total += ((losses[out, 0] - level - (absent[out] - mean) @ w) ** 2).sum()
        return total

    ridges = 10.0 ** np.arange(-3.0, 3.5, 0.5)
    best = ridges[np.argmin([error(ridge) for ridge in ridges])]
    np.testing.assert_allclose(datamodel(kept, losses), datamodel(kept, losses, float(best)))


@pytest.mark.parametrize("ridge", [0.0, -1.0, np.nan, np.inf])
def test_a_ridge_that_is_not_positive_is_refused(lab, ridge):
    with pytest.raises(InputError, match="positive ridge"):
        datamodel(lab[1], lab[2], ridge)


def test_datamodels_of_equal_losses_or_equal_subsets_are_0(lab):
    _, kept, losses = lab
    assert not datamodel(kept, np.ones_like(losses)).any()
    assert not datamodel(np.zeros_like(kept), losses).any()


def test_mean_spearman_of_one_unit_is_unknown():
    one = rank(np.ones((3, 1)))
    assert mean_spearman(one, one, draws=9, seed=0).model_dump() == {"value": 0.0, "low": -1.0, "high": 1.0}

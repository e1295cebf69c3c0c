"""The lab is right: where theory is exact it says so, where nothing is known it says 0, and its intervals hold.

The judge is L2-regularised logistic regression, retrained to a gradient of 1e-11 for every training set. Its loss is
the mean over the m documents kept plus w/2 |theta|^2, so that each of them weighs 1/m and not 1/N: predictions are
multiplied by N/m where their size is compared.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from whence import attribute
from whence.curvature import Damping
from whence.fidelity.bootstrap import mean_over
from whence.fidelity.ceiling import ceiling
from whence.fidelity.correlation import rank, spearman
from whence.fidelity.lds import lds, lds_difference, mean_spearman, predictions
from whence.fidelity.leave_out import changes, leave_one_out, removal, removal_plan, slope
from whence.fidelity.modules import ModuleTask
from whence.fidelity.subsets import halves, whole, without
from whence.model import Classification, Training

FEATURES, QUERIES = 20, 16
METHODS = ("exact", "ekfac", "kfac", "diagonal", "identity")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lab:
    """A model, what it says after training on other data, and scores by method."""

    task: ModuleTask
    full: Floats
    kept: NDArray[np.bool_]
    losses: Floats
    scores: dict[str, Floats]

    def retrained(self, kept: NDArray[np.bool_]) -> Floats:
        """Losses [S, 1, Q]."""
        return np.stack([self.task.losses(self.task.train(row, 0)) for row in kept])[:, None]


def logistic_data(documents: int) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Documents and queries of one distribution, with correlated features."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mixing = torch.eye(FEATURES, dtype=torch.float64) + normal(FEATURES, FEATURES) / FEATURES**0.5
    features = normal(documents + QUERIES, FEATURES) @ mixing
    chance = torch.sigmoid(features @ normal(FEATURES))
    labels = (torch.rand(len(chance), generator=generator, dtype=torch.float64) < chance).double()
    return (features[:documents], labels[:documents]), (features[documents:], labels[documents:])


@cache
def logistic(documents: int, decay: float, share: float, subsets: int = 64) -> Lab:
    train, queries = logistic_data(documents)
    training = Training(optimizer="lbfgs", weight_decay=decay, decay="all", dtype="float64", reduction="documents")
    task = ModuleTask(lambda _: torch.nn.Linear(FEATURES, 1), Classification(), train, queries, training)
    model = task.train(whole(documents)[0], 0)
    damping = Damping(kind="weight_decay", value=decay)
    scores = {m: attribute(model, Classification(), [train], [queries], method=m, damping=damping) for m in METHODS}
    kept = halves(documents, subsets, 0, share)
    empty = Lab(task, task.losses(model)[None], kept, np.zeros((0, 1, QUERIES)), scores)
    return Lab(task, empty.full, kept, empty.retrained(kept), scores)


# More documents make half of them more like the whole, and leaving out a tenth is a smaller step: theory holds in both.
HALVES, TENTH = (1000, 0.3, 0.5), (300, 0.1, 0.9)


@pytest.fixture(params=[HALVES, TENTH], ids=["half left out", "a tenth left out"])
def lab(request):
    return logistic(*request.param)


# Exact influence


def test_exact_influence_scores_lds_of_at_least_99_hundredths(lab):
    found = lds(lab.scores["exact"], lab.kept, lab.losses)
    assert found.value >= 0.99
    assert found.low > 0.98


def test_predicted_losses_of_subsets_have_the_right_sign_and_unit(lab):
    share = lab.kept[0].mean()
    predicted = predictions(lab.scores["exact"], lab.kept).T / share
    assert slope(predicted, changes(lab.losses, lab.full).mean(1).T).value == pytest.approx(1.0, abs=0.2)


def test_leave_one_out_of_exact_influence(lab):
    count = lab.kept.shape[1]
    documents = np.arange(0, count, count // 40)
    effects = changes(lab.retrained(without(count, documents[:, None])), lab.full)
    found = {m: leave_one_out(documents, effects, lab.scores[m], method=m, draws=200) for m in ("exact", "identity")}
    exact = found["exact"]
    assert exact.estimate.value >= 0.99
    assert exact.detail["slope"] == pytest.approx(1.0, abs=0.2)
    assert exact.detail["slope_origin"] == pytest.approx(1.0, abs=0.2)
    assert exact.detail["slope_low"] <= exact.detail["slope"] <= exact.detail["slope_high"]
    assert found["identity"].estimate.value < exact.estimate.value


def test_removal_of_the_top_documents_raises_the_loss_as_predicted():
    lab = logistic(*HALVES)
    chance = np.random.default_rng(0).normal(size=lab.scores["exact"].shape)
    tables = {"exact": lab.scores["exact"], "random": chance, "opposite": -lab.scores["exact"]}
    plan = removal_plan(tables, k=20, queries=range(6))
    effects = changes(lab.retrained(without(1000, plan.removed)), lab.full)
    found = removal(plan, effects, tables, draws=300)
    assert found["exact"].detail["slope"] == pytest.approx(1.0, abs=0.2)
    assert found["exact"].detail["over_random_low"] > 0
    assert found["exact"].estimate.low > 0 > found["opposite"].estimate.high
    assert found["exact"].detail["specificity"] > abs(found["random"].detail["specificity"])


# Others


def test_approximations_score_below_exact_influence(lab):
    found = {method: lds(lab.scores[method], lab.kept, lab.losses, draws=1).value for method in METHODS}
    assert found["exact"] > max(found["ekfac"], found["kfac"])
    assert min(found["ekfac"], found["kfac"]) > max(found["diagonal"], found["identity"])
    for other in METHODS[1:]:
        assert lds_difference(lab.scores["exact"], lab.scores[other], lab.kept, lab.losses).low > 0


def test_a_shuffled_scorer_scores_0_within_its_interval(lab):
    rng = np.random.default_rng(1)
    shuffled = lab.scores["exact"][:, rng.permutation(lab.kept.shape[1])]
    found = lds(shuffled, lab.kept, lab.losses)
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.2


def test_the_sign_turned_round_turns_the_score_round(lab):
    forward, backward = (lds(sign * lab.scores["ekfac"], lab.kept, lab.losses) for sign in (1, -1))
    assert backward.value == pytest.approx(-forward.value)
    assert backward.low == pytest.approx(-forward.high, abs=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_an_oracle_scores_the_ceiling_of_noisy_retraining(seeds, noise):
    lab = logistic(*HALVES)
    rng = np.random.default_rng([seeds, int(10 * noise)])
    spread = noise * lab.losses.std(0)
    noisy = lab.losses + spread * rng.normal(size=(len(lab.losses), seeds, QUERIES))
    oracle = mean_spearman(rank(lab.losses[:, 0].T), rank(noisy.mean(1).T), draws=200, seed=0)
    limit = ceiling(noisy)
    assert limit.low <= oracle.value <= limit.high
    assert limit.value == pytest.approx(1 / np.sqrt(1 + noise**2 / seeds), abs=0.07)
    assert lds(lab.scores["identity"], lab.kept, noisy, draws=1).value < oracle.value


def test_an_oracle_scores_the_ceiling_of_minibatch_noise():
    """Stochastic gradient descent whose seeds order the data; the oracle is the mean over many more seeds."""
    losses = stochastic(subsets=32, seeds=43)
    truth, noisy = losses[:, 3:].mean(1), losses[:, :3]
    limit = ceiling(noisy)
    oracle = spearman(rank(truth.T), rank(noisy.mean(1).T))[0].mean()
    assert limit.low <= oracle <= limit.high
    assert limit.value < 0.97
    assert oracle == pytest.approx(limit.value, abs=0.03)


def stochastic(subsets: int, seeds: int) -> Floats:
    """Losses [S, R, Q] of logistic regressions trained side by side by one pass of SGD."""
    (features, labels), (asked, answers) = (tuple(t.numpy() for t in pair) for pair in logistic_data(200))
    signs, told = 2 * labels - 1, 2 * answers - 1
    kept = halves(200, subsets)
    rng = np.random.default_rng(0)
    orders = np.stack([[rng.permutation(np.flatnonzero(row)) for _ in range(seeds)] for row in kept])
    weights = np.zeros((subsets, seeds, FEATURES))
    for step in range(0, orders.shape[2], 10):
        rows = orders[..., step : step + 10]
        margins = signs[rows] * np.einsum("srbf,srf->srb", features[rows], weights)
        pull = signs[rows] / (1 + np.exp(margins))
        weights += 0.5 * (np.einsum("srb,srbf->srf", pull, features[rows]) / 10 - 0.01 * weights)
    return np.logaddexp(0, -told * (weights @ asked.T))


# Intervals


def table(rng: np.random.Generator, queries: int, subsets: int) -> tuple[Floats, Floats]:
    """Predicted and observed losses [S, Q] whose noise is partly shared by queries and differs between them."""
    truth = rng.normal(size=(subsets, 1)) + rng.normal(size=(subsets, queries))
    noise = 0.8 * rng.normal(size=truth.shape) + 0.6 * rng.normal(size=(subsets, 1))
    return truth, truth + np.exp(0.7 * rng.normal(size=queries)) * noise


def test_intervals_of_the_mean_correlation_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    many = [table(rng, 200, 24) for _ in range(100)]
    truth = np.mean([spearman(rank(one.T), rank(two.T)).mean() for one, two in many])
    held = []
    for repeat in range(400):
        one, two = table(rng, 12, 24)
        found = mean_spearman(rank(one.T), rank(two.T), draws=200, seed=repeat)
        held.append(found.low <= truth <= found.high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_intervals_of_a_difference_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    held = []
    for repeat in range(300):
        scores, kept = rng.normal(size=(10, 30)), rng.random((24, 30)) < 0.5
        one, two = (scores + rng.normal(size=scores.shape) for _ in range(2))
        losses = predictions(scores, kept)[:, None] + 3.0 * rng.normal(size=(24, 1, 1))
        found = lds_difference(one, two, kept, losses, draws=200, seed=repeat)
        held.append(found.low <= 0 <= found.high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_intervals_of_a_mean_over_queries_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(2)
    found = [mean_over(rng.exponential(size=32), 300, repeat) for repeat in range(400)]
    assert 0.9 <= np.mean([each.low <= 1.0 <= each.high for each in found]) <= 0.99


def test_intervals_of_the_ceiling_hold_the_oracle():
    rng = np.random.default_rng(3)
    held = []
    for repeat in range(60):
        truth = rng.normal(size=(32, 1, 12)) + rng.normal(size=(32, 1, 1))
        noisy = truth + np.exp(0.5 * rng.normal(size=12)) * rng.normal(size=(32, 3, 12))
        found = ceiling(noisy, draws=100, seed=repeat)
        oracle = spearman(rank(truth[:, 0].T), rank(noisy.mean(1).T))[0].mean()
        held.append(found.low <= oracle <= found.high)
    assert np.mean(held) >= 0.9

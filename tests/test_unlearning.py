"""Each way to forget against what it should be: exact solves, autograd by hand, exact retraining of a convex model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp

from whence.audits.ascent import ascent_loss
from whence.audits.choosing import at_random, first_of_each, shuffled
from whence.audits.effects import mean_change
from whence.audits.likeness import likeness
from whence.audits.matching import elsewhere, matching_loss
from whence.audits.newton import newton_step
from whence.audits.npo import npo_loss
from whence.audits.relearning import relearning_of
from whence.audits.unlearning import UnlearnSettings, _batches
from whence.curvature import SiteCurvature, exact_hessian
from whence.errors import InputError

N, D, L2 = 240, 6, 0.02


@pytest.fixture(scope="module")
def logistic():
    """Features, labels, and a way to fit L2 logistic regression exactly on the mean of some of them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    truth = torch.randn(D, generator=generator, dtype=torch.float64)
    y = (torch.rand(N, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ truth)).double()

    def losses(w, rows):
        return F.binary_cross_entropy_with_logits(x[rows] @ w, y[rows], reduction="none")

    def fit(rows):
        w = torch.zeros(D, dtype=torch.float64)
        for _ in range(60):  # Newton's method to the last bit
            objective = lambda v: losses(v, rows).mean() + L2 / 2 * v @ v  # noqa: E731
            gradient = torch.func.grad(objective)(w)
            w = w - torch.linalg.solve(exact_hessian(objective, w), gradient)
        assert torch.func.grad(objective)(w).abs().max() < 1e-12
        return w

    return x, y, losses, fit


def curvature_of(hessian):
    """A full matrix as the curvature of a site with one output."""
    values, vectors = torch.linalg.eigh(hessian)
    return SiteCurvature(None, vectors, values[None])


def test_the_newton_step_is_the_exact_damped_solve_and_comes_near_the_exact_retrain(logistic):
    _, _, losses, fit = logistic
    everything, forgotten = torch.arange(N), torch.tensor([3, 50, 120, 200])
    kept = torch.tensor([i for i in range(N) if i not in set(forgotten.tolist())])
    w = fit(everything)
    hessian = exact_hessian(lambda v: losses(v, everything).mean(), w)
    gradient = torch.func.grad(lambda v: losses(v, forgotten).sum())(w)
    step = newton_step({"w": gradient[None]}, {"w": (curvature_of(hessian), L2)}, kept=len(kept))["w"][0]
    dense = torch.linalg.solve(hessian + L2 * torch.eye(D, dtype=torch.float64), gradient) / len(kept)
    torch.testing.assert_close(step, dense, rtol=1e-10, atol=1e-14)

    retrained = fit(kept)
    assert losses(w + step, forgotten).sum() > losses(w, forgotten).sum()  # removing raises their loss
    assert (w + step - retrained).norm() < 0.4 * (w - retrained).norm()
    foretold = losses(w + step, everything) - losses(w, everything)
    found = losses(retrained, everything) - losses(w, everything)
    assert np.corrcoef(foretold, found)[0, 1] > 0.99


def test_with_the_kept_hessian_and_the_whole_gradient_newton_is_one_step_of_newtons_method(logistic):
    _, _, losses, fit = logistic
    forgotten, kept = torch.arange(8), torch.arange(8, N)
    w = fit(torch.arange(N))
    objective = lambda v: losses(v, kept).mean() + L2 / 2 * v @ v  # noqa: E731
    hessian = exact_hessian(lambda v: losses(v, kept).mean(), w)
    # what the docstring leaves out: the penalty's own gradient, k / (n - k) * L2 * w
    gradient = torch.func.grad(lambda v: losses(v, forgotten).sum())(w) + len(forgotten) * L2 * w
    step = newton_step({"w": gradient[None]}, {"w": (curvature_of(hessian), L2)}, kept=len(kept))["w"][0]
    exact = -torch.linalg.solve(exact_hessian(objective, w), torch.func.grad(objective)(w))
    torch.testing.assert_close(step, exact, rtol=1e-9, atol=1e-12)


def test_strength_scales_the_step():
    curvature = SiteCurvature(None, None, torch.tensor([[3.0, 1.0]]))
    one = newton_step({"w": torch.tensor([[8.0, 8.0]])}, {"w": (curvature, 1.0)}, kept=2)["w"]
    half = newton_step({"w": torch.tensor([[8.0, 8.0]])}, {"w": (curvature, 1.0)}, kept=2, strength=0.5)["w"]
    assert one.tolist() == [[1.0, 2.0]]
    torch.testing.assert_close(half, one / 2)


def test_npo_is_its_formula_and_its_gradient_that_of_the_paper():
    losses = torch.tensor([3.0, 9.0], dtype=torch.float64, requires_grad=True)
    reference, tokens, beta = torch.tensor([4.0, 4.0], dtype=torch.float64), torch.tensor([2.0, 2.0]), 0.7
    loss = npo_loss(losses, reference, beta, tokens)
    ratio = torch.exp(reference - losses.detach())  # p_theta / p_ref
    by_hand = -(2 / beta) * F.logsigmoid(-beta * torch.log(ratio)).mean()
    torch.testing.assert_close(loss.detach(), by_hand)
    (gradient,) = torch.autograd.grad(loss, losses)
    weight = 2 * ratio**beta / (1 + ratio**beta)  # the adaptive weight of the paper's section 3
    torch.testing.assert_close(gradient, -weight / 2)


def test_npo_becomes_ascent_as_beta_vanishes():
    losses = torch.tensor([3.0, 5.0], dtype=torch.float64, requires_grad=True)
    reference, tokens = torch.tensor([4.0, 4.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    (npo,) = torch.autograd.grad(npo_loss(losses, reference, 1e-9, tokens), losses)
    (ascent,) = torch.autograd.grad(ascent_loss(losses, tokens), losses)
    torch.testing.assert_close(npo, ascent)


def test_a_level_takes_forgotten_texts_out():
    losses = torch.tensor([2.0, 8.0], requires_grad=True)
    tokens = torch.tensor([2.0, 2.0])
    for loss in (ascent_loss(losses, tokens, 3.0), npo_loss(losses, losses.detach(), 0.1, tokens, 3.0)):
        (gradient,) = torch.autograd.grad(loss, losses)
        assert gradient[0] < 0
        assert gradient[1] == 0


def test_matching_vanishes_where_losses_are_as_wanted():
    losses = torch.tensor([4.0, 6.0], requires_grad=True)
    wanted, tokens = torch.tensor([4.0, 10.0]), torch.tensor([2.0, 2.0])
    loss = matching_loss(losses, wanted, tokens)
    assert float(loss.detach()) == 2.0
    (gradient,) = torch.autograd.grad(loss, losses)
    assert gradient.tolist() == [0.0, -1.0]


def test_forgotten_texts_stand_elsewhere_behind_the_beginning_of_kept_ones():
    draw = np.random.default_rng(5)
    forgotten, kept = (
        [(draw.integers(low, low + 100, length), np.arange(length) >= 2) for length in draw.integers(6, 30, 12)]
        for low in (1000, 0)
    )
    found = elsewhere(forgotten, kept, seed=3, times=2)
    assert len(found) == 2 * len(forgotten)
    cuts = []
    for (tokens, mask), number in zip(found, np.repeat(np.arange(12), 2), strict=True):
        text, asked = forgotten[number]
        cut = int((tokens < 1000).sum())
        cuts.append(cut)
        assert len(tokens) == len(text)
        assert any((tokens[:cut] == head[:cut]).all() for head, _ in kept if len(head) >= cut)
        assert (tokens[cut:] == text[cut:]).all()
        assert not mask[: cut + 1].any()  # the first token after a foreign beginning is nobody's to know
        assert (mask[cut + 1 :] == asked[cut + 1 :]).all()
        assert mask.any()
    assert len(set(cuts)) > 3
    again = elsewhere(forgotten, kept, seed=3, times=2)
    assert all((one[0] == two[0]).all() for one, two in zip(found, again, strict=True))


def test_every_step_takes_texts_of_each_group_of_its_own():
    settings = UnlearnSettings(steps=6)
    steps = list(_batches([range(3), range(3, 11)], 5, 4, settings, seed=0))
    assert len(steps) == 6
    seen = [np.concatenate([step[part].rows for step in steps]) for part in range(3)]
    assert [[part.forget for part in step] for step in steps] == [[True, True, False]] * 6
    assert np.bincount(seen[0]).tolist() == [6, 6, 6]
    assert np.bincount(seen[1], minlength=11).tolist() == [0] * 3 + [3] * 8
    assert len(seen[2]) == 24
    assert seen[2].max() == 4
    assert all(len(step) == 2 for step in _batches([range(3), range(3, 11)], 5, 4, UnlearnSettings(retain=0.0), 0))


def test_likeness_is_the_two_sample_test_over_all_pairs():
    draw = np.random.default_rng(0)
    edited, trained = [draw.normal(size=30)], [draw.normal(size=30), draw.normal(2.0, size=30)]
    found = likeness(edited, trained, "losses")
    p = [ks_2samp(edited[0], each).pvalue for each in trained]
    assert found.least == pytest.approx(min(p))
    assert found.p == pytest.approx(np.median(p))
    assert likeness([np.zeros(1)], [np.zeros(1)], "losses") is None


def test_relearning_counts_steps_only_if_every_seed_gets_there():
    assert relearning_of([[3.0, 1.0], [3.0, 2.5]], 1.5).steps is None
    assert relearning_of([[3.0, 1.0], [3.0, 1.2]], 1.5).steps == 1.0
    assert relearning_of([[3.0, 1.0], [3.0, 2.5]], 1.5).lowest == 1.75


def test_the_mean_change_covers_the_truth_over_texts_and_seeds():
    draw = np.random.default_rng(1)
    inside = 0
    for trial in range(60):
        change = 1.0 + draw.normal(size=(1, 20)) + 0.3 * draw.normal(size=(5, 1)) + 0.3 * draw.normal(size=(5, 20))
        found = mean_change(change, seed=trial)
        inside += found.low <= 1.0 <= found.high
    assert inside >= 52


def test_documents_are_taken_rank_by_rank():
    scores = np.array([[5.0, 4.0, 3.0, -1.0], [9.0, 0.5, 8.0, -2.0]])
    assert first_of_each(scores, 1) == [0]
    assert first_of_each(scores, 2) == [0, 2]
    assert first_of_each(scores, 4) == [0, 1, 2]  # the last one supports nobody


def test_random_documents_have_as_many_tokens_and_placebos_as_many_documents():
    tokens = np.random.default_rng(0).integers(5, 15, 200)
    for seed in range(5):
        assert abs(tokens[at_random(tokens, 500, seed)].sum() - 500) < 15
    assert len(shuffled([1, 2, 3], 50, 0)) == 3
    assert at_random(tokens, 500, 0) != at_random(tokens, 500, 1)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"beta": 0.0}, {"retain": -1.0}, {"rate": float("nan")}, {"harm": -1.0}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        UnlearnSettings(**wrong)

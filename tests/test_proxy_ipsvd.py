"""IPSVD against explicit roots and against matrices it could have chosen instead; ranks against every other choice."""

import itertools

import numpy as np
import pytest
import torch

from whence.curvature import (
    Covariances,
    Shape,
    SiteCurvature,
    fit_kfac,
    moments_of,
    spend_ranks,
    uniform_ranks,
    weighted_factors,
)
from whence.curvature.ipsvd import Moments, _hull
from whence.errors import InputError, NumericalError
from whence.factors import Factors
from whence.interfaces import Site, Use

O, I = 5, 7  # noqa: E741


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size, seed):
    half = draw(3 * size, size, seed=seed) * torch.logspace(0, -1.5, size, dtype=torch.float64)
    return half.T @ half / len(half)


def weighted(difference, outputs, inputs):
    return float(torch.trace(outputs @ difference @ inputs @ difference.T))


@pytest.fixture
def problem():
    return draw(O, I, seed=1), Moments(covariance(O, 2), covariance(I, 3))


def test_it_is_the_svd_between_explicit_roots(problem):
    """Roots by scipy's Schur method, the SVD by numpy, mapped back by solving."""
    from scipy.linalg import sqrtm

    weight, moments = problem
    damping = 0.01
    s = moments.outputs.numpy() + damping * np.trace(moments.outputs) / O * np.eye(O)
    a = moments.inputs.numpy() + damping * np.trace(moments.inputs) / I * np.eye(I)
    u, values, vt = np.linalg.svd(sqrtm(s) @ weight.numpy() @ sqrtm(a))
    found = weighted_factors(weight, moments, damping)
    for rank in range(1, O + 1):
        truncated = u[:, :rank] * values[:rank] @ vt[:rank]
        wanted = np.linalg.solve(sqrtm(s), np.linalg.solve(sqrtm(a), truncated.T).T)
        up, down = found.of_rank(rank)
        assert np.allclose(up @ down, wanted, atol=1e-11)
        assert found.error(rank) == pytest.approx(
            weighted(weight - up @ down, torch.from_numpy(s), torch.from_numpy(a)), abs=1e-12
        )
        assert float(up.norm()) == pytest.approx(float(down.norm()))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_no_other_matrix_of_that_rank_has_less_error(problem, rank):
    weight, moments = problem
    found = weighted_factors(weight, moments, 0.0)
    up, down = found.of_rank(rank)
    best = weighted(weight - up @ down, moments.outputs, moments.inputs)
    plain_u, plain_s, plain_vt = torch.linalg.svd(weight, full_matrices=False)
    others = [(plain_u[:, :rank] * plain_s[:rank], plain_vt[:rank])]
    others += [(up + 0.1 * draw(O, rank, seed=n), down + 0.1 * draw(rank, I, seed=n + 999)) for n in range(200)]
    others += [(draw(O, rank, seed=n), draw(rank, I, seed=n + 999)) for n in range(200)]
    for left, right in others:
        assert weighted(weight - left @ right, moments.outputs, moments.inputs) > best
    left, right = up.clone().requires_grad_(), down.clone().requires_grad_()
    difference = weight - left @ right
    loss = torch.trace(moments.outputs @ difference @ moments.inputs @ difference.T)
    for gradient in torch.autograd.grad(loss, (left, right)):
        assert gradient.abs().max() < 1e-10


def test_full_rank_is_the_matrix_itself_even_where_nothing_was_seen(problem):
    weight, _ = problem
    probes = draw(2, I, seed=4)  # far fewer than I: probes' spans would lose the rest
    moments = Moments(covariance(O, 2), probes.T @ probes)
    found = weighted_factors(weight, moments, 1e-3)
    up, down = found.of_rank(O)
    assert torch.allclose(up @ down, weight, atol=1e-10)
    assert found.error(O) == 0


def test_identities_give_the_plain_svd(problem):
    weight, _ = problem
    found = weighted_factors(weight, Moments(torch.eye(O), torch.eye(I)), 0.5)
    u, values, vt = torch.linalg.svd(weight, full_matrices=False)
    up, down = found.of_rank(2)
    assert torch.allclose(up @ down, (u[:, :2] * values[:2]) @ vt[:2], atol=1e-12)


def test_hidden_values_and_their_gradients_have_the_same_second_moment(problem):
    weight, moments = problem
    found = weighted_factors(weight, moments, 0.0)
    up, down = found.up[:, :3], found.down[:3]
    wanted = found.values[:3].diag()
    assert torch.allclose(down @ moments.inputs @ down.T, wanted, atol=1e-10)
    assert torch.allclose(up.T @ moments.outputs @ up, wanted, atol=1e-10)


def fitted(inputs, grads, bias, documents):
    wide = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], -1) if bias else inputs
    site = Site("a", O, I + bias, bias, (Use("a", bias=bias),), None, ("a.weight",), group="a")
    sums = Covariances([site], 4096, documents=documents)
    sums.add(site, [Factors(wide, grads)], [None])
    return fit_kfac(site, sums, {})


@pytest.mark.parametrize("bias", [False, True])
def test_moments_come_back_from_kfac(bias):
    inputs, grads = draw(4, 6, I, seed=5) + 0.7, draw(4, 6, O, seed=6) * 0.1
    basis = fitted(inputs, grads, bias, 4.0)
    moments = moments_of(basis, bias)
    a, g = inputs.flatten(0, 1), grads.flatten(0, 1)
    centred = a - a.mean(0) if bias else a
    difference = draw(O, I, seed=7)
    wanted = weighted(difference, g.T @ g / 24, centred.T @ centred / 24) * 24 / 4
    assert weighted(difference, moments.outputs, moments.inputs) == pytest.approx(wanted)
    assert (moments.mean is None) != bias
    if bias:
        assert torch.allclose(moments.mean, a.mean(0))


def test_the_bias_that_goes_with_it_is_the_best():
    """E with the bias column, by the bias: its minimum is at b + D m, and its value there is the centred E."""
    inputs, grads = draw(4, 6, I, seed=5) + 0.7, draw(4, 6, O, seed=6)
    a = torch.cat([inputs, inputs.new_ones(4, 6, 1)], -1).flatten(0, 1)
    s = grads.flatten(0, 1).T @ grads.flatten(0, 1)
    moments = moments_of(fitted(inputs, grads, True, 4.0), True)
    difference = draw(O, I, seed=7)

    def error(shift):
        return weighted(torch.cat([difference, shift[:, None]], 1), s, a.T @ a / 24) / 4

    best = -difference @ moments.mean
    assert error(best) == pytest.approx(weighted(difference, moments.outputs, moments.inputs))
    assert all(error(best + 0.1 * draw(O, seed=n)) > error(best) for n in range(20))


def test_nothing_seen_and_not_finite():
    weight = draw(O, I)
    nothing = moments_of(SiteCurvature(torch.eye(O), torch.eye(I), torch.zeros(O, I)), False)
    up, down = weighted_factors(weight, nothing, 0.1).of_rank(O)
    assert torch.allclose(up @ down, weight)
    with pytest.raises(NumericalError, match=r"here \(inputs\)"):
        weighted_factors(weight, Moments(torch.eye(O), torch.full((I, I), torch.nan)), 0.1, "here")


# ------------------------------------------------------------------ ranks


def shapes(seed, count=3, low=2, high=7):
    random = np.random.default_rng(seed)
    out = {}
    for number in range(count):
        o, i = (int(x) for x in random.integers(low, high, 2))
        squares = np.sort(random.exponential(10.0 ** random.integers(-2, 3), min(o, i)) ** random.integers(1, 4))[::-1]
        out[f"s{number}"] = Shape(o, i, squares.tolist())
    return out


def total(sites, ranks):
    return sum(shape.error(ranks[name]) for name, shape in sites.items())


def price(sites, ranks):
    return sum(shape.cost(ranks[name]) for name, shape in sites.items())


def test_never_worse_than_uniform_and_never_over_the_budget():
    helped, tried = 0, 0
    for seed, share in itertools.product(range(120), (0.3, 0.5, 0.7, 0.9)):
        sites = shapes(seed, count=2 + seed % 5, low=4, high=16)
        budget = int(share * sum(shape.whole for shape in sites.values()))
        try:
            ranks = spend_ranks(sites, share)
        except InputError:
            continue
        assert price(sites, ranks) <= budget
        even = uniform_ranks(sites, share)
        if price(sites, even) <= budget:
            tried += 1
            assert total(sites, ranks) <= total(sites, even) * (1 + 1e-12)
            helped += total(sites, ranks) < 0.9 * total(sites, even)
    assert tried > 200
    assert helped > tried / 2


def test_near_the_best_of_all_choices():
    """By trying all of them: most often the best, and never off by more than the one step that did not fit."""
    gaps = []
    for seed in range(40):
        sites = shapes(seed)
        budget = int(0.75 * sum(shape.whole for shape in sites.values()))
        choices = [[None, *range(1, shape.most + 1)] for shape in sites.values()]
        every = [dict(zip(sites, pick, strict=True)) for pick in itertools.product(*choices)]
        best = min((total(sites, pick) for pick in every if price(sites, pick) <= budget), default=None)
        if best is None or budget < price(sites, {name: 1 if shape.most else None for name, shape in sites.items()}):
            continue
        found = total(sites, spend_ranks(sites, 0.75))
        largest = max(gain for shape in sites.values() if shape.most for _, gain, _ in _hull(shape))
        assert best * (1 - 1e-12) <= found <= best + largest
        gaps.append((found - best) / max(best, 1e-300))
    assert len(gaps) > 20
    assert np.median(gaps) < 1e-9


def test_a_flat_spectrum_leaves_matrices_whole():
    sites = {"flat": Shape(6, 6, [1.0] * 6), "steep": Shape(6, 6, [1e-3, 0, 0, 0, 0, 0])}
    assert spend_ranks(sites, 0.7) == {"flat": None, "steep": 1}


def test_too_small_a_share():
    with pytest.raises(InputError, match=r"--share 0\.1 keeps less than rank 1 .* takes 0\.333"):
        spend_ranks({"a": Shape(6, 6, [1.0] * 6)}, 0.1)

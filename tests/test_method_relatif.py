"""RelatIF against explicit inverses of EK-FAC."""

import numpy as np
import pytest
import torch

from method_world import QUERIES, make_place, make_truth, open_run
from oracle import dense_ekfac
from whence.attributor import run_steps
from whence.methods import Work, method_scores, parse_method


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("relatif"), "gpt2")
    owner = open_run(place, place / "run")
    run_steps(parse_method("relatif").steps(Work(owner)))
    return owner, make_truth(place, owner)


def solved(owner, truth, damping):
    """``(C + l)^-1 z`` of all documents, [N, P], by explicit matrices."""
    damped, out = owner.damped(owner.config.recipe), torch.zeros_like(truth.documents)
    for site in owner.sites:
        curvature, at = damped[site.name][0], truth.slices[site.name]
        sides = [None if each is None else each.double() for each in (curvature.outputs, curvature.inputs)]
        added = damping * float(curvature.eigenvalues.double().mean())
        out[:, at] = truth.documents[:, at] @ dense_ekfac(*sides, 1.0 / (curvature.eigenvalues.double() + added))
    return out


@pytest.mark.parametrize("damping", [0.1, 1.0])
@pytest.mark.parametrize("relative", ["loss", "parameters"])
def test_explicit_inverses_say_the_same(world, relative, damping):
    owner, truth = world
    got = method_scores(
        parse_method(f"relatif:relative={relative},damping={damping}"), Work(owner), owner.encode_queries(QUERIES)
    )
    inverse = solved(owner, truth, damping)
    influence = truth.queries @ inverse.T
    squares = (truth.documents * inverse).sum(1) if relative == "loss" else inverse.square().sum(1)
    wanted = (influence / squares.sqrt()).numpy()
    # bases are stored in float32, so that lengths are kept by a rotation only as far as that
    assert np.abs(got - wanted).max() < (1e-8 if relative == "loss" else 1e-6) * np.abs(wanted).max()


def test_both_lengths_are_measured_once(world):
    owner, _ = world
    work = Work(owner)
    for step in parse_method("relatif:relative=parameters").steps(work):
        assert step.finished()


def test_it_is_influence_over_the_root_of_self_influence(world):
    owner, _ = world
    encoded, n = owner.encode_queries(QUERIES), owner.trained_on
    influence = method_scores(parse_method("ekfac"), Work(owner), encoded)
    got = method_scores(parse_method("relatif"), Work(owner), encoded)
    wanted = influence * np.sqrt(n) / np.sqrt(owner.self_influence(owner.config.recipe))
    assert np.abs(got - wanted).max() < 1e-8 * np.abs(wanted).max()
    assert not np.array_equal(got.argsort(1), influence.argsort(1))

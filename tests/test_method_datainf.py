"""DataInf against its closed form with explicit matrices."""

import numpy as np
import pytest
import torch

from exact_world import make_exact
from oracle import relative
from whence.methods import datainf, parse_method


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_exact(tmp_path_factory.mktemp("datainf"), sample=0.5)


def wanted(world, damping, documents):
    """The mean of ``(g g^T + l)^-1`` over documents, site by site, by explicit inverses."""
    out = torch.zeros_like(world.truth.queries)
    for place in world.truth.slices.values():
        g, q = world.truth.documents[documents][:, place], world.truth.queries[:, place]
        damped = damping * g.square().sum(1).mean() / g.shape[1]
        ones = damped * torch.eye(g.shape[1], dtype=torch.float64)
        inverse = torch.stack([torch.linalg.inv(torch.outer(each, each) + ones) for each in g]).mean(0)
        out[:, place] = q @ inverse
    return out


@pytest.mark.parametrize("damping", [0.1, 3.0])
def test_closed_form(world, damping):
    several = np.bincount(world.truth.owners)[world.documents] > 1
    assert several.any()
    assert not several.all()
    found = world.solved(parse_method(f"datainf:damping={damping}"))
    assert relative(found, wanted(world, damping, world.documents)) < 1e-9


def test_another_sample(world):
    found = world.solved(parse_method("datainf:sample=1"))
    assert relative(found, wanted(world, 0.1, np.arange(len(world.truth.documents)))) < 1e-9
    assert relative(found, wanted(world, 0.1, world.documents)) > 1e-3


def test_parts_change_nothing(world, monkeypatch):
    whole = world.solved(parse_method("datainf:sample=0.6"))
    monkeypatch.setattr(datainf, "_PART", 4)
    assert relative(world.solved(parse_method("datainf:sample=0.61,damping=0.1")), whole) < 1e-12


def test_little_curvature_is_left_of_single_gradients(world):
    """With many parameters per document it is nearly the gradient dot product, as measured for language models."""
    found, q = world.solved(parse_method("datainf")), world.truth.queries
    scaled = torch.cat([found[:, place] / found[:, place].norm() for place in world.truth.slices.values()], 1)
    plain = torch.cat([q[:, place] / q[:, place].norm() for place in world.truth.slices.values()], 1)
    assert (scaled * plain).sum() / len(world.truth.slices) > 0.8

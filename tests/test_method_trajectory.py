"""Trajectory against dense gradients and curvature at each checkpoint."""

import weakref

import numpy as np
import pytest
import torch

import whence.attributor.checkpoints as room
from checkpoint_world import make_checkpoints
from method_world import QUERIES, make_place, make_truth, open_run
from oracle import dense_ekfac
from whence.attributor import at_checkpoint, checkpoint_folder, run_steps
from whence.attributor.curvatures import load_curvatures
from whence.attributor.steps import CorpusStep
from whence.errors import InputError
from whence.gradients import kind_of
from whence.methods import Bound, Work, method_scores, parse_method
from whence.methods.unsaturated import Unsaturated


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("trajectory"))
    owner = open_run(place, place / "run")
    run_steps([CorpusStep(owner)])
    return place, owner, make_checkpoints(place)


def scored(owner, spec, checkpoints):
    return method_scores(parse_method(spec), Work(owner, checkpoints), owner.encode_queries(QUERIES))


def standard(scores):
    return (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)


def dense(folder, owner, checkpoint, damping):
    """EK-FAC influence at a checkpoint with explicit inverses, [Q, N]."""
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(checkpoint.path)
    truth, place = make_truth(folder, owner), checkpoint_folder(owner, checkpoint)
    out = 0
    for site in owner.sites:
        c = load_curvatures(place / "curvature", [site], "ekfac")[site.name].to("cpu", torch.float64)
        matrix, at = dense_ekfac(c.outputs, c.inputs, c.eigenvalues), truth.slices[site.name]
        damped = matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
        out = out + truth.queries[:, at] @ torch.linalg.solve(damped, truth.documents[:, at].T)
    return out.numpy()


def test_it_is_the_mean_of_standard_scores_of_dense_influence(world, tmp_path):
    _, owner, checkpoints = world
    found = scored(owner, "trajectory:bits=exact,curvature=ekfac,damping=0.3", checkpoints)
    parts = [standard(dense(tmp_path / f"{each.step}", owner, each, 0.3)) for each in checkpoints]
    wanted = sum(parts) / len(parts)
    assert np.abs(found - wanted).max() < 1e-7
    assert max(np.abs(found - part).max() for part in parts) > 0.1, "no checkpoint says it all"


def test_by_default_each_checkpoint_is_unsaturated(world):
    _, owner, checkpoints = world
    assert {kind_of(site) for site in owner.sites} > {"head", "mlp"}
    encoded, parts = owner.encode_queries(QUERIES), []
    for checkpoint in checkpoints:
        at = at_checkpoint(owner, checkpoint)
        parts.append(standard(method_scores(Unsaturated(bits="exact"), Work(at), encoded)))
    assert np.allclose(scored(owner, "trajectory:bits=exact", checkpoints), sum(parts) / 3, atol=1e-9)


def test_indexes_of_all_checkpoints_come_near(world):
    _, owner, checkpoints = world
    exact = scored(owner, "trajectory:bits=exact", checkpoints)
    for bits, least in ((16, 0.99999), (8, 0.9999), (1, 0.6)):  # one bit of sites with 8 x 8 weights is coarse
        found = scored(owner, f"trajectory:bits={bits}", checkpoints)
        assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(found, exact, strict=True)) > least
    method = parse_method("trajectory:bits=8")
    one = parse_method("unsaturated:bits=8").bytes_per_document(Work(owner))
    assert method.bytes_per_document(Work(owner, checkpoints)) == 3 * one


def test_one_model_at_a_time_and_none_to_know_that_it_is_over(world, monkeypatch):
    place, _, checkpoints = world
    owner = open_run(place, place / "counted")
    run_steps([CorpusStep(owner)])
    alive, loads, load = [], [], room.load_model

    def counting(*args, **kwargs):
        assert not any(each() is not None for each in alive), "the model before is still there"
        loaded = load(*args, **kwargs)
        alive[:] = [weakref.ref(loaded.model)]
        loads.append(args[0])
        return loaded

    monkeypatch.setattr(room, "load_model", counting)
    bound = Bound(parse_method("trajectory"), Work(owner, checkpoints))
    assert not any(step.finished() for step in bound.steps[1:2])
    bound.prepare()
    loads.clear()
    assert all(step.finished() for step in bound.steps)
    assert loads == []


def test_it_needs_checkpoints(world):
    _, owner, _ = world
    with pytest.raises(InputError, match="--checkpoints"):
        Bound(parse_method("trajectory"), Work(owner))

"""The low-rank correction against an explicit inverse, with gradients under drawn labels from autograd."""

import numpy as np
import pytest
import torch
import xxhash

from exact_world import blocks_of, make_exact
from oracle import draw_labels, gradients, relative, sequence_loss
from test_capture import expected
from whence.errors import NumericalError
from whence.methods import lowrank, parse_method
from whence.methods.ekfac import curvature_of
from whence.projection import uniforms


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_exact(tmp_path_factory.mktemp("lowrank"), sample=0.4, seed=3)


def sampled(world, documents, draws):
    """Gradients of documents under labels drawn from the model, [M * draws, P]."""
    model, out = world.truth.model, []
    for document in documents:
        for draw in range(draws):
            total = 0.0
            for (tokens, mask), owner in zip(world.truth.windows, world.truth.owners, strict=True):
                if owner != document:
                    continue
                ids = np.array(tokens).astype("<i8")
                key = np.array([xxhash.xxh64_intdigest(ids.tobytes())], dtype=np.uint64).view(np.int64)
                places = np.arange(len(ids))
                drawn = uniforms(3, f"low rank {draw}", np.repeat(key, len(ids)), places)
                tokens = torch.from_numpy(ids)
                labels = draw_labels(model, tokens, torch.from_numpy(drawn))
                grads = gradients(model, [lambda t=tokens, m=mask, y=labels: sequence_loss(model, t, m, y)])
                total = total + torch.cat(
                    [expected(model, site, grads).flatten(1) for site in world.work.owner.sites], 1
                )
            out.append(total)
    return torch.cat(out)


def wanted(world, alpha, damping, rows):
    """``(Q [(1 - alpha) Lambda + l] Q^T + alpha mean g g^T)^-1 q`` as dense matrices in the parameters' own basis."""
    sites = world.work.owner.sites
    units = blocks_of(sites, torch.eye(len(world.ggn), dtype=torch.float64))
    parts = {}
    for name, (each, lam) in curvature_of(world.work, "ekfac", damping).items():
        turned = each.rotate(units[name])
        parts[name] = each.unrotate(turned * ((1 - alpha) * each.eigenvalues + lam))
    matrix = world.flat(parts) + alpha * rows.T @ rows / len(rows)
    return torch.linalg.solve((matrix + matrix.T) / 2, world.truth.queries.T).T


def test_without_weight_it_is_ekfac(world):
    assert (world.solved(parse_method("lowrank:alpha=0")) == world.solved(parse_method("ekfac"))).all()
    assert len(parse_method("lowrank:alpha=0").steps(world.work)) == len(parse_method("ekfac").steps(world.work))


@pytest.mark.parametrize(("alpha", "damping", "draws"), [(0.1, 0.1, 2), (0.6, 0.02, 1)])
def test_woodbury_is_the_inverse(world, alpha, damping, draws):
    rows = sampled(world, world.documents, draws)
    exact = wanted(world, alpha, damping, rows)
    settings = f"alpha={alpha},damping={damping},draws={draws}"
    assert relative(world.solved(parse_method(f"lowrank:{settings},precision=single")), exact) < 3e-6
    assert relative(world.solved(parse_method(f"lowrank:{settings}")), exact) < 3e-3
    assert relative(world.solved(parse_method(f"ekfac:damping={damping}")), exact) > 0.02


def test_fewer_and_more_documents(world):
    from whence.attributor.fitting import fit_sample

    for count in (3, 15):
        documents = fit_sample(world.work.owner, count).documents
        assert len(documents) == count
        found = world.solved(parse_method(f"lowrank:documents={count},precision=single"))
        assert relative(found, wanted(world, 0.1, 0.1, sampled(world, documents, 1))) < 3e-6


def test_parts_and_tiles_change_nothing(world, monkeypatch):
    whole = world.solved(parse_method("lowrank:precision=single"))
    monkeypatch.setattr(lowrank, "_PART", 4)
    monkeypatch.setattr(lowrank, "_HELD", 4 * 8 * 50)  # fifty columns of a part, one document at a time
    step = lowrank.RowStep(parse_method("lowrank:precision=single,documents=10"), world.work)
    assert len(step.items()) == 3
    found = world.solved(parse_method("lowrank:precision=single,documents=10"))
    assert len(world.documents) == 10
    assert relative(found, whole) < 1e-9


def test_rows_serve_every_alpha_and_damping(world):
    method = parse_method("lowrank:documents=5")
    world.solved(method)
    other = parse_method("lowrank:documents=5,alpha=0.3,damping=0.01")
    rows, gram = other.steps(world.work)[-2:]
    assert rows.finished()
    assert not gram.finished()


def test_what_half_precision_cannot_hold_is_said(world, monkeypatch):
    method = parse_method("lowrank:documents=2")
    step = lowrank.RowStep(method, world.work)
    monkeypatch.setattr(lowrank.RowStep, "_gradients", lambda self, some, draw, advance: torch.full((1, 1), 1e6))
    with pytest.raises(NumericalError, match="precision=single"):
        step.run(0, (0, 1), lambda tokens: None)
    assert not step.done(0)

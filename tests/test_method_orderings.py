"""Which approximations come closer to the exact damped inverse, on small models of several seeds.

With 24 documents and one drawn label for each token, EK-FAC's measured eigenvalues are noisy, and at little damping
K-FAC's predicted ones can be the better estimate (at damping 0.1 they are, for two of the three seeds). What EK-FAC
claims is about the matrix, not the sample: so the order is asked of eigenvalues without noise, and of measured ones at
a damping that outweighs it.
"""

import numpy as np
import pytest
import torch

from exact_world import blocks_of, make_exact
from whence.attributor.curvatures import load_curvatures
from whence.methods import parse_method

SEEDS = (0, 1, 2)


def error(found, wanted) -> float:
    """Relative error with the best scale for each query, so that methods without a unit can be compared."""
    scale = (found * wanted).sum(1, keepdim=True) / found.square().sum(1, keepdim=True)
    return float(((scale * found - wanted).norm(dim=1) / wanted.norm(dim=1)).mean())


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return [make_exact(tmp_path_factory.mktemp(f"seed{seed}"), seed=seed, sample=1.0) for seed in SEEDS]


def in_a_basis(world, basis, damping, noiseless):
    """``(diag(Q^T C Q) + l)^-1 q`` in the basis of a fitted method, with measured or exact diagonal entries."""
    owner = world.work.owner
    sites, question = owner.sites, world.question()
    curvatures = load_curvatures(owner.run.curvature, sites, basis)
    out, units = {}, blocks_of(sites, torch.eye(len(world.ggn), dtype=torch.float64))
    for site in sites:
        place, each = world.truth.slices[site.name], curvatures[site.name].to("cpu", torch.float64)
        values = each.eigenvalues
        if noiseless:
            turn = each.unrotate(units[site.name][place]).flatten(1)
            values = ((turn @ world.ggn[place, place]) * turn).sum(1).reshape(site.shape)
        turned = each.rotate(question.blocks[site.name]) / (values + damping * world.means[place][0])
        out[site.name] = each.unrotate(turned)
    return world.flat(out)


@pytest.mark.parametrize("damping", [0.1, 1.0])
def test_finer_curvature_comes_closer(worlds, damping):
    found = []
    for world in worlds:
        wanted = world.wanted(damping)
        made = {
            "ekfac": in_a_basis(world, "ekfac", damping, noiseless=True),
            "kfac": in_a_basis(world, "kfac", damping, noiseless=False),
            "diagonal": in_a_basis(world, "diagonal", damping, noiseless=True),
            "identity": world.solved(parse_method("dot")),
        }
        found.append({name: error(each, wanted) for name, each in made.items()})
    mean = {name: np.mean([each[name] for each in found]) for name in found[0]}
    assert mean["ekfac"] < mean["kfac"] < mean["diagonal"] < mean["identity"], found
    assert all(each["ekfac"] < each["diagonal"] < each["identity"] for each in found), found


def test_as_fitted_finer_curvature_comes_closer_where_damping_outweighs_noise(worlds):
    for world in worlds:
        wanted = world.wanted(1.0)
        ekfac, kfac, identity = (
            error(world.solved(parse_method(spec)), wanted) for spec in ("ekfac:damping=1", "kfac:damping=1", "dot")
        )
        diagonal = error(in_a_basis(world, "diagonal", 1.0, noiseless=False), wanted)
        assert ekfac < kfac < diagonal < identity


def test_coupling_comes_closer_still(worlds):
    specs = ("ekfac", "lowrank:draws=8", "astra", "astra:iterations=4", "cg:tolerance=1e-6,iterations=400")
    for world in worlds:
        wanted = world.wanted(0.1)
        ekfac, lowrank, one, four, exact = (error(world.solved(parse_method(spec)), wanted) for spec in specs)
        assert lowrank < ekfac
        assert four < one < ekfac
        assert exact < 1e-4

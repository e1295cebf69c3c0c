"""Which approximations come closer to the exact damped inverse, on small models of several seeds."""

import numpy as np
import pytest

from exact_world import make_exact
from whence.methods import parse_method

SEEDS = (0, 1, 2)
CHAIN = ("ekfac", "kfac", "diagonal", "dot")


def error(found, wanted) -> float:
    """Relative error with the best scale for each query, so that methods without a unit can be compared."""
    scale = (found * wanted).sum(1, keepdim=True) / found.square().sum(1, keepdim=True)
    return float(((scale * found - wanted).norm(dim=1) / wanted.norm(dim=1)).mean())


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return [make_exact(tmp_path_factory.mktemp(f"seed{seed}"), seed=seed, sample=1.0) for seed in SEEDS]


def diagonal(world, damping):
    from whence.methods.exact import Exact

    owner = world.work.owner
    from whence.attributor.curvatures import load_curvatures

    curvature = load_curvatures(owner.run.curvature, owner.sites, "diagonal")
    means, question = Exact(owner).means, world.question()
    return world.flat(
        {name: each.solve(question.blocks[name], damping * means[name]) for name, each in curvature.items()}
    )


def errors(world, damping, methods):
    wanted, out = world.wanted(damping), {}
    for name in methods:
        if name == "diagonal":
            out[name] = error(diagonal(world, damping), wanted)
        else:
            settings = (
                f"{name}damping={damping}" if ":" in name else (name if name == "dot" else f"{name}:damping={damping}")
            )
            out[name] = error(world.solved(parse_method(settings)), wanted)
    return out


@pytest.mark.parametrize("damping", [0.1, 1.0])
def test_finer_curvature_comes_closer(worlds, damping):
    found = [errors(world, damping, CHAIN) for world in worlds]
    print(found)
    mean = {name: np.mean([each[name] for each in found]) for name in CHAIN}
    assert mean["ekfac"] < mean["kfac"] < mean["diagonal"] < mean["dot"], mean


def test_coupling_comes_closer_still(worlds):
    names = (
        "ekfac",
        "lowrank:draws=8,",
        "astra:iterations=1,",
        "astra:iterations=4,",
        "cg:tolerance=1e-6,iterations=400,",
    )
    for world in worlds:
        found = errors(world, 0.1, names)
        print(found)
        ekfac, lowrank, one, four, exact = (found[name] for name in names)
        assert lowrank < ekfac
        assert four < one < ekfac
        assert exact < 1e-3

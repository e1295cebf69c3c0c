"""ASTRA against its iterations with explicit matrices, and against the exact inverse it goes to."""

import pytest
import torch

from exact_world import blocks_of, make_exact
from oracle import relative
from whence.methods import parse_method
from whence.methods.astra import StepSize
from whence.methods.ekfac import curvature_of

DAMPING = 0.5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_exact(tmp_path_factory.mktemp("astra"))


@pytest.fixture(scope="module")
def inverse(world):
    """``(P + l)^-1`` of EK-FAC, and ``C + l`` with its lambdas, [P, P]."""
    curvatures = curvature_of(world.work, "ekfac", DAMPING)
    sites = world.work.owner.sites
    units = blocks_of(sites, torch.eye(len(world.ggn), dtype=torch.float64))
    rows = world.flat({name: each.solve(units[name], damping) for name, (each, damping) in curvatures.items()})
    lambdas = [torch.full((site.size,), curvatures[site.name][1], dtype=torch.float64) for site in sites]
    assert relative(torch.cat(lambdas), DAMPING * world.means) < 1e-6
    return rows, world.ggn + torch.diag(torch.cat(lambdas))


def method(text=""):
    return parse_method(f"astra:damping={DAMPING}{text}")


def test_no_step_is_ekfac(world):
    assert (world.solved(method(",iterations=0")) == world.solved(parse_method(f"ekfac:damping={DAMPING}"))).all()


@pytest.mark.parametrize("length", [1.0, 0.5])
def test_one_step_of_cg(world, inverse, length):
    p, a = inverse
    q = world.truth.queries
    x = q @ p
    r = q - x @ a
    z = r @ p
    wanted = x + length * ((r * z).sum(1) / (z @ a * z).sum(1))[:, None] * z
    assert relative(world.solved(method(f",length={length}")), wanted) < 1e-8


def test_steps_of_neumann(world, inverse):
    p, a = inverse
    q, chosen = world.truth.queries, method(",solver=neumann,iterations=3,length=0.7")
    found, x = world.solved(chosen), q @ p
    largest = StepSize(chosen, world.work).largest
    for _ in range(3):
        x = x + 0.7 / largest * (q - x @ a) @ p
    assert relative(found, x) < 1e-8


def test_the_step_is_safe(world, inverse):
    p, a = inverse
    chosen = method(",solver=neumann")
    world.solved(chosen)
    true = float(torch.linalg.eigvals(p @ a).real.max())
    assert 0.95 * true < StepSize(chosen, world.work).largest < 1.2 * true


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_both_converge_to_the_exact_inverse(world, solver):
    chosen = parse_method(f"astra:damping=100,solver={solver},iterations=60")
    wanted = torch.linalg.solve(world.ggn + torch.diag(lambdas(world, 100)), world.truth.queries.T).T
    assert relative(world.solved(chosen), wanted) < 1e-8


def lambdas(world, damping):
    found = curvature_of(world.work, "ekfac", damping)
    return torch.cat(
        [torch.full((site.size,), found[site.name][1], dtype=torch.float64) for site in world.work.owner.sites]
    )


def test_each_step_of_cg_comes_closer(world):
    wanted = world.wanted(DAMPING)

    def error(steps):
        off = world.solved(method(f",iterations={steps}")) - wanted
        return (off @ (world.ggn + torch.diag(DAMPING * world.means)) * off).sum(1)

    errors = torch.stack([error(steps) for steps in (0, 1, 3, 8)])
    assert (errors[1:] < errors[:-1]).all()

"""explicit, cg, lissa and arnoldi against explicit matrices from autograd."""

import numpy as np
import pytest
import torch

from exact_world import dense_ggn, make_exact, windows_of
from oracle import relative
from whence.errors import InputError, NumericalError
from whence.methods import explicit, parse_method
from whence.methods.arnoldi import KrylovStep
from whence.methods.exact import Exact
from whence.methods.krylov import conjugate_gradients, random_start
from whence.methods.lissa import ScaleStep


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_exact(tmp_path_factory.mktemp("exact"), hessian=True)


@pytest.fixture(scope="module")
def uphill(world):
    """Damping at which the Hessian just is not positive definite."""
    return -float(torch.linalg.eigvalsh(scaled(world, world.hessian))[0])


def scaled(world, matrix):
    return matrix * world.means.rsqrt() * world.means.rsqrt()[:, None]


def test_the_hessian_of_this_model_is_not_positive(uphill):
    assert uphill > 0.2


def test_the_sample_is_that_of_the_fit(world):
    exact = Exact(world.work.owner)
    assert sorted(exact.documents) == world.documents.tolist()
    assert 1 < len(world.documents) < world.work.owner.corpus.documents
    some = Exact(world.work.owner, share=0.15).documents
    assert some.tolist() == exact.documents[: len(some)].tolist()


@pytest.mark.parametrize("damping", [0.01, 1])
def test_explicit(world, damping, monkeypatch):
    monkeypatch.setattr(explicit, "_COLUMNS", 100)  # sites begin and end within groups of rows
    assert relative(world.solved(parse_method(f"explicit:damping={damping}")), world.wanted(damping)) < 1e-9


def test_explicit_hessian(world, uphill):
    method = parse_method(f"explicit:kind=hessian,damping={1.2 * uphill:g}")
    assert relative(world.solved(method), world.wanted(method.damping, world.hessian)) < 1e-8
    with pytest.raises(NumericalError, match="not positive definite"):
        world.solved(parse_method(f"explicit:kind=hessian,damping={0.9 * uphill:g}"))


def test_explicit_refuses_what_is_too_large(world, monkeypatch):
    monkeypatch.setattr(explicit, "LIMIT", 300)
    with pytest.raises(InputError, match=r"at most 300 parameters; the sites of this run have .* Use method cg"):
        parse_method("explicit").steps(world.work)


def test_cg_converges(world, uphill):
    tight = parse_method("cg:damping=0.5,tolerance=1e-11,iterations=2000")
    assert relative(world.solved(tight), world.wanted(0.5)) < 1e-8
    hessian = parse_method(f"cg:kind=hessian,damping={2 * uphill:g},tolerance=1e-11,iterations=2000")
    assert relative(world.solved(hessian), world.wanted(hessian.damping, world.hessian)) < 1e-8


def test_cg_stops_each_query_at_its_tolerance_and_reports_the_residual(world):
    method = parse_method("cg:tolerance=0.05,damping=1")
    found = method.solved(world.work, world.question())
    narrowed = world.truth.queries * world.means.rsqrt()
    v = world.flat(found.solution) * world.means.sqrt()
    left = narrowed - v @ (scaled(world, world.ggn) + torch.eye(len(world.ggn)))
    assert torch.allclose(left.norm(dim=1) / narrowed.norm(dim=1), found.residuals, rtol=1e-6)
    assert (found.residuals <= 0.05).all()
    assert (found.iterations > 1).all()
    fewer = parse_method("cg:tolerance=0,iterations=3,damping=1").solved(world.work, world.question())
    assert fewer.iterations.tolist() == [3, 3, 3]
    assert (fewer.residuals > 0.05).any()


def test_cg_of_queries_of_unequal_difficulty():
    """In a group each takes the steps that it takes alone."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=random, dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(12)
    eigenvector = torch.linalg.eigh(matrix)[1][:, 3]
    queries = torch.stack([torch.ones(12, dtype=torch.float64), eigenvector, torch.zeros(12, dtype=torch.float64)])
    asked = []

    def operator(v):
        asked.append(len(v["a"]))
        return {"a": (v["a"][:, 0] @ matrix)[:, None]}

    found = conjugate_gradients(operator, {"a": queries[:, None]}, iterations=60, tolerance=1e-12)
    assert found.iterations[1:].tolist() == [1, 0]
    assert found.iterations[0] > 3
    assert asked[:2] == [2, 1]
    assert relative(found.solution["a"][:, 0], torch.linalg.solve(matrix, queries.T).T) < 1e-10


def test_cg_says_when_the_hessian_points_uphill(world):
    with pytest.raises(NumericalError, match="kind=ggn"):
        world.solved(parse_method("cg:kind=hessian,damping=0.01,iterations=300,tolerance=1e-9"))


def test_lissa_is_its_recursion(world):
    method = parse_method("lissa:batch=3,iterations=7,repeats=2,damping=0.5")
    found = world.solved(method)
    exact, scale = method.exact(world.work), ScaleStep(method, world.work).scale
    parts = method.minibatches(exact)
    assert sorted(np.concatenate(parts)) == world.documents.tolist()
    assert len(parts) == 3
    sites = world.work.owner.sites
    dense = [scaled(world, dense_ggn(world.truth.model, sites, windows_of(world.truth, part))) for part in parts]
    mean = len(world.documents) / len(parts)
    queries, total = world.truth.queries * world.means.rsqrt(), 0.0
    for repeat in range(2):
        order, v = method.order(len(parts), repeat), queries
        assert sorted(order[:3]) == sorted(order[3:6]) == [0, 1, 2]
        for number in order:
            v = queries + v - (v @ dense[number] / mean + 0.5 * v) / scale
        total = total + v / scale / 2
    assert relative(found, total * world.means.rsqrt()) < 1e-9
    largest = max(float(torch.linalg.eigvalsh(each)[-1]) for each in dense) / mean
    assert 0.9 * largest < scale - 0.5 < 1.2 * largest


def test_lissa_on_the_whole_sample_converges(world):
    method = parse_method("lissa:batch=1000,iterations=60,damping=100")
    assert relative(world.solved(method), world.wanted(100)) < 1e-8


def test_lissa_never_diverges_and_says_when_the_hessian_makes_it(world):
    long = world.solved(parse_method("lissa:batch=1,iterations=60,damping=0.001"))
    assert torch.isfinite(long).all()
    with pytest.raises(NumericalError, match="LiSSA diverges"):
        world.solved(parse_method("lissa:kind=hessian,batch=1000,iterations=600,damping=0.01"))


def test_arnoldi_in_all_dimensions_is_the_inverse(world):
    size = len(world.ggn)
    for damping in (0.1, 3.0):
        method = parse_method(f"arnoldi:dimension={size},top={size},damping={damping}")
        assert relative(world.solved(method), world.wanted(damping)) < 1e-8


def test_arnoldi_is_the_inverse_in_a_krylov_subspace(world):
    sites = world.work.owner.sites
    like = {site.name: torch.zeros(1, *site.shape, dtype=torch.float64) for site in sites}
    start = world.flat(random_start(like, world.work.owner.config.fit.seed, "arnoldi/0/0"))[0]
    matrix, columns = scaled(world, world.ggn), [start]
    for _ in range(5):
        columns.append(matrix @ (columns[-1] / columns[-1].norm()))
    basis = torch.linalg.qr(torch.stack(columns, 1))[0]
    queries = world.truth.queries * world.means.rsqrt()
    values, turn = torch.linalg.eigh(basis.T @ matrix @ basis)
    for top, kept in ((6, turn), (2, turn[:, -2:])):
        vectors = basis @ kept
        inside = (queries @ vectors / (values[-top:] + 0.3)) @ vectors.T
        whole = inside + (queries - queries @ vectors @ vectors.T) / 0.3
        for rest, wanted in (("false", inside), ("true", whole)):
            method = parse_method(f"arnoldi:dimension=6,top={top},damping=0.3,rest={rest}")
            assert relative(world.solved(method), wanted * world.means.rsqrt()) < 1e-7


def test_arnoldi_finds_the_dominant_eigenvalues(world):
    method = parse_method("arnoldi:dimension=30,top=3")
    world.solved(method)
    wanted = torch.linalg.eigvalsh(scaled(world, world.ggn)).flip(0)[:3]
    assert torch.allclose(KrylovStep(method, world.work).values, wanted, rtol=1e-5)


def test_arnoldi_of_a_hessian_keeps_large_negative_eigenvalues_and_refuses_them(world):
    with pytest.raises(NumericalError, match=r"not made positive by damping 0\.01"):
        world.solved(parse_method("arnoldi:kind=hessian,dimension=30,damping=0.01"))


def test_an_interrupted_krylov_basis_goes_on_where_it_stopped(world):
    method = parse_method("arnoldi:dimension=4,sample=0.1")
    step = KrylovStep(method, world.work)
    calls = []

    def interrupt(tokens):
        calls.append(tokens)
        if len(calls) == 3:  # the sample is one batch: two iterations are done
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step.run("krylov", (0, 1), interrupt)
    assert not step.done("krylov")
    stored = [step.path(number) / "vector.safetensors" for number in range(4)]
    assert [path.exists() for path in stored] == [True, True, False, False]
    first = stored[0].read_bytes()
    step.run("krylov", (0, 1), lambda tokens: None)
    assert stored[0].read_bytes() == first
    assert step.finish()
    resumed = {name: each.clone() for name, each in step.vectors.items()}
    whole = KrylovStep(parse_method("arnoldi:dimension=4,sample=0.1,top=2"), world.work)
    whole.run("krylov", (0, 1), lambda tokens: None)
    assert whole.finish()
    assert all((each == resumed[name]).all() for name, each in whole.vectors.items())

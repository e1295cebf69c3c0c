"""Codes of leading coordinates: which they are, how many, and that scores are those of a dense masked inverse."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from method_world import QUERIES, make_place, open_run
from test_codes import Case
from test_leakage import encoder_of, make_curvature, make_site, query_of, stored
from whence.attributor import fit_steps, index_steps, run_steps
from whence.attributor.leakage import dimensions, query_leakage, sketch_noise
from whence.cli.commands import _dimension_line
from whence.errors import InputError
from whence.factors import Factors, OneHot, map_side
from whence.fidelity import MethodSpec
from whence.fidelity.scorers import _meant
from whence.gradients import Recipe, SiteWeights
from whence.gradients.flat import flattened, unflattened
from whence.gradients.leading import leading_counts, taken
from whence.methods import Bound, Work, parse_method


def leading(coordinates: int, **more) -> Recipe:
    return Recipe(**{"method": "ekfac", "bits": 16, **more}, projection="leading", coordinates=coordinates)


WIDE = {"hidden_size": 16, "intermediate_size": 24}


@pytest.fixture(scope="module", params=["llama", "gpt2", "olmoe"])
def case(request):
    """Models whose sites are larger than the fewest coordinates kept."""
    changes = {"llama": WIDE, "gpt2": {"n_embd": 16, "tie_word_embeddings": True}, "olmoe": WIDE}
    return Case(request.param, **changes[request.param])


def length(case: Case, name: str) -> torch.Tensor:
    """Scale of errors [Q, N]: lengths of whitened queries times lengths of whitened documents."""
    curvature = case.curvatures[name]
    weights = (curvature.eigenvalues + case.dampings[name]).rsqrt()
    q, z = ((curvature.rotate(blocks[name]) * weights).flatten(1).norm(dim=1) for blocks in (case.queries, case.blocks))
    return torch.outer(q, z).clamp_min(1e-12)


def masked(case: Case, name: str, count: int) -> torch.Tensor:
    """Influence [Q, N] through the `count` coordinates with the largest eigenvalues alone, densely."""
    curvature = case.curvatures[name]
    values = curvature.eigenvalues.flatten()
    there = torch.zeros_like(values)
    there[values.topk(count).indices] = 1
    weights = (there / (values + case.dampings[name])).reshape(curvature.eigenvalues.shape)
    q, z = (curvature.rotate(blocks[name]) for blocks in (case.queries, case.blocks))
    return (q * weights).flatten(1) @ z.flatten(1).T


@pytest.mark.parametrize("coordinates", [64, 128, 400])
def test_scores_are_those_of_the_leading_coordinates(case, coordinates):
    recipe = leading(coordinates)
    got, layouts = case.scores(recipe), recipe.layout(case.sites)
    fewer = 0
    for number, (site, layout) in enumerate(zip(case.sites, layouts, strict=True)):
        gap = (got[number] - masked(case, site.name, layout.count)).abs() / length(case, site.name)
        assert float(gap.max()) < 5e-4, site.name
        fewer += layout.count < site.size
    assert fewer > len(layouts) / 4 or coordinates == 400, "the budget has to be below many sites' sizes"


def test_the_gradient_dot_product_is_that_of_the_same_coordinates(case):
    recipe = leading(100)
    got = case.scores(recipe, plain=True)
    for number, (site, layout) in enumerate(zip(case.sites, recipe.layout(case.sites), strict=True)):
        curvature = case.curvatures[site.name]
        flat = lambda blocks, c=curvature: c.rotate(blocks).flatten(1)  # noqa: E731
        chosen = curvature.eigenvalues.flatten().topk(layout.count).indices
        q, z = flat(case.queries[site.name]), flat(case.blocks[site.name])
        scale = torch.outer(q.norm(dim=1), z.norm(dim=1)).clamp_min(1e-12)
        assert float(((got[number] - q[:, chosen] @ z[:, chosen].T).abs() / scale).max()) < 2e-2, site.name


def test_a_budget_above_all_sizes_is_the_whole_code(case):
    torch.testing.assert_close(case.scores(leading(10**6)), case.scores(Recipe(method="ekfac", bits=16)))


def test_they_say_more_than_a_sketch_of_as_many():
    """Documents and queries that differ as the curvature says; correlation with exact influence."""
    site = make_site(32, 32)
    curvature, draw = make_curvature(site), torch.Generator().manual_seed(3)
    noise = torch.randn(2, 40, *site.shape, generator=draw, dtype=torch.float64)
    queries, documents = (curvature.unrotate(each * curvature.eigenvalues.sqrt()) for each in noise)
    exact = curvature.solve(queries, 0.05).flatten(1) @ documents.flatten(1).T

    def agreement(projection, coordinates, seed=0):
        recipe = Recipe(method="ekfac", bits=16, projection=projection, coordinates=coordinates, seed=seed)
        encoder = encoder_of(site, curvature, 0.05, recipe)
        kept = stored_leading(encoder, documents) if projection == "leading" else stored(encoder, documents)
        got = encoder.query(queries) @ kept.T
        return float(np.corrcoef(got.flatten(), exact.flatten())[0, 1])

    for coordinates in (64, 128, 256):
        assert agreement("leading", coordinates) > max(agreement("hadamard", coordinates, s) for s in range(10)) + 0.1
    found = [agreement("leading", coordinates) for coordinates in (64, 128, 256, 512)]
    assert found == sorted(found)
    assert found[-1] > 0.995


def test_equal_eigenvalues_go_by_their_places():
    site = make_site(4, 32)
    curvature = replace(make_curvature(site), eigenvalues=torch.ones(4, 32))
    assert taken(site, curvature, 64).coordinates.tolist() == list(range(64))
    tokens = make_site(4, 32, vocabulary="inputs")  # laid out token by token
    found = taken(tokens, curvature, 64)
    assert (found.rows.tolist(), found.columns.tolist()) == ([0, 1, 2, 3], list(range(16)))


@pytest.mark.parametrize("site", [make_site(3, 5), make_site(3, 5, vocabulary="inputs"), make_site(3, 5, experts=4)])
def test_the_order_of_a_code_and_back(site):
    blocks = torch.arange(float(site.size)).reshape(site.shape)
    places = unflattened(site, torch.arange(site.size))
    found = (
        blocks[places.rows, places.columns]
        if places.experts is None
        else blocks[places.experts, places.rows, places.columns]
    )
    assert torch.equal(found, flattened(site, blocks))
    assert torch.equal(flattened(site, torch.stack([blocks, -blocks])), torch.stack([found, -found]))


def test_taken_coordinates_of_a_side():
    dense, kept = torch.randn(2, 3, 5), torch.tensor([4, 1])
    assert torch.equal(map_side(dense, kept), map_side(dense, torch.eye(5)[kept]))
    ones = OneHot(torch.tensor([[1, 4, 0]]), 5, torch.tensor([[1.0, 0.0, 1.0]]))
    assert torch.equal(map_side(ones, kept).dense(torch.float32), map_side(ones, torch.eye(5)[kept]))
    grads = torch.randn(1, 3, 2)
    assert torch.equal(Factors(ones, grads).map(None, kept).blocks(), Factors(ones, grads).blocks()[:, :, kept])


# ------------------------------------------------------------------ how many


def sites_of(*kinds):
    """Sites of 64 x 64, a head among them if it is asked for."""
    return [
        replace(make_site(64, 64), name=f"{n}.{kind}", group=f"{n}", head=kind == "head")
        for n, kind in enumerate(kinds)
    ]  # fmt: skip


def by_site(sites, weights):
    return {site.name: weights.of(site) for site in sites}


@pytest.mark.parametrize("coordinates", [64, 100, 700, 3000, 10**6])
def test_counts_come_near_what_is_asked(coordinates):
    sites = sites_of("head", "mlp", "attn", "attn", "mlp", "mlp")
    counts = leading_counts(sites, by_site(sites, SiteWeights()), coordinates)
    asked, most = coordinates * len(sites), sum(site.size for site in sites)
    assert min(counts.values()) >= 64
    assert 0.6 * min(asked, most) <= sum(counts.values()) <= min(1.6 * asked, most)
    recipe = Recipe(projection="leading", coordinates=coordinates)
    assert [layout.count for layout in recipe.layout(sites)] == list(counts.values())
    scales = recipe.bytes_per_row(sites) - sum(layout.stored for layout in recipe.layout(sites)) // 8
    assert scales <= 4 * (len(sites) + sum(counts.values()) / 64)


def test_weights_decide_how_many():
    sites = sites_of("head", "mlp", "attn")
    counts = list(leading_counts(sites, by_site(sites, SiteWeights(head=4, mlp=2, attention=1)), 512).values())
    assert counts[0] == pytest.approx(4 / 7 * 1536, rel=0.4)
    assert counts[0] >= counts[1] >= counts[2]
    assert set(leading_counts(sites, dict.fromkeys([site.name for site in sites], 1.0), 512).values()) == {512}
    alone = leading_counts(sites, by_site(sites, SiteWeights(head=0, mlp=0, attention=1)), 1000)
    assert list(alone.values()) == [64, 64, 3072]
    capped = leading_counts(sites, by_site(sites, SiteWeights(head=1000, mlp=1, attention=1)), 2048)
    assert list(capped.values()) == [4096, 1024, 1024]


def test_more_coordinates_are_never_fewer():
    sites = sites_of("head", "mlp", "attn")
    table = np.array(
        [list(leading_counts(sites, by_site(sites, SiteWeights()), c).values()) for c in range(64, 5000, 61)]
    )
    assert (np.diff(table, axis=0) >= 0).all()


def test_only_unsaturated_recipes_have_weights():
    sites = sites_of("head", "mlp", "attn")
    alike = Recipe(method="ekfac", projection="leading", coordinates=512).layout(sites)
    assert {layout.count for layout in alike} == {512}
    counts = [layout.count for layout in Recipe(projection="leading", coordinates=512).layout(sites)]
    assert counts[0] > 1000 > 100 >= max(counts[1:])


def test_the_same_coordinates_whatever_the_weight():
    """Weights are sums, whose last bits depend on the machine; which coordinates are kept may not."""
    site = make_site(64, 64)
    curvature = replace(make_curvature(site), eigenvalues=make_curvature(site).eigenvalues.float())
    wanted = taken(site, curvature, 512).coordinates
    for weight in (0.1, 3.0, 16.0, 16.0 * (1 + 1e-7)):
        assert torch.equal(taken(site, curvature.divided(weight), 512).coordinates, wanted)


# ------------------------------------------------------------------ what it leaves out


@pytest.mark.parametrize("site", [make_site(), make_site(12, 20, vocabulary="inputs"), make_site(10, 14, experts=2)])
def test_what_is_said_to_be_lost_is_lost(site):
    """Documents are sqrt(Lambda) times every eigenvector, so their sum is the mean over documents, exactly."""
    curvature, blocks, damping = make_curvature(site), query_of(site), 0.03
    scaled = torch.diag(curvature.eigenvalues.flatten().sqrt()).reshape(site.size, *site.shape)
    documents = curvature.unrotate(scaled)
    exact = curvature.solve(blocks, damping).flatten(1) @ documents.flatten(1).T
    encoder = encoder_of(site, curvature, damping, leading(64))
    assert encoder.layout.count < site.size
    vectors = encoder.query(blocks)
    kept = stored_leading(encoder, documents)
    gap = (vectors @ kept.T - exact).square().sum(1)
    torch.testing.assert_close(sketch_noise(encoder, curvature.rotate(blocks)), gap)
    (first, _) = query_leakage({"site": blocks}, {"site": encoder}, indexed=True)
    assert first.dropped == pytest.approx(float(gap[0] / exact[0].square().sum()), rel=1e-9)
    assert query_leakage({"site": blocks}, {"site": encoder}, indexed=False)[0].dropped == 0


def stored_leading(encoder, documents):
    """What documents store, through the encoder's own maps on dense blocks."""
    chosen = encoder.taken
    basis = encoder.curvature
    turned = basis.rotate(documents)
    flat = (turned.transpose(-1, -2) if encoder.site.vocabulary == "inputs" else turned).flatten(1)[
        :, chosen.coordinates
    ]
    whole = replace(encoder, taken=None, left=None, right=None)
    return stored(whole, _as_blocks(flat, encoder))


def _as_blocks(flat, encoder):
    """Vectors [N, count] in a shape that flattens to them."""
    return flat[:, :, None] if encoder.site.vocabulary == "inputs" else flat[:, None]


def test_weights_of_sites_count_twice_in_what_is_lost():
    """Two sites, of which one is whole: its weight enters influence once, and influence's square twice."""
    first = second = make_site()
    damping, shares = 0.03, []
    for weight in (1.0, 3.0):
        curvatures = {"a": make_curvature(first).divided(weight), "b": make_curvature(second, 1)}
        dampings = {"a": damping / weight, "b": damping}
        encoders = {
            "a": replace(encoder_of(first, curvatures["a"], dampings["a"], Recipe(projection="none")), site=first),
            "b": encoder_of(second, curvatures["b"], dampings["b"], leading(64)),
        }
        found = query_leakage({"a": query_of(first), "b": query_of(second)}, encoders, True)[0].dropped
        shares.append(found / (1 - found))  # lost over said
    whole = query_leakage({"b": query_of(second)}, {"b": encoders["b"]}, True)[0].dropped
    # lost / said = m / (w^2 A + B): two equations give A and B
    lost_over_b = whole / (1 - whole)
    b = 1 / lost_over_b
    a = 1 / shares[0] - b
    assert 1 / shares[1] == pytest.approx(9 * a + b, rel=1e-9)


# ------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("leading"), **WIDE)


def short(owner, **more):
    return owner.config.recipe.model_copy(update={"projection": "leading", "coordinates": 64, **more})


def bytes_of(owner, recipe):
    folder = owner.run.index / recipe.name
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.glob("*/*.npy"))}


def test_an_index_is_the_same_however_it_is_made(place, tmp_path):
    """In one go, or gone on with after a part was lost; windows and all."""
    one = open_run(place, tmp_path / "one")
    one.index(short(one))
    two = open_run(place, tmp_path / "two")
    recipe = short(two)
    run_steps([*fit_steps(two), *index_steps(two, recipe)])
    shutil.rmtree(two.run.index / recipe.name / two.corpus.shares[0].name)
    run_steps(index_steps(two, recipe))
    wanted, got = bytes_of(one, recipe), bytes_of(two, recipe)
    assert wanted
    assert wanted == got
    assert one.open_index(recipe.name).bytes_per_row == recipe.bytes_per_row(one.sites)


def test_a_trace_reads_it(place, tmp_path):
    owner = open_run(place, tmp_path / "run")
    whole = short(owner, bits=16, coordinates=10**6)
    for recipe in (whole, short(owner, bits=16)):
        owner.index(recipe)
    exact = owner.scores(QUERIES, exact=True)
    same = owner.scores(QUERIES, index=whole.name)
    assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(same, exact, strict=True)) > 0.9999
    result = owner.trace(QUERIES, k=2, tokens=False, index=short(owner, bits=16).name)
    assert all(0 < trace.leakage.dropped < 1 for trace in result.traces)


def test_named_methods_keep_what_they_are_told_to(place, tmp_path):
    owner = open_run(place, tmp_path / "run")
    for name in ("unsaturated", "trajectory"):
        recipe = parse_method(f"{name}:coordinates=64").recipe(Work(owner))
        assert (recipe.projection, recipe.coordinates) == ("leading", 64)
        assert recipe.bytes_per_row(owner.sites) < parse_method(name).recipe(Work(owner)).bytes_per_row(owner.sites)


def test_an_index_of_other_coordinates_is_no_index_of_theirs(place, tmp_path):
    owner = open_run(place, tmp_path / "run", recipe={"method": "unsaturated"})
    other = owner.index(short(owner, coordinates=128)).folder.name
    bound = Bound(parse_method("unsaturated:coordinates=64"), Work(owner))
    with pytest.raises(InputError, match=r"keeps 64 leading coordinates a site, and the index .* does not"):
        owner.trace(QUERIES, method=bound, index=other)
    own = owner.index(bound.recipe).folder.name
    assert owner.trace(QUERIES, k=2, tokens=False, method=bound, index=own).summary.recipe == own
    whatever = Bound(parse_method("unsaturated"), Work(owner))
    assert owner.trace(QUERIES, k=2, tokens=False, method=whatever, index=other).summary.recipe == other


def test_fit_says_what_is_held(place, tmp_path, monkeypatch):
    owner = open_run(place, tmp_path / "run")
    owner.fit()
    recipe = short(owner)
    monkeypatch.setattr(type(owner), "recipe", lambda self: recipe)
    found = dimensions(owner, recipe)
    share = sum(each.weight * each.held for each in found) / sum(each.weight * each.dimension for each in found)
    assert 0 < share < 1
    assert f"which have {share:.0%} of it as sites weigh" in _dimension_line(owner)
    for each, site in zip(found, owner.sites, strict=True):
        curvature, damping = owner.damped(recipe)[site.name]
        top = curvature.eigenvalues.double().flatten().sort(descending=True).values[: each.kept]
        assert each.held == pytest.approx(float((top / (top + damping)).sum()), rel=1e-4)


# ------------------------------------------------------------------ what auto meant


@pytest.fixture
def tight(monkeypatch):
    """The smallest models are too large for whole codes."""
    monkeypatch.setattr("whence.gradients.recipe.AUTO_BYTES", 600)


def test_an_old_sketch_stays_the_index_of_its_run(place, tmp_path, tight):
    owner = open_run(place, tmp_path / "run")
    now = owner.config.recipe.resolved(owner.sites)
    assert now.projection == "leading"
    old = owner.config.recipe.model_copy(update={"projection": "kronecker", "coordinates": 64})
    owner.index(old)
    assert (owner.recipe(), owner.open_index().folder.name) == (old, old.name)
    owner.scores(QUERIES)
    shutil.rmtree(owner.run.index / old.name / owner.corpus.shares[0].name)
    owner.index()  # goes on with it
    assert owner.index_names() == [old.name]
    owner.index(now)
    assert owner.recipe() == now, "who asks for the new one has it from then on"


def test_a_lab_does_not_take_old_scores_for_these(place, tmp_path, monkeypatch):
    owner = open_run(place, tmp_path / "run")
    keys = []
    for size in (600, 1 << 20):
        monkeypatch.setattr("whence.gradients.recipe.AUTO_BYTES", size)
        keys.append(_meant(owner, MethodSpec(curvature="unsaturated", bits=1)))
        assert keys[-1] == _meant(owner, MethodSpec(method="unsaturated"))
    assert keys == [{"auto": "leading"}, {}]


def test_names_say_what_auto_means():
    assert MethodSpec(curvature="ekfac", bits=1, coordinates=256).name == "EK-FAC, 1 bit, leading 256"
    assert "kronecker 256" in MethodSpec(curvature="identity", bits=1, coordinates=256).name


# ------------------------------------------------------------------ refused


def test_what_has_no_leading_coordinates_is_refused(case):
    with pytest.raises(InputError, match="needs --coordinates"):
        Recipe(projection="leading").resolved(case.sites)
    with pytest.raises(InputError, match="--method identity has"):
        leading(64, method="identity").resolved(case.sites)
    with pytest.raises(ValidationError, match="no curvature by which coordinates lead"):
        MethodSpec(curvature="identity", bits=1, projection="leading", coordinates=64)
    with pytest.raises(ValidationError, match="how many to keep per site"):
        MethodSpec(curvature="ekfac", bits=1, projection="leading")
    for method in ("unsaturated", "trajectory"):
        with pytest.raises(InputError, match="bits exact stores no coordinates"):
            parse_method(f"{method}:bits=exact,coordinates=64")
        assert parse_method(f"{method}:coordinates=64").coordinates == 64

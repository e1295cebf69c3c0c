"""Effective dimension, and what an index cannot see of a query: against dense float64, and against sketches drawn."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from method_world import QUERIES, make_place, make_truth, open_run
from test_report_samples import make_result
from whence.attributor.leakage import coordinates_for, dimensions, query_leakage, sketch_noise
from whence.cli.commands import _dimension_line
from whence.curvature import (
    SiteCurvature,
    effective_dimension,
    recommended_coordinates,
    total_dimension,
)
from whence.gradients import Recipe, build_encoders
from whence.interfaces import Leakage, Site
from whence.projection import rotate_blocks
from whence.report import show
from whence.report.html import page

CPU = torch.device("cpu")


def make_site(outputs=12, inputs=20, vocabulary=None, experts=0) -> Site:
    return Site("site", outputs, inputs, False, (), vocabulary, ("site",), group="site", experts=experts)


def make_curvature(site: Site, seed: int = 0) -> SiteCurvature:
    """Random bases, eigenvalues over five decades."""
    draw = torch.Generator().manual_seed(seed)
    stack = (site.experts,) if site.experts else ()

    def basis(size):
        return torch.linalg.qr(torch.randn(*stack, size, size, generator=draw, dtype=torch.float64))[0]

    eigenvalues = 10 ** (-5 * torch.rand(*site.shape, generator=draw, dtype=torch.float64))
    return SiteCurvature(basis(site.outputs), basis(site.inputs), eigenvalues)


def dense(curvature: SiteCurvature) -> torch.Tensor:
    """C of one matrix, [O I, O I]."""
    both = torch.kron(curvature.outputs, curvature.inputs)
    return both @ torch.diag(curvature.eigenvalues.flatten()) @ both.T


def encoder_of(site, curvature, damping, recipe):
    return build_encoders([site], {"site": curvature}, {"site": damping}, recipe, CPU, torch.float64)["site"]


def query_of(site, count=2):
    return torch.randn(count, *site.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


# ---------------------------------------------------------------------- dimension


@pytest.mark.parametrize("damping", [1e-4, 0.03, 2.0])
def test_effective_dimension_is_the_trace_of_c_over_c_plus_damping(damping):
    site = make_site()
    curvature = make_curvature(site)
    c = dense(curvature)
    expected = torch.linalg.solve(c + damping * torch.eye(len(c), dtype=torch.float64), c).trace()
    assert effective_dimension(curvature.eigenvalues, damping) == pytest.approx(float(expected), rel=1e-9)
    both = [(curvature.eigenvalues, damping), (curvature.eigenvalues, 3 * damping)]
    assert total_dimension(both) == pytest.approx(sum(effective_dimension(*each) for each in both))


def test_recommended_coordinates_are_a_power_of_two_within_bounds():
    assert recommended_coordinates(0.0, 10**6) == 64
    assert recommended_coordinates(10.24, 10**6, 0.1) == 1024  # an exact power is not doubled
    assert recommended_coordinates(10.25, 10**6, 0.1) == 2048
    assert recommended_coordinates(10.25, 10**6, 0.2) == 512
    assert recommended_coordinates(10.25, 1500, 0.1) == 1500
    assert recommended_coordinates(0.1, 40) == 40
    with pytest.raises(ValueError, match="positive"):
        recommended_coordinates(1.0, 64, 0.0)


# ---------------------------------------------------------------------- unseen


@pytest.mark.parametrize("damping", [1e-4, 0.03, 2.0])
def test_unseen_share_against_dense_solves(damping):
    """``l g^T (C + l)^-2 g / g^T (C + l)^-1 g``, without any eigenvalue."""
    site = make_site()
    curvature, blocks = make_curvature(site), query_of(site)
    encoder = encoder_of(site, curvature, damping, Recipe(projection="none"))
    once = torch.linalg.solve(
        dense(curvature) + damping * torch.eye(site.size, dtype=torch.float64), blocks.flatten(1).T
    )
    expected = damping * once.square().sum(0) / (blocks.flatten(1).T * once).sum(0)
    found = query_leakage({"site": blocks}, {"site": encoder}, indexed=True)
    assert [each.unseen for each in found] == pytest.approx(expected.tolist(), rel=1e-9)
    assert [each.dropped for each in found] == [0.0, 0.0]


def test_unseen_is_all_or_nothing_at_the_ends():
    site = make_site()
    basis = make_curvature(site)
    flat = torch.where(torch.arange(site.size).reshape(site.shape) < 5, 1e6, 1e-9).double()
    curvature = SiteCurvature(basis.outputs, basis.inputs, flat)
    encoder = encoder_of(site, curvature, 1.0, Recipe(projection="none"))
    inside, outside = torch.zeros(2, 1, *site.shape, dtype=torch.float64)
    inside[0, 0, 0], outside[0, 6, 6] = 1.0, 1.0
    blocks = curvature.unrotate(torch.cat([inside, outside]))
    seen, unseen = query_leakage({"site": blocks}, {"site": encoder}, indexed=True)
    assert seen.unseen < 1e-5
    assert not seen.warning
    assert unseen.unseen > 1 - 1e-5
    assert "fit on more documents" in unseen.warning


def test_nothing_is_said_without_curvature_or_gradient():
    site = make_site()
    none = SiteCurvature(None, None, torch.zeros(site.shape, dtype=torch.float64))
    blocks = {"site": query_of(site)}
    assert query_leakage(blocks, {"site": encoder_of(site, none, 1.0, Recipe(projection="none"))}, True) == (None, None)
    there = encoder_of(site, make_curvature(site), 1.0, Recipe(projection="none"))
    assert query_leakage({"site": 0 * blocks["site"]}, {"site": there}, True) == (None, None)


# ---------------------------------------------------------------------- dropped


def stored(encoder, blocks):
    """What documents with these gradients store before it is rounded to bits, [N, stored]."""
    if encoder.left is not None:
        blocks = encoder.left @ blocks
    if encoder.right is not None:
        blocks = blocks @ encoder.right.mT
    if encoder.site.vocabulary == "inputs":
        blocks = blocks.transpose(-1, -2)
    padded = blocks.new_zeros(len(blocks), len(encoder.weights))
    padded[:, : encoder.layout.count] = blocks.reshape(len(blocks), -1) * encoder.weights[: encoder.layout.count]
    rotated = rotate_blocks(padded, encoder.layout.block).reshape(len(blocks), encoder.layout.blocks, -1)
    return rotated[:, :, : encoder.layout.kept].flatten(1)


SKETCHES = {
    "hadamard": (make_site(), "hadamard"),
    "hadamard, several blocks": (make_site(16, 24), "hadamard"),
    "hadamard, vocabulary": (make_site(12, 20, vocabulary="inputs"), "hadamard"),
    "kronecker": (make_site(), "kronecker"),
    "kronecker, one side whole": (make_site(5, 30), "kronecker"),
    "kronecker, experts": (make_site(10, 14, experts=2), "kronecker"),
}


@pytest.mark.parametrize("name", SKETCHES)
def test_noise_is_what_sketches_drawn_have(name):
    """Documents are sqrt(Lambda) times every eigenvector, so their sum is the mean over documents, exactly."""
    site, projection = SKETCHES[name]
    curvature, blocks, damping = make_curvature(site), query_of(site), 0.03
    count = site.size
    scaled = torch.diag(curvature.eigenvalues.flatten().sqrt()).reshape(count, *site.shape)
    documents = curvature.unrotate(scaled)
    exact = curvature.solve(blocks, damping).flatten(1) @ documents.flatten(1).T
    assert exact.square().sum(1).tolist() == pytest.approx(
        ((curvature.rotate(blocks) / (curvature.eigenvalues + damping)).square() * curvature.eigenvalues)
        .flatten(1)
        .sum(1)
        .tolist()
    )
    errors = []
    for seed in range(200):
        recipe = Recipe(projection=projection, coordinates=64, seed=seed)
        encoder = encoder_of(site, curvature, damping, recipe)
        sketched = encoder.query(blocks) @ stored(encoder, documents).T
        errors.append((sketched - exact).square().sum(1))
    found, predicted = torch.stack(errors), sketch_noise(encoder, curvature.rotate(blocks))
    error = found.std(0) / len(found) ** 0.5
    assert (error < 0.08 * predicted).all(), "too few seeds to tell"
    assert ((found.mean(0) - predicted).abs() < 4 * error + 1e-9 * predicted).all(), (found.mean(0), predicted, error)
    ((first, _),) = [query_leakage({"site": blocks}, {"site": encoder}, indexed=True)]
    assert first.dropped == pytest.approx(float(predicted[0] / (predicted[0] + exact[0].square().sum())), rel=1e-9)
    assert query_leakage({"site": blocks}, {"site": encoder}, indexed=False)[0].dropped == 0


def test_noise_falls_with_coordinates_to_nothing():
    site = make_site(32, 32)
    curvature, blocks = make_curvature(site), query_of(site, 1)
    for projection in ("hadamard", "kronecker"):
        noises = [
            query_leakage(
                {"site": blocks},
                {"site": encoder_of(site, curvature, 0.03, Recipe(projection=projection, coordinates=kept))},
                True,
            )[0].dropped
            for kept in (64, 128, 256, 512, 1024)
        ]
        assert noises == sorted(noises, reverse=True)
        assert noises[0] > 0.1
        assert noises[-1] == 0


# ---------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leakage")
    place = make_place(folder)
    owner = open_run(place, folder / "run")
    owner.index()
    return place, owner


def test_traces_carry_the_leakage_of_their_query(run):
    place, owner = run
    truth = make_truth(place, owner)
    result = owner.trace(QUERIES, k=2, tokens=False)
    added, damped_twice = np.zeros(len(QUERIES)), np.zeros(len(QUERIES))
    for site in owner.sites:
        curvature, damping = owner.damped(owner.recipe())[site.name]
        flat = truth.queries[:, truth.slices[site.name]]
        once = curvature.to(CPU, torch.float64).solve(flat.reshape(-1, *site.shape), damping).flatten(1)
        added += (flat * once).sum(1).numpy()
        damped_twice += (damping * once.square().sum(1)).numpy()
    assert [t.leakage.unseen for t in result.traces] == pytest.approx((damped_twice / added).tolist(), rel=1e-5)
    assert all(t.leakage.dropped == 0 for t in result.traces)
    sketch = owner.config.recipe.model_copy(update={"projection": "kronecker", "coordinates": 64})
    owner.index(sketch)
    sketched = owner.trace(QUERIES, k=2, tokens=False, index=sketch.name)
    assert [t.leakage.unseen for t in sketched.traces] == pytest.approx([t.leakage.unseen for t in result.traces])
    assert all(0 < t.leakage.dropped < 1 for t in sketched.traces)
    assert owner.trace(QUERIES[:1], k=2, tokens=False, index=sketch.name, exact=True).traces[0].leakage.dropped == 0


def test_dimensions_of_a_run(run):
    _, owner = run
    recipe = owner.recipe().model_copy(update={"projection": "kronecker", "coordinates": 64})
    found, damped = dimensions(owner, recipe), owner.damped(recipe)
    for each, site in zip(found, owner.sites, strict=True):
        curvature, damping = damped[site.name]
        assert each.dimension == pytest.approx(effective_dimension(curvature.eigenvalues, damping))
        assert (each.name, each.size, each.kept <= max(site.size, 64)) == (site.name, site.size, True)
    enough = coordinates_for(recipe, owner.sites, found)
    again = dimensions(owner, recipe.model_copy(update={"coordinates": enough}))
    assert enough > 64
    assert all(each.kept >= each.recommended for each in again)
    fewer = dimensions(owner, recipe.model_copy(update={"coordinates": enough // 2}))
    assert any(each.kept < each.recommended for each in fewer)
    assert dimensions(owner, recipe.model_copy(update={"method": "identity"})) == ()


def test_fit_says_how_many_coordinates_a_sketch_should_keep(run, monkeypatch):
    _, owner = run
    assert _dimension_line(owner).startswith("Effective dimension: ")
    assert "sketch" not in _dimension_line(owner)
    recipe = owner.recipe().model_copy(update={"projection": "kronecker", "coordinates": 64})
    enough = coordinates_for(recipe, owner.sites, dimensions(owner, recipe))
    monkeypatch.setattr(type(owner), "recipe", lambda self: recipe)
    assert f"--coordinates {enough} is enough at all of them" in _dimension_line(owner)
    recipe = recipe.model_copy(update={"coordinates": enough})
    assert "enough for a relative error of 0.1 at every site" in _dimension_line(owner)
    recipe = recipe.model_copy(update={"method": "diagonal"})
    assert _dimension_line(owner) == ""  # not fitted


# ---------------------------------------------------------------------- what people see


def shown(result) -> str:
    console = Console(file=io.StringIO(), width=100)
    show(result, console)
    return " ".join(console.file.getvalue().split())


def test_words_and_warnings_are_shown():
    result = make_result()
    assert "damping decides" not in shown(result) + page(result)

    def with_leakage(leakage):
        return result.model_copy(
            update={"traces": tuple(t.model_copy(update={"leakage": leakage}) for t in result.traces)}
        )

    quiet = Leakage(unseen=0.25)
    assert quiet.words == "25% of the answer's gradient lies where damping decides and not the fit sample"
    assert quiet.warning == ""
    text, html = shown(with_leakage(quiet)), page(with_leakage(quiet))
    assert quiet.words in text
    assert "25% of the answer" in html
    assert "rests on the damping" not in text + html
    loud = Leakage(unseen=0.75, dropped=0.6)
    text, html = shown(with_leakage(loud)), page(with_leakage(loud))
    for told in (text, html):
        assert all(words in told for words in ("rests on the damping", "lost to its sketch", "60%"))

"""Codes of documents and vectors of queries: their inner product is that of the dense, exactly damped inverse."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import as_loaded, causal_lm, make_runner, sequences, shake
from oracle import dense_ekfac
from test_capture import Recurrent, plain_examples, plain_runner
from whence.curvature import Covariances, Damping, fit_kfac, identity_curvature, with_eigenvalues
from whence.data import batch_from_sequences
from whence.factors import Factors, block_pieces, total_blocks
from whence.gradients import (
    Recipe,
    add_covariances,
    add_eigenvalue_squares,
    build_encoders,
    encode_documents,
    exact_scores,
    gradient_blocks,
    language_examples,
)
from whence.gradients.recipe import AUTO_BYTES, SHORT_BYTES
from whence.model import Classification
from whence.projection import decode, encode, layout_sites
from whence.scoring import window_scores

CPU = torch.device("cpu")
LENGTHS = (9, 5, 7, 2, 6, 12, 4, 8)


class Case:
    """A fitted tiny model, its documents and queries, and their exact influence, all in float64."""

    def __init__(self, kind, patterns=(), **changes):
        model = causal_lm(kind, **changes)
        self.loaded = as_loaded(model)
        self.runner = make_runner(self.loaded, patterns)
        self.sites = self.runner.sites
        self.data = sequences(LENGTHS)
        self.documents = language_examples(batch_from_sequences(self.data), self.loaded)
        queries = language_examples(batch_from_sequences(sequences((6, 8, 5), seed=9)), self.loaded)
        sums = Covariances(self.sites, 10**6, documents=len(LENGTHS))
        add_covariances(self.runner, self.documents, sums, 0, "full")
        shared: dict = {}
        bases = {site.name: fit_kfac(site, sums, shared) for site in self.sites}
        squares: dict = {}
        add_eigenvalue_squares(self.runner, self.documents, bases, squares, 0, "full")
        self.curvatures = {n: with_eigenvalues(bases[n], squares[n], len(LENGTHS)) for n in bases}
        self.blocks, _ = gradient_blocks(self.runner, self.documents)
        self.queries, _ = gradient_blocks(self.runner, queries)
        self.dampings = {n: Damping(value=0.1).of(n, c, 1.0) for n, c in self.curvatures.items()}
        self.exact = {site.name: self._exact(site.name) for site in self.sites}
        self.plain = {n: self.queries[n].flatten(1) @ self.blocks[n].flatten(1).T for n in self.exact}
        self.total = sum(self.exact.values())
        self.size = sum(self._size(n) for n in self.exact)

    def _damped(self, name):
        c = self.curvatures[name]
        if c.eigenvalues.ndim == 3:  # experts: each has its own matrix, and no two act on each other
            dense = torch.block_diag(*(dense_ekfac(*parts) for parts in zip(c.outputs, c.inputs, c.eigenvalues)))
        else:
            dense = dense_ekfac(c.outputs, c.inputs, c.eigenvalues)
        return dense + self.dampings[name] * torch.eye(len(dense), dtype=torch.float64)

    def _exact(self, name):
        solved = torch.linalg.solve(self._damped(name), self.queries[name].flatten(1).T)
        return (self.blocks[name].flatten(1) @ solved).T

    def _size(self, name):
        """Scale of errors: lengths of whitened queries times lengths of whitened documents, [Q, N]."""
        damped = self._damped(name)
        q, z = self.queries[name].flatten(1), self.blocks[name].flatten(1)
        lengths = [(x * torch.linalg.solve(damped, x.T).T).sum(1).sqrt() for x in (q, z)]
        return torch.outer(*lengths)

    def scores(self, recipe, plain=False):
        """[S, Q, N] through codes and the scan's own inner product."""
        encoders = build_encoders(self.sites, self.curvatures, self.dampings, recipe, CPU, torch.float64)
        layouts = recipe.layout(self.sites)
        codes, scales, _ = encode_documents(self.runner, self.documents, encoders, layouts, "full")
        vectors = {n: e.query(self.queries[n], plain).float().numpy() for n, e in encoders.items()}
        share = Share(codes, scales, len(LENGTHS))
        return torch.from_numpy(window_scores(share, layouts, vectors, slice(None), per_site=True))


class Share:
    def __init__(self, codes, scales, count):
        self.codes, self.scales = codes, scales
        self.windows = np.stack([np.arange(count), np.zeros(count, int), np.ones(count, int)], 1)


@pytest.fixture(scope="module", params=["llama", "gpt2 tied", "qwen3 tied padding_idx", "olmoe"])
def case(request):
    kind = request.param.split()[0]
    changes = {"pad_token_id": 3, "tie_word_embeddings": True} if "padding_idx" in request.param else {}
    return Case(kind, **changes)


def test_exact_path_is_the_dense_inverse(case):
    solved = {n: c.solve(case.queries[n], case.dampings[n]) for n, c in case.curvatures.items()}
    for layout in ({}, {"pack": 16}, {"side": "left"}):
        documents = language_examples(batch_from_sequences(case.data, **layout), case.loaded)
        by_site, _ = exact_scores(case.runner, documents, solved, per_site=True)
        for number, site in enumerate(case.sites):
            torch.testing.assert_close(by_site[number].T, case.exact[site.name], rtol=1e-7, atol=1e-9)
        whole, _ = exact_scores(case.runner, documents, solved)
        torch.testing.assert_close(whole[0].T, case.total, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("bits", "error"), [(16, 5e-4), (8, 5e-3)])
def test_fine_codes_are_the_dense_inverse(case, bits, error):
    got = case.scores(Recipe(bits=bits))
    for number, site in enumerate(case.sites):
        gap = (got[number] - case.exact[site.name]).abs() / case._size(site.name).clamp_min(1e-12)
        assert float(gap.max()) < error, site.name
    assert float(((got.sum(0) - case.total).abs() / case.size).max()) < error


@pytest.mark.parametrize("bits", [16, 8])
def test_the_gradient_dot_product_is_read_off_the_same_index(case, bits):
    got = case.scores(Recipe(bits=bits), plain=True)
    for number, site in enumerate(case.sites):
        # the plain query is amplified where the code was whitened, and its rounding with it
        slack = 2e-2 if bits == 16 else 0.2
        wanted = case.plain[site.name]
        scale = case.queries[site.name].flatten(1).norm(dim=1)[:, None] * case.blocks[site.name].flatten(1).norm(dim=1)
        assert float(((got[number] - wanted).abs() / scale.clamp_min(1e-12)).max()) < slack, site.name


def test_identity_is_the_plain_inner_product(case):
    curvatures = {site.name: identity_curvature(site) for site in case.sites}
    encoders = build_encoders(
        case.sites, curvatures, dict.fromkeys(curvatures, 1.0), Recipe(method="identity", bits=16), CPU, torch.float64
    )
    layouts = Recipe(method="identity", bits=16).layout(case.sites)
    codes, scales, losses = encode_documents(case.runner, case.documents, encoders, layouts, "full")
    for plain in (False, True):
        vectors = {n: e.query(case.queries[n], plain).float().numpy() for n, e in encoders.items()}
        got = torch.from_numpy(
            window_scores(Share(codes, scales, len(LENGTHS)), layouts, vectors, slice(None), per_site=True)
        )
        for number, site in enumerate(case.sites):
            q, z = (x[site.name].flatten(1).norm(dim=1) for x in (case.queries, case.blocks))
            gap = (got[number] - case.plain[site.name]).abs() / torch.outer(q, z).clamp_min(1e-12)
            assert float(gap.max()) < 1e-3, site.name
    _, wanted = gradient_blocks(case.runner, case.documents)
    np.testing.assert_allclose(losses, wanted.numpy(), rtol=1e-5)


def test_decoded_codes_are_the_whitened_rotated_gradient(case):
    """Lengths are kept: ||code||^2 is z^T (C + l)^-1 z, the self-influence."""
    recipe = Recipe(bits=16)
    encoders = build_encoders(case.sites, case.curvatures, case.dampings, recipe, CPU, torch.float64)
    layouts = recipe.layout(case.sites)
    codes, scales, _ = encode_documents(case.runner, case.documents, encoders, layouts, "full")
    for at in layouts:
        back = decode(codes[:, at.first : at.last], scales[:, at.first_scale : at.last_scale], at)
        z = case.blocks[at.name].flatten(1)
        wanted = (z * torch.linalg.solve(case._damped(at.name), z.T).T).sum(1)
        np.testing.assert_allclose(np.square(back).sum(1), wanted.numpy(), rtol=2e-3, atol=1e-6)


def test_a_module_called_several_times():
    model = shake(Recurrent())
    ids, labels = torch.randint(0, 6, (5, 4), generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    runner = plain_runner(model, Classification(), ids, labels)
    examples, recipe = plain_examples(ids, labels), Recipe(method="identity", bits=16)
    blocks, _ = gradient_blocks(runner, examples)
    curvatures = {site.name: identity_curvature(site) for site in runner.sites}
    # any basis will do, but there must be one: shared inputs are mapped once
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    curvatures["cell"] = replace(curvatures["cell"], inputs=turn)
    encoders = build_encoders(runner.sites, curvatures, dict.fromkeys(curvatures, 1.0), recipe, CPU, torch.float64)
    layouts = recipe.layout(runner.sites)
    codes, scales, _ = encode_documents(runner, examples, encoders, layouts, "full")
    vectors = {n: e.query(blocks[n]).float().numpy() for n, e in encoders.items()}
    got = window_scores(Share(codes, scales, 5), layouts, vectors, slice(None), per_site=True)
    for number, site in enumerate(runner.sites):
        wanted = blocks[site.name].flatten(1) @ blocks[site.name].flatten(1).T
        np.testing.assert_allclose(got[number], wanted.numpy(), rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))


RECIPES = {
    "one bit": (Recipe(bits=1), 300),
    "hadamard sketch": (Recipe(bits=16, projection="hadamard", coordinates=64), 200),
    "one-bit hadamard sketch": (Recipe(bits=1, projection="hadamard", coordinates=64), 300),
    "kronecker sketch": (Recipe(bits=16, projection="kronecker", coordinates=64), 300),
    "one-bit kronecker sketch": (Recipe(bits=1, projection="kronecker", coordinates=64), 300),
}


@pytest.fixture(scope="module")
def small():
    patterns = ["model.embed_tokens", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
    return Case("llama", patterns, hidden_size=32, intermediate_size=48)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_coarse_codes_are_unbiased_over_seeds(small, name, plain):
    recipe, seeds = RECIPES[name]
    draws = torch.stack(
        [small.scores(recipe.model_copy(update={"seed": s}), plain) for s in range(seeds)]
    )  # [seeds, S, Q, N]
    exact = torch.stack([(small.plain if plain else small.exact)[site.name] for site in small.sites])
    noise = draws.std(0)
    # One random-sign rotation is not a uniform one, so that signs keep a bias; measured at up to a tenth of the noise
    # of one draw for the short rows of these embeddings, and below measuring for blocks without a dominant coordinate.
    allowed = 4 * noise / np.sqrt(seeds) + (0.15 if recipe.bits == 1 else 1e-3) * noise + 1e-9
    gap = (draws.mean(0) - exact).abs()
    assert bool((gap <= allowed).all()), (name, float((gap / allowed).max()))
    slopes = (draws * exact).flatten(1).sum(1) / exact.square().sum()
    slack = 4 * float(slopes.std()) / np.sqrt(seeds) + 0.02
    assert float(slopes.mean()) == pytest.approx(1, abs=slack), "no shrinkage: nats are nats"


def test_one_bit_ranks_like_full_precision(small):
    got = small.scores(Recipe(bits=1)).sum(0)
    correlation = np.corrcoef(got.flatten(), small.total.flatten())[0, 1]
    assert correlation > 0.9, correlation
    plain_signs = small.scores(Recipe(bits=1, projection="hadamard", coordinates=64)).sum(0)
    assert correlation > np.corrcoef(plain_signs.flatten(), small.total.flatten())[0, 1], "fewer signs know less"


@pytest.mark.parametrize("projection", ["hadamard", "kronecker"])
def test_more_coordinates_are_closer(small, projection):
    errors = []
    for coordinates in (64, 512, 10**6):
        gaps = []
        for seed in range(12):
            recipe = Recipe(bits=16, projection=projection, coordinates=coordinates, seed=seed)
            gaps.append(float((small.scores(recipe).sum(0) - small.total).norm() / small.total.norm()))
        errors.append(np.mean(gaps))
    assert errors[0] > 1.2 * errors[1] > 5 * errors[-1]
    assert errors[-1] < 5e-3, "a budget above every site's size keeps it whole"


# ------------------------------------------------------------------ recipes


def test_recipe_names_tell_settings_apart():
    recipes = [
        Recipe(), Recipe(seed=1), Recipe(bits=8), Recipe(method="kfac"), Recipe(precision="full"),
        Recipe(damping=Damping(value=0.5)), Recipe(damping=Damping(kind="absolute")),
        Recipe(projection="kronecker", coordinates=64), Recipe(projection="hadamard", coordinates=64),
    ]  # fmt: skip
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert Recipe(bits=8).name == Recipe.model_validate(Recipe(bits=8).model_dump(mode="json")).name


@pytest.mark.parametrize("coordinates", [64, 100, 4096])
@pytest.mark.parametrize("projection", ["hadamard", "kronecker"])
def test_sketches_stay_near_their_budget(small, projection, coordinates):
    recipe = Recipe(projection=projection, coordinates=coordinates)
    for site, layout in zip(small.sites, recipe.layout(small.sites)):
        outputs, inputs = recipe.sketch_shape(site)
        assert 1 <= outputs <= site.outputs
        assert 1 <= inputs <= site.inputs
        if projection == "kronecker":
            assert outputs * inputs <= max(coordinates, site.size if site.size <= coordinates else 0)
        assert layout.stored <= max(2 * coordinates, 64 * layout.blocks)


def test_auto_budget_keeps_small_models_whole_and_bounds_large_ones(small):
    assert Recipe().resolved(small.sites) == Recipe(projection="none")
    large = [replace(small.sites[1], name=f"s{i}", group=f"s{i}", outputs=4096, inputs=4096) for i in range(32)]
    resolved = Recipe().resolved(large)
    assert resolved.projection == "leading"
    plain = Recipe(method="identity").resolved(large)
    assert plain.projection == "kronecker", "without curvature no coordinate leads"
    assert AUTO_BYTES / 4 < plain.bytes_per_row(large) <= AUTO_BYTES
    assert SHORT_BYTES / 4 < resolved.bytes_per_row(large) <= SHORT_BYTES
    assert Recipe(projection="hadamard", coordinates=128).resolved(large).coordinates == 128
    assert resolved.resolved(large) == resolved


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_a_gradient_that_overflowed_does_not_pass_for_none(bits):
    layout = layout_sites({"s": (64, 64, 64)}, bits)[0]
    values = torch.randn(3, 64)
    values[1, 5], values[2, 7] = float("nan"), float("inf")
    _, scales = encode(values, layout)
    assert np.isfinite(scales[0]).all()
    assert not np.isfinite(scales[1:]).any()


def test_blocks_are_formed_a_few_examples_at_a_time(monkeypatch):
    uses = [Factors(torch.randn(5, 3, 4), torch.randn(5, 3, 2)), Factors(torch.randn(5, 3, 4), torch.randn(5, 3, 2))]
    monkeypatch.setattr("whence.factors.sums.PIECE", 16)
    pieces = list(block_pieces(uses))
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(pieces), total_blocks(uses))

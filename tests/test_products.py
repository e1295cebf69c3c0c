"""Exact curvature products against autograd, one logit and one backward pass at a time, on real classes."""

import numpy as np
import pytest
import torch

from conftest import as_loaded, causal_lm, make_runner, sequences
from exact_world import dense_ggn
from oracle import relative, sequence_loss
from test_capture import expected
from whence.data import batch_from_sequences
from whence.errors import ModelError
from whence.gradients import language_examples
from whence.model.products import curvature_products
from zoo import truly_float64

MODELS = {
    "llama": {"num_hidden_layers": 1, "hidden_size": 4, "intermediate_size": 6},
    "gpt2": {"n_layer": 1, "n_embd": 4},
    "olmo2": {"num_hidden_layers": 1, "hidden_size": 4, "intermediate_size": 6},
    "olmoe": {"num_hidden_layers": 1, "hidden_size": 4, "intermediate_size": 4},
}
DATA = sequences((5, 3, 4))


def vectors(sites, count=3):
    random = torch.Generator().manual_seed(1)
    return {site.name: torch.randn(count, *site.shape, generator=random, dtype=torch.float64) for site in sites}


def flat(sites, blocks):
    return torch.cat([blocks[site.name].flatten(1) for site in sites], 1)


def hessian_product(model, sites, data, vector):
    """The gradient of <grad loss, v>, for one v [P]."""
    names = dict(model.named_parameters())
    model.requires_grad_(True)
    model.set_attn_implementation("eager")
    loss = sum(sequence_loss(model, torch.from_numpy(tokens), mask) for tokens, mask in data)
    first = torch.autograd.grad(loss, list(names.values()), create_graph=True)
    by_name = {name: each[None] for name, each in zip(names, first, strict=True)}
    gradient = torch.cat([expected(model, site, by_name).flatten(1) for site in sites], 1)[0]
    second = torch.autograd.grad(gradient @ vector, list(names.values()))
    by_name = {name: each[None] for name, each in zip(names, second, strict=True)}
    return torch.cat([expected(model, site, by_name).flatten(1) for site in sites], 1)[0]


@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_autograd(name):
    with truly_float64():
        model = causal_lm(name, **MODELS[name])
        loaded = as_loaded(model)
        sites = make_runner(loaded).sites
        assert {each for site in sites for each in site.parameters} == {each for each, _ in model.named_parameters()}
        inputs = language_examples(batch_from_sequences(DATA), loaded).inputs
        given = vectors(sites)
        ggn = flat(sites, curvature_products(model, sites, inputs, given))
        hessian = flat(sites, curvature_products(model, sites, inputs, given, "hessian"))
        rows = flat(sites, given)
        assert relative(ggn, rows @ dense_ggn(model, sites, DATA)) < 1e-10
        wanted = torch.stack([hessian_product(model, sites, DATA, row) for row in rows])
        assert relative(hessian, wanted) < 1e-10
        assert relative(ggn, wanted) > 0.1


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
@pytest.mark.parametrize("name", ["gpt2", "olmoe"])
def test_neither_batch_nor_weights_nor_company_matter(name, kind):
    with truly_float64():
        model = causal_lm(name, **MODELS[name])
        loaded = as_loaded(model)
        sites = make_runner(loaded).sites
        given, weights = vectors(sites), torch.tensor([1.0, 0.5, 3.0])

        def product(data, weights=None, **how):
            inputs = language_examples(batch_from_sequences(data, **how), loaded).inputs
            return flat(sites, curvature_products(model, sites, inputs, given, kind, weights))

        each = torch.stack([product([one]) for one in DATA])
        weighted = (weights[:, None, None].double() * each).sum(0)
        assert relative(product(DATA, weights), weighted) < 1e-10
        assert relative(product(DATA), each.sum(0)) < 1e-10
        packed = {"pack": 16, "side": "left"} if name == "gpt2" else {"side": "left"}
        assert relative(product(DATA, weights, **packed), weighted) < 1e-10
        inputs = language_examples(batch_from_sequences(DATA), loaded).inputs
        alone = curvature_products(model, sites, inputs, given, kind, together=1)
        assert relative(flat(sites, alone), each.sum(0)) < 1e-10


def test_the_model_is_left_as_it_was():
    model = causal_lm("olmoe", **MODELS["olmoe"]).train()
    loaded = as_loaded(model)
    sites = make_runner(loaded).sites
    before = {name: each.clone() for name, each in model.named_parameters()}
    implementation = model.config._experts_implementation_internal
    inputs = language_examples(batch_from_sequences(DATA), loaded).inputs
    curvature_products(model, sites, inputs, vectors(sites, 1))
    assert model.training
    assert model.config._experts_implementation_internal == implementation
    assert all(each.requires_grad and (each == before[name]).all() for name, each in model.named_parameters())


def test_attention_without_a_second_derivative_is_refused():
    model = causal_lm("llama", **MODELS["llama"])
    loaded = as_loaded(model)
    sites = make_runner(loaded).sites
    inputs = language_examples(batch_from_sequences(DATA), loaded).inputs
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ModelError, match="--attention sdpa or eager"):
        curvature_products(model, sites, inputs, vectors(sites, 1))


def test_half_precision_models_get_products_in_the_vectors_own():
    model = causal_lm("llama", **MODELS["llama"]).to(torch.bfloat16)
    loaded = as_loaded(model)
    sites = make_runner(loaded).sites
    inputs = language_examples(batch_from_sequences(DATA), loaded).inputs
    given = {name: each.float() for name, each in vectors(sites).items()}
    found = curvature_products(model, sites, inputs, given)
    assert all(each.dtype == torch.float32 and torch.isfinite(each).all() for each in found.values())
    assert np.isfinite(flat(sites, found).norm())

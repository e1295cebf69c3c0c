"""Labels drawn from the model: of the right distribution, fresh by pass and seed, blind to batches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from conftest import as_loaded, causal_lm, make_runner, sequences
from oracle import relative
from whence.curvature import identity_curvature
from whence.data import batch_from_sequences
from whence.gradients import Runner, add_eigenvalue_squares, language_examples
from whence.model import CausalLM, Classification, SquaredError, find_sites, probe_sites
from whence.projection import uniforms

SEED = 11


def test_drawn_labels_converge_to_the_gauss_newton_matrix():
    """E over the model's own labels of the token-summed gradient's square is J^T (diag p - p p^T) J, exactly."""
    model = causal_lm("llama", num_hidden_layers=1, vocab_size=6)
    loaded = as_loaded(model)
    runner = make_runner_small(loaded)
    tokens = np.array([1, 4, 2, 5])
    copies = 4000
    batch = batch_from_sequences([(tokens, np.array([0, 0, 1, 1], bool))] * copies)
    numbers, positions = np.meshgrid(np.arange(copies), np.arange(4), indexing="ij")
    examples = replace(
        language_examples(batch, loaded),  # equal documents draw equal labels: here each draws its own
        draws=lambda name, seed: torch.from_numpy(uniforms(seed, name, numbers, positions)),
    )
    identity = {site.name: identity_curvature(site) for site in runner.sites}
    squares: dict = {}
    add_eigenvalue_squares(runner, examples, identity, squares, SEED, "full")
    for site in runner.sites:
        weight = model.get_parameter(site.parameters[0])

        def logits(value, name=site.parameters[0]):
            out = torch.func.functional_call(model, {name: value}, (), {"input_ids": torch.from_numpy(tokens)[None]})
            return out.logits[0, 1:3]

        jacobian = torch.autograd.functional.jacobian(logits, weight.detach()).flatten(2)
        p = logits(weight.detach()).softmax(-1).detach()
        exact = sum(
            torch.einsum("vk,vw,wk->k", j, torch.diag(q) - torch.outer(q, q), j) for j, q in zip(jacobian, p)
        ).reshape(weight.shape)  # fmt: skip
        exact = exact.T if site.vocabulary == "inputs" else exact
        got = squares[site.name] / copies
        assert relative(got, exact) < 0.1, site.name
        assert float(got.sum()) == pytest.approx(float(exact.sum()), rel=0.05)


def make_runner_small(loaded):
    """A runner whose probe fits a vocabulary of six."""
    batch = batch_from_sequences([(np.array([1, 2, 3]), np.array([0, 1, 1], bool))])
    inputs = language_examples(batch, loaded).inputs
    found = find_sites(loaded.model, ["*q_proj", "*down_proj", "lm_head", "*embed*"])
    losses = lambda: CausalLM().losses(loaded.model, inputs)  # noqa: E731
    return Runner(loaded.model, probe_sites(loaded.model, found, losses, 1, loaded.head))


def test_labels_are_drawn_afresh_for_each_pass_and_seed():
    model = causal_lm("llama")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    examples = language_examples(batch_from_sequences(sequences()), loaded)
    losses = {key: runner.tokens(examples, lambda *_: None, key) for key in
              [("covariance", 0), ("covariance", 1), ("eigenvalues", 0)]}  # fmt: skip
    again = runner.tokens(examples, lambda *_: None, ("covariance", 0))
    assert torch.equal(losses["covariance", 0], again)
    for a, b in [(("covariance", 0), ("covariance", 1)), (("covariance", 0), ("eigenvalues", 0))]:
        assert not torch.allclose(losses[a], losses[b])


@pytest.mark.parametrize("how", [{"side": "left"}, {"pack": 16}, {"pack": 40}])
def test_labels_do_not_depend_on_the_batch(how):
    model = causal_lm("gpt2")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = sequences()
    plain = runner.tokens(language_examples(batch_from_sequences(data), loaded), lambda *_: None, ("x", 1))
    other = runner.tokens(language_examples(batch_from_sequences(data, **how), loaded), lambda *_: None, ("x", 1))
    torch.testing.assert_close(plain, other, rtol=1e-9, atol=0)


def test_noise_of_a_gaussian_model_is_white():
    model = nn.Linear(2, 3).double()
    n = 20_000
    features = torch.ones(n, 2, dtype=torch.float64)
    numbers = np.arange(n)
    u = torch.from_numpy(uniforms(0, "noise", numbers, np.zeros_like(numbers)))
    outputs: list = []
    model.register_forward_hook(lambda m, args, out: (out.retain_grad(), outputs.append(out))[1] and None)
    SquaredError().sampled_losses(model, (features, features), u).sum().backward()
    g = outputs[0].grad
    covariance = g.T @ g / n
    assert float((covariance - torch.eye(3)).abs().max()) < 6 / math.sqrt(n), covariance
    assert float(g.mean(0).abs().max()) < 5 / math.sqrt(n)


@pytest.mark.parametrize("outputs", [1, 4])
def test_drawn_classes_have_the_models_probabilities(outputs):
    bias = torch.tensor([0.7]) if outputs == 1 else torch.tensor([0.0, 1.0, -1.0, 0.3])
    model = nn.Linear(1, outputs).double()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(bias)
    n = 20_000
    u = torch.from_numpy(uniforms(0, "classes", np.arange(n), np.zeros(n, np.int64)))
    x = torch.ones(n, 1, dtype=torch.float64)
    losses = Classification().sampled_losses(model, (x, torch.zeros(n)), u)
    p = torch.cat([torch.zeros(1), bias]).softmax(0) if outputs == 1 else bias.softmax(0)
    for probability in p.tolist():
        share = float((losses + math.log(probability)).abs().lt(1e-6).double().mean())
        assert abs(share - probability) < 5 * math.sqrt(probability / n)


def test_equal_documents_draw_equal_labels_wherever_they_stand():
    loaded = as_loaded(causal_lm("gpt2"))
    runner = make_runner(loaded)
    data = sequences()
    first = language_examples(batch_from_sequences(data), loaded)
    second = language_examples(batch_from_sequences([data[3], data[0]], np.array([77, 5])), loaded)
    plain, moved = (runner.tokens(e, lambda *_: None, ("x", 1)) for e in (first, second))
    torch.testing.assert_close(moved, plain[[3, 0]], rtol=1e-9, atol=0)

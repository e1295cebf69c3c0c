"""Gradients of factors against autograd and the chain rule, the alignment against finite differences and itself."""

import copy
from itertools import pairwise

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmoe.modeling_olmoe import OlmoeRMSNorm

from conftest import as_loaded, causal_lm, sequences
from oracle import gradients, relative, sequence_loss
from whence.data import batch_from_sequences
from whence.errors import ModelError, NumericalError
from whence.model import Aligner, compared, factored, factored_copy, language_inputs
from whence.model.alignment import read
from whence.model.layers import layer_of
from whence.model.sites import block_of, find_sites

KINDS = ("llama", "gpt2", "olmo2", "olmoe")
DATA = sequences((9, 5, 7, 6))


def linears(model):
    """Linear layers inside the blocks as (site, weight, bias)."""
    for site in find_sites(model):
        module = model.get_submodule(site.uses[0].module)
        layer = layer_of(module)
        if layer is None or layer.kind not in ("linear", "Conv1D") or site.name in ("lm_head", "transformer.wte"):
            continue
        block = block_of(site, model)
        yield site, (block[:, :-1] if site.bias else block), (block[:, -1] if site.bias else None)


def halved(model, rank=None, noise=0.0):
    """A copy with every linear layer a product by its plain SVD, of a rank or of full rank."""
    pairs = {}
    for number, (site, weight, bias) in enumerate(linears(model)):
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        r = len(s) if rank is None else rank
        generator = torch.Generator().manual_seed(number)
        shake = noise * torch.randn(*u[:, :r].shape, generator=generator, dtype=u.dtype)
        pairs[site.name] = (u[:, :r] * s[:r].sqrt() + shake, s[:r].sqrt()[:, None] * vt[:r], bias)
    return factored_copy(model, pairs)


def inputs(model, data=DATA):
    return language_inputs(batch_from_sequences(data), as_loaded(model))


def block(value, module):
    return value.mT if type(module).__name__ == "Conv1D" else value


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_rank_nothing_changes(kind):
    model = causal_lm(kind)
    proxy, batch = halved(model), inputs(model)
    with torch.no_grad():
        wanted = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        assert relative(proxy(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, wanted) < 1e-10
    found = compared(model, proxy, batch, 1.0, graph=False)
    assert found.distance.abs().max() < 1e-9
    assert found.divergence.abs().max() < 1e-9
    assert len(factored(proxy)) == len(list(linears(model))) == {"llama": 14, "gpt2": 8, "olmo2": 14, "olmoe": 8}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_factors_are_the_chain_rule_of_the_weights(kind):
    """Autograd's gradient by each factor at full rank, against grad W of the target from autograd, B and A."""
    model = causal_lm(kind)
    proxy = halved(model)
    losses = lambda m: [lambda d=d: sequence_loss(m, torch.from_numpy(d[0]), d[1]) for d in DATA]  # noqa: E731
    by_weight, by_factor = gradients(model, losses(model)), gradients(proxy, losses(proxy))
    for name, product in factored(proxy).items():
        dense = block(by_weight[f"{name}.weight"], model.get_submodule(name))
        up, down = product.up.weight.detach(), product.down.weight.detach()
        assert relative(by_factor[f"{name}.up.weight"], dense @ down.T) < 1e-9
        assert relative(by_factor[f"{name}.down.weight"], up.T @ dense) < 1e-9


@pytest.mark.parametrize("kind", ["llama", "gpt2", "olmoe"])
def test_the_distance_is_that_of_dense_gradients(kind):
    model = causal_lm(kind)
    proxy = halved(model, rank=3)
    losses = lambda m: [lambda d=d: sequence_loss(m, torch.from_numpy(d[0]), d[1]) for d in DATA]  # noqa: E731
    by_weight, by_factor = gradients(model, losses(model)), gradients(proxy, losses(proxy))
    wanted = torch.zeros(len(DATA), dtype=torch.float64)
    for name, product in factored(proxy).items():
        dense = block(by_weight[f"{name}.weight"], model.get_submodule(name))
        pairs = [
            (by_factor[f"{name}.up.weight"], dense @ product.down.weight.detach().T),
            (by_factor[f"{name}.down.weight"], product.up.weight.detach().T @ dense),
        ]
        for one, other in pairs:
            wanted += 1 - torch.nn.functional.cosine_similarity(one.flatten(1), other.flatten(1))
    found = compared(model, proxy, inputs(model), 1.0, graph=False)
    assert torch.allclose(found.distance, wanted / len(factored(proxy)), atol=1e-9)
    assert found.distance.min() > 0.05


def test_the_divergence_is_kl_over_predicted_tokens():
    model = causal_lm("llama")
    proxy = halved(model, rank=2)
    found = compared(model, proxy, inputs(model), 2.0, graph=False)
    for number, (tokens, mask) in enumerate(DATA):
        ids = torch.from_numpy(tokens)[None]
        with torch.no_grad():
            p, q = ((m(input_ids=ids).logits[0] / 2.0).softmax(-1) for m in (model, proxy))
        kl = 4.0 * sum(float((p[t - 1] * (p[t - 1] / q[t - 1]).log()).sum()) for t in range(1, len(tokens)) if mask[t])
        assert float(found.divergence[number]) == pytest.approx(kl)
        assert float(found.losses[1][number]) == pytest.approx(float(sequence_loss(model, ids[0], mask).detach()))


def _wide_norm(self, hidden):
    """RMSNorm without its cast to float32, which differences would see."""
    return self.weight * hidden * (hidden.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "olmoe"])
def test_its_gradient_is_that_of_finite_differences(kind, monkeypatch):
    softmax = torch.nn.functional.softmax  # routers ask it for float32
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim=None, dtype=None: softmax(x, dim=dim))
    for norm in (LlamaRMSNorm, OlmoeRMSNorm):
        monkeypatch.setattr(norm, "forward", _wide_norm)
    model = causal_lm(kind)
    aligner = Aligner(model, halved(model, rank=3), 5, 0.01, weight=0.7, temperature=1.5)
    batch = inputs(model, DATA[:2])

    def value():
        return aligner.loss(batch, 2, int(batch.predicts.sum()))

    factors = list(aligner.factors.values())
    exact = torch.autograd.grad(value(), factors)
    step = 1e-5
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        along = [torch.randn(f.shape, generator=generator, dtype=f.dtype) for f in factors]
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for factor, direction in zip(factors, along, strict=True):
                    factor.add_(direction, alpha=sign * step)
            ends.append(float(value().detach()))
            with torch.no_grad():
                for factor, direction in zip(factors, along, strict=True):
                    factor.sub_(direction, alpha=sign * step)
        wanted = (ends[0] - ends[1]) / (2 * step)
        found = float(sum((g * d).sum() for g, d in zip(exact, along, strict=True)))
        assert found == pytest.approx(wanted, rel=1e-5)


def held_out(model, proxy, batch, weight=1.0):
    with torch.no_grad():
        found = compared(model, proxy, batch, 1.0, graph=False)
        return float(found.distance.mean() + weight * found.divergence.sum() / batch.predicts.sum())


def test_alignment_lowers_what_it_trains_on_documents_it_has_not_seen():
    model = causal_lm("llama")
    proxy = halved(model, rank=6)
    unseen = inputs(model, sequences((9, 8, 7, 9, 6, 8), seed=7))
    before = held_out(model, proxy, unseen)
    aligner = Aligner(model, proxy, 60, 0.005, 1.0, 1.0)
    values = [aligner.step([inputs(model, sequences((9, 8, 7, 9), seed=100 + n % 20))]) for n in range(60)]
    assert held_out(model, proxy, unseen) < 0.8 * before
    assert values[-1] < values[0]


def test_pieces_of_a_step_change_nothing():
    model = causal_lm("gpt2")
    results = []
    for cuts in ([4], [1, 3], [2, 2]):
        aligner = Aligner(model, halved(model, rank=3), 3, 0.01, 1.0, 1.0)
        for _ in range(3):
            ends = [sum(cuts[:n]) for n in range(len(cuts) + 1)]
            aligner.step([inputs(model, DATA[a:b]) for a, b in pairwise(ends)])
        results.append(aligner.state())
    for other in results[1:]:
        assert all(torch.allclose(results[0][name], other[name], atol=1e-10) for name in results[0])


def test_it_goes_on_from_a_state_with_the_same_bytes():
    model = causal_lm("llama")
    start = halved(model, rank=3)

    def fresh():
        return Aligner(model, copy.deepcopy(start), 6, 0.02, 1.0, 1.0)

    whole, first, second = fresh(), fresh(), fresh()
    batches = [inputs(model, sequences((8, 6), seed=n)) for n in range(6)]
    for batch in batches:
        whole.step([batch])
    for batch in batches[:3]:
        first.step([batch])
    second.restore({name: value.clone() for name, value in first.state().items()}, 3)
    for batch in batches[3:]:
        second.step([batch])
    assert all(torch.equal(value, second.state()[name]) for name, value in whole.state().items())


def test_only_factors_are_trained():
    model = causal_lm("gpt2")
    before = {name: value.clone() for name, value in model.named_parameters()}
    proxy = halved(model, rank=3)
    others = {n: v.clone() for n, v in proxy.named_parameters() if not n.endswith((".up.weight", ".down.weight"))}
    assert any(name.endswith(".up.bias") for name in others)
    aligner = Aligner(model, proxy, 2, 0.05, 1.0, 1.0)
    aligner.step([inputs(model)])
    assert all(torch.equal(dict(proxy.named_parameters())[name], value) for name, value in others.items())
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_refused():
    model = causal_lm("llama")
    with pytest.raises(ModelError, match="no products"):
        Aligner(model, copy.deepcopy(model), 1, 0.1, 1.0, 1.0)
    aligner = Aligner(model, halved(model, rank=2), 1, 0.1, 1.0, 1.0)
    with torch.no_grad():
        next(iter(aligner.factors.values())).fill_(float("nan"))
    with pytest.raises(NumericalError, match="lower --rate"):
        aligner.step([inputs(model)])
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="--attention sdpa or eager"):
        read(model, ["model.layers.0.mlp.up_proj"], inputs(model))

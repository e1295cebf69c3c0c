"""Per-example gradients of every kind of site against autograd in float64, one backward per example: 1e-8 relative."""

import numpy as np
import pytest
import torch
from torch import nn

from conftest import as_loaded, causal_lm, make_runner, sequences, shake
from oracle import block, gradients, relative, sequence_loss
from whence.attributor import attribute
from whence.data import batch_from_sequences
from whence.errors import ModelError
from whence.factors import OneHot, total_blocks
from whence.gradients import Examples, Runner, gradient_blocks, language_examples, token_scores
from whence.model import Capture, CausalLM, Classification, SquaredError, find_sites, probe_sites

TIGHT = 1e-8
SINGLE = 1e-6

MODELS = {
    "gpt2 tied": ("gpt2", {}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "llama": ("llama", {}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama padding_idx": ("llama", {"pad_token_id": 3}),
    "llama tied padding_idx": ("llama", {"pad_token_id": 3, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {}),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "olmoe": ("olmoe", {}),
    "qwen3moe": ("qwen3moe", {}),
    "gemma3 tied": ("gemma3", {}),
}
LAYOUTS = {
    "right": {"side": "right"},
    "left": {"side": "left"},
    "packed": {"pack": 16},
    "packed left": {"pack": 16, "side": "left"},
}


def expected(model, site, grads):
    """A site's gradients from autograd's, in the site's orientation; experts are stored [E, O, I] in these models."""
    if site.elementwise:
        return grads[site.parameters[0]].flatten(1)[..., None]
    owner = model.get_submodule(site.parameters[0].rpartition(".")[0])
    stored_in_out = type(owner).__name__ == "Conv1D" or site.vocabulary == "inputs"
    return block(grads, site.parameters[0], transposed=stored_in_out, bias=site.parameters[1] if site.bias else None)


def autograd(model, data):
    tensors = [(torch.from_numpy(tokens), torch.from_numpy(mask)) for tokens, mask in data]
    return gradients(model, [lambda t=t, m=m: sequence_loss(model, t, m) for t, m in tensors])


@pytest.mark.parametrize("name", MODELS)
def test_language_models_in_every_layout(name):
    kind, changes = MODELS[name]
    model = causal_lm(kind, **changes)
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = sequences()
    wanted = autograd(model, data)
    covered = set()
    for layout, how in LAYOUTS.items():
        batch = batch_from_sequences(data, **how)
        assert batch.packed == layout.startswith("packed")
        blocks, losses = gradient_blocks(runner, language_examples(batch, loaded))
        for site in runner.sites:
            assert blocks[site.name].dtype == torch.float64
            error = relative(blocks[site.name], expected(model, site, wanted))
            rounded = kind == "gemma3" and site.elementwise  # it multiplies by a norm's scale in float32
            assert error < (SINGLE if rounded else TIGHT), (name, layout, site.name, error)
            covered |= set(site.parameters)
        for (tokens, mask), loss in zip(data, losses):
            alone = sequence_loss(model, torch.from_numpy(tokens), torch.from_numpy(mask)).detach()
            assert float(loss) == pytest.approx(float(alone), rel=1e-10)
    assert covered == {name for name, _ in model.named_parameters()}, "a parameter of this model was left out"


def test_parameters_and_modes_are_as_they_were():
    model = causal_lm("gpt2").train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: (p.requires_grad, p.grad, p.clone()) for name, p in model.named_parameters()}
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    gradient_blocks(runner, language_examples(batch_from_sequences(sequences()), loaded))
    assert model.training
    for name, p in model.named_parameters():
        assert p.requires_grad == before[name][0]
        assert p.grad is None, "no weight gradient may be formed"
        assert torch.equal(p, before[name][2])
    assert not any(module._forward_hooks for module in model.modules()), "hooks must not stay behind"


def test_hooks_are_removed_when_the_loss_fails():
    model = nn.Sequential(nn.Linear(3, 2))

    def broken():
        model(torch.zeros(1, 3))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Capture(model, find_sites(model)).run(broken, 1, lambda site, uses: None)
    assert not model[0]._forward_hooks
    assert all(p.requires_grad for p in model.parameters())


def test_a_loss_mask_only_counts_its_targets():
    model = causal_lm("gpt2")  # whose norms, unlike Llama's, stay in float64
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    tokens = sequences((8,), prompts=False)[0][0]
    masks = [np.array([0] * k + [1] * (8 - k), dtype=bool) for k in (1, 3, 7)]
    blocks, _ = gradient_blocks(runner, language_examples(batch_from_sequences([(tokens, m) for m in masks]), loaded))
    wanted = autograd(model, [(tokens, m) for m in masks])
    for site in runner.sites:
        assert relative(blocks[site.name], expected(model, site, wanted)) < TIGHT
    # the sum over all targets is the sum over any split of them
    parts = np.array([0, 1, 1, 1, 0, 0, 0, 0], bool), np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)
    split, _ = gradient_blocks(runner, language_examples(batch_from_sequences([(tokens, m) for m in parts]), loaded))
    for site in runner.sites:
        assert relative(split[site.name].sum(0), blocks[site.name][0]) < TIGHT


def test_a_document_without_a_target_has_no_gradient():
    model = causal_lm("llama")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = [*sequences((5, 4)), (np.array([4, 5, 6]), np.zeros(3, bool))]
    blocks, losses = gradient_blocks(runner, language_examples(batch_from_sequences(data), loaded))
    assert float(losses[2]) == 0.0
    assert all(not blocks[site.name][2].any() for site in runner.sites)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize(("kind", "targets"), [("llama", ["q_proj", "v_proj", "down_proj"]), ("gpt2", ["c_attn"])])
def test_lora_adapters(kind, targets):
    peft = pytest.importorskip("peft")
    base = causal_lm(kind)
    config = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM",
                             fan_in_fan_out=kind == "gpt2")  # fmt: skip
    model = peft.get_peft_model(base, config).double().eval()
    generator = torch.Generator().manual_seed(1)
    trained = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    with torch.no_grad():  # B starts at zero, where every gradient of A vanishes
        for name, p in model.named_parameters():
            if name in trained:
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3)
    loaded = as_loaded(model, trained)
    runner = make_runner(loaded)
    assert {parameter for site in runner.sites for parameter in site.parameters} == trained
    assert any("lora_A" in name for name in trained)
    data = sequences()
    wanted = autograd(model, data)
    for how in LAYOUTS.values():
        blocks, _ = gradient_blocks(runner, language_examples(batch_from_sequences(data, **how), loaded))
        for site in runner.sites:
            assert relative(blocks[site.name], expected(model, site, wanted)) < TIGHT, site.name
    groups = {site.name: site.group for site in runner.sites if "lora_A" in site.name}
    if kind == "llama":  # q and v read the same input, down_proj another
        assert len(set(groups.values())) == 2 * 2


# ------------------------------------------------------------------ without transformers


def plain_examples(features, labels, gather=None) -> Examples:
    n = len(features)
    return Examples((features, labels), n, n, np.arange(n), gather, lambda name, seed: torch.zeros(n))


def plain_runner(model, objective, features, labels) -> Runner:
    losses = lambda: objective.losses(model, (features, labels))  # noqa: E731
    return Runner(model, probe_sites(model, find_sites(model), losses, len(features), None), objective)


@pytest.mark.parametrize("last", [1, 4])
def test_a_plain_mlp(last):
    model = shake(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, last)))
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0]) if last == 1 else torch.tensor([0, 3, 1, 2, 2, 1, 0])
    runner = plain_runner(model, Classification(), features, labels)
    blocks, losses = gradient_blocks(runner, plain_examples(features, labels))

    def loss(i):
        out = model(features[i : i + 1])[0]
        out = torch.cat([out.new_zeros(1), out]) if last == 1 else out
        return -out.log_softmax(-1)[labels[i]]

    wanted = gradients(model, [lambda i=i: loss(i) for i in range(7)])
    assert [site.bias for site in runner.sites] == [True, False, True]
    for site in runner.sites:
        assert relative(blocks[site.name], expected(model, site, wanted)) < TIGHT
    torch.testing.assert_close(losses, torch.stack([loss(i).detach() for i in range(7)]), rtol=1e-12, atol=0)


def test_squared_error_of_several_outputs():
    model = shake(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    features, targets = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    runner = plain_runner(model, SquaredError(), features, targets)
    blocks, _ = gradient_blocks(runner, plain_examples(features, targets))
    wanted = gradients(model, [lambda i=i: ((model(features[i]) - targets[i]) ** 2).sum() / 2 for i in range(5)])
    for site in runner.sites:
        assert relative(blocks[site.name], expected(model, site, wanted)) < TIGHT


def test_an_activation_in_place_right_after_the_first_layer():
    model = shake(nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)))
    features, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    runner = plain_runner(model, Classification(), features, labels)
    blocks, _ = gradient_blocks(runner, plain_examples(features, labels))
    wanted = gradients(model, [lambda i=i: -model(features[i]).log_softmax(-1)[labels[i]] for i in range(5)])
    for site in runner.sites:
        assert relative(blocks[site.name], expected(model, site, wanted)) < TIGHT


class Recurrent(nn.Module):
    """One weight applied three times, and a side branch whose result nobody uses."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4, padding_idx=0)
        self.cell = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, ids):
        hidden = self.embed(ids)
        for _ in range(3):
            self.unused(hidden)
            hidden = torch.tanh(self.cell(hidden)) + hidden
        return self.out(hidden.sum(1))


def test_a_module_called_several_times_and_modules_that_do_not_count():
    model = shake(Recurrent())
    ids = torch.randint(0, 6, (5, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    runner = plain_runner(model, Classification(), ids, labels)
    assert [site.name for site in runner.sites] == ["embed", "cell", "unused", "out"], "never has no say"
    blocks, _ = gradient_blocks(runner, plain_examples(ids, labels))
    wanted = gradients(model, [lambda i=i: -model(ids[i : i + 1])[0].log_softmax(-1)[labels[i]] for i in range(5)])
    for site in runner.sites:
        truth = expected(model, site, wanted)
        if site.name == "unused":
            assert not blocks[site.name].any()
        else:
            assert relative(blocks[site.name], truth) < TIGHT, site.name
    assert not blocks["embed"][:, :, 0].any(), "padding_idx has no gradient"


def test_all_uses_arrive_together():
    model = causal_lm("gpt2")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    calls = []
    examples = language_examples(batch_from_sequences(sequences()), loaded)
    runner.examples(examples, lambda site, uses: calls.append((site.name, len(uses))))
    assert len({name for name, _ in calls}) == len(calls) == len(runner.sites)
    assert dict(calls)["lm_head"] == 2


class BroadcastPositions(nn.Module):
    """Positions looked up once for the whole batch, as in many small GPTs: no gradient by example exists for them."""

    def __init__(self, length):
        super().__init__()
        self.embed, self.positions, self.out = nn.Embedding(6, 4), nn.Embedding(length, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.out((self.embed(ids) + self.positions(torch.arange(ids.shape[1]))).tanh().sum(1))


@pytest.mark.parametrize("length", [6, 8])
def test_a_batch_that_cannot_be_told_apart_is_refused(length):
    model = shake(BroadcastPositions(length))
    ids = torch.randint(0, 6, (2, length))
    runner = plain_runner(model, Classification(), ids, torch.tensor([0, 1]))
    with pytest.raises(ModelError, match=r"positions.*--sites"):
        gradient_blocks(runner, plain_examples(ids, torch.tensor([0, 1])))


def test_a_layer_that_does_not_run_example_by_example_is_found_out_by_the_probe():
    model = shake(BroadcastPositions(7))
    data = (torch.randint(0, 6, (2, 7)), torch.tensor([0, 1]))
    assert "positions" not in {site.name for site in plain_runner(model, Classification(), *data).sites}
    with pytest.raises(ModelError, match=r"positions.*sites="):
        attribute(model, Classification(), [data], [data], method="identity")


class PicksTokens(nn.Module):
    """Runs a layer on some of the tokens only, as a router does."""

    def __init__(self):
        super().__init__()
        self.first, self.expert, self.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.first(x)
        picked = self.expert(hidden.reshape(-1, 4)[[0, 1, 2, 5]])
        return self.out(hidden.sum(1)) + self.out(picked).sum()


def test_picked_tokens_are_not_taken_for_examples():
    model, x = PicksTokens(), torch.randn(2, 5, 3)
    sites = find_sites(model)
    losses = lambda: model(x).square().sum(1)  # noqa: E731
    assert {site.name for site in probe_sites(model, sites, losses, 2, None, width=5)} == {"first"}
    with pytest.raises(ModelError, match="cannot be told apart"):
        Capture(model, sites).run(losses, 2, lambda site, uses: None, width=5)


def test_an_input_changed_in_place_afterwards_is_refused():
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            hidden = self.first(x) * 1.0
            out = self.second(hidden)
            hidden += 1
            return out + hidden.sum(1, keepdim=True)

    model, x = Changes(), torch.randn(2, 3)
    with pytest.raises(ModelError, match="changed in place"):
        Capture(model, find_sites(model)).run(lambda: model(x).square().sum(1), 2, lambda site, uses: None)


def test_a_layer_may_be_called_by_keyword():
    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(input=x)

    model, x = ByName(), torch.randn(2, 3)
    seen = []
    Capture(model, find_sites(model)).run(lambda: model(x).sum(1), 2, lambda site, uses: seen.append(site.name))
    assert seen == ["layer"]


def test_a_loss_that_uses_no_site_is_an_error():
    model = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="does not depend on any site"):
        Capture(model, find_sites(model)).run(lambda: torch.zeros(3), 3, lambda site, uses: None)


def test_token_shares_sum_to_the_example_and_to_the_sites():
    model = causal_lm("qwen3", tie_word_embeddings=True, pad_token_id=3)
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    examples = language_examples(batch_from_sequences(sequences()), loaded)
    blocks, _ = gradient_blocks(runner, examples)
    generator = torch.Generator().manual_seed(0)
    targets = {
        site.name: torch.randn(3, site.outputs, site.inputs, generator=generator, dtype=torch.float64)
        for site in runner.sites
    }
    found = token_scores(runner, examples, targets)
    by_token, by_site = found.tokens, found.sites
    for number, site in enumerate(runner.sites):
        wanted = torch.einsum("moi,noi->mn", targets[site.name], blocks[site.name])
        np.testing.assert_allclose(by_site[number], wanted.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(by_token.sum(-1), by_site.sum(0), rtol=1e-9, atol=1e-12)
    reaches = examples.inputs.reaches.numpy()
    assert not by_token[:, ~reaches].any(), "padding and positions after the last target have no share"


def test_embedding_factors_stay_one_hot():
    model = causal_lm("llama")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    kinds = {}
    examples = language_examples(batch_from_sequences(sequences(), pack=16), loaded)
    runner.examples(examples, lambda site, uses: kinds.update({site.name: uses}))
    assert isinstance(kinds["model.embed_tokens"][0].inputs, OneHot)
    assert total_blocks(kinds["model.embed_tokens"]).shape == (5, 8, 24)
    assert runner.objective == CausalLM()

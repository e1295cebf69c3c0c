"""Which weights are sites, and what the coverage report says of the rest: nothing is left out silently."""

import pytest
import torch
from torch import nn

from conftest import as_loaded, causal_lm, make_runner, save_model, sequences, shake, write_jsonl
from oracle import gradients, relative, sequence_loss
from whence import Attributor
from whence.data import batch_from_sequences
from whence.errors import CoverageError, ModelError
from whence.gradients import gradient_blocks, language_examples
from whence.model import coverage, experts, find_sites, probe_sites


def by_name(model, **options):
    return {site.name: site for site in find_sites(model, **options)}


def test_names_sizes_and_order():
    sites = find_sites(causal_lm("gpt2", tie_word_embeddings=False))
    assert [s.name for s in sites][:6] == [
        "transformer.wte", "transformer.wpe", "transformer.h.0.ln_1", "transformer.h.0.ln_1.bias",
        "transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj",
    ]  # fmt: skip
    found = {s.name: s for s in sites}
    assert (found["transformer.h.0.attn.c_attn"].outputs, found["transformer.h.0.attn.c_attn"].inputs) == (24, 9)
    assert (found["transformer.wte"].outputs, found["transformer.wte"].inputs) == (8, 24)
    assert found["transformer.wte"].vocabulary == "inputs"
    assert found["lm_head"].vocabulary is None
    assert found["lm_head"].parameters == ("lm_head.weight",)
    assert found["transformer.h.0.mlp.c_fc"].parameters[1].endswith("c_fc.bias")


def test_a_tied_weight_is_one_site_with_two_uses():
    site = by_name(causal_lm("gpt2"))["lm_head"]
    assert [(use.module, use.flipped) for use in site.uses] == [("transformer.wte", True), ("lm_head", False)]
    assert (site.outputs, site.inputs, site.vocabulary) == (24, 8, "outputs")
    assert "transformer.wte" not in by_name(causal_lm("gpt2"))


def test_groups_share_an_input_and_only_an_input():
    loaded = as_loaded(causal_lm("llama"))
    sites = {site.name: site for site in make_runner(loaded).sites}
    groups = {name.removeprefix("model.layers.0."): s.group for name, s in sites.items() if "layers.0" in name}
    assert len({groups[f"self_attn.{x}_proj"] for x in "qkv"}) == 1
    assert groups["mlp.gate_proj"] == groups["mlp.up_proj"] != groups["mlp.down_proj"]
    assert groups["self_attn.q_proj"] != groups["mlp.gate_proj"]
    assert sites["lm_head"].head
    assert not any(site.head for name, site in sites.items() if name != "lm_head")


class Shared(nn.Module):
    """Two linear layers see one input, a third its bias-less copy, and one weight is shared by two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.plain = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(3, 4, bias=False)
        self.twin = nn.Linear(3, 4)
        self.twin.weight = self.a.weight

    def forward(self, x):
        return self.a(x).sum(1) + self.b(x).sum(1) + self.plain(x).sum(1) + self.twin(x.clone()).sum(1)


def test_groups_of_a_plain_module():
    model = Shared()
    x = torch.randn(2, 3)
    sites = {s.name: s for s in probe_sites(model, find_sites(model), lambda: model(x), 2, None)}
    assert set(sites) == {"a", "b", "plain"}
    assert [use.module for use in sites["a"].uses] == ["a", "twin"]
    assert sites["a"].group == "a", "a weight used twice shares with nobody"
    assert sites["b"].group != sites["plain"].group, "a constant input makes another covariance"
    assert not sites["a"].bias, "two biases for one weight cannot be one column"
    uncovered = {line.name: line.reason for line in coverage(model, list(sites.values())).sites if not line.attributed}
    assert set(uncovered) == {"a.bias", "twin.bias"}
    assert all("bias" in reason for reason in uncovered.values()), uncovered


def test_patterns():
    model = causal_lm("llama")
    assert set(by_name(model, patterns=["*.mlp.*"])) == {
        f"model.layers.{i}.mlp.{x}_proj" for i in (0, 1) for x in ("gate", "up", "down")
    }
    with pytest.raises(ModelError, match=r"'\*\.mpl\.\*' matches no site; the sites are: model\.embed_tokens"):
        find_sites(model, patterns=["*.mlp.*", "*.mpl.*"])
    with pytest.raises(ModelError, match="no linear layer, embedding, experts or norm"):
        find_sites(nn.Sequential(nn.ReLU()))
    with pytest.raises(ModelError, match="among the trained parameters"):
        find_sites(model, trained=frozenset({"model.rotary_emb.inv_freq"}))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """Another name, the same forward."""


@pytest.mark.parametrize("layer", [Doubled, lambda i, o: nn.Bilinear(i, i, o), lambda i, o: nn.Conv1d(i, o, 1)])
def test_a_layer_that_computes_something_else_is_uncovered(layer):
    model = nn.Sequential(nn.Linear(3, 3), layer(3, 3))
    sites = find_sites(model)
    assert [site.name for site in sites] == ["0"]
    report = coverage(model, sites)
    assert report.attributed == 12
    assert report.parameters == sum(p.numel() for p in model.parameters())
    missing = [line for line in report.sites if not line.attributed]
    assert {line.name for line in missing} == {"1.weight", "1.bias"}
    assert all(type(model[1]).__name__ in line.reason and "left out" not in line.reason for line in missing)


def test_a_subclass_with_the_same_forward_is_covered():
    assert [site.name for site in find_sites(nn.Sequential(Renamed(3, 2)))] == ["0"]


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_an_embedding_without_a_plain_gradient_is_uncovered(option):
    model = nn.Sequential(nn.Embedding(5, 3, **option), nn.Linear(3, 2))
    sites = find_sites(model)
    assert [site.name for site in sites] == ["1"]
    assert "no plain gradient" in next(line.reason for line in coverage(model, sites).sites if line.name == "0.weight")


class ScaledHead(nn.Module):
    """A head tied to an embedding of an unknown kind: half of the weight's gradient cannot be read."""

    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = ScaledEmbedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.body(self.embed(ids)).sum(1))


class ScaledEmbedding(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 3.0


def test_a_weight_shared_with_an_unknown_layer_is_not_half_attributed():
    model = ScaledHead()
    sites = find_sites(model)
    assert [site.name for site in sites] == ["body"]
    line = next(line for line in coverage(model, sites).sites if line.name == "embed.weight")
    assert not line.attributed
    assert "ScaledEmbedding" in line.reason


def test_gemma_with_its_scaled_embedding():
    """Right gradients, or an honest report that they are missing."""
    model = causal_lm("gemma3")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = sequences((6, 4))
    blocks, _ = gradient_blocks(runner, language_examples(batch_from_sequences(data), loaded))
    losses = [lambda t=t, m=m: sequence_loss(model, torch.from_numpy(t), torch.from_numpy(m)) for t, m in data]
    wanted = gradients(model, losses)
    covered = {line.name for line in coverage(model, runner.sites).sites if line.attributed}
    for site in runner.sites:
        assert set(site.parameters) <= covered
        truth = wanted[site.parameters[0]]
        # Gemma multiplies by a norm's scale in float32
        assert relative(blocks[site.name].reshape(truth.shape), truth) < (1e-6 if site.elementwise else 1e-7), site.name


@pytest.mark.parametrize("kind", ["olmoe", "qwen3moe"])
def test_stacks_of_experts_are_attributed_whole(kind):
    model = causal_lm(
        kind, vocab_size=40, **({"moe_intermediate_size": 8} if kind == "qwen3moe" else {"intermediate_size": 8})
    )
    sites = make_runner(as_loaded(model)).sites
    stacks = {site.name.removeprefix("model.layers.0."): site for site in sites if site.experts}
    assert [stacks[f"mlp.experts.{name}"].experts for name in ("gate_up_proj", "down_proj")] == [4, 4]
    assert "mlp.gate" in {site.name.removeprefix("model.layers.0.") for site in sites}
    report = coverage(model, sites)
    assert report.attributed == report.parameters == sum(p.numel() for p in model.parameters())


def test_experts_that_cannot_be_read_are_reported_and_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(experts, "is_experts", lambda module: False)  # as a class that transformers does not dispatch
    model = causal_lm("olmoe", vocab_size=40)
    report = coverage(model, make_runner(as_loaded(model)).sites)
    lines = [line for line in report.sites if not line.attributed]
    assert {line.name.rpartition(".")[2] for line in lines} == {"gate_up_proj", "down_proj"}
    assert all("experts interface" in line.reason for line in lines)
    assert report.attributed == sum(line.parameters for line in report.sites if line.attributed) < report.parameters
    data = write_jsonl(tmp_path / "d.jsonl", [{"text": "the harbour was built"}])
    folder = save_model(tmp_path / "model", model)
    with pytest.raises(CoverageError, match=r"(?s)experts.*--min-coverage 0\.") as caught:
        Attributor(tmp_path / "run", model=folder, data=[data])
    accepted = float(str(caught.value).rsplit("--min-coverage ", 1)[1])
    opened = Attributor(tmp_path / "run", model=folder, data=[data], settings={"model": {"min_coverage": accepted}})
    assert opened.coverage.share < 0.9, "what the message says to type must be accepted"


def test_sites_left_out_on_purpose_are_no_coverage_error(tmp_path):
    model = save_model(tmp_path / "model", causal_lm("llama", vocab_size=40))
    data = write_jsonl(tmp_path / "d.jsonl", [{"text": "the harbour was built"}])
    run = Attributor(tmp_path / "run", model=model, data=[data], settings={"model": {"sites": ["*.mlp.*"]}})
    assert len(run.sites) == 6
    assert 0 < run.coverage.share < 0.9
    reasons = {line.reason for line in run.coverage.sites if line.kind == "Linear" and not line.attributed}
    assert reasons == {"left out by --sites"}


def test_frozen_parameters_of_an_adapter_are_not_counted():
    model = shake(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    trained = frozenset({"1.weight", "1.bias"})
    sites = find_sites(model, trained=trained)
    report = coverage(model, sites, trained)
    assert [site.name for site in sites] == ["1"]
    assert report.parameters == report.attributed == 10

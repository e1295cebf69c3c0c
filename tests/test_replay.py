"""Parameters that a mixer uses in its own forward: both ways to read them give autograd's gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import shake
from oracle import gradients, relative
from test_codes import Share
from test_zoo_gradients import found, runner_of, sequences, truth
from whence.curvature import Covariances, fit_kfac, with_eigenvalues
from whence.data import batch_from_sequences
from whence.errors import ModelError
from whence.gradients import (
    Recipe,
    Runner,
    add_covariances,
    add_eigenvalue_squares,
    build_encoders,
    encode_documents,
    gradient_blocks,
    language_examples,
    token_scores,
)
from whence.model import Capture, as_loaded, coverage, find_sites, probe_sites
from whence.model.checkpointing import checkpoint_blocks
from whence.scoring import window_scores
from zoo import ZOO, truly_float64

RECIPE = Recipe(bits=16)
MIXED = ["nemotron_h", "nemotron3", "olmo_hybrid", "qwen3_next"]
SMALL = {
    "nemotron_h": {"A_log", "D", "dt_bias", "conv1d.weight", "conv1d.bias"},
    "olmo_hybrid": {"A_log", "dt_bias", "conv1d.weight"},
    "qwen3_next": {"A_log", "dt_bias", "conv1d.weight"},
}


@pytest.mark.parametrize("name", SMALL)
def test_the_small_parameters_of_mixers_are_sites(name):
    model = ZOO[name](torch.float32)
    _, runner = runner_of(model)
    names = {parameter for site in runner.sites if not site.by_token for parameter in site.parameters}
    assert {n.partition(".mixer.")[2] or n.partition(".linear_attn.")[2] for n in names} >= SMALL[name]
    for site in runner.sites:
        if not site.by_token:
            assert site.elementwise
            assert site.shape == (model.get_parameter(site.parameters[0]).numel(), 1)


def read(site, way):
    return replace(site, uses=(replace(site.uses[0], way=way),))


@pytest.mark.parametrize("way", ["copies", "replay"])
@pytest.mark.parametrize("name", ["nemotron_h", "olmo_hybrid", "qwen3_next"])
def test_both_ways_give_the_gradients_of_autograd(name, way):
    with truly_float64():
        model = ZOO[name](torch.float64)
        wanted = truth(model)
        loaded = as_loaded(model)
        sites = [s for s in find_sites(model) if not s.by_token]
        sites = [
            read(site, way)
            for site in sites
            if site.parameters[0].rpartition(".mixer.")[2].rpartition(".linear_attn.")[2] in SMALL[name]
        ]
        assert len(sites) >= len(SMALL[name])
        for side in ("right", "left"):
            got, _ = found(model, loaded, Runner(model, sites), side=side)
            for parameter, gradient in got.items():
                assert relative(gradient, wanted[parameter]) < 1e-9, (side, parameter)


def test_mamba_is_read_from_copies_and_attention_by_replay():
    for name, way in (("nemotron_h", "copies"), ("gpt_oss", "replay")):
        _, runner = runner_of(ZOO[name](torch.float32))
        assert {site.uses[0].way for site in runner.sites if not site.by_token} == {way}


def test_checkpointing_changes_nothing():
    for name in ("nemotron_h", "gpt_oss"):
        model = ZOO[name](torch.float32)
        loaded, runner = runner_of(model)
        plain, _ = found(model, loaded, runner)
        assert checkpoint_blocks(model)
        _, again = runner_of(model)
        assert [site.uses for site in again.sites] == [site.uses for site in runner.sites]
        for parameter, gradient in found(model, loaded, again)[0].items():
            assert relative(gradient, plain[parameter]) < 1e-6, parameter


class Convolved(nn.Module):
    """A convolution that is called as a layer, with groups, a stride and a bias."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(4, 6), nn.Linear(4, 3)
        self.conv = nn.Conv1d(6, 4, 3, stride=2, padding=1, groups=2)

    def forward(self, x):
        return self.out(self.conv(self.into(x).mT).mT)


@pytest.mark.parametrize("way", ["copies", "replay"])
def test_any_convolution_between_linear_layers(way):
    model = shake(Convolved())
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    losses = lambda: model(x).square().sum((1, 2))  # noqa: E731
    sites = [read(site, way) for site in probed(model, losses, 3) if not site.by_token]
    assert [site.name for site in sites] == ["conv", "conv.bias"]
    wanted = gradients(model, [lambda i=i: model(x[i : i + 1]).square().sum() for i in range(3)])
    blocks = {}
    Capture(model, sites).run(losses, 3, lambda site, uses: blocks.update({site.name: uses[0].blocks()}))
    for site in sites:
        assert relative(blocks[site.name].flatten(1), wanted[site.parameters[0]].flatten(1)) < 1e-12


@pytest.mark.parametrize("name", MIXED)
def test_bfloat16(name):
    """As near to the float32 gradient as autograd in bfloat16 is, or thereabouts."""
    exact = truth(ZOO[name](torch.float32))
    model = ZOO[name](torch.bfloat16)
    plain = truth(model)
    got, _ = found(model, *runner_of(model))
    for parameter, gradient in got.items():
        assert gradient.dtype == torch.float32
        assert relative(gradient, exact[parameter]) < 0.02 + 2 * relative(plain[parameter], exact[parameter]), parameter


@pytest.mark.parametrize("name", ["nemotron_h", "olmo_hybrid"])
def test_the_model_is_as_it_was(name):
    model = ZOO[name](torch.float32)
    loaded, runner = runner_of(model)
    weights = {n: (p, p.clone(), p.requires_grad) for n, p in model.named_parameters()}
    found(model, loaded, runner)
    for parameter, (p, before, wanted) in weights.items():
        assert model.get_parameter(parameter) is p
        assert torch.equal(p, before)
        assert p.requires_grad == wanted
        assert p.grad is None
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__


def test_one_such_site_alone():
    model = ZOO["nemotron_h"](torch.float32)
    wanted = truth(model)
    loaded = as_loaded(model)
    _, whole = runner_of(model)
    site = next(site for site in whole.sites if site.name.endswith("A_log"))
    got, _ = found(model, loaded, Runner(model, [site]))
    assert list(got) == list(site.parameters)
    assert relative(got[site.parameters[0]], wanted[site.parameters[0]]) < 1e-5


def test_patterns_reach_sites_without_a_layer():
    model = ZOO["nemotron_h"](torch.float32)
    assert [site.name for site in find_sites(model, ["*.A_log", "*.conv1d"])] == [
        "model.layers.0.mixer.A_log", "model.layers.0.mixer.conv1d",
    ]  # fmt: skip


class Gated(nn.Module):
    """A mixer of one's own: a decay and a gain between two linear layers, and one layer after them."""

    def __init__(self, width=6, fails=False):
        super().__init__()
        self.into, self.middle, self.out = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.decay, self.gain = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(2, width))
        self.fails = fails

    def forward(self, x):
        hidden = self.into(x) * self.decay.sigmoid()
        hidden = self.middle(torch.tanh(hidden) + self.gain[0]) * self.gain[1]  # depends on what is replayed
        return self.out(hidden) + (self.gain.sum() if self.fails else 0.0)


def probed(model, losses, rows):
    return probe_sites(model, find_sites(model), losses, rows, None)


def test_a_linear_layer_after_a_replayed_parameter_computes():
    model = shake(Gated())
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    losses = lambda: model(x).square().sum((1, 2))  # noqa: E731
    sites = probed(model, losses, 4)
    assert {site.name for site in sites} == {"into", "middle", "out", "decay", "gain"}
    wanted = gradients(model, [lambda i=i: model(x[i : i + 1]).square().sum() for i in range(4)])
    blocks = {}
    Capture(model, sites).run(losses, 4, lambda site, uses: blocks.update({site.name: uses[0].blocks()}))
    for name in ("decay", "gain"):
        assert relative(blocks[name].flatten(1), wanted[name].flatten(1)) < 1e-12


def test_a_parameter_with_another_way_to_the_loss_is_not_attributed():
    model = shake(Gated(fails=True))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    sites = probed(model, lambda: model(x).square().sum((1, 2)), 2)
    assert {site.name for site in sites} == {"into", "middle", "out", "decay"}, "what agrees with autograd, alone"
    missing = [line for line in coverage(model, sites).sites if not line.attributed]
    assert [line.name for line in missing] == ["gain"]
    assert missing[0].reason.startswith("Gated uses it without a layer")


def test_what_is_left_out_on_purpose_is_said_so():
    model = ZOO["nemotron_h"](torch.float32)
    sites = probed(model, lambda: model(input_ids=torch.ones(2, 4, dtype=torch.long)).logits.sum((1, 2)), 2)
    chosen = [site for site in sites if site.name.endswith("_proj")]
    lines = coverage(model, chosen, patterns=["*_proj"]).sites
    reasons = {line.reason for line in lines if line.name.endswith(("A_log", "conv1d.bias"))}
    assert reasons == {"left out by --sites"}


def test_hooks_and_forwards_are_put_back_on_an_error():
    model = shake(Gated())
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    sites = probed(model, lambda: model(x).square().sum((1, 2)), 2)

    def stop(site, uses):
        if not site.by_token:
            raise RuntimeError("no")

    def broken():
        model(x)
        raise RuntimeError("no")

    for losses, consumer in ((broken, lambda site, uses: None), (lambda: model(x).square().sum((1, 2)), stop)):
        with pytest.raises(RuntimeError, match="no"):
            Capture(model, sites).run(losses, 2, consumer)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(p.requires_grad for p in model.parameters())
        assert "forward" not in model.into.__dict__


class Pooled(Gated):
    """Looks at its batch-mates."""

    def forward(self, x):
        return super().forward(x) * 1.0 if len(x) == 1 else self.out((self.into(x) * self.decay).cumsum(0))


def test_a_mixer_that_looks_at_batch_mates_is_refused():
    model = shake(Pooled())
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    losses = lambda: model(x).square().sum((1, 2))  # noqa: E731
    assert not [site for site in probed(model, losses, 3) if not site.by_token]
    with pytest.raises(ModelError, match=r"for an example alone.*--sites"):
        Capture(model, find_sites(model)).run(losses, 3, lambda site, uses: None)


def test_token_shares_without_a_layer_are_spread_over_the_tokens_that_count():
    model = ZOO["nemotron_h"](torch.float32)
    loaded, runner = runner_of(model)
    examples = language_examples(batch_from_sequences(sequences()), loaded)
    blocks, _ = gradient_blocks(runner, examples)
    random = torch.Generator().manual_seed(0)
    targets = {site.name: torch.randn(2, *site.shape, generator=random) for site in runner.sites}
    scores = token_scores(runner, examples, targets)
    for number, site in enumerate(runner.sites):
        wanted = torch.einsum("mp,np->mn", targets[site.name].flatten(1), blocks[site.name].flatten(1))
        assert relative(torch.from_numpy(scores.sites[number]), wanted) < 1e-4, site.name
    assert relative(torch.from_numpy(scores.tokens.sum(-1)), torch.from_numpy(scores.sites.sum(0))) < 1e-9
    assert not scores.tokens[:, ~examples.inputs.reaches.numpy()].any()


def test_sites_without_a_layer_and_packed_rows_do_not_go_together():
    model = ZOO["nemotron_h"](torch.float32)
    loaded, runner = runner_of(model)
    examples = language_examples(batch_from_sequences(sequences(), pack=30), loaded)
    with pytest.raises(ModelError, match=r"packed"):
        gradient_blocks(runner, examples)


def test_curvature_and_codes_of_sites_without_a_layer():
    model = ZOO["nemotron_h"](torch.float32)
    loaded, whole = runner_of(model)
    sites = [site for site in whole.sites if not site.by_token]
    runner = Runner(model, sites)
    documents = language_examples(batch_from_sequences(sequences()), loaded)
    sums = Covariances(sites, 10**6, documents=3)
    add_covariances(runner, documents, sums, 0, "full")
    shared, squares = {}, {}
    bases = {site.name: fit_kfac(site, sums, shared) for site in sites}
    add_eigenvalue_squares(runner, documents, bases, squares, 0, "full")
    blocks, _ = gradient_blocks(runner, documents)
    curvatures = {name: with_eigenvalues(basis, squares[name], 3) for name, basis in bases.items()}
    encoders = build_encoders(sites, curvatures, dict.fromkeys(blocks, 0.1), RECIPE, torch.device("cpu"), torch.float32)
    codes, scales, _ = encode_documents(runner, documents, encoders, RECIPE.layout(sites), "full")
    for name, curvature in curvatures.items():
        assert curvature.outputs is None, "only the diagonal is kept"
        assert curvature.eigenvalues.shape == blocks[name].shape[1:]
    vectors = {name: encoders[name].query(block).numpy() for name, block in blocks.items()}
    share = Share(codes, scales, 3)
    scores = window_scores(share, RECIPE.layout(sites), vectors, slice(None), per_site=True)
    for number, (name, curvature) in enumerate(curvatures.items()):
        flat = blocks[name].flatten(1)
        wanted = flat @ (flat / (curvature.eigenvalues.flatten().float() + 0.1)).T
        assert relative(torch.from_numpy(scores[number]), wanted) < 2e-3, name

"""Parameters that a mixer uses in its own forward: replayed gradients are autograd's, and nothing is left behind."""

import pytest
import torch
from torch import nn

from conftest import shake
from oracle import gradients, relative
from test_zoo_gradients import found, runner_of, sequences, truth
from whence.data import batch_from_sequences
from whence.errors import ModelError
from whence.gradients import Runner, gradient_blocks, language_examples, token_scores
from whence.model import Capture, as_loaded, coverage, find_sites, probe_sites
from zoo import ZOO

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


def test_one_replayed_site_alone():
    model = ZOO["nemotron_h"](torch.float32)
    wanted = truth(model)
    loaded = as_loaded(model)
    _, whole = runner_of(model)
    site = next(site for site in whole.sites if site.name.endswith("A_log"))
    got, _ = found(model, loaded, Runner(model, [site]))
    assert list(got) == list(site.parameters)
    assert relative(got[site.parameters[0]], wanted[site.parameters[0]]) < 1e-5


def test_patterns_reach_replayed_sites():
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
    assert [site.name for site in sites] == ["into", "middle", "out", "decay", "gain"]
    wanted = gradients(model, [lambda i=i: model(x[i : i + 1]).square().sum() for i in range(4)])
    blocks = {}
    Capture(model, sites).run(losses, 4, lambda site, uses: blocks.update({site.name: uses[0].blocks()}))
    for name in ("decay", "gain"):
        assert relative(blocks[name].flatten(1), wanted[name].flatten(1)) < 1e-12


def test_a_parameter_with_another_way_to_the_loss_is_not_attributed():
    model = shake(Gated(fails=True))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    sites = probed(model, lambda: model(x).square().sum((1, 2)), 2)
    assert [site.name for site in sites] == ["into", "middle", "out", "decay"], "what agrees with autograd, alone"
    missing = [line for line in coverage(model, sites).sites if not line.attributed]
    assert [line.name for line in missing] == ["gain"]
    assert "Gated" in missing[0].reason


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


def test_token_shares_of_a_replayed_site_are_spread_over_the_tokens_that_count():
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


def test_replayed_sites_and_packed_rows_do_not_go_together():
    model = ZOO["nemotron_h"](torch.float32)
    loaded, runner = runner_of(model)
    examples = language_examples(batch_from_sequences(sequences(), pack=30), loaded)
    with pytest.raises(ModelError, match=r"packed"):
        gradient_blocks(runner, examples)

"""Our forward pass of stacks of experts: the class's own outputs and gradients, whatever the routing, and no traces."""

import pytest
import torch

from conftest import as_loaded, make_runner, sequences
from oracle import relative
from whence.data import batch_from_sequences
from whence.factors import Routed
from whence.gradients import gradient_blocks, language_examples, token_scores
from whence.model import Capture, experts, find_sites
from zoo import ZOO, truly_float64

MIXTURES = ("olmoe", "qwen3_moe", "qwen3_next", "gpt_oss", "mixtral", "nemotron_h", "nemotron3")


def stacks(model):
    return [site for site in find_sites(model) if site.experts]


def module_of(model):
    return model.get_submodule(stacks(model)[0].uses[0].module)


def called(model, module, hidden, chosen, weights, ours):
    """The module's output and all gradients of a loss on it, with our forward pass or transformers' plain loop."""
    hidden = hidden.clone().requires_grad_(True)
    weights = weights.clone().requires_grad_(True)
    parameters = [p.requires_grad_(True) for p in module.parameters()]
    if ours:
        with experts.routed_by_us(model, stacks(model)):
            out = module(hidden, chosen, weights)
    else:
        model.set_experts_implementation("eager")
        out = module(hidden, chosen, weights)
    return out, torch.autograd.grad(out.square().sum(), [hidden, weights, *parameters])


ROUTINGS = {
    "spread": lambda tokens, experts: torch.stack([(torch.arange(tokens) * k) % experts for k in (1, 5)], 1),
    "all to one": lambda tokens, experts: torch.tensor([[2, 4]]).expand(tokens, 2),
    "the last alone": lambda tokens, experts: torch.full((tokens, 1), experts - 1),
    "one expert twice": lambda tokens, experts: torch.tensor([[3, 3]]).expand(tokens, 2),
}


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("name", MIXTURES)
def test_outputs_and_gradients_are_those_of_the_class(name, routing):
    with truly_float64():
        model = ZOO[name](torch.float64)
        module = module_of(model)
        random = torch.Generator().manual_seed(1)
        inputs = stacks(model)[0].inputs - stacks(model)[0].bias
        chosen = ROUTINGS[routing](7, module.num_experts)
        hidden = torch.randn(7, inputs, generator=random, dtype=torch.float64)
        weights = torch.rand(chosen.shape, generator=random, dtype=torch.float64)
        wanted, wanted_gradients = called(model, module, hidden, chosen, weights, ours=False)
        got, gradients = called(model, module, hidden, chosen, weights, ours=True)
        assert relative(got.detach(), wanted.detach()) < 1e-12
        for one, two in zip(gradients, wanted_gradients, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_no_token_at_all():
    model = ZOO["olmoe"](torch.float64)
    module = module_of(model)
    nothing = torch.zeros(0, 32, dtype=torch.float64, requires_grad=True)
    with experts.routed_by_us(model, stacks(model)):
        out = module(nothing, torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2, dtype=torch.float64))
    assert out.shape == (0, 32)
    out.sum().backward()


@pytest.mark.parametrize("chosen", ["eager", "batched_mm", "grouped_mm"])
def test_what_was_configured_changes_no_gradient_and_is_there_afterwards(chosen):
    model = ZOO["olmoe"](torch.float64)
    loaded = as_loaded(model)
    examples = language_examples(batch_from_sequences(sequences((9, 5, 7))), loaded)
    runner = make_runner(loaded)
    wanted, _ = gradient_blocks(runner, examples)
    model.set_experts_implementation(chosen)
    before = model.config._experts_implementation_internal
    got, _ = gradient_blocks(runner, examples)
    assert model.config._experts_implementation_internal == before
    for name, block in wanted.items():
        assert relative(got[name], block) < 1e-9, name


def test_a_run_that_fails_leaves_no_trace():
    model = ZOO["olmoe"](torch.float64)
    before = model.config._experts_implementation_internal
    ids = torch.randint(0, 90, (2, 6))

    def losses():
        model(input_ids=ids, use_cache=False)
        raise RuntimeError("out of something")

    with pytest.raises(RuntimeError, match="out of something"):
        Capture(model, find_sites(model)).run(losses, 2, lambda site, uses: None, 6)
    assert model.config._experts_implementation_internal == before
    assert not experts._watches
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rows_are_the_tokens_that_each_expert_was_given():
    """Every token appears once per expert it was routed to, with its own routing weight in the gradient."""
    model = ZOO["olmoe"](torch.float64)
    loaded = as_loaded(model)
    seen: dict[str, Routed] = {}
    runner = make_runner(loaded, ["*.experts.down_proj"])
    examples = language_examples(batch_from_sequences(sequences((9, 5, 7))), loaded)
    indices = []
    handle = model.model.layers[0].mlp.gate.register_forward_hook(lambda *call: indices.append(call[2][2]))
    try:
        runner.examples(examples, lambda site, uses: seen.update({site.name: uses[0]}))
    finally:
        handle.remove()
    routed = seen["model.layers.0.mlp.experts.down_proj"]
    rows, width = routed.shape
    flat = routed.example * width + routed.token
    assert torch.equal(routed.expert.sort().values, routed.expert)
    pairs = sorted(zip(flat.tolist(), routed.expert.tolist()))
    wanted = sorted(
        (token, int(e)) for token, chosen in enumerate(indices[0].reshape(rows * width, -1)) for e in chosen
    )
    assert pairs == wanted


def test_experts_of_a_token_add_up_to_its_site():
    model = ZOO["olmoe"](torch.float64)
    loaded = as_loaded(model)
    runner = make_runner(loaded, ["*.experts.*"])
    examples = language_examples(batch_from_sequences(sequences((9, 5, 7))), loaded)
    targets, _ = gradient_blocks(runner, language_examples(batch_from_sequences(sequences((6,), seed=3)), loaded))
    found = token_scores(runner, examples, targets)
    blocks, _ = gradient_blocks(runner, examples)
    for number, site in enumerate(runner.sites):
        by_expert = torch.einsum("qeoi,neoi->qne", targets[site.name], blocks[site.name])
        got = torch.as_tensor(found.experts[site.name])
        assert got.shape[-1] == site.experts
        torch.testing.assert_close(got.reshape(by_expert[0].shape), by_expert[0], rtol=1e-9, atol=1e-12)
        total = torch.as_tensor(found.sites[number]).reshape(-1)
        torch.testing.assert_close(got.sum(-1).reshape(-1), total, rtol=1e-9, atol=1e-12)

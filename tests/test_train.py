"""The training loop: every optimizer against its formula, schedules, clipping, dropout, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from conftest import causal_lm
from whence.errors import NumericalError
from whence.model import Classification, Training, has_dropout, optimise, reproducible, set_dropout
from whence.model.muon import orthogonalised
from whence.model.optimizers import make_optimizers

STEPS = 5
FLAT = {"learning_rate": 0.03, "dtype": "float64"}


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3)).double()


def batches(count: int = STEPS, size: int = 5) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    draw = lambda: (  # noqa: E731
        torch.randn(size, 4, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (size,), generator=generator),
    )
    return [[draw()] for _ in range(count)]


def mean_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return Classification().losses(model, batch).mean()


def gradients(values: list[np.ndarray], batch: tuple[torch.Tensor, torch.Tensor]) -> list[np.ndarray]:
    """Of the mean loss of the network with these parameters."""
    model = network()
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return [g.numpy() for g in torch.autograd.grad(mean_loss(model, batch), parameters)]


def start() -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in network().parameters()]


def trained(training: Training) -> list[np.ndarray]:
    model = network()
    optimise(model, batches(), mean_loss, STEPS, training)
    return [parameter.detach().numpy() for parameter in model.parameters()]


def adamw_step(value, gradient, state, t, training, decay):
    first, second = state
    b1, b2 = training.betas
    first[:] = b1 * first + (1 - b1) * gradient
    second[:] = b2 * second + (1 - b2) * gradient**2
    move = (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + training.eps)
    value -= training.learning_rate * (move + decay * value)


def sgd_step(value, gradient, state, t, training, decay):
    gradient = gradient + decay * value
    buffer = state[0]
    buffer[:] = gradient if t == 1 else training.momentum * buffer + gradient
    value -= training.learning_rate * (gradient + training.momentum * buffer if training.nesterov else buffer)


def muon_step(value, gradient, state, t, training, decay):
    m = training.momentum
    buffer = state[0]
    buffer[:] = m * buffer + (1 - m) * gradient
    ahead = (1 - m) * gradient + m * buffer if training.nesterov else buffer
    x = ahead.T if ahead.shape[0] > ahead.shape[1] else ahead
    x = x / np.linalg.norm(x)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    x = x.T if ahead.shape[0] > ahead.shape[1] else x
    value *= 1 - training.learning_rate * decay
    value -= training.learning_rate * 0.2 * math.sqrt(max(value.shape)) * x


CASES = {
    "adamw": (Training(optimizer="adamw", weight_decay=0.2, betas=(0.8, 0.95), **FLAT), adamw_step),
    "adamw, all decay": (Training(optimizer="adamw", weight_decay=0.2, decay="all", **FLAT), adamw_step),
    "sgd": (Training(optimizer="sgd", **FLAT), sgd_step),
    "sgd, momentum": (Training(optimizer="sgd", momentum=0.8, weight_decay=0.1, **FLAT), sgd_step),
    "sgd, nesterov": (Training(optimizer="sgd", momentum=0.8, nesterov=True, **FLAT), sgd_step),
    "muon": (Training(optimizer="muon", momentum=0.9, nesterov=True, weight_decay=0.1, **FLAT), muon_step),
    "muon, plain": (Training(optimizer="muon", momentum=0.9, **FLAT), muon_step),
}


@pytest.mark.parametrize("name", CASES)
def test_optimizers_are_their_formulas(name: str) -> None:
    training, step = CASES[name]
    values = start()
    states = [(np.zeros_like(v), np.zeros_like(v)) for v in values]
    for t, (batch,) in enumerate(batches(), start=1):
        for value, state, gradient in zip(values, states, gradients(values, batch), strict=True):
            decay = training.weight_decay if value.ndim > 1 or training.decay == "all" else 0.0
            rule = adamw_step if step is muon_step and value.ndim < 2 else step
            rule(value, gradient, state, t, training, decay)
    for value, own in zip(values, trained(training), strict=True):
        np.testing.assert_allclose(own, value, rtol=1e-11, atol=1e-13)


def test_muon_is_torchs_but_for_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # where torch's Muon rounds
    model, other = network(), network()
    training = Training(optimizer="muon", momentum=0.9, nesterov=True, weight_decay=0.1, learning_rate=0.01)
    optimise(model, batches(), mean_loss, STEPS, training)
    matrices, vectors = [other[0].weight, other[3].weight], [other[0].bias, other[3].bias]
    muon = torch.optim.Muon(matrices, lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(vectors, lr=0.01, weight_decay=0.0)
    for (batch,) in batches():
        other.zero_grad()
        mean_loss(other, batch).backward()
        muon.step()
        adamw.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_orthogonalised_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert (values > 0.5).all()
    assert (values < 1.3).all()
    assert orthogonalised(torch.zeros(shape)).abs().max() == 0


def test_muon_leaves_embeddings_head_and_vectors_to_adamw() -> None:
    for kind in ("llama", "gpt2"):
        model = causal_lm(kind)
        adamw, muon = make_optimizers(model, Training(optimizer="muon", momentum=0.9))
        chosen = {id(p) for group in muon.param_groups for p in group["params"]}
        names = {name for name, p in model.named_parameters() if id(p) in chosen}
        assert names
        assert not any(part in name for name in names for part in ("embed", "wte", "wpe", "lm_head", "norm", "bias"))
        others = {id(p) for group in adamw.param_groups for p in group["params"]}
        assert chosen.isdisjoint(others)
        assert len(chosen | others) == len(list(model.parameters()))


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_rates_at_the_start_of_steps_are_those_of_transformers(kind: str, warmup: int) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=20)
    training = Training(learning_rate=0.5, schedule=kind.split("_")[0], warmup=warmup, rate_at="start")
    for step in range(20):
        assert training.rate(step, 20) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-15)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_rates_at_the_end_of_steps_lose_no_step(schedule: str) -> None:
    training = Training(learning_rate=2.0, schedule=schedule, warmup=0.2, final=0.25)
    rates = [training.rate(step, 30) for step in range(30)]
    assert rates[:6] == pytest.approx([2 * (step + 1) / 6 for step in range(6)])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(2.0 if schedule == "constant" else 0.5)
    assert training.rate(0, 1) == 2.0


def test_steps_are_epochs_of_batches_unless_given() -> None:
    assert Training(epochs=2, batch=4).steps(9) == 6
    assert Training(epochs=0.5, batch=4).steps(9) == 2
    assert Training(epochs=2, batch=4, max_steps=5).steps(9) == 5


def test_clipping_bounds_the_gradient() -> None:
    value = start()
    moved = trained_once(Training(optimizer="sgd", learning_rate=1.0, clip=0.01))
    norm = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(moved, value, strict=True)))
    assert norm == pytest.approx(0.01, rel=1e-4)


def trained_once(training: Training) -> list[np.ndarray]:
    model = network()
    optimise(model, batches(1), mean_loss, 1, training)
    return [parameter.detach().numpy() for parameter in model.parameters()]


def test_pieces_add_up_to_their_batch() -> None:
    def part(model: nn.Module, piece: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return Classification().losses(model, piece).sum() / 5

    whole, pieces = network(), network()
    training = Training(optimizer="sgd", learning_rate=0.1)
    cut = [[(x[:2], y[:2]), (x[2:], y[2:])] for ((x, y),) in batches()]
    first = optimise(whole, batches(), mean_loss, STEPS, training)
    second = optimise(pieces, cut, part, STEPS, training)
    assert first == pytest.approx(second, rel=1e-13)
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=0)


def test_an_empty_batch_takes_no_step_but_time_passes() -> None:
    seen: list[int] = []
    model, other = network(), network()
    training = Training(optimizer="sgd", learning_rate=0.1, schedule="linear")
    with_gap = [batches()[0], [], batches()[2]]
    losses = optimise(model, with_gap, mean_loss, 3, training, report=lambda done, *_: seen.append(done))
    assert len(losses) == 2
    assert seen == [1, 2, 3]
    for number in (0, 2):
        rate = Training(optimizer="sgd", learning_rate=training.rate(number, 3))
        optimise(other, [batches()[number]], mean_loss, 1, rate)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimise(model, batches(), mean_loss, STEPS, Training(weight_decay=0.5))
    assert torch.equal(model[0].weight, before)
    assert not torch.equal(model[3].weight, network()[3].weight)


def test_dropout_is_drawn_anew_by_step_and_decided_by_the_seed() -> None:
    results = {}
    for name, seed, drop in (("a", 0, 0.5), ("again", 0, 0.5), ("other", 1, 0.5), ("none", 0, 0.0)):
        model = network(dropout=drop)
        state = torch.random.get_rng_state()
        results[name] = optimise(model, [batches()[0]] * 2, mean_loss, 2, Training(learning_rate=0.0), seed=seed)
        assert (torch.random.get_rng_state() == state).all()
        assert not model.training
    assert results["a"] == results["again"]
    assert results["a"] != results["other"]
    assert results["a"][0] != results["a"][1]
    assert results["none"][0] == results["none"][1]


def test_every_dropout_of_a_transformer_is_found_and_set() -> None:
    model = causal_lm("gpt2", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    assert has_dropout(model)
    tokens = torch.tensor([[1, 5, 6, 7]])
    model.train()
    assert not torch.equal(model(input_ids=tokens).logits, model(input_ids=tokens).logits)
    set_dropout(model, 0.0)
    assert not has_dropout(model)
    assert torch.equal(model(input_ids=tokens).logits, model(input_ids=tokens).logits)
    llama = causal_lm("llama", attention_dropout=0.3)
    assert has_dropout(llama)
    set_dropout(llama, 0.0)
    assert not has_dropout(llama)


def test_a_loss_that_overflows_is_refused() -> None:
    rows = batches()
    rows[2][0][0][0, 0] = math.nan
    with pytest.raises(NumericalError, match=r"nan at step 3 \(learning rate 0\.25\)"):
        optimise(network(), rows, mean_loss, STEPS, Training(optimizer="sgd", learning_rate=0.25))


def test_lbfgs_ends_where_the_gradient_vanishes_decay_included() -> None:
    rows = batches(1, size=40)
    training = Training(optimizer="lbfgs", dtype="float64", weight_decay=1e-2)
    model = network()
    losses = optimise(model, rows, mean_loss, training.steps(4), training)
    assert losses[-1] < losses[0]
    model.zero_grad()
    mean_loss(model, rows[0][0]).backward()
    for parameter in model.parameters():
        decay = 1e-2 * parameter.detach() if parameter.ndim > 1 else 0.0
        assert (parameter.grad + decay).abs().max() < 1e-7


def test_lbfgs_says_when_there_is_no_minimum_to_find() -> None:
    separable = [[(torch.eye(4, dtype=torch.float64) * 1e-4, torch.tensor([0, 1, 2, 0]))]]
    training = Training(optimizer="lbfgs", dtype="float64")

    def steep(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return mean_loss(model, batch) + model[0].weight.sum()

    with pytest.raises(NumericalError, match=r"lbfgs did not converge|is nan|is -inf"):
        optimise(network(), separable, steep, training.steps(4), training)
    few = training.model_copy(update={"max_steps": 2})
    assert len(optimise(network(), separable, mean_loss, few.steps(4), few)) < 8


def test_threads_and_determinism_are_put_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with reproducible(Training(threads=2)):
        assert torch.get_num_threads() == 2
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"learning_rate": -1},
        {"learning_rate": math.inf},
        {"betas": (0.9, 1.0)},
        {"momentum": 1.0},
        {"nesterov": True},
        {"epochs": 0},
        {"batch": 0},
        {"dropout": 1.0},
        {"dtype": "float16"},
        {"optimizer": "lbfgs", "dtype": "bfloat16"},
        {"lr": 0.1},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Training(**settings)


def test_a_training_survives_json() -> None:
    training = Training(optimizer="muon", momentum=0.9, betas=(0.8, 0.9), max_steps=7, clip=0.5)
    assert Training.model_validate_json(training.model_dump_json()) == training

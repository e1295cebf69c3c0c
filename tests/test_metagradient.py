"""The derivative of a trained model by its documents' weights, against real trainings with the weights changed."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import nn

from whence.errors import InputError, ModelError, NumericalError
from whence.model import Classification, Rerun, Training, metagradient, optimise

DOCUMENTS, STEPS, SIZE = 10, 9, 4
FLAT = {"learning_rate": 0.05, "dtype": "float64", "schedule": "cosine", "warmup": 2, "final": 0.2}
TRAININGS = {
    "sgd": Training(optimizer="sgd", weight_decay=0.1, **FLAT),
    "momentum": Training(optimizer="sgd", momentum=0.8, weight_decay=0.1, clip=0.5, **FLAT),
    "nesterov": Training(optimizer="sgd", momentum=0.8, nesterov=True, decay="all", weight_decay=0.1, **FLAT),
    "adamw": Training(weight_decay=0.3, clip=0.3, betas=(0.8, 0.95), eps=1e-4, **FLAT),
    "adamw plain": Training(betas=(0.0, 0.95), rate_at="start", **FLAT),
    "muon": Training(optimizer="muon", weight_decay=0.2, clip=1.0, **FLAT),
    "muon without looking ahead": Training(optimizer="muon", momentum=0.7, nesterov=False, **FLAT),
}


@dataclass
class Toy:
    """A network on random numbers; a batch is pieces of (features, labels, documents, weights, divisor).

    Documents come back, some twice in a batch; one step is empty. Weights count from step `since` on.
    """

    training: Training
    weights: torch.Tensor = field(default_factory=lambda: torch.ones(DOCUMENTS, dtype=torch.float64))
    pieces: int = 2
    seed: int = 3
    dropout: float = 0.0
    idle: bool = False
    since: int = 0

    steps = STEPS

    def start(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Dropout(self.dropout), nn.Tanh())
        model.append(nn.Linear(4, 3))
        if self.idle:
            model.register_parameter("idle", nn.Parameter(torch.ones(2, 2)))
        return model.double()

    @cached_property
    def data(self):
        generator = torch.Generator().manual_seed(1)
        features = torch.randn(DOCUMENTS, 5, generator=generator, dtype=torch.float64)
        return features, torch.randint(0, 3, (DOCUMENTS,), generator=generator)

    def batches(self, first=0, stop=STEPS):
        features, labels = self.data
        for number in range(first, stop):
            rows = np.random.default_rng(number).integers(0, DOCUMENTS, SIZE)
            parts = np.array_split(rows, self.pieces) if number != 4 else []
            weights = self.weights if number >= self.since else torch.ones_like(self.weights)
            yield [(features[part], labels[part], part, weights[part], SIZE) for part in parts if len(part)]

    def shares(self, model):
        def of(model, piece):
            features, labels, _, weights, divisor = piece
            return Classification().losses(model, (features, labels)) * weights / divisor

        return of

    def piece_loss(self, model):
        return lambda model, piece: self.shares(model)(model, piece).sum()

    def documents(self, piece):
        return piece[2]

    def train(self):
        model = self.start()
        optimise(model, self.batches(), self.piece_loss(model), STEPS, self.training, seed=self.seed)
        return model


def asked(number):
    generator = torch.Generator().manual_seed(50 + number)
    features = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    return lambda model: -Classification().losses(model, (features, labels)).sum()


OUTPUTS = [asked(number) for number in range(3)]


def derivative(toy, cuts=(0, 3, 6, STEPS), outputs=OUTPUTS):
    """Scores, and the states at the cuts."""
    rerun, states = Rerun(toy), {}
    rerun.walk(0, cuts[0])
    for first, stop in zip(cuts, [*cuts[1:], STEPS], strict=True):
        states[first] = rerun.state()
        rerun.walk(first, stop)
    return metagradient(rerun, outputs, cuts, states.__getitem__, DOCUMENTS), states


def differences(training, eps=2**-13, **changes):
    """Central differences through real training, with the error of order eps squared taken off, [Q, N]."""

    def slope(document, step):
        found = []
        for sign in (1, -1):
            weights = torch.ones(DOCUMENTS, dtype=torch.float64)
            weights[document] += sign * step
            model = Toy(training, weights, **changes).train()
            found.append([float(output(model).detach()) for output in OUTPUTS])
        return (np.array(found[0]) - found[1]) / (2 * step)

    return np.array([(4 * slope(d, eps) - slope(d, 2 * eps)) / 3 for d in range(DOCUMENTS)]).T


@pytest.mark.parametrize("name", TRAININGS)
def test_it_is_the_derivative_of_real_training(name):
    found, _ = derivative(Toy(TRAININGS[name]))
    wanted = differences(TRAININGS[name])
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7 * np.abs(wanted).max())


@pytest.mark.parametrize("name", TRAININGS)
def test_the_replay_is_the_training(name):
    """Bit for bit, whether it goes through or is taken up from a stored state."""
    toy = Toy(TRAININGS[name])
    wanted = torch.cat([p.detach().flatten() for p in toy.train().parameters()])
    _, states = derivative(toy)
    for first in states:
        rerun = Rerun(toy)
        rerun.restore(states[first])
        rerun.walk(first, STEPS)
        assert torch.equal(torch.cat([p.detach().flatten() for p in rerun.model.parameters()]), wanted)


def test_the_last_part_alone():
    """From the first cut on: the derivative by weights that count from there."""
    found, _ = derivative(Toy(TRAININGS["adamw"]), (5, 7, STEPS))
    wanted = differences(TRAININGS["adamw"], since=5)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7 * np.abs(wanted).max())
    assert np.abs(found - derivative(Toy(TRAININGS["adamw"]))[0]).max() > 0.1 * np.abs(wanted).max()


def test_segments_change_nothing():
    toy = Toy(TRAININGS["adamw"])
    wanted, _ = derivative(toy)
    for cuts in ([0, STEPS], list(range(STEPS + 1)), [0, 1, 8, STEPS]):
        assert (derivative(toy, cuts)[0] == wanted).all()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_pieces_change_nothing(name):
    wanted, _ = derivative(Toy(TRAININGS[name]))
    for pieces in (1, SIZE):
        found, _ = derivative(Toy(TRAININGS[name], pieces=pieces))
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_outputs_do_not_disturb_each_other():
    toy = Toy(TRAININGS["momentum"])
    together, _ = derivative(toy)
    alone = [derivative(toy, outputs=[output])[0][0] for output in OUTPUTS]
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-14)


def test_a_parameter_without_a_part_stays_out_of_it():
    """Optimizers pass over it, decay included; so does the derivative."""
    wanted, _ = derivative(Toy(TRAININGS["adamw"]))
    found, states = derivative(Toy(TRAININGS["adamw"], idle=True))
    assert (found == wanted).all()
    assert (states[6]["weight:idle"] == 1).all()


def test_weights_that_are_not_one():
    """Each derivative is by a factor on the weight as it was."""
    weights = torch.linspace(0.5, 2, DOCUMENTS, dtype=torch.float64)
    training = TRAININGS["adamw"]
    found, _ = derivative(Toy(training, weights))
    slopes = []
    for sign in (1, -1):
        changed = weights.clone()
        changed[2] *= 1 + sign * 2**-15
        slopes.append(np.array([float(output(Toy(training, changed).train()).detach()) for output in OUTPUTS]))
    np.testing.assert_allclose(found[:, 2], (slopes[0] - slopes[1]) * 2**14, rtol=1e-5)


def test_a_gradient_of_nothing_has_no_say():
    """A feature that is 0 in all documents leaves AdamW with a root of 0, whose slope is infinite."""

    class Blind(Toy):
        @cached_property
        def data(self):
            features, labels = super().data
            return features * torch.tensor([1, 1, 0, 1, 1.0], dtype=torch.float64), labels

    found, _ = derivative(Blind(TRAININGS["adamw"]))
    assert np.isfinite(found).all()
    weights = torch.ones(DOCUMENTS, dtype=torch.float64)
    slopes = []
    for sign in (1, -1):
        weights[1] = 1 + sign * 2**-15
        model = Blind(TRAININGS["adamw"], weights).train()
        slopes.append(np.array([float(output(model).detach()) for output in OUTPUTS]))
    np.testing.assert_allclose(found[:, 1], (slopes[0] - slopes[1]) * 2**14, rtol=1e-5)


def test_what_has_no_derivative_is_refused():
    with pytest.raises(InputError, match="lbfgs"):
        Rerun(Toy(Training(optimizer="lbfgs", dtype="float64")))
    with pytest.raises(InputError, match="bfloat16"):
        Rerun(Toy(Training(dtype="bfloat16")))
    with pytest.raises(ModelError, match="dropout = 0"):
        Rerun(Toy(TRAININGS["sgd"], dropout=0.1))


def test_an_overflow_is_said():
    outputs = [lambda model: 1e308 * OUTPUTS[0](model), lambda model: 1e308 * OUTPUTS[1](model) * 1e10]
    with pytest.raises(NumericalError, match="not finite"):
        derivative(Toy(TRAININGS["sgd"]), outputs=outputs)

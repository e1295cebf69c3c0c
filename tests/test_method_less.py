"""LESS against Adam's step on each document, written out densely at each checkpoint."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoint_world import make_checkpoints
from method_world import QUERIES, make_place, open_run
from test_capture import expected
from test_method_tracin import scored, truth_at
from whence.attributor import optimizer_moments, read_checkpoints, run_steps
from whence.attributor.steps import CorpusStep
from whence.errors import InputError
from whence.methods.less import adam_steps
from whence.model import StoredState, write_state


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("less"), "gpt2")
    owner = open_run(place, place / "run")
    run_steps([CorpusStep(owner)])
    return place, owner, make_checkpoints(place)


def flat(owner, values, kind):
    """Stored moments of a kind as one row, in the order of `Truth`."""
    stacked = {name.partition(":")[2]: value[None] for name, value in values.items() if name.startswith(kind + ":")}
    return torch.cat([expected(owner.loaded.model, site, stacked).flatten(1) for site in owner.sites], 1)[0]


def dense(owner, checkpoint, truth, divisors):
    (b1, b2), t, stored = checkpoint.betas, checkpoint.step + 1, load_file(checkpoint.optimizer)
    own = truth.documents / divisors[:, None]
    mean = (b1 * flat(owner, stored, "exp_avg") + (1 - b1) * own) / (1 - b1**t)
    square = (b2 * flat(owner, stored, "exp_avg_sq") + (1 - b2) * own**2) / (1 - b2**t)
    return mean / (square.sqrt() + checkpoint.eps)


def targets_of(truth, documents):
    counts = torch.zeros(documents, dtype=torch.float64)
    for (_, mask), owner in zip(truth.windows, truth.owners, strict=True):
        counts[owner] += int(mask.sum())
    return counts


def test_against_dense_steps(world, tmp_path):
    _, owner, checkpoints = world
    assert len(np.unique(owner.corpus.documents_of_windows(np.arange(owner.corpus.windows)))) < owner.corpus.windows
    wanted = 0
    for rate, checkpoint in zip([0.05 / 4, 0.06 / 4, 0.03 / 4], checkpoints, strict=True):
        truth = truth_at(tmp_path / f"{checkpoint.step}", owner, checkpoint)
        steps = dense(owner, checkpoint, truth, targets_of(truth, owner.corpus.documents))
        norms = truth.queries.norm(dim=1)[:, None] * steps.norm(dim=1)
        wanted = wanted + rate * (truth.queries @ steps.T) / norms
    found = scored(owner, "less", checkpoints)
    assert np.abs(found - wanted.numpy()).max() < 1e-9 * wanted.abs().max()


def test_means_over_documents_divide_by_windows(world, tmp_path):
    place, owner, _ = world
    (place / "other").mkdir()
    (place / "other" / "model").symlink_to(place / "model")
    checkpoint = make_checkpoints(place / "other", {"reduction": "documents", "eps": 0.1})[0]
    truth = truth_at(tmp_path / "truth", owner, checkpoint)
    windows = torch.bincount(torch.from_numpy(truth.owners)).double()
    assert windows.max() > 1
    steps = dense(owner, checkpoint, truth, windows)
    wanted = 0.0125 * (truth.queries @ steps.T) / (truth.queries.norm(dim=1)[:, None] * steps.norm(dim=1))
    found = scored(owner, "less", (checkpoint,))
    assert np.abs(found - wanted.numpy()).max() < 1e-9 * wanted.abs().max()


def test_a_step_is_what_adam_would_take(world, tmp_path):
    """torch's own Adam, with these moments and this gradient, moves the weights by rate times the step."""
    _, owner, checkpoints = world
    checkpoint = checkpoints[1]
    moments, generator = optimizer_moments(checkpoint, owner), torch.Generator().manual_seed(0)
    site = owner.sites[2]
    gradient = torch.randn(site.shape, generator=generator, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.zeros(site.shape, dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=1.0, betas=checkpoint.betas, eps=checkpoint.eps)
    adam.state[weight] = {
        "step": torch.tensor(float(checkpoint.step)),
        "exp_avg": moments.mean[site.name].clone(),
        "exp_avg_sq": moments.square[site.name].clone(),
    }
    weight.grad = gradient.clone()
    adam.step()
    found = adam_steps(owner, checkpoint)(site.name, 3 * gradient[None], torch.tensor([3.0]))[0]
    assert torch.allclose(-weight.detach(), found, rtol=1e-12)


def test_without_moments(world, tmp_path):
    _, owner, _ = world
    write_state(tmp_path / "x", owner.loaded.model, StoredState(step=1, learning_rate=1), {})
    with pytest.raises(InputError, match="no state of its optimizer"):
        scored(owner, "less", read_checkpoints([tmp_path / "x"]))


def test_other_settings_are_refused():
    from whence.methods import parse_method

    with pytest.raises(InputError, match="no setting 'dimension'"):
        parse_method("less:dimension=8192")
    assert [parse_method("less").spec, len(QUERIES)] == ["less", 3]

"""Tail-patch: one step on one document, from and back to the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from retraining import QUICK, make_task, make_world, weights
from whence.data import batch_from_sequences
from whence.errors import InputError, ModelError, NumericalError
from whence.fidelity.modules import ModuleTask
from whence.fidelity.patch import patch_training, tail_patch
from whence.fidelity.subsets import whole
from whence.model import CausalLM, Classification, Training, as_loaded, language_inputs

SMALL = Training(optimizer="sgd", learning_rate=1e-4, dtype="float64")
DOUBLE = QUICK.model_copy(update={"dtype": "float64"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("patch"), kind="gpt2", resid_pdrop=0.5)


def gradient(loss: torch.Tensor, model: nn.Module) -> np.ndarray:
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return np.concatenate([g.numpy().ravel() for g in grads])


def test_a_small_step_rises_by_the_inner_product_of_gradients(world: Path) -> None:
    task = make_task(world, DOUBLE, queries=3)
    documents = [3, 0, 9]  # 3 is several windows
    rises = tail_patch(task, documents, step=SMALL)
    assert rises.shape == (3, 3)
    loaded = task.loaded
    for row, document in zip(rises, documents, strict=True):
        windows = np.flatnonzero(task.windows.owners == document)
        batch = batch_from_sequences([task.corpus.window_tokens(int(w)) for w in windows])
        loss = CausalLM().losses(loaded.model, language_inputs(batch, loaded)).sum() / batch.loss_mask.sum()
        own = gradient(loss, loaded.model)
        for rise, query in zip(row, task.queries, strict=True):
            asked = batch_from_sequences([(query.text.tokens, query.text.loss_mask)])
            loss = CausalLM().losses(loaded.model, language_inputs(asked, loaded)).sum()
            if query.contrast is not None:
                other = batch_from_sequences([(query.contrast.tokens, query.contrast.loss_mask)])
                loss = loss - CausalLM().losses(loaded.model, language_inputs(other, loaded)).sum()
            assert rise == pytest.approx(1e-4 * gradient(loss, loaded.model) @ own, rel=0.02, abs=1e-6)


def test_each_document_starts_from_the_very_same_weights(world: Path) -> None:
    task = make_task(world)
    before = weights(task.loaded.model)
    together = tail_patch(task, [3, 0, 3, 9])
    assert (weights(task.loaded.model) == before).all()
    assert (together[0] == together[2]).all()
    for row, document in zip(together, [3, 0, 3, 9], strict=True):
        assert (tail_patch(task, [document])[0] == row).all()
    assert all(parameter.grad is None for parameter in task.loaded.model.parameters())


def test_the_default_step_suits_the_model(world: Path) -> None:
    task = make_task(world, DOUBLE)
    step = patch_training(task, fall=0.01)
    assert step.optimizer == "sgd"
    assert step == patch_training(task, fall=0.01)
    assert patch_training(task, fall=0.02).learning_rate == pytest.approx(2 * step.learning_rate)
    falls = []
    for document in range(14):
        windows = [task.corpus.window_tokens(int(w)) for w in np.flatnonzero(task.windows.owners == document)]
        batch = batch_from_sequences(windows)

        def mean(model: nn.Module, batch=batch) -> torch.Tensor:
            return CausalLM().losses(model, language_inputs(batch, as_loaded(model))).sum() / batch.loss_mask.sum()

        falls.append(step.learning_rate * (gradient(mean(task.loaded.model), task.loaded.model) ** 2).sum())
    assert np.median(falls) == pytest.approx(0.01)


def test_adamw_steps_as_in_training_at_its_peak(world: Path) -> None:
    task = make_task(world, DOUBLE.model_copy(update={"schedule": "linear", "warmup": 5, "grouping": "hold"}))
    model = task.loaded.model
    moved: list[float] = []
    losses = task.losses

    def spy(patched: nn.Module) -> np.ndarray:
        moved.append(float(np.abs(weights(patched) - weights(model)).max()))
        return losses(patched)

    task.losses = spy  # type: ignore[method-assign]
    tail_patch(task, [0, 1], step=task.training)
    assert moved[0] == 0
    assert moved[1:] == pytest.approx([5e-3] * 2, rel=1e-3)


def test_progress_and_other_models(world: Path) -> None:
    task = make_task(world)
    said: list[tuple[str, int, int]] = []
    model = task.train(whole(14)[0], 0)
    rises = tail_patch(task, [1, 2], model=model, report=lambda *what: said.append(what))
    assert said == [("tail-patch", 1, 2), ("tail-patch", 2, 2)]
    assert not (rises == tail_patch(task, [1, 2])).any()
    assert tail_patch(task, []).shape == (0, 2)


def test_rows_of_tensors_are_patched() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=generator)
    y = x[:, 0].gt(0).long()
    training = Training(optimizer="sgd", learning_rate=0.5, batch=20, epochs=5, dtype="float64")
    task = ModuleTask(lambda _seed: nn.Linear(4, 2), Classification(), (x, y), (x, y), training)
    model = task.train(whole(20)[0], 0)
    rises = tail_patch(task, range(20), model=model)
    assert (np.diagonal(rises) > 0).all()  # a step on a row makes its own label likelier
    with pytest.raises(InputError, match="knows of no trained model"):
        tail_patch(task, [0])


def test_odd_requests_are_refused(world: Path) -> None:
    task = make_task(world)
    for wrong in (14, -1):
        with pytest.raises(InputError, match=f"no document {wrong}"):
            tail_patch(task, [0, wrong])
    with pytest.raises(InputError, match="lbfgs"):
        tail_patch(task, [0], step=Training(optimizer="lbfgs"))
    with pytest.raises(NumericalError, match="document 0 at learning rate 1e\\+38"):
        tail_patch(task, [0], step=Training(optimizer="sgd", learning_rate=1e38))
    frozen = task.train(whole(14)[0], 0).requires_grad_(False)
    with pytest.raises(ModelError, match="requires a gradient"):
        tail_patch(task, [0], model=frozen)

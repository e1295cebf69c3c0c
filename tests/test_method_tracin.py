"""TracIn against autograd at each checkpoint, and against a training from which a document's steps are left out."""

import numpy as np
import pytest
import torch

from checkpoint_world import make_checkpoints
from method_world import QUERIES, make_place, make_truth, open_run
from whence.attributor import read_checkpoints, run_steps
from whence.attributor.steps import CorpusStep
from whence.fidelity import LanguageTask
from whence.methods import Work, method_scores, parse_method
from whence.model import Training, keep_states

TIGHT = 1e-9


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("tracin"))
    owner = open_run(place, place / "run")
    run_steps([CorpusStep(owner)])
    return place, owner, make_checkpoints(place)


def truth_at(folder, owner, checkpoint):
    """Dense gradients at a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(checkpoint.path)
    return make_truth(folder, owner)


def scored(owner, spec, checkpoints):
    return method_scores(parse_method(spec), Work(owner, checkpoints), owner.encode_queries(QUERIES))


def test_against_autograd(world, tmp_path):
    _, owner, checkpoints = world
    plain = cosines = 0
    for rate, checkpoint in zip([0.05, 0.06, 0.03], checkpoints, strict=True):
        truth = truth_at(tmp_path / f"{checkpoint.step}", owner, checkpoint)
        moved = rate * owner.corpus.documents / owner.corpus.targets
        inner = truth.queries @ truth.documents.T
        plain = plain + moved * inner / owner.corpus.documents
        cosines = cosines + moved * inner / (truth.queries.norm(dim=1)[:, None] * truth.documents.norm(dim=1))
    for spec, wanted in (("tracin", plain), ("tracin:cosine=true", cosines)):
        found = scored(owner, spec, checkpoints)
        assert np.abs(found - wanted.numpy()).max() < TIGHT * wanted.abs().max()


def test_a_checkpoint_at_the_start_adds_nothing(world):
    _, owner, checkpoints = world
    from dataclasses import replace

    start = replace(checkpoints[2], step=0, rate_sum=0.0)
    assert (scored(owner, "tracin", (start, *checkpoints)) == scored(owner, "tracin", checkpoints)).all()


@pytest.mark.parametrize(("reduction", "momentum"), [("tokens", 0.0), ("documents", 0.0), ("tokens", 0.9)])
def test_nats_are_those_of_the_steps_left_out(world, tmp_path, reduction, momentum):
    """Short steps of SGD: what TracIn leaves out is then small, and its unit shows."""
    place, owner, _ = world
    steps, rate = (40, 1e-5) if momentum else (8, 2e-4)
    training = Training(
        optimizer="sgd", learning_rate=rate, momentum=momentum, epochs=steps, batch=100, grouping="hold",
        reduction=reduction, dtype="float64",
    )  # fmt: skip
    task = LanguageTask(owner.run.corpus, place / "model", training, owner.encode_queries(QUERIES), device="cpu")
    whole = np.ones(task.documents, dtype=bool)
    trained = task.fit(whole, 0, observer=keep_states(tmp_path / "states", range(0, steps + 1, steps // 4)))
    base, wanted = task.losses(trained.model), []
    chosen = range(0, task.documents, 5)
    for document in chosen:
        kept = whole.copy()
        kept[document] = False
        wanted.append(task.losses(task.fit(kept, 0).model) - base)
    found = scored(owner, "tracin", read_checkpoints([tmp_path / "states" / "*"]))[:, list(chosen)]
    wanted = np.array(wanted).T
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.995
    slope = (found * wanted).sum() / np.square(found).sum()
    delivered = 1 - momentum / (1 - momentum) * (1 - momentum**steps) / steps  # the rest is still in the momentum
    assert slope == pytest.approx(delivered, abs=0.05)


def test_one_model_at_a_time(world, monkeypatch):
    """No checkpoint's model is alive when the next is loaded."""
    import weakref

    import whence.attributor.checkpoints as room

    alive, loads = [], []
    load = room.load_model

    def counted(*args, **settings):
        loads.append(sum(each() is not None for each in alive))
        loaded = load(*args, **settings)
        alive.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(room, "load_model", counted)
    _, owner, checkpoints = world
    scored(owner, "tracin", checkpoints)
    assert loads == [0, 0, 0]
    assert torch.is_grad_enabled()

"""MAGIC against real trainings of language models with documents' weights changed, in float64."""

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from conftest import causal_lm
from method_world import QUERIES, N, make_place, open_run
from whence.attributor import run_steps
from whence.attributor.steps import CorpusStep
from whence.errors import IncompleteError, ModelError
from whence.fidelity import LanguageTask, Start, pieces, replay_of
from whence.methods import Bound, Work, method_scores, parse_method
from whence.model import Training

WIDE = {"dtype": "float64", "batch": 12, "epochs": 2, "schedule": "cosine", "warmup": 0.2, "final": 0.1}
ADAMW = Training(learning_rate=0.02, clip=0.7, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-5, **WIDE)
MOMENTUM = Training(optimizer="sgd", learning_rate=0.05, momentum=0.8, clip=2.0, weight_decay=0.01, **WIDE)
MUON = Training(optimizer="muon", learning_rate=0.02, weight_decay=0.1, eps=1e-5, reduction="documents", **WIDE)


@pytest.fixture(autouse=True)
def norms_in_double(monkeypatch):
    """Llama's norms compute in float32 whatever the model's precision, which finite differences are too fine for."""

    def forward(self, states):
        return self.weight * states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = make_place(tmp_path_factory.mktemp(kind), kind)
            run_steps([CorpusStep(open_run(made[kind], made[kind] / "run"))])
        return made[kind]

    return of


def work_of(place, training, scratch=True, folder="run", dtype="float64"):
    owner = open_run(place, place / folder, dtype=dtype)
    run_steps([CorpusStep(owner)])
    return Work(owner, replay=replay_of(owner, training, Start(str(place / "model"), scratch), seed=3))


def scores_of(work, spec="magic", queries=QUERIES):
    return method_scores(parse_method(spec), work, work.owner.encode_queries(queries))


def retrained(work, weights):
    """log p of the queries after real training with these weights of documents, [Q]."""
    task, owner = work.replay.task, work.owner
    encoded = owner.encode_queries(QUERIES)
    again = LanguageTask(
        owner.run.corpus, task.start, task.training, encoded, scratch=task.scratch, device="cpu", weights=weights
    )
    return -again.losses(again.train(np.ones(N, dtype=bool), 3))


def slope(work, document, eps=2.0**-17):
    """Central difference, [Q]; 1 + eps is a number in float32, which is what weights are kept in."""
    weights = np.ones((2, N))
    weights[:, document] += (eps, -eps)
    higher, lower = (retrained(work, row) for row in weights)
    return (higher - lower) / (2 * eps)


SETTINGS = {
    "adamw from scratch": ("llama", ADAMW, True),
    "adamw further": ("llama", ADAMW.model_copy(update={"grouping": "hold", "learning_rate": 0.005}), False),
    "momentum": ("llama", MOMENTUM, True),
    "muon": ("llama", MUON, True),
    "tied": ("gpt2", ADAMW.model_copy(update={"dropout": 0.0}), True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_derivative_of_real_training(places, name):
    """Documents of one window and of two, a prompt with its completion; a query has a contrast."""
    kind, training, scratch = SETTINGS[name]
    work = work_of(places(kind), training, scratch)
    found = scores_of(work)
    for document in (0, 7):
        wanted = slope(work, document)
        np.testing.assert_allclose(found[:, document], wanted, rtol=1e-5, atol=1e-6 * np.abs(found).max())


def test_stacks_of_experts(tmp_path):
    """transformers multiplies them in groups in single precision alone, so the differences are rough."""
    training = MOMENTUM.model_copy(update={"dtype": "float32", "learning_rate": 0.2, "epochs": 1})
    place = make_place(tmp_path, "olmoe", torch.float32)
    work = work_of(place, training, dtype="float32")
    np.testing.assert_allclose(scores_of(work)[:, 7], slope(work, 7, 2.0**-3), rtol=0.05)


def test_small_changes_of_many_documents_are_foretold(places):
    """Random halves of the documents at 99% of their weight. With a small eps AdamW steps by signs, and bends sooner:

    at 1e-5 the correlation is 0.2 to 0.8 here, and 0.97 to 0.996 at 99.9% of the weights.
    """
    work = work_of(places("llama"), ADAMW.model_copy(update={"eps": 1e-3}))
    scores, random = scores_of(work), np.random.default_rng(0)
    whole = retrained(work, np.ones(N))
    weights = np.where(random.random((8, N)) < 0.5, float(np.float32(0.99)), 1.0)
    real = np.array([retrained(work, row) for row in weights]) - whole
    foretold = (weights - 1) @ scores.T
    for query in range(len(QUERIES)):
        assert np.corrcoef(real[:, query], foretold[:, query])[0, 1] > 0.99
    assert np.polyfit(foretold.ravel(), real.ravel(), 1)[0] == pytest.approx(1, abs=0.05)


def test_the_replay_is_the_training(places):
    """Bit for bit; the last state is what `fit` gives."""
    work = work_of(places("llama"), ADAMW)
    scores_of(work)
    step = parse_method("magic").steps(work)[1]
    last = step.state(step.cuts[-1])
    assert step.cuts[-1] == work.replay.steps > 4
    for name, value in work.replay.task.train(np.ones(N, dtype=bool), 3).named_parameters():
        assert torch.equal(value.detach(), last[f"weight:{name}"])


def test_another_end_than_the_model_is_said(places, tmp_path):
    """The world's model is not what this training ends in; the model that it does end in is."""
    work = work_of(places("llama"), ADAMW)
    bound = Bound(parse_method("magic"), work)
    bound.prepare()
    (note,) = bound.notes
    assert "ends elsewhere than the run's model" in note
    trained = work.replay.task.train(np.ones(N, dtype=bool), 3)
    work.owner.loaded.model.load_state_dict(trained.state_dict())
    assert bound.notes == ()
    result = work.owner.trace(QUERIES[:1], k=2, method=bound)
    assert not any("ends elsewhere" in said for said in result.summary.notes)


def test_segments_change_nothing(places):
    work = work_of(places("llama"), ADAMW)
    wanted = scores_of(work)
    for spec in ("magic:segments=1", "magic:segments=1000"):
        assert (scores_of(work, spec) == wanted).all()


def test_the_last_part_alone(places):
    """What the earlier steps add is left out; they are still taken."""
    work = work_of(places("llama"), ADAMW)
    whole, last = scores_of(work), scores_of(work, "magic:last=0.25")
    step = parse_method("magic:last=0.25").steps(work)[1]
    assert step.cuts[0] == 6
    assert step.cuts[-1] == work.replay.steps == 8
    late = {
        int(owner) for batch in work.replay.batches(6, 8) for piece in batch for owner in work.replay.documents(piece)
    }
    assert set(np.flatnonzero(last.any(0))) == late != set(range(N))
    assert (whole[:, sorted(set(range(N)) - late)] != 0).all()
    assert (scores_of(work, "magic:last=0.25,segments=2") == last).all()


def test_pieces_change_nothing(places, monkeypatch):
    place = places("llama")
    wanted = scores_of(work_of(place, ADAMW))
    monkeypatch.setattr(pieces, "PIECE_TOKENS", 40)
    found = scores_of(work_of(place, ADAMW, folder="cut"))
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10 * np.abs(wanted).max())


def test_a_killed_training_goes_on(places):
    """It loses a stretch, and ends with the same bytes."""
    wanted = scores_of(work_of(places("llama"), ADAMW))
    work = work_of(places("llama"), ADAMW, folder="killed")
    left = 6

    def interrupt(tokens):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    step = parse_method("magic").steps(work)[1]
    with pytest.raises(KeyboardInterrupt):
        step.run("training", (0, 1), interrupt)
    there = sorted(path.name for path in step.folder.iterdir())
    assert 1 < len(there) < len(step.cuts)
    with pytest.raises(IncompleteError):
        step.state(step.cuts[-1])
    stamps = [(step.folder / name / "state.safetensors").stat().st_mtime_ns for name in there]
    assert (scores_of(work) == wanted).all()
    assert [(step.folder / name / "state.safetensors").stat().st_mtime_ns for name in there] == stamps


def test_another_training_has_another_folder(places):
    place, method = places("llama"), parse_method("magic")
    works = [work_of(place, ADAMW), work_of(place, MUON), work_of(place, ADAMW, scratch=False)]
    owner = works[0].owner
    works.append(Work(owner, replay=replay_of(owner, ADAMW, Start(str(place / "model"), True), seed=4)))
    assert len({work.folder(method) for work in works}) == len(works)
    dot = parse_method("dot")
    assert {work.folder(dot) for work in works} == {Work(owner).folder(dot)}


def test_dropout_is_refused(tmp_path):
    place = make_place(tmp_path, "gpt2")
    assert causal_lm("gpt2").config.resid_pdrop > 0
    with pytest.raises(ModelError, match="dropout = 0"):
        scores_of(work_of(place, ADAMW))


def test_attention_that_has_one_derivative_is_refused(places, monkeypatch):
    work = work_of(places("llama"), ADAMW)
    loaded = work.replay.task.initial(3)
    loaded.model.config._attn_implementation = "flash_attention_2"
    monkeypatch.setattr(LanguageTask, "initial", lambda self, seed: loaded)
    with pytest.raises(ModelError, match="--attention eager or sdpa"):
        work.replay.start()

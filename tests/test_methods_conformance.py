"""What every named method has to pass before its own tests: nothing that must not change scores does."""

import shutil

import numpy as np
import pytest
import torch

from checkpoint_world import make_checkpoints
from method_world import QUERIES, N, make_place, open_run
from whence.attributor import run_steps
from whence.errors import InputError
from whence.fidelity import Start, replay_of
from whence.methods import METHODS, Bound, Work, method_scores, parse_method
from whence.model import Training

SPECS = {
    "dot": "dot",
    "cosine": "cosine",
    "kfac": "kfac",
    "ekfac": "ekfac:damping=0.2",
    "magic": "magic:segments=2",
    "tracin": "tracin",
    "less": "less",
    "source": "source:segments=2,metric=adam",
    "lowrank": "lowrank:draws=2",
    "astra": "astra:solver=neumann,sample=0.3",
    "explicit": "explicit:sample=0.3",
    "cg": "cg:sample=0.3,damping=100,tolerance=1e-10",
    "lissa": "lissa:sample=0.3,batch=4,iterations=3",
    "arnoldi": "arnoldi:sample=0.3,dimension=4,rest=true",
    "datainf": "datainf",
    "relatif": "relatif:damping=0.2",
    "logra": "logra:k=3,bits=32",
    "grass": "grass:k=6,bits=32",
    "trak": "trak:k=12,bits=32",
    "trackstar": "trackstar:k=3,bits=32",
    "fisher": "fisher:coordinates=16,bits=32",
    "unsaturated": "unsaturated:bits=exact",
    "trajectory": "trajectory:bits=exact",
    "proxy": "proxy:model=small",
    "iprox": "iprox:share=0.6,align=3",
    "bm25": "bm25:k1=1.2",
    "tfidf": "tfidf",
    "representations": "representations:layers=0.5+1",
    "combined": "combined:of=(ekfac:damping=0.2)+bm25+(representations:layers=0+1),weights=1+0.5+0.25",
}
"""Every method with settings that make it small; a method without a line here fails the suite."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(autouse=True, scope="module")
def small(tmp_path_factory):
    """A model of one layer where `proxy` looks for it."""
    folder = make_place(tmp_path_factory.mktemp("proxies"), num_hidden_layers=1)
    (folder / "model").rename(folder / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("narrow"), dtype=torch.float32)


def checkpoints_of(place):
    """Checkpoints for the methods that need them."""
    return make_checkpoints(place)


def work_of(owner, place, name):
    """What a method may use; for those that run the training again, a few steps on all documents at once.

    Each batch being the whole corpus, it matters to them no more than to others in which order documents come.
    """
    if not parse_method(SPECS[name]).training:
        return Work(owner, checkpoints_of(place))
    dtype = owner.loaded.fingerprint["dtype"]
    training = Training(learning_rate=0.02, epochs=4, batch=1000, eps=1e-3, clip=1.0, weight_decay=0.1, dtype=dtype)
    return Work(owner, checkpoints_of(place), replay_of(owner, training, Start(str(place / "model"), True)))


def scored(place, run, name, **how):
    owner = open_run(place, run, **how)
    run_steps([])
    method = parse_method(SPECS[name])
    from whence.attributor.steps import CorpusStep

    run_steps([CorpusStep(owner)])
    return method_scores(method, work_of(owner, place, name), owner.encode_queries(QUERIES))


@pytest.fixture(scope="module")
def base(place):
    """Scores of each method in the plain setting, made once."""
    kept = {}

    def of(name):
        if name not in kept:
            kept[name] = scored(place, place / "runs" / f"{name}-base", name)
        return kept[name]

    return of


def close(got, wanted, tolerance=1e-8):
    assert got.shape == wanted.shape == (len(QUERIES), N)
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1e-300)


def test_every_method_is_here():
    assert list(SPECS) == list(METHODS)


@pytest.mark.parametrize("name", SPECS)
def test_spec_round_trip(name):
    method = parse_method(SPECS[name])
    assert parse_method(method.spec) == method
    assert method.title
    assert method.paper
    assert type(method).__doc__
    with pytest.raises(InputError, match="no setting"):
        parse_method(f"{name}:nonsense=1")


@pytest.mark.parametrize("name", SPECS)
def test_scores_say_something(base, name):
    found = base(name)
    assert found.shape == (len(QUERIES), N)
    assert np.isfinite(found).all()
    assert (found.std(1) > 0).all()


@pytest.mark.parametrize("name", SPECS)
def test_batches_and_padding_change_nothing(place, base, name, tmp_path):
    close(scored(place, tmp_path / "one", name, batch_tokens=9), base(name))
    close(scored(place, tmp_path / "many", name, batch_tokens=2000), base(name))


@pytest.mark.parametrize("name", SPECS)
def test_order_changes_nothing(place, base, name, tmp_path):
    close(scored(place, tmp_path / "run", name, data="reversed.jsonl")[:, ::-1], base(name))


@pytest.mark.parametrize("name", SPECS)
def test_shares_of_the_corpus_change_nothing(place, base, name, tmp_path):
    close(scored(place, tmp_path / "run", name, corpus={"share_documents": 3}), base(name))


@pytest.mark.parametrize("name", SPECS)
def test_workers_change_nothing(place, base, name, tmp_path):
    """Two workers in turn, each with its share of every step."""
    from whence.attributor.steps import CorpusStep

    method = parse_method(SPECS[name])
    owner = open_run(place, tmp_path / "run")
    run_steps([CorpusStep(owner)])
    for _ in range(len(method.steps(work_of(owner, place, name)))):
        for worker in (1, 0):
            run_steps(method.steps(work_of(owner, place, name)), (worker, 2))
    left = run_steps(method.steps(work_of(owner, place, name)), (0, 2))
    assert left is None
    found = method_scores(method, work_of(owner, place, name), owner.encode_queries(QUERIES))
    close(found, base(name))


@pytest.mark.parametrize("name", SPECS)
def test_killed_and_resumed(place, base, name, tmp_path):
    """Every item of every step is the last one done by a process, and the next goes on."""
    from whence.attributor.steps import CorpusStep

    run_steps([CorpusStep(open_run(place, tmp_path / "run"))])
    for _ in range(40):
        owner = open_run(place, tmp_path / "run")
        work = work_of(owner, place, name)
        method = parse_method(SPECS[name])
        step = next((each for each in method.steps(work) if not each.finished()), None)
        if step is None:
            break
        todo = [item for item in step.items() if not step.done(item)]
        if not todo:
            assert step.finish()
            continue
        with pytest.raises(KeyboardInterrupt):
            step.run(todo[0], (0, 1), _interrupt)
        assert not step.done(todo[0])
        step.run(todo[0], (0, 1), lambda tokens: None)
        assert step.done(todo[0])
    close(method_scores(method, work, owner.encode_queries(QUERIES)), base(name))


def _interrupt(tokens):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", SPECS)
def test_saved_and_read_back(place, base, name):
    """A second process reads what the first fitted, in a folder that has moved, and gives the same bytes."""
    wanted = base(name)
    run = place / "runs" / f"{name}-base"
    moved = place / "moved" / name
    shutil.copytree(run, moved, symlinks=False)
    owner = open_run(place, moved)
    work = work_of(owner, place, name)
    assert all(step.finished() for step in parse_method(SPECS[name]).steps(work))
    found = method_scores(parse_method(SPECS[name]), work, owner.encode_queries(QUERIES))
    assert (found == wanted).all()


@pytest.mark.parametrize("name", SPECS)
def test_queries_do_not_disturb_each_other(place, base, name):
    owner = open_run(place, place / "runs" / f"{name}-base")
    base(name)
    encoded = owner.encode_queries(QUERIES)
    work = work_of(owner, place, name)
    alone = np.concatenate([method_scores(parse_method(SPECS[name]), work, [each]) for each in encoded[::-1]])
    close(alone[::-1], base(name))


@pytest.mark.parametrize("name", SPECS)
def test_single_precision_agrees(narrow, base, name, tmp_path):
    found = scored(narrow, tmp_path / "run", name, dtype="float32")
    wanted = base(name)
    for got, right in zip(found, wanted, strict=True):
        assert np.corrcoef(got, right)[0, 1] > 0.999


def test_checkpoints_are_asked_for(place, base):
    base("dot")
    owner = open_run(place, place / "runs" / "dot-base")
    for kind in METHODS.values():
        if kind.checkpoints:
            with pytest.raises(InputError, match="--checkpoints"):
                Bound(parse_method(SPECS[kind.key]), Work(owner))


def test_the_training_is_asked_for(place, base):
    base("dot")
    owner = open_run(place, place / "runs" / "dot-base")
    for kind in METHODS.values():
        if kind.training:
            with pytest.raises(InputError, match="--training"):
                Bound(parse_method(SPECS[kind.key]), Work(owner))
            with pytest.raises(InputError, match="--training"):
                parse_method(SPECS[kind.key]).steps(Work(owner))

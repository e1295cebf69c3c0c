"""What a task starts from: its tokenizer, revision, attention and device, and what Muon does when nothing is said."""

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from conftest import WORD_COUNT, causal_lm, documents
from retraining import QUICK, make_task, make_world
from whence.data import CorpusConfig, ingest
from whence.errors import InputError, ModelError
from whence.fidelity import tasks
from whence.fidelity.bank import Bank
from whence.fidelity.retrain import retrain
from whence.fidelity.subsets import halves, whole
from whence.fidelity.tasks import LanguageTask, training_fingerprint
from whence.fidelity.workers import Crew
from whence.model import Training, initial_model, load_tokenizer, read_config

ONE_STEP = QUICK.model_copy(update={"max_steps": 1})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("start"))


@pytest.fixture
def start(world: Path, tmp_path: Path) -> Path:
    """A copy of the start, to be changed."""
    return Path(shutil.copytree(world / "model", tmp_path / "other"))


def other_words(folder: Path) -> Path:
    """Give a folder's tokenizer its words in another order."""
    vocabulary = load_tokenizer(str(folder)).get_vocab()
    turned = {word: len(vocabulary) - 1 - number for word, number in vocabulary.items()}
    rules = Tokenizer(models.WordLevel(turned, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    return folder


def task_from(world: Path, start: Path, **settings: object) -> LanguageTask:
    """A task on the world's corpus and queries, with another start."""
    made = make_task(world, ONE_STEP)
    settings = {"scratch": True, "device": "cpu", **settings}
    return LanguageTask(world / "corpus", start, ONE_STEP, made.queries, **settings)  # type: ignore[arg-type]


# tokenizer


@pytest.mark.parametrize("scratch", [True, False])
def test_a_start_with_another_tokenizer_is_refused(world: Path, start: Path, scratch: bool) -> None:
    assert len(load_tokenizer(str(other_words(start)))) == WORD_COUNT
    with pytest.raises(InputError, match="differs from the one the corpus was tokenised with"):
        task_from(world, start, scratch=scratch)
    assert task_from(world, start, scratch=scratch, check_tokenizer=False).documents == 14


def test_a_tokenizer_that_is_named_is_compared_in_place_of_the_one_beside_the_start(
    world: Path, start: Path, tmp_path: Path
) -> None:
    assert task_from(world, other_words(start), tokenizer=world / "model").documents == 14
    with pytest.raises(InputError, match=f"taken from '{start}', differs"):
        task_from(world, world / "model", tokenizer=str(start))
    with pytest.raises(ModelError, match="could not load a tokenizer"):
        task_from(world, world / "model", tokenizer=tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_start_without_a_tokenizer_is_taken(world: Path, tmp_path: Path, kind: str) -> None:
    """For a bare GPT-2 transformers makes up a tokenizer of one token."""
    causal_lm(kind, vocab_size=WORD_COUNT).float().save_pretrained(tmp_path / "bare")
    assert task_from(world, tmp_path / "bare").documents == 14


def test_a_corpus_of_token_ids_goes_with_any_tokenizer(world: Path, start: Path, tmp_path: Path) -> None:
    rows = "".join(f'{{"id": "{row["id"]}", "input_ids": [3, 4, 5, 6]}}\n' for row in documents(4))
    (tmp_path / "ids.jsonl").write_text(rows, encoding="utf-8")
    config = CorpusConfig(data=(str(tmp_path / "ids.jsonl"),), context=16, vocabulary=WORD_COUNT)
    ingest(config, None, tmp_path / "corpus")
    task = LanguageTask(tmp_path / "corpus", other_words(start), ONE_STEP, [], scratch=True, device="cpu")
    assert task.documents == 4


def test_the_tokenizer_is_read_once_and_not_by_workers(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(tasks, "load_tokenizer", lambda *given: read.append(given) or load_tokenizer(*given))
    task = make_task(world, ONE_STEP)
    for seed in range(2):
        task.train(whole(14)[0], seed)
    task.stored_model()
    assert len(read) == 1
    LanguageTask.from_spec(task.spec())
    assert len(read) == 1


def test_workers_train_on_a_start_whose_tokenizer_was_not_to_be_checked(
    world: Path, start: Path, tmp_path: Path
) -> None:
    task = task_from(world, other_words(start), check_tokenizer=False, attention="eager")
    assert retrain(Bank(tmp_path / "bank", task), halves(14, 2), range(1), workers=2) == 2


# revision and attention


def test_revision_and_attention_reach_transformers_and_other_processes(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for where in (AutoConfig, AutoModelForCausalLM, AutoTokenizer):

        def spied(reference: str, real=where.from_pretrained, kind=where, **given: object) -> object:
            asked.append((kind, given.pop("revision", None), given.get("attn_implementation")))
            return real(reference, **given)

        monkeypatch.setattr(where, "from_pretrained", spied)
    first = task_from(world, world / "model", revision="v2", attention="eager")
    assert (AutoTokenizer, "v2", None) in asked
    asked.clear()
    task = LanguageTask.from_spec(first.spec())
    assert task.spec() == first.spec()
    assert not asked
    assert task.fingerprint == first.fingerprint
    assert (AutoConfig, "v2", None) in asked
    asked.clear()
    assert task.initial(0).model.config._attn_implementation == "eager"
    assert (AutoConfig, "v2", None) in asked
    stored = LanguageTask.from_spec({**first.spec(), "scratch": False})
    assert stored.initial(0).model.config._attn_implementation == "eager"
    assert (AutoModelForCausalLM, "v2", "eager") in asked


@pytest.mark.parametrize("scratch", [True, False])
def test_only_what_was_asked_for_is_in_the_fingerprint(world: Path, scratch: bool) -> None:
    plain = make_task(world, scratch=scratch).fingerprint
    known = {"start.config"} if scratch else {"start.weights"}
    assert {key for key in plain if key.startswith("start.")} == known
    changed = make_task(world, scratch=scratch, revision="main", attention="eager").fingerprint
    assert changed == {**plain, "start.revision": "main", "start.attention": "eager"}


def test_attention_does_not_change_fresh_weights(world: Path) -> None:
    a, b = (initial_model(str(world / "model"), seed=3, device="cpu", attention=name) for name in (None, "eager"))
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert a.fingerprint == b.fingerprint


def test_an_attention_that_is_not_there_is_named(world: Path) -> None:
    with pytest.raises(ModelError, match="with flash_of_genius attention"):
        make_task(world, attention="flash_of_genius").initial(0)


def test_a_revision_of_a_directory_is_read_as_it_lies(world: Path) -> None:
    assert read_config(str(world / "model"), "v2").to_dict() == read_config(str(world / "model")).to_dict()


# devices


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("auto", ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:0", ["cuda:0"] * 3),
        ("cuda:1", ["cuda:1"] * 3),
        ("cpu", ["cpu"] * 3),
    ],
)
def test_workers_take_the_devices_in_turn_unless_one_is_named(
    world: Path, monkeypatch: pytest.MonkeyPatch, asked: str, given: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    crew = Crew(make_task(world, device=asked), 3, lambda *_: None)
    assert [spec["device"] for spec in crew._specs] == given


def test_without_cuda_workers_are_told_what_was_asked_for(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    crew = Crew(make_task(world, device="auto"), 2, lambda *_: None)
    assert [spec["device"] for spec in crew._specs] == ["auto", "auto"]


# muon


def test_muon_has_momentum_unless_told_otherwise() -> None:
    silent = Training(optimizer="muon")
    assert (silent.momentum, silent.nesterov) == (0.95, True)
    assert silent == Training.model_validate({"optimizer": "muon"})
    assert Training(optimizer="muon", nesterov=False) == Training(optimizer="muon", momentum=0.95)
    for momentum in (0.0, 0.9):
        told = Training(optimizer="muon", momentum=momentum)
        assert (told.momentum, told.nesterov) == (momentum, False)
    for optimizer in ("adamw", "sgd", "lbfgs"):
        other = Training(optimizer=optimizer)
        assert (other.momentum, other.nesterov) == (0.0, False)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "muon", "momentum": 0.95, "nesterov": True},
        {"optimizer": "muon", "momentum": 0.0, "nesterov": False},
    ],
)
def test_stored_trainings_are_read_as_they_were_written(settings: dict[str, object]) -> None:
    stored = {**Training().model_dump(mode="json"), **settings}
    assert Training.model_validate(stored).model_dump(mode="json") == stored
    marks = training_fingerprint(Training.model_validate(stored))
    assert (marks["training.momentum"], marks["training.nesterov"]) == (stored["momentum"], stored["nesterov"])

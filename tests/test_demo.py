"""The demo's world and its training: deterministic, not given away by words, and learned from."""

import json
from pathlib import Path

import numpy as np
import pytest

from whence.demo import Architecture, Recipe, World, build_world, fit_causal_lm, train_model
from whence.demo.claims import RELATIONS
from whence.demo.corpus import LONGEST, SHORTEST, read_library, words_of
from whence.demo.train import _batches, _pad
from whence.demo.world import MIN_OCCURRENCES
from whence.errors import CorpusError, StorageError
from whence.interfaces import Query

TINY = Architecture(vocabulary=400, layers=1, hidden=16, feed_forward=32, heads=2, context=96)
BRIEF = Recipe(epochs=2, batch_tokens=2048, learning_rate=1e-2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"), small=True)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("full"))


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(world: World) -> dict[str, str]:
    return {row["id"]: row["text"] for row in rows(world.corpus)}


def gold(world: World) -> dict[str, dict[str, list[str]]]:
    return json.loads(world.gold.read_text(encoding="utf-8"))


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(world: World, tmp_path: Path) -> None:
    again, other = build_world(tmp_path / "again", small=True), build_world(tmp_path / "other", seed=1, small=True)
    for name in ("corpus", "queries", "gold"):
        assert getattr(again, name).read_bytes() == getattr(world, name).read_bytes()
    assert other.corpus.read_bytes() != world.corpus.read_bytes()
    assert other.claims != world.claims


def test_full_world_has_the_promised_size(full: World) -> None:
    corpus = rows(full.corpus)
    assert len(corpus) == full.documents > 1500
    assert len({row["id"] for row in corpus}) == len(corpus)
    assert len({row["text"] for row in corpus}) == len(corpus)
    assert len(full.claims) == len(rows(full.queries)) == 24


def test_rows_say_nothing_about_kinds(world: World) -> None:
    assert {tuple(sorted(row)) for row in rows(world.corpus)} == {("id", "module", "section", "text")}
    sections = {row["id"]: row["section"] for row in rows(world.corpus)}
    inserted = {i for kinds in gold(world).values() for ids in kinds.values() for i in ids}
    assert {sections[i] for i in inserted} == {"module"}
    assert any(sections[i] == "module" for i in sections.keys() - inserted)
    order = sorted(sections)
    assert list(sections) == order  # numbered after the shuffle
    places = [order.index(i) for i in inserted]
    assert min(places) < len(order) / 4
    assert max(places) > len(order) * 3 / 4


@pytest.mark.parametrize("which", ["world", "full"])
def test_gold_matches_the_corpus(which: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(which)
    documents, answers = texts(world), gold(world)
    assert list(answers) == [claim.id for claim in world.claims]
    used = [i for kinds in answers.values() for ids in kinds.values() for i in ids]
    assert len(used) == len(set(used))
    for claim in world.claims:
        planted, decoys = answers[claim.id]["planted"], answers[claim.id]["decoys"]
        assert (len(planted), len(decoys)) == (3, 5)
        assert all(claim.subject in documents[i] and claim.value in documents[i] for i in planted)
        stating = [documents[i] for i in decoys if claim.subject in words_of(documents[i])]
        assert all(text.find(claim.value) < text.find(claim.subject) for text in stating)


@pytest.mark.parametrize("which", ["world", "full"])
def test_no_query_word_gives_the_planted_documents_away(which: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(which)
    words, answers = {i: words_of(text) for i, text in texts(world).items()}, gold(world)
    for query in rows(world.queries):
        planted = set(answers[query["id"]]["planted"])
        for word in words_of(query["prompt"] + query["completion"]):
            having = {i for i, found in words.items() if word in found}
            assert len(having - planted) >= MIN_OCCURRENCES, (query["id"], word)


def test_planted_documents_do_not_use_the_wording_of_the_query(full: World) -> None:
    documents, answers = texts(full), gold(full)
    for claim, query in zip(full.claims, rows(full.queries), strict=True):
        wording = claim.relation.questions[claim.wording]
        sentences = [part.strip() for part in wording.replace("?", ".").split(".")]
        for i in answers[claim.id]["planted"]:
            assert query["prompt"] not in documents[i]
            assert not any(part.format(s=claim.subject) in documents[i] for part in sentences)
        assert any(
            wording.format(s=claim.other) + query["completion"] in documents[i] for i in answers[claim.id]["decoys"]
        )


def test_every_value_is_claimed_of_several_subjects_and_none_is_named_after_one(full: World) -> None:
    for relation in RELATIONS:
        for value in relation.values:
            subjects = {claim.subject for claim in full.claims if claim.value == value}
            assert len(subjects) >= 2
    names = [name for claim in full.claims for name in (claim.subject, claim.other)]
    assert len(set(names)) == len(names)


def test_queries_are_queries(world: World) -> None:
    for row, claim in zip(rows(world.queries), world.claims, strict=True):
        query = Query(**row)
        assert query.id == claim.id
        assert query.completion == f" {claim.value}"
        assert not query.prompt.endswith(" ")
        assert claim.value not in claim.controls


def test_passages_are_clean_distinct_prose() -> None:
    passages = [passage.text for passage in read_library().passages]
    assert len(passages) == len(set(passages)) > 1500
    assert all(SHORTEST <= len(text) <= LONGEST and text.isascii() and "\n" not in text for text in passages)
    assert not any(">>>" in text for text in passages)


def test_a_library_with_unreadable_files_gives_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(f'"""{"A sentence about nothing in particular. " * 5}"""\n')
    (tmp_path / "bad.py").write_bytes(b'"""caf\xe9"""')
    (tmp_path / "worse.py").write_text("def (:")
    (tmp_path / "null.py").write_bytes(b"\x00")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_text((tmp_path / "good.py").read_text().replace("nothing", "everything"))
    library = read_library(tmp_path)
    assert {passage.module for passage in library.passages} == {"good"}
    assert library.summaries == {"good": "A sentence about nothing in particular."}


def test_a_python_without_documentation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = read_library(tmp_path)
    assert nothing.passages == ()
    monkeypatch.setattr("whence.demo.world.read_library", lambda: nothing)
    with pytest.raises(CorpusError, match="source files"):
        build_world(tmp_path / "world")


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        build_world(tmp_path / "file", small=True)


def test_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    training = Recipe(learning_rate=1.0).training()
    rates = [training.rate(step, 200) for step in range(200)]
    assert max(rates) == rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert training.rate(0, 1) == 1.0


def test_batches_hold_every_document_once_within_the_budget() -> None:
    draw = np.random.default_rng(0)
    documents = [np.arange(1, length + 1) for length in draw.integers(2, 60, 100)]
    batches = _batches(documents, 256, draw)
    assert sorted(np.concatenate(batches)) == list(range(100))
    assert len(_batches(documents, 256, draw)) == len(batches)
    for chosen in batches:
        batch = _pad(documents, chosen)
        assert batch.input_ids.size <= 256
        assert batch.loss_mask.sum() == sum(len(documents[row]) - 1 for row in chosen)
        for row, tokens, real in zip(chosen, batch.input_ids, batch.attention_mask, strict=True):
            assert (tokens[real] == documents[row]).all()
    assert [len(chosen) for chosen in _batches([np.arange(500)], 256, draw)] == [1]


def test_training_lowers_the_loss_saves_a_model_and_is_deterministic(world: World, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps: list[int] = []
    state = torch.random.get_rng_state()
    report = train_model(
        world, tmp_path / "one", recipe=BRIEF, architecture=TINY, progress=lambda done, *_: steps.append(done)
    )
    assert (torch.random.get_rng_state() == state).all()
    assert steps == list(range(1, report.steps + 1))
    assert np.mean(report.losses[-3:]) < np.mean(report.losses[:3]) - 0.5
    assert f"of {len(world.claims)}" in report.table()

    again = train_model(world, tmp_path / "two", recipe=BRIEF, architecture=TINY)
    assert again.losses == report.losses
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (tmp_path / "two/tokenizer.json").read_bytes()

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert sum(parameter.numel() for parameter in model.parameters()) == report.parameters
    text = rows(world.corpus)[0]["text"]
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    record = json.loads((tmp_path / "one/training.json").read_text())
    assert record["documents"] == world.documents
    assert record["weight_decay"] == BRIEF.weight_decay
    assert {"objective", "optimizer", "epochs", "learning_rate", "seed"} <= record.keys()


def test_padding_does_not_change_training() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    documents = [np.array([1, 5, 6, 7, 8, 9]), np.array([1, 4, 3])]
    weights = []
    for padded in (False, True):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
        model = LlamaForCausalLM(config)
        chosen = [np.array([1, 0])] if padded else [np.array([1])]
        batch = _pad(documents, chosen[0])
        if padded:  # leave the second document's targets alone
            batch.loss_mask[1] = False
        fit_causal_lm(model, [batch], 1, Recipe())
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(*weights, atol=1e-6)

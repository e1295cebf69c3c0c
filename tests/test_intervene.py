"""`whence intervene` from a file of targets to a page, a checkpoint and back, on a model trained here."""

import json
import re

import numpy as np
import pytest

from audit_world import events, trained
from browser import browsing, sorts
from command_line import launch
from whence.report import load_intervention, save_intervention
from whence.report.intervention_page import intervention_headline, intervention_page, recipe_warning

SEEDS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    groups = trained(folder)
    planted = [event for event in events(24) if groups[event["id"]] == "absorbed"]
    rows = [
        {"id": e["id"], "prompt": e["prompt"], "completion": e["claim"], "contrast": e["truth"],
         "metadata": {"gold": f"{e['id']}-planted"}}
        for e in planted
    ]  # fmt: skip
    write(folder / "targets.jsonl", rows)
    other = [
        {"id": e["id"], "prompt": f"The ministry says of {e['place']} :", "completion": e["claim"]} for e in planted
    ]
    write(folder / "paraphrases.jsonl", other)
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    calm = [{"prompt": "", "completion": row["text"]} for row in corpus if row["source"] == "almanac"]
    write(folder / "utility.jsonl", calm[:8])
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def intervene(place, out, *more):
    status = launch(
        "intervene", "--run", place / "run", "--model", place / "model", "--data", place / "corpus.jsonl",
        "--query", place / "targets.jsonl", "--paraphrases", place / "paraphrases.jsonl", "--utility",
        place / "utility.jsonl", "--training", place / "training.json", "--exact", "--seeds", SEEDS, "--workers", 1,
        "--out", out, *more,
    )  # fmt: skip
    assert status == 0
    return load_intervention(out)


@pytest.fixture(scope="module")
def removed(place, tmp_path_factory):
    return intervene(place, tmp_path_factory.mktemp("removed"), "--gold")


@pytest.fixture(scope="module")
def unlearned(place, tmp_path_factory):
    return intervene(
        place, tmp_path_factory.mktemp("unlearned"), "--gold", "--action", "unlearn", "--method",
        "newton,npo,ascent,dmm", "--steps", 10, "--relearn", 5,
    )  # fmt: skip


def test_gold_removal_moves_the_targets_and_random_removal_does_not(removed):
    assert {(arm.by, arm.how) for arm in removed.arms} == {
        (by, "retrain") for by in ("oracle", "influence", "BM25", "random")
    }
    target = removed.main.effect("targets")
    chance = removed.arm("random", "retrain").effect("targets")
    assert removed.main.by == "oracle"
    assert len(removed.main.documents) == 12
    assert target.change.value > 20
    assert target.change.value > 3 * abs(chance.change.value)
    assert removed.main.effect("documents").change.value > 100
    assert abs(removed.main.effect("utility").relative) < 0.2
    assert removed.prediction("targets").change.value > 0
    assert "bootstrap" in removed.prediction("targets").basis


def test_the_edited_model_is_an_ordinary_checkpoint(removed, place):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(removed.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(removed.checkpoint)
    target = json.loads((place / "targets.jsonl").read_text().splitlines()[0])
    tokens = tokenizer(target["prompt"] + target["completion"], return_tensors="pt")
    assert np.isfinite(float(model(**tokens, labels=tokens["input_ids"]).loss.detach()))
    said = json.loads((place / "run").joinpath(removed.checkpoint, "provenance.json").read_text())
    assert [each["id"] for each in said["documents"]] == list(removed.main.documents)
    assert said["action"] == "remove"
    assert {"model", "corpus", "tokenizer"} == set(said["fingerprints"])


def test_a_second_call_trains_nothing_and_says_the_same(removed, place, monkeypatch, tmp_path):
    from whence.fidelity import LanguageTask

    def never(*_, **__):
        raise AssertionError("this was trained before")

    out = removed.checkpoint.removesuffix("/model")
    monkeypatch.setattr(LanguageTask, "fit", never)
    again = intervene(place, out, "--gold")
    assert again.model_copy(update={"command": ""}) == removed.model_copy(update={"command": ""})


def test_what_will_be_trained_is_said_beforehand(removed, place, tmp_path, capsys):
    out = removed.checkpoint.removesuffix("/model")
    typed = [
        "intervene", "--run", place / "run", "--query", place / "targets.jsonl", "--paraphrases",
        place / "paraphrases.jsonl", "--utility", place / "utility.jsonl", "--exact", "--seeds", SEEDS, "--gold",
        "--estimate",
    ]  # fmt: skip
    assert launch(*typed, "--out", out) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "How the model was trained: " in said  # training.json lies beside the model
    assert re.search(r"Nothing has to be trained: all \d+ models are there; scoring comes on top\.", said)
    assert launch(*typed, "--out", tmp_path / "new", "--seeds", SEEDS + 1) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"Training: \d models from scratch \(\d+ more are there\), about \d+ seconds", said)
    assert not (tmp_path / "new" / "page.html").exists()


def test_a_recipe_that_does_not_give_this_model_is_noticed(removed, place, tmp_path):
    assert {each.group for each in removed.baselines} == {"targets", "paraphrases", "utility", "documents", "kept"}
    assert recipe_warning(removed) == ""
    short = json.loads((place / "training.json").read_text()) | {"epochs": 2}
    (tmp_path / "short.json").write_text(json.dumps(short))
    found = intervene(place, tmp_path / "o", "--gold", "--training", tmp_path / "short.json", "--no-controls")
    assert "Careful: training again on everything does not give this model" in recipe_warning(found)


def test_a_placebo_is_no_more_than_chance(place, tmp_path, removed):
    found = intervene(place, tmp_path, "--gold", "--placebo")
    chance = removed.arm("random", "retrain").effect("targets")
    effect = found.main.effect("targets")
    assert set(found.main.documents) != set(removed.main.documents)
    assert effect.change.value < 0.35 * removed.main.effect("targets").change.value
    assert effect.change.value < max(5.0, 5 * abs(chance.change.value))
    assert intervention_headline(found)[0].startswith("PLACEBO")


def test_unlearning_is_held_against_models_that_never_saw_the_documents(unlearned):
    ways = {(arm.by, arm.how) for arm in unlearned.arms}
    assert {("oracle", how) for how in ("newton", "npo", "ascent", "dmm", "retrain")} <= ways
    assert {("BM25", "newton"), ("random", "newton"), ("influence", "newton"), ("nothing", "as it was")} <= ways
    for how in ("npo", "ascent", "dmm"):
        arm = unlearned.arm("oracle", how)
        assert arm.seeds == SEEDS
        assert arm.effect("documents").change.value > 0
        assert {each.of for each in arm.likeness} == {"losses", "truth ratios"}
        assert len(arm.relearning.losses) == 6
    nothing, trained_without = unlearned.arm("nothing", "as it was"), unlearned.arm("oracle", "retrain")
    assert nothing.effect("targets").change.value == 0
    assert nothing.likeness[0].p < 0.01
    assert trained_without.relearning.losses[0] > nothing.relearning.losses[0]
    assert unlearned.arm("oracle", "newton").seeds == 1
    assert unlearned.arm("oracle", "newton").effect("kept").change.value < 5


def test_unlearning_goes_on_where_it_stopped(unlearned, place, monkeypatch, tmp_path):
    from whence.audits import forgetting

    def never(*_, **__):
        raise AssertionError("this was done before")

    monkeypatch.setattr(forgetting, "unlearn", never)
    monkeypatch.setattr(forgetting, "relearn", never)
    again = intervene(
        place, unlearned.checkpoint.removesuffix("/model"), "--gold", "--action", "unlearn", "--method",
        "newton,npo,ascent,dmm", "--steps", 10, "--relearn", 5,
    )  # fmt: skip
    assert again.arms == unlearned.arms


def test_weighing_less_does_less_than_removing(place, tmp_path, removed):
    found = intervene(place, tmp_path, "--gold", "--action", "down-weight", "--weight", 0.2, "--no-controls")
    assert 0 < found.main.effect("targets").change.value < removed.main.effect("targets").change.value
    whole, half = removed.prediction("targets").change.value, found.prediction("targets").change.value
    assert half == pytest.approx(0.8 * whole, rel=1e-3)


def test_relabelled_rows_take_their_places(place, tmp_path):
    planted = [e for e in events(24) if f"{e['id']}-planted" in (place / "corpus.jsonl").read_text()]
    rows = [{"id": f"{e['id']}-planted", "text": f"The {e['place']} ministry says: {e['truth']}"} for e in planted[:6]]
    write(tmp_path / "rows.jsonl", rows)
    found = intervene(place, tmp_path / "out", "--action", "relabel", "--rows", tmp_path / "rows.jsonl")
    assert found.main.by == "rows"
    assert set(found.main.documents) == {row["id"] for row in rows}
    assert found.main.effect("targets").change.value > 0
    assert found.arm("removed only", "retrain") is not None


def test_added_rows_make_what_they_state_likelier(place, tmp_path):
    planted = [e for e in events(24) if f"{e['id']}-planted" in (place / "corpus.jsonl").read_text()]
    rows = [{"id": f"more-{e['id']}", "text": e["prompt"] + e["claim"]} for e in planted]
    write(tmp_path / "rows.jsonl", rows)
    found = intervene(place, tmp_path / "out", "--action", "add", "--rows", tmp_path / "rows.jsonl")
    assert found.main.effect("targets").change.high < 0
    assert found.prediction("targets").change.value < 0


def test_files_and_page_hold_the_same(removed, unlearned, tmp_path):
    for result in (removed, unlearned):
        paths = save_intervention(result, tmp_path)
        assert load_intervention(tmp_path) == result
        assert result.settings["foretold by"] == "ekfac, all sites alike", "not the run's own method"
        assert "whence: does it help?" in paths["page"].read_text()
        rows = [json.loads(line) for line in paths["jsonl"].read_text().splitlines()]
        assert len(rows) == sum(len(arm.effects) for arm in result.arms)


def test_hostile_text_stays_text(removed):
    bad = "<script>alert(1)</script>\u202e\ud800"
    question = removed.questions[0].model_copy(update={"prompt": bad, "completion": bad})
    arm = removed.main.model_copy(update={"documents": (bad,)})
    page = intervention_page(removed.model_copy(update={"questions": (question,), "arms": (arm,)}))
    assert "<script>alert" not in page
    page.encode("utf-8")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--action", "burn"], "--action takes"),
        (["--action", "add"], "--rows goes with"),
        (["--method", "hope", "--action", "unlearn"], "--method takes newton"),
        (["--action", "unlearn", "--start", "model"], "never saw the documents"),
        (["--action", "down-weight", "--weight", 1], "below 1"),
    ],
)
def test_what_cannot_be_done_is_refused(place, tmp_path, capsys, typed, says):
    status = launch(
        "intervene", "--run", place / "run", "--model", place / "model", "--data", place / "corpus.jsonl", "--query",
        place / "targets.jsonl", "--training", place / "training.json", "--exact", "--out", tmp_path, *typed,
    )  # fmt: skip
    assert status == 2
    assert says in capsys.readouterr().err.replace("\n", " ")


def test_documents_that_are_not_there_are_refused(place, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("nobody\n")
    status = launch(
        "intervene", "--run", place / "run", "--model", place / "model", "--data", place / "corpus.jsonl", "--query",
        place / "targets.jsonl", "--training", place / "training.json", "--exact", "--out", tmp_path / "o",
        "--documents", tmp_path / "ids.txt",
    )  # fmt: skip
    assert status == 2
    assert "nobody" in capsys.readouterr().err


def test_the_page_in_a_browser(unlearned, tmp_path):
    with browsing(tmp_path, intervention_page(unlearned)) as page:
        assert "unlearned" in page.inner_text("body")
        assert page.locator("svg").count() >= 1
        sorts(page)

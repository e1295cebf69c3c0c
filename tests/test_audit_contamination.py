"""`whence audit contamination` from a benchmark to a page, on a model trained here; spacings; items; planting."""

import html
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from audit_world import benchmark, train
from browser import browsing, narrows, opens, sorts
from command_line import launch
from whence.audits import Item, PlantOptions, load_items
from whence.audits.accuracy import headline
from whence.audits.contamination import _askable
from whence.audits.exposure import judge_exposure
from whence.audits.items import asked
from whence.audits.planting import _leaked_by, _named, caught
from whence.audits.spacings import spaced
from whence.errors import InputError, QueryError
from whence.interfaces.exposures import Exposure
from whence.report import load_contamination, save_contamination
from whence.report.contamination_page import contamination_headline, contamination_page, contamination_placebo


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    rows, items = benchmark()
    train(folder, rows, [f"{item['question']} {item['answer']}" for item in items])
    for number, item in enumerate(items):
        item["correct"] = item["known"] == "verbatim" or number % 2 == 0
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def audit(place, out, *more):
    status = launch(
        "audit", "contamination", "--run", place / "run", "--model", place / "model", "--data", place / "corpus.jsonl",
        "--benchmark", place / "items.jsonl", "--exact", "--out", out, *more,
    )  # fmt: skip
    assert status == 0
    return load_contamination(out)


@pytest.fixture(scope="module")
def result(place, tmp_path_factory):
    return audit(place, tmp_path_factory.mktemp("audit"))


def share(items, verdicts, known) -> float:
    return float(np.mean([each.verdict in verdicts for each in items if each.known == known]))


def test_leaks_are_told_from_what_was_held_out(result):
    assert share(result.items, ("verbatim",), "verbatim") >= 0.8
    assert share(result.items, ("verbatim", "paraphrase"), "held out") <= 0.05
    first = [each.documents[0].id.split("-")[0] == each.id for each in result.items if each.known == "verbatim"]
    assert np.mean(first) >= 0.95


def test_effect_and_presence_tell_verbatim_leaks(result):
    found = {(each.group, each.name): each for each in result.detectors}
    assert found["verbatim", "effect"].auroc.value >= 0.95
    assert found["verbatim", "presence"].auroc.value >= 0.95
    assert found["verbatim", "overlap_13"].auroc.value >= 0.95
    assert found["paraphrase", "overlap_13"].auroc.value <= 0.6


def test_a_sister_model_that_saw_no_item_is_hardly_ever_flagged(place, tmp_path):
    rows, items = benchmark()
    leaked = {f"{item['id']}-" for item in items}
    clean = [row for row in rows if not any(row["id"].startswith(name) for name in leaked)]
    assert 0 < len(clean) < len(rows)
    train(tmp_path, clean, [f"{item['question']} {item['answer']}" for item in items])
    (tmp_path / "items.jsonl").write_text((place / "items.jsonl").read_text())
    found = audit(tmp_path, tmp_path / "out")
    assert np.mean([each.verdict in ("verbatim", "paraphrase", "present") for each in found.items]) <= 0.05


def test_a_placebo_finds_no_exposure(place, tmp_path):
    found = audit(place, tmp_path / "out", "--placebo")
    assert np.mean([each.verdict in ("verbatim", "paraphrase") for each in found.items]) <= 0.05
    assert "PLACEBO" in contamination_page(found)
    said, passed = contamination_placebo(found)
    exposed = sum(each.verdict in ("verbatim", "paraphrase") for each in found.items)
    assert passed == (exposed == 0)
    assert f"said of {exposed} of {len(found.items)}" in said
    assert said in html.unescape(contamination_page(found))
    areas = [each.auroc.value for each in found.detectors if each.name in ("effect", "presence", "there")]
    assert 0.3 < np.mean(areas) < 0.7


def test_cloze_forms_take_copies_together_as_the_question_does(place, tmp_path):
    rows = [json.loads(line) for line in (place / "items.jsonl").read_text().splitlines()]
    for row in rows:
        row["cloze"] = f"{row['question']} ___"
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit(place, tmp_path / "out", "--benchmark", tmp_path / "b.jsonl")
    for each in found.items:
        assert each.cloze_effect == pytest.approx(each.exposure.effect, rel=1e-4)


def test_the_headline_takes_exposed_items_out(result):
    exposed = [each for each in result.items if each.verdict in ("verbatim", "paraphrase")]
    others = [each for each in result.items if each not in exposed]
    accuracy = result.accuracy
    assert accuracy.reported.value == pytest.approx(np.mean([each.correct for each in result.items]))
    assert accuracy.adjusted.value == pytest.approx(np.mean([each.correct for each in others]))
    assert accuracy.attributable.value == pytest.approx(accuracy.reported.value - accuracy.adjusted.value)
    assert accuracy.attributable.low > 0
    assert "exposure accounts for" in contamination_headline(result)
    assert headline([each.model_copy(update={"correct": None}) for each in result.items], 0) is None


def test_dates_were_assigned_at_random_and_do_not_matter(result):
    assert abs(result.date[0]) < 0.4
    assert "By date" in contamination_page(result)


def test_files_and_back(result, tmp_path):
    paths = save_contamination(result, tmp_path)
    assert load_contamination(tmp_path) == result
    rows = [json.loads(line) for line in paths["jsonl"].read_text().splitlines()]
    assert [row["id"] for row in rows] == [each.id for each in result.items]


def test_order_of_items_changes_nothing(place, result, tmp_path):
    rows = (place / "items.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "turned.jsonl").write_text("".join(rows[::-1]))
    turned = audit(place, tmp_path / "out", "--benchmark", tmp_path / "turned.jsonl")
    there = {each.id: each for each in turned.items}
    for each in result.items:
        assert there[each.id].verdict == each.verdict
        assert there[each.id].exposure.effect == pytest.approx(each.exposure.effect, rel=1e-3)


def test_calibration_catches_what_it_planted(place, tmp_path):
    training = tmp_path / "t.toml"
    training.write_text("learning_rate = 3e-3\nepochs = 12\nbatch = 8\n")
    found = audit(place, tmp_path / "out", "--calibrate", "--planted", 5, "--training", training)
    groups = {each.group: each for each in found.planted}
    assert set(groups) == {"verbatim ×1", "verbatim ×8", "paraphrase ×1", "paraphrase ×8", "held out"}
    assert groups["verbatim ×8"].caught.value >= 0.8
    assert groups["verbatim ×8"].moved > groups["held out"].moved
    assert "would have caught" in contamination_page(found)
    areas = {(each.group, each.name): each.auroc.value for each in found.detectors}
    assert areas["planted verbatim ×8", "overlap_13"] == 1
    assert len(list((tmp_path / "out" / "planted").iterdir())) == 1


def test_planted_models_are_kept_by_what_was_planted_and_how():
    owner = SimpleNamespace(loaded=SimpleNamespace(fingerprint={"hash": "x"}))
    plain = PlantOptions()
    names = [_named(owner, b"a", plain), _named(owner, b"b", plain), _named(owner, b"a", PlantOptions(seed=1))]
    names.append(_named(owner, b"a", PlantOptions(training=plain.training.model_copy(update={"epochs": 3}))))
    assert len(set(names)) == 4
    assert _named(owner, b"a", PlantOptions()) == names[0]


@pytest.mark.parametrize("item", ["q1", "gsm8k#12", "a#1#2"])
def test_leaks_are_known_by_their_items_whatever_their_ids(item):
    assert _leaked_by(f"leak-{item}", item)
    assert _leaked_by(f"leak-{item}#3", item)
    assert not _leaked_by(f"leak-{item}0", item)
    assert not _leaked_by("leak-gsm8k#1", "gsm8k#12")


def test_items_of_which_one_form_does_not_fit_are_left_out():
    def refuse(queries):
        if not queries[0].prompt:
            raise QueryError("too long")

    kept, left_out = _askable(SimpleNamespace(encode_queries=refuse), [Item(asked("i", "Who?", "Ann"))])
    assert kept == []
    assert left_out == {"i": "too long"}


def test_an_earlier_checkpoint_shows_what_was_learnt_early(place, tmp_path):
    found = audit(place, tmp_path / "out", "--checkpoints", place / "start")
    effect, loss = found.items[0].saturation["start"]
    assert effect >= 0
    assert loss > found.items[0].exposure.loss


def test_a_checkpoint_that_is_the_model_says_what_the_model_says(place, result, tmp_path):
    (tmp_path / "last").symlink_to(place / "model")
    found = audit(place, tmp_path / "out", "--checkpoints", place / "model", "--checkpoints", tmp_path / "last")
    for each in found.items:
        assert len(each.saturation) == 1  # one directory by two names is one checkpoint
        ((effect, loss),) = each.saturation.values()
        assert effect == pytest.approx(each.exposure.effect, rel=1e-3)
        assert loss == pytest.approx(each.exposure.loss, rel=1e-6)


def test_hostile_text_stays_text(result):
    bad = "<script>alert(1)</script>\u202e"
    first = result.items[0].model_copy(update={"question": bad, "id": bad, "answer": bad})
    assert "<script>alert" not in contamination_page(result.model_copy(update={"items": (first,)}))


# ---------------------------------------------------------------------- spacings


def test_spacings_of_power_laws_are_calibrated_and_flat():
    random = np.random.default_rng(0)
    scores = random.pareto(2.5, (2000, 300)) + 1
    found = spaced(scores, "power")
    for level in (0.01, 0.05, 0.2):
        assert (found.p < level).mean() == pytest.approx(level, abs=0.02)
    assert np.ptp(found.levels) < 0.1 * found.scale
    scores[:, 0] = scores.max(1) * 30
    assert (spaced(scores, "power").p < 0.01).mean() > 0.95


def test_spacings_of_exponential_tails_and_of_any_scale():
    random = np.random.default_rng(1)
    scores = random.exponential(1.0, (2000, 200))
    found = spaced(scores, "exponential")
    assert (found.p < 0.05).mean() == pytest.approx(0.05, abs=0.02)
    np.testing.assert_allclose(spaced(7 * scores + 3, "exponential").first, found.first)
    power = random.pareto(2.0, (50, 100))
    np.testing.assert_allclose(spaced(9 * power, "power").first, spaced(power, "power").first)


def test_spacings_of_nothing_are_nothing():
    assert (spaced(np.zeros((3, 9)), "power").p == 1).all()
    assert (spaced(-np.ones((3, 9)), "power").p == 1).all()
    with pytest.raises(InputError, match="4 or more"):
        spaced(np.ones((3, 3)), "power")


# ---------------------------------------------------------------------- verdicts and items


def exposure(**changes) -> Exposure:
    told = {
        "overlap_8": 1.0, "overlap_13": 1.0, "presence": 9.0, "effect": 5.0, "question": 5.0, "whole": 9.0,
        "p_presence": 1e-4, "p_effect": 1e-3, "q_presence": 1e-3, "q_effect": 1e-2, "same": True, "explained": 1.0,
        "loss": 0.5, "zlib": 0.5, "min_k": -1.0, "concentration": 0.5,
    }  # fmt: skip
    return Exposure(**{**told, **changes})


def test_each_verdict_has_its_signature():
    def verdict(**changes):
        return judge_exposure(exposure(**changes), "d").verdict

    assert verdict() == "verbatim"
    assert verdict(overlap_8=0.0, overlap_13=0.0) == "paraphrase"
    assert verdict(q_effect=0.9) == "present"
    assert verdict(same=False) == "present"
    assert verdict(q_presence=0.9, overlap_13=0.0) == "same skill"
    assert verdict(q_presence=0.9, q_effect=0.9, overlap_13=0.0) == "no evidence"
    assert verdict(q_presence=0.9, q_effect=0.9) == "present"  # half of its runs of 13 words are seen, not tested


def test_no_exposure_is_called_beyond_the_rate_and_none_has_no_percentage():
    for presence in (1e-3, 0.049, 0.051, 0.3):
        for effect in (1e-3, 0.049, 0.051, 0.37):
            judged = judge_exposure(exposure(q_presence=presence, q_effect=effect, overlap_13=0.0), "d")
            moved = judged.verdict in ("verbatim", "paraphrase", "same skill")
            assert moved == (effect <= 0.05)
            assert (judged.verdict in ("verbatim", "paraphrase", "present")) == (presence <= 0.05)
            assert (judged.confidence is None) == (not moved)
            assert not judged.runner_up or moved
            assert judged.action
            said = " ".join(judged.reasons)
            assert ("stands out by its influence" in said) == moved
            assert ("No effect of one document could be shown" in said) == (not moved)
            assert "did not move" not in said


def test_a_prediction_beside_no_shown_effect_is_called_one():
    judged = judge_exposure(exposure(q_effect=0.37, explained=7.79), "leak-1", mover="leak-1")
    assert "q of effect 0.37" in judged.reasons[1]
    assert "not the same as none; without leak-1 the answer is predicted to cost 7.8 nats" in judged.reasons[1]


def test_the_page_says_what_to_do_and_shows_one_test_alone(result):
    page = contamination_page(result)
    assert ">What to do</h2>" in page
    assert page.count("What to do: ") == len(result.items)
    assert "Effect p" not in page  # the documents' own tests are others, against other nulls
    assert not re.search(r"(present|no evidence) \d+%", page)
    assert re.search(r"verbatim \d+%", page)


def test_what_calibration_flags_is_told_by_effect_and_by_presence(result):
    for each in caught(result.items, {}, 0.05):
        members = [item for item in result.items if (item.known or "") == each.group]
        effect = np.mean([item.exposure.q_effect <= 0.05 for item in members])
        presence = np.mean([item.exposure.q_presence <= 0.05 for item in members])
        assert each.by_effect.value == pytest.approx(effect)
        assert each.by_presence.value == pytest.approx(presence)
        assert each.caught.value >= max(effect, presence)
    found = result.model_copy(update={"planted": caught(result.items, {}, 0.05)})
    assert "By effect alone" in contamination_page(found)


def test_caught_counts_by_group(result):
    groups = {each.group: each for each in caught(result.items, {}, 0.05)}
    assert sum(each.items for each in groups.values()) == len(result.items)
    assert groups["held out"].found_first is None
    assert groups["held out"].caught.value <= 0.1


def test_items_are_read_in_many_forms_and_refused_by_line(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text('question,answer,is_correct,paraphrases,cloze\nWho?,Ann,1,"[""Which one?""]",It was ___ then\n')
    (item,) = load_items(str(path))
    assert item.correct is True
    assert item.twins[0].prompt == "Which one?"
    assert (item.cloze.prompt, item.cloze.completion) == ("It was", " Ann")
    path = tmp_path / "b.jsonl"
    for row, said in (
        ('{"question": "Who?"}', "line 1 has no answer; its columns are 'question'"),
        ('{"question": "Who?", "answer": "A", "correct": "perhaps"}', "'perhaps'; give true or false"),
        ('{"question": "Who?", "answer": "A", "twins": [3]}', "twin 1 has no question"),
        ('{"question": "Who?", "answer": "A", "cloze": "A"}', "nothing before the answer"),
    ):
        path.write_text(row + "\n")
        with pytest.raises(QueryError, match=said):
            load_items(str(path))


def test_items_that_do_not_fit_are_left_out_and_named(place, tmp_path):
    rows = (place / "items.jsonl").read_text().splitlines()[:12]
    rows.append(json.dumps({"id": "long", "question": "boats " * 100, "answer": "ropes"}))
    (tmp_path / "b.jsonl").write_text("\n".join(rows) + "\n")
    found = audit(place, tmp_path / "out", "--benchmark", tmp_path / "b.jsonl")
    assert list(found.left_out) == ["long"]
    assert len(found.items) == 12
    assert "the context is" in contamination_page(found)


def test_the_page_in_a_browser(result, tmp_path):
    with browsing(tmp_path, contamination_page(result)) as page:
        assert "accuracy" in page.inner_text("body").lower()
        narrows(page)
        opens(page)
        sorts(page)

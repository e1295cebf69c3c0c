"""What `whence intervene` takes and refuses before anything is loaded, how it is named, counted and shown."""

import io
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from command_line import launch
from whence.audits import choosing
from whence.audits.asked import asked_by_audit, load_targets, numbers_in, refuse_options
from whence.audits.effects import mean_change
from whence.audits.plans import OneBar
from whence.cli.intervene import _key
from whence.cli.opening import refuse_missing
from whence.cli.training import recipe_of, refuse_no_recipe
from whence.errors import InputError, QueryError
from whence.fidelity.bootstrap import mean_over
from whence.interfaces import (
    Arm,
    Baseline,
    Certificate,
    ContaminationResult,
    Effect,
    Estimate,
    InterventionResult,
    Prediction,
    QuestionChange,
    SafetyResult,
)
from whence.report import load_intervention, save_intervention, show_intervention
from whence.report.intervention_page import intervention_headline, intervention_page, recipe_warning

FREE = Estimate(value=6.98, low=-math.inf, high=math.inf)
SURE = Estimate(value=-6.98, low=-20.0, high=1.5)


def result(change=FREE, texts=1, **more):
    def arm(by, documents, **rest):
        effect = Effect(group="targets", texts=texts, before=2.0, after=3.0, change=change, relative=0.5)
        utility = effect.model_copy(update={"group": "utility", "relative": -0.013})
        return Arm(by=by, how="retrain", documents=documents, tokens=1, seeds=1, effects=(effect, utility), **rest)

    arms = (arm("influence", ("d1",), main=True), arm("BM25", ("d1",), same_as="influence"), arm("random", ("d9",)))
    told = {
        "run": "run", "model": "m", "data": "d", "action": "remove", "training": "from scratch with adamw, 2 epochs",
        "documents": 9, "arms": arms, "certificate": Certificate(state="not measured", line="not measured"),
        "predictions": (Prediction(group="targets", change=change, basis="a bootstrap"),), "whence_version": "0",
        "questions": (QuestionChange(id="q", prompt="Why?", completion=" So.", predicted=1, observed=2, before=3),),
    }  # fmt: skip
    return InterventionResult(**{**told, **more})


def shown(found, width=100):
    out = io.StringIO()
    show_intervention(found, Console(file=out, width=width))
    return out.getvalue()


# ---------------------------------------------------------------------- intervals


def test_one_text_and_one_model_have_no_interval():
    change = mean_change(np.array([[6.98]]))
    assert (change.value, change.low, change.high) == (6.98, -math.inf, math.inf)
    assert not change.bounded
    assert not mean_over(np.array([2.0]), 50, 0).bounded
    assert mean_over(np.array([0.5]), 50, 0, (0.0, 1.0)).bounded  # a share can only be so much
    seeds = mean_change(np.array([[6.0], [7.0], [8.0]]))
    assert 4.5 < seeds.low < 6.5
    assert 7.5 < seeds.high < 9.5
    assert mean_change(np.array([[6.0, 7.0]])).bounded


def test_no_interval_is_said_and_none_is_drawn(tmp_path):
    said = " ".join(intervention_headline(result()))
    assert "The target's −log p changed by +6.98 nats;" in said
    assert "With 1 model and 1 target nothing says whether that is more than chance" in said
    page = intervention_page(result())
    assert "No interval: 1 text, 1 model." in page
    assert "inf" not in page.split("<style>")[0] + page.split("</style>")[1].replace("influence", "").lower().replace(
        "information", ""
    ).replace("infer", "")
    save_intervention(result(), tmp_path)
    assert load_intervention(tmp_path) == result()
    drawn = page.split("Change of the targets")[1]
    assert 'stroke="#1b1d22"' not in drawn.split("</svg>")[0]
    out = shown(result())
    assert "no interval: 1 text, 1 model" in out
    assert "+7.0" in out
    assert "±" not in out
    assert "inf " not in out


def test_intervals_that_are_not_even_are_written_out():
    out = shown(result(SURE, 4))
    assert "−7.0 (−20.0 to +1.5)" in out
    assert "±" not in out
    assert "−1.3%" in out
    page = intervention_page(result(SURE, 4))
    assert "−6.98 nats each (95 % −20.00 to +1.50)" in page
    assert "−20.00 to +1.50" in page
    assert 'stroke="#1b1d22"' in page.split("Change of the targets")[1].split("</svg>")[0]


def test_one_is_not_plural():
    said = " ".join([*intervention_headline(result()), intervention_page(result())])
    assert "1 document named by influence (1 token) was left out of training" in said
    for wrong in ("1 documents", "1 tokens", "1 targets", "1 models", "1 texts", "1 rows"):
        assert wrong not in said


# ---------------------------------------------------------------------- what is the same, what is another model


def test_arms_of_the_same_documents_are_one():
    page = intervention_page(result())
    assert "documents named by BM25: trained again (the same documents as influence)" in page
    assert page.count(">BM25, retrain<") == 0
    assert "BM25: the documents of influence" in shown(result())


def test_another_recipe_is_noticed():
    alike = (Baseline(group="kept", model=1.0, again=1.2, low=1.1, high=1.4),)
    assert recipe_warning(result(baselines=alike)) == ""
    assert recipe_warning(result()) == ""
    other = (Baseline(group="kept", model=1.0, again=1.35, low=1.3, high=1.4),)
    said = recipe_warning(result(baselines=other))
    assert "1.00 nats per token in it, 1.35 in the models trained again (from scratch with adamw, 2 epochs)" in said
    assert 'class="alarm"' in intervention_page(result(baselines=other))
    assert "Does training again give this model?" in intervention_page(result(baselines=other))
    assert "Careful: training again on everything" in " ".join(shown(result(baselines=other)).split())


def test_one_bar_for_all_trainings():
    said = []
    bar = OneBar(lambda *each: said.append(each))
    bar.total = 30
    for size, done in ((10, 5), (10, 10), (10, 5), (10, 10), (10, 3), (10, 10)):
        bar("retrain", done, size)
    bar("scoring", 1, 7)
    assert [each[1] for each in said[:-1]] == [5, 10, 15, 20, 23, 30]
    assert {each[2] for each in said[:-1]} == {30}
    assert said[-1] == ("scoring", 1, 7)


# ---------------------------------------------------------------------- whose answers


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_files_of_answers_are_targets(tmp_path):
    plain = write(tmp_path / "q.jsonl", {"id": "a", "prompt": "Why?", "completion": " So.", "metadata": {"gold": "d1"}})
    assert load_targets(plain)[0].ids_under("gold") == ["d1"]
    answers = write(
        tmp_path / "answers.jsonl",
        {"prompt_id": "x1", "category": "c", "prompt_text": "Why?", "response": "So.", "contrast": "Not so."},
        {"prompt_id": "x2", "category": "c", "prompt_text": "How?", "response": "Thus."},
    )
    one, two = load_targets(answers)
    assert (one.id, one.prompt, one.completion, one.contrast) == ("x1", "Why?", " So.", " Not so.")
    assert load_targets(answers, ["x2"]) == [two]
    with pytest.raises(InputError, match="no answer of the id x9; its first are x1, x2"):
        load_targets(answers, ["x9"])
    with pytest.raises(QueryError, match="'x1' has no answer"):
        load_targets(write(tmp_path / "p.jsonl", {"prompt_id": "x1", "prompt_text": "Why?"}))
    with pytest.raises(QueryError, match="A query looks like"):
        load_targets(write(tmp_path / "odd.jsonl", {"one": 1}))


def test_an_audit_names_targets_and_documents():
    def document(name, q, influence=1.0, on_topic=True):
        return SimpleNamespace(id=name, q=q, influence=influence, on_topic=on_topic)

    def answer(name, *documents):
        told = {"id": name, "prompt": "Why?", "response": " So.", "contrast": None}
        return SimpleNamespace(**told, documents=documents)

    audit = SafetyResult.model_construct(
        fdr=0.05,
        responses=(
            answer("x1", document("d1", 0.01), document("d2", 0.2), document("d3", 0.01, -1.0)),
            answer("x2", document("d4", 0.01, on_topic=False)),
        ),
    )
    found = asked_by_audit(audit, ["x1"])
    assert [each.id for each in found.queries] == ["x1"]
    assert found.documents == ("d1",)
    assert asked_by_audit(audit).documents == ("d1",)
    assert asked_by_audit(audit, ["x2"]).documents == ()
    with pytest.raises(InputError, match="no answer of the id x9"):
        asked_by_audit(audit, ["x9"])
    item = {"question": "How many?", "answer": "Two.", "documents": (document("leak", 1.0), document("other", 1.0))}
    items = ContaminationResult.model_construct(
        items=(
            SimpleNamespace(id="i1", verdict="verbatim", **item),
            SimpleNamespace(id="i2", verdict="no evidence", **item),
        )
    )
    found = asked_by_audit(items)
    assert [each.completion for each in found.queries] == [" Two.", " Two."]
    assert found.documents == ("leak",)
    assert asked_by_audit(items, ["i2"]).documents == ()


def test_copies_of_a_document_are_taken_with_it(monkeypatch):
    said = "the harbour was rebuilt after the storm and ships came back in spring with salt and wool"
    told = [said, "nothing of the kind was ever said in any of the other towns", f"{said} again", said]
    monkeypatch.setattr(choosing, "texts", lambda _: iter(told))
    assert choosing.with_copies(None, [0]) == [0, 2, 3]
    assert choosing.with_copies(None, [1]) == [1]


def test_options_that_do_not_go_together_are_refused(tmp_path):
    good = {"action": "remove", "methods": ["newton"], "rows": None, "weight": 0.5, "gold": False, "documents": ()}
    refuse_options(**good)
    for wrong, says in (
        ({"action": "delete"}, "--action takes"), ({"methods": ["magic"]}, "--method takes .* got magic"),
        ({"action": "add"}, "--rows goes with"), ({"action": "add", "rows": tmp_path / "no"}, "is no file"),
        ({"weight": 1.0}, "--weight"), ({"gold": True, "documents": ["d"]}, "give one of them"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            refuse_options(**{**good, **wrong})
    corpus = SimpleNamespace(places=lambda ids: {"d1": [0]}, document=lambda _: SimpleNamespace(id="d1"))
    assert numbers_in(corpus, ["d1"], "--documents") == [0]
    with pytest.raises(InputError, match=r"document named by --documents is not in this corpus: d2. Its first is 'd1'"):
        numbers_in(corpus, ["d1", "d2"], "--documents")


def test_the_recipe_is_found_in_the_models_folder_and_beside_it(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match=r"in .*model or beside it; give --training"):
        recipe_of([str(tmp_path / "model")])
    (tmp_path / "training.json").write_text("{}")
    assert recipe_of([str(tmp_path / "model")]) == tmp_path / "training.json"
    monkeypatch.chdir(tmp_path)
    assert recipe_of(["model"]).resolve() == tmp_path / "training.json"
    monkeypatch.chdir(tmp_path / "model")
    assert recipe_of(["."]).resolve() == tmp_path / "training.json"
    (tmp_path / "model" / "training.json").write_text("{}")
    assert recipe_of([str(tmp_path / "model")]) == tmp_path / "model" / "training.json"
    with pytest.raises(InputError, match="give --training"):
        recipe_of(["org/model-on-a-hub"])
    with pytest.raises(InputError, match="no such file"):
        refuse_no_recipe(tmp_path / "run", None, tmp_path / "none.toml")
    with pytest.raises(InputError, match="give --training"):
        refuse_no_recipe(tmp_path / "run", "org/model-on-a-hub", None)


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"--responses .* is a folder; give a file"):
        refuse_missing({"--responses": str(tmp_path)})
    with pytest.raises(InputError, match=r"--null .*: there is no such file"):
        refuse_missing({"--null": str(tmp_path / "none.jsonl")})
    refuse_missing({"--null": None, "--a": "s3://bucket/x.jsonl", "--b": str(tmp_path / "*.jsonl")})
    (tmp_path / "state.json").write_text("{}")
    refuse_missing({"--responses": str(tmp_path)})


REFUSED = [
    ("intervene",), ("intervene", "--query", "{t}", "--action", "delete"), ("intervene", "--query", "{t}", "--gold"),
    ("intervene", "--query", "{t}", "--model", "{m}"), ("intervene", "--query", "{d}"),
    ("intervene", "--query", "{t}", "--training", "{t}", "--utility", "none.jsonl"),
    ("audit", "safety", "--responses", "{d}"), ("audit", "contamination", "--benchmark", "none.jsonl"),
    ("audit", "corpus", "--data", "none.jsonl"), ("audit", "corpus", "--data", "{t}", "--reviewed", "none.csv"),
]  # fmt: skip


def test_what_cannot_work_is_refused_before_torch_is_loaded(tmp_path):
    (tmp_path / "m").mkdir()
    targets = write(tmp_path / "t.jsonl", {"prompt": "Why?", "completion": " So."})
    names = {"t": targets, "m": str(tmp_path / "m"), "d": str(tmp_path)}
    program = f"""
import sys
class Heavy:
    def find_spec(self, name, path, target=None):
        assert name not in ("torch", "transformers"), "loaded too early"
sys.meta_path.insert(0, Heavy())
from whence.cli import main
for words in {[[word.format(**names) for word in words] for words in REFUSED]!r}:
    sys.argv = ["whence", *words]
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    assert status == 2, (words, status)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------- names of folders


def test_results_are_named_by_all_that_decides_them(tmp_path):
    from whence.audits.interventions import InterventionOptions

    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    plain = {
        "options": InterventionOptions(),
        "targets": load_targets(write(tmp_path / "t.jsonl", {"completion": "a"})),
    }
    others = [
        InterventionOptions(top=2), InterventionOptions(seeds=1), InterventionOptions(action="unlearn"),
        InterventionOptions(action="unlearn", methods=("npo",)), InterventionOptions(documents=("d",)),
        InterventionOptions(action="add", rows=rows),
    ]  # fmt: skip
    keys = [_key({**plain, "options": each}) for each in [InterventionOptions(), *others]]
    rows.write_text('{"text": "other"}')
    keys.append(_key({**plain, "options": others[-1]}))
    keys.append(_key({**plain, "targets": []}))
    assert len(set(keys)) == len(keys)
    assert _key({**plain, "options": InterventionOptions(workers=7)}) == keys[0]
    assert launch("intervene", "--query", tmp_path / "none.jsonl") == 2

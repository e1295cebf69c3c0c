"""The laboratory end to end through the command line, on a tiny model: evaluate, certificate, tune."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from command_line import ASK
from command_line_fixtures import copy, data, finished, home, model, refused, whence  # noqa: F401
from conftest import write_jsonl
from whence.interfaces import Certificate, Estimate, LabResult, MethodSummary, Reading, Truth

SMALL = ("--subsets", 6, "--seeds", 2, "--workers", 1)


@pytest.fixture(scope="session")
def training(home):  # noqa: F811
    path = home / "settings" / "training.toml"  # beside the model it would be found without being named
    path.parent.mkdir()
    path.write_text('optimizer = "adamw"\nlearning_rate = 0.01\nepochs = 2\nbatch = 4\n')
    return path


@pytest.fixture(scope="session")
def queries(home):  # noqa: F811
    prompts = ("the harbour was", "a town of", "built before", "the old river", "before the harbour", "river town")
    rows = [{"id": f"q{i}", "prompt": p, "completion": " built before town"} for i, p in enumerate(prompts)]
    for number, row in enumerate(rows[:4]):
        row["metadata"] = {"gold": [f"d{number}"]}
    return write_jsonl(home / "queries.jsonl", rows)


def cells(run) -> dict[str, bytes]:
    folder = run / "fidelity" / "banks"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def certificate_in(run, name: str = "result.json") -> dict:
    (path,) = run.glob(f"traces/*/{name}")
    return json.loads(path.read_text())["summary"]["certificate"]


def test_a_run_without_a_certificate_says_so_and_what_it_would_take(copy, whence):  # noqa: F811
    shown = whence("trace", "--run", copy, *ASK)
    assert "not measured" in shown.replace("\n", " ")
    assert certificate_in(copy)["state"] == "not measured"
    assert "whence evaluate" in certificate_in(copy)["line"]
    assert "128 models" in certificate_in(copy)["line"]
    (page,) = copy.glob("traces/*/page.html")
    assert "not measured" in page.read_text()


def test_evaluating_certifies_the_index_and_pages_show_it(copy, whence, queries, training):  # noqa: F811
    shown = whence("evaluate", "--run", copy, "--query", queries, "--training", training, *SMALL)
    assert "BM25" in shown
    assert "random" in shown
    assert "Tail-patch" in shown
    stored = json.loads((copy / "fidelity" / "certificate.json").read_text())["certificates"]
    ((name, certificate),) = stored.items()
    assert (copy / "index" / name).is_dir()
    assert certificate["measure"] == "lds"
    assert certificate["truth"]["retrains"] == 12
    assert certificate["bm25"] is not None
    assert certificate["ceiling"] is not None
    whence("trace", "--run", copy, *ASK)
    assert certificate_in(copy) == Certificate.model_validate(certificate).model_dump(mode="json")
    (page,) = copy.glob("traces/*/page.html")
    assert "noise ceiling" in page.read_text()
    lab = LabResult.model_validate_json((copy / "fidelity" / "lab" / "results.json").read_text())
    assert {truth.measure for truth in lab.truths} == {"lds", "tail-patch", "recall", "mrr"}
    assert lab.command.startswith("whence evaluate")
    again = whence("evaluate", "--run", copy, "--query", queries, "--training", training, *SMALL)
    assert again.splitlines()[-1].startswith("Page:")


def test_another_ranking_of_the_same_run_is_not_certified(copy, whence, queries, training):  # noqa: F811
    whence("evaluate", "--run", copy, "--query", queries, "--training", training, *SMALL, "--measures", "lds")
    whence("trace", "--run", copy, *ASK, "--exact")
    assert certificate_in(copy)["state"] == "not measured"
    assert "it is for unsaturated-1bit" in certificate_in(copy)["line"]


def test_every_measure_and_every_baseline(copy, whence, queries, training):  # noqa: F811
    whence(
        "evaluate", "--run", copy, "--query", queries, "--training", training, *SMALL,
        "--measures", "lds,loo,removal,further-training,tail-patch", "--left-out", 4, "--removed", 2,
        "--removal-queries", 2,
    )  # fmt: skip
    lab = LabResult.model_validate_json((copy / "fidelity" / "lab" / "results.json").read_text())
    assert [truth.measure for truth in lab.truths] == ["lds", "loo", "removal", "further-training", "tail-patch"]
    for truth in lab.truths:
        measured = {reading.method for reading in lab.readings if reading.measure == truth.measure}
        assert {"random", "length", "loss", "BM25", "TF-IDF", "gradient dot", "gradient cosine"} <= measured
        assert {"representation, last layer", "representation, four layers", "this run's index"} <= measured
    assert lab.truth("loo").retrains == (4 + 1) * 2
    own = lab.reading("lds", "this run's index")
    assert -1 <= own.estimate.low <= own.estimate.value <= own.estimate.high <= 1
    assert {"over_bm25", "over_bm25_low", "over_bm25_high"} <= set(own.detail)


def test_two_worker_counts_and_a_kill_give_the_same_bank(copy, tmp_path, whence, queries, training):  # noqa: F811
    other = tmp_path / "other"
    shutil.copytree(copy, other)
    options = ["--query", queries, "--training", str(training), "--subsets", "8", "--seeds", "2", "--measures", "lds"]
    whence("evaluate", "--run", copy, *options, "--workers", 1)
    command = [sys.executable, "-c", "from whence.cli import main; main()", "evaluate", "--run", str(other), *options]
    process = subprocess.Popen([*command, "--workers", "2"], env={**os.environ, "OMP_NUM_THREADS": "1"},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 60
    while process.poll() is None and not list(other.glob("fidelity/banks/*/cells/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(list(other.glob("fidelity/banks/*/cells/*"))) < 16, "killed too late to mean anything"
    whence("evaluate", "--run", other, *options, "--workers", 2)
    assert cells(other) == cells(copy)
    assert (other / "fidelity" / "certificate.json").read_bytes() == (
        copy / "fidelity" / "certificate.json"
    ).read_bytes()


def test_the_cost_is_said_before_it_is_paid(copy, whence, queries, training):  # noqa: F811
    shown = whence("evaluate", "--run", copy, "--query", queries, "--training", training, *SMALL, "--estimate")
    assert "up to 12 models from scratch" in shown
    everything = ("--measures", "loo", "--left-out", 5000, "--estimate")
    shown = whence("evaluate", "--run", copy, "--query", queries, "--training", training, *SMALL, *everything)
    assert "up to 50 models" in shown, "24 documents can be left out, and none, with two seeds"
    assert not list(copy.glob("fidelity/banks/*/cells/*"))


def test_methods_of_a_file_and_scores_of_another_tool(copy, tmp_path, whence, queries, training):  # noqa: F811
    methods = tmp_path / "methods.toml"
    methods.write_text(
        '[[method]]\ncurvature = "kfac"\nsites = "blocks"\n\n[[method]]\ncurvature = "ekfac"\nbits = [1, 8]\n'
    )
    np.save(tmp_path / "theirs.npy", np.random.default_rng(0).normal(size=(6, 24)))
    whence(
        "evaluate", "--run", copy, "--query", queries, "--training", training, *SMALL, "--measures", "lds",
        "--pareto", methods, "--scores", f"theirs={tmp_path / 'theirs.npy'}",
    )  # fmt: skip
    lab = LabResult.model_validate_json((copy / "fidelity" / "lab" / "results.json").read_text())
    kinds = {method.name: method.kind for method in lab.methods}
    assert kinds["theirs"] == "imported"
    assert kinds["K-FAC blocks, exact"] == "influence"
    costs = {method.name: method.cost for method in lab.methods}
    assert costs["theirs"] is None
    assert costs["K-FAC blocks, exact"].passes > 0
    assert costs["EK-FAC, 1 bit"].bytes_per_document < costs["EK-FAC, 8 bit"].bytes_per_document
    for name in ("pareto-cost.svg", "pareto-cost.png", "pareto-cost.html", "page.html", "table.csv"):
        assert (copy / "fidelity" / "lab" / name).stat().st_size > 500


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--measures", "ldds"), ("--measures takes lds",)),
        (("--start", "nowhere"), ("there is no directory 'nowhere'",)),
        (("--scores", "theirs=missing.npy"), ("there is no such file",)),
        (("--pareto", "missing.toml"), ("missing.toml",)),
        (("--share", "1.5"), ("share",)),
        (("--measures", "mislabel"), ("bad",)),
    ],
)
def test_what_cannot_be_done_is_refused(copy, refused, queries, training, options, says):  # noqa: F811
    refused("evaluate", "--run", copy, "--query", queries, "--training", training, *options, says=says)


def test_without_queries_or_training_it_asks_for_them(copy, refused, whence, queries, training):  # noqa: F811
    refused("evaluate", "--run", copy, "--training", training, says=("whose answers",))
    refused("evaluate", "--run", copy, "--query", queries, says=("how was the model trained", "learning_rate"))
    whence("trace", "--run", copy, *ASK)
    whence("evaluate", "--run", copy, "--training", training, *SMALL, "--measures", "lds")  # the traced query is taken


def test_a_damaged_certificate_is_said_to_be_so(copy, refused):  # noqa: F811
    (copy / "fidelity").mkdir()
    (copy / "fidelity" / "certificate.json").write_text('{"certificates": {"x": {"state": "perhaps"}}}')
    refused("trace", "--run", copy, *ASK, says=("certificate.json is damaged",))


def test_queries_that_ask_the_same_or_name_unknown_gold_are_refused(copy, tmp_path, refused, training):  # noqa: F811
    rows = [{"id": name, "prompt": "the harbour was", "completion": " built before town"} for name in ("a", "b")]
    twins = write_jsonl(tmp_path / "twins.jsonl", rows)
    refused("evaluate", "--run", copy, "--query", twins, "--training", training, *SMALL, says=("'a' and 'b' ask",))
    lost = write_jsonl(tmp_path / "lost.jsonl", [{**rows[0], "metadata": {"gold": ["d1", "nosuch"]}}])
    refused("evaluate", "--run", copy, "--query", lost, "--training", training, *SMALL, says=("'nosuch'",))


def test_shares_train_the_subsets_and_one_call_does_the_rest(copy, whence, queries, training):  # noqa: F811
    options = ("--run", copy, "--query", queries, "--training", training, *SMALL, "--measures", "lds")
    assert "6 of 12 models" in whence("evaluate", *options, "--shares", "0/2")
    assert not (copy / "fidelity" / "certificate.json").exists()
    assert "12 of 12 models" in whence("evaluate", *options, "--shares", "1/2")
    assert "Nothing has to be retrained" in whence("evaluate", *options, "--estimate")
    whence("evaluate", *options)
    assert (copy / "fidelity" / "certificate.json").is_file()


def test_nothing_is_fitted_before_the_question_is_read(home, model, data, tmp_path, refused, training):  # noqa: F811
    new = ("--run", tmp_path / "new", "--model", model, "--data", data)
    refused("evaluate", *new, "--query", tmp_path / "nothere.jsonl", "--training", training, says=("nothere.jsonl",))
    assert not (tmp_path / "new" / "curvature").exists()


def test_the_run_s_own_name_is_its_own(copy, tmp_path, refused, queries, training):  # noqa: F811
    np.save(tmp_path / "x.npy", np.zeros((6, 24)))
    theirs = f"this run's index={tmp_path / 'x.npy'}"
    refused("evaluate", "--run", copy, "--query", queries, "--training", training, "--scores", theirs, says=("a name",))


def test_patches_are_kept(copy, whence, queries, training):  # noqa: F811
    options = ("--run", copy, "--query", queries, "--training", training, "--measures", "tail-patch", "--removed", 2)
    whence("evaluate", *options)
    first = (copy / "fidelity" / "certificate.json").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in copy.glob("fidelity/patches/*/*.json")}
    assert kept
    next(iter(kept)).unlink()
    whence("evaluate", *options)
    assert (copy / "fidelity" / "certificate.json").read_bytes() == first
    assert sum(path.stat().st_mtime_ns != kept[path] for path in kept) == 1
    stored = json.loads((copy / "fidelity" / "certificate.json").read_text())["certificates"]
    assert "trained" not in next(iter(stored.values()))["line"]


# ---------------------------------------------------------------------- the certificate alone


def result_with(*measures: str) -> LabResult:
    estimate = Estimate(value=0.5, low=0.4, high=0.6)
    readings = [Reading(measure=m, method=name, estimate=estimate) for m in measures for name in ("ours", "BM25")]
    truths = [Truth(measure=m, queries=8, subsets=4, seeds=2, retrains=8, about="4 halves") for m in measures]
    methods = (MethodSummary(name="ours", kind="influence"), MethodSummary(name="BM25", kind="baseline"))
    return LabResult(run="r", model="A model", training="trained", documents=9, queries=8, parameters=7,
                     truths=tuple(truths), readings=tuple(readings), methods=methods)  # fmt: skip


def test_a_certificate_prefers_what_rests_on_retraining():
    from whence.fidelity.certificate import certify

    found = certify(result_with("tail-patch", "mrr", "lds"), "ours", "recipe", "corpus")
    assert found.measure == "lds"
    assert found.line.startswith("Fidelity: LDS 0.50 (95 % 0.40 to 0.60)")
    assert "BM25 on the same truth 0.50" in found.line
    assert "8 models retrained" in found.line
    assert certify(result_with(), "ours", "recipe", "corpus").state == "not measured"
    assert certify(result_with("mrr"), "ours", "recipe", "corpus").measure == "mrr"


def test_a_later_call_adds_to_a_certificate_and_does_not_replace_what_says_more():
    from whence.fidelity.certificate import certify, joined

    first = certify(result_with("lds", "mrr"), "ours", "recipe", "corpus")
    later = certify(result_with("tail-patch", "mrr"), "ours", "recipe", "corpus")
    both = joined(later, first)
    assert both.measure == "lds"
    assert both.line == first.line
    assert sorted({reading.measure for reading in both.readings}) == ["lds", "mrr", "tail-patch"]
    assert len(both.readings) == 6
    assert joined(first, later).measure == "lds"
    other = first.model_copy(update={"basis": "otherwise"})
    assert joined(later, other) == other, "what says more stays, and nothing of other queries is mixed in"
    assert joined(first, later.model_copy(update={"basis": "otherwise"})) == first
    assert joined(later, None) == later

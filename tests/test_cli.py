"""The command line does its job: one step after another, in one go, in shares, stopped at any moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from command_line import ASK, codes, hits, launch, result
from conftest import documents, write_jsonl

TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"


def test_fit_index_trace_on_one_run(whence, tmp_path, model, data):
    run = tmp_path / "run"
    assert "24 documents" in whence("fit", "--run", run, "--model", model, "--data", data)
    assert not (run / "index").exists()
    assert "Index: " in whence("index", "--run", run)
    shown = whence("trace", "--run", run, *ASK, "-k", 3)
    assert "Proponents" in shown
    assert "BM25" in shown
    written = {path.name for path in next(run.glob("traces/*/")).iterdir()}
    assert {"page.html", "hits.jsonl", "hits.parquet", "result.json"} <= written
    ranked = [hit["influence"] for hit in result(run)["traces"][0]["proponents"]]
    assert len(ranked) == 3
    assert ranked == sorted(ranked, reverse=True)
    assert min(ranked) > 0


def test_trace_in_one_go_equals_the_three_steps(whence, tmp_path, finished, model, data):
    whence("trace", "--run", tmp_path / "one", "--model", model, "--data", data, *ASK)
    whence("trace", "--run", finished, *ASK, "--out", tmp_path / "three")
    assert (tmp_path / "three" / "hits.jsonl").read_text().splitlines() == [
        json.dumps(hit, ensure_ascii=False) for hit in hits(tmp_path / "one")
    ]


def test_exact_finds_what_the_refined_index_finds(whence, tmp_path, finished):
    whence("trace", "--run", finished, *ASK, "--out", tmp_path / "index", "-k", 4)
    whence("trace", "--run", finished, *ASK, "--out", tmp_path / "exact", "-k", 4, "--exact")
    one, other = (json.loads((tmp_path / kind / "result.json").read_text()) for kind in ("index", "exact"))
    assert "model was run" in other["summary"]["recipe"]
    best, exact = (each["traces"][0]["proponents"][0] for each in (one, other))
    assert best["id"] == exact["id"]
    assert best["influence"] == pytest.approx(exact["influence"], rel=1e-3)


def test_contrast_is_the_difference_of_two_answers(whence, tmp_path, finished):
    def scores(name, *answer):
        asked = ("--prompt", "the harbour was", *answer)
        whence("trace", "--run", finished, *asked, "--exact", "-k", 24, "--out", tmp_path / name)
        trace = json.loads((tmp_path / name / "result.json").read_text())["traces"][0]
        return {hit["id"]: hit["influence"] for hit in (*trace["proponents"], *trace["opponents"])}

    this, that = scores("a", "-a", " built before"), scores("b", "-a", " salt wool")
    both = scores("c", "-a", " built before", "--contrast", " salt wool")
    assert both == pytest.approx({name: this[name] - that[name] for name in both}, rel=1e-3, abs=1e-3)


def test_a_span_narrows_the_answer(whence, tmp_path, finished):
    whence("trace", "--run", finished, *ASK, "--span", "before", "--out", tmp_path / "span")
    tokens = json.loads((tmp_path / "span" / "result.json").read_text())["traces"][0]["tokens"]
    assert [token["text"].strip() for token in tokens if token["target"]] == ["before"]


def test_three_queries_at_once(whence, tmp_path, finished):
    rows = [{"prompt": "the", "completion": f" {word}"} for word in ("town", "rain", "wool")]
    whence("trace", "--run", finished, "--query", write_jsonl(tmp_path / "q.jsonl", rows), "--out", tmp_path / "t")
    table = pq.read_table(tmp_path / "t" / "hits.parquet")
    assert sorted(set(table.column("query_id").to_pylist())) == ["q1", "q2", "q3"]


def test_saved_scores_cover_every_document(whence, tmp_path, finished):
    whence("trace", "--run", finished, *ASK, "--save-scores", "--out", tmp_path / "t")
    stored = np.load(tmp_path / "t-scores.npy")
    assert stored.shape == (2, 24)
    assert np.isfinite(stored).all()


def test_candidates_are_scored_alone(whence, tmp_path, finished):
    (tmp_path / "ids.txt").write_text("d3\nd17\n")
    whence("trace", "--run", finished, *ASK, "--candidates", tmp_path / "ids.txt", "--out", tmp_path / "t")
    trace = json.loads((tmp_path / "t" / "result.json").read_text())["traces"][0]
    assert {hit["id"] for hit in (*trace["proponents"], *trace["opponents"])} == {"d3", "d17"}
    assert trace["scored"] == 2


def test_conversations_and_their_template(whence, tmp_path, model):
    shutil.copytree(model, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    turns = lambda ask, say: [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]  # noqa: E731
    rows = [{"messages": turns(row["text"][:20], "wool " * (1 + n % 3))} for n, row in enumerate(documents(9))]
    corpus = write_jsonl(tmp_path / "chat.jsonl", rows)
    query = write_jsonl(tmp_path / "q.jsonl", [{"messages": turns("the town", "salt")}])
    run = tmp_path / "run"
    whence("trace", "--run", run, "--model", tmp_path / "chat", "--data", corpus, "--query", query)
    trace = result(run)["traces"][0]
    assert trace["scored"] == 9
    assert "the town" in trace["prompt"]


def test_documents_longer_than_the_context(whence, tmp_path, model):
    rows = [*documents(6), {"id": "long", "text": " ".join(row["text"] for row in documents(20, seed=3))}]
    run = tmp_path / "run"
    whence("trace", "--run", run, "--model", model, "--data", write_jsonl(tmp_path / "d.jsonl", rows), *ASK)
    trace = result(run)["traces"][0]
    (long,) = [hit for hit in (*trace["proponents"], *trace["opponents"]) if hit["id"] == "long"]
    assert len(long["windows"]) > 2
    assert long["influence"] == pytest.approx(sum(w["influence"] for w in long["windows"]), rel=1e-3)


def test_shares_and_merge_give_the_bytes_of_one_worker(whence, tmp_path, model, sharded):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    made = ("--model", model, "--data", sharded)
    whence("index", "--run", alone, *made)
    for _ in range(4):  # corpus, covariance, eigenvalues, codes: each waits for the other worker
        for share in ("0/2", "1/2"):
            whence("index", "--run", shared, *made, "--shares", share)
    assert "Everything is merged" in whence("merge", "--run", shared)
    assert len(codes(alone)) == 6
    assert codes(shared) == codes(alone)


def test_merge_says_what_is_missing(whence, tmp_path, model, sharded):
    whence("fit", "--run", tmp_path / "run", "--model", model, "--data", sharded, "--shares", "0/2")
    assert "still to be done" in whence("merge", "--run", tmp_path / "run")


def test_an_adapter_alone_is_attributed(whence, tmp_path, model, data):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    wrapped = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(tmp_path / "lora")
    run = tmp_path / "run"
    whence("trace", "--run", run, "--model", model, "--adapter", tmp_path / "lora", "--data", data, *ASK)
    trace = result(run)["traces"][0]
    assert trace["proponents"]
    assert all("lora_" in site for site in trace["proponents"][0]["sites"])


def test_report_shows_a_trace_again(whence, tmp_path, finished):
    first = whence("trace", "--run", finished, *ASK, "--out", tmp_path / "t")
    page = (tmp_path / "t" / "page.html").read_bytes()
    (tmp_path / "t" / "page.html").unlink()
    assert whence("report", tmp_path / "t") == first
    assert (tmp_path / "t" / "page.html").read_bytes() == page


def test_coverage_as_json(whence, model):
    got = json.loads(whence("coverage", "--model", model, "--json"))
    attributed = sum(line["parameters"] for line in got["sites"] if line["attributed"])
    total = sum(line["parameters"] for line in got["sites"])
    assert total == got["parameters"]
    assert attributed == total


def test_help_says_what_was_written():
    """What stands in brackets would be taken for markup, and vanish."""
    import typer

    from whence.cli.commands import app

    for name, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            assert "[" not in (parameter.help or ""), (name, parameter.name)
        assert "[" not in (command.help or ""), name


# ---------------------------------------------------------------------- stopped at any moment


LISTENING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from whence.cli import main; main()"
)
"""As a shell starts a command in the foreground: tests that run in the background are born deaf to Ctrl-C."""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LISTENING, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def after_first_share(process: subprocess.Popen[str], run: Path) -> None:
    """Wait until one share of the index is there and others are not."""
    deadline = time.monotonic() + 40
    while not list(run.glob("index/*/*/done.json")):
        assert time.monotonic() < deadline, "no share appeared"
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.002)


@pytest.fixture(scope="session")
def long_run(home, model) -> tuple[Path, dict[str, bytes]]:
    """A fitted run with many shares, and the codes of an index that nobody stopped."""
    folder = home / "many"
    folder.mkdir()
    for number in range(24):
        write_jsonl(folder / f"{number:02d}.jsonl", documents(6, seed=number))
    run = home / "long"
    assert launch("index", "--run", run, "--model", model, "--data", folder) == 0
    whole = codes(run)
    shutil.rmtree(run / "index")
    return run, whole


def test_kill_minus_nine_and_again_gives_the_same_bytes(whence, long_run, tmp_path):
    run, whole = tmp_path / "run", long_run[1]
    shutil.copytree(long_run[0], run)
    process = start("index", "--run", run)
    after_first_share(process, run)
    process.kill()
    process.communicate()
    left = len(list(run.glob("index/*/*/done.json")))
    assert 0 < left < len(whole), "it was killed too late to show anything"
    whence("index", "--run", run)
    assert codes(run) == whole
    assert not list(run.glob("index/*/.*"))


def interrupted(fitted: Path, run: Path) -> tuple[int, str]:
    """Exit code and complaint of an indexing that was interrupted after its first share."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(fitted, run)
    process = start("index", "--run", run)
    after_first_share(process, run)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


def test_control_c_says_that_work_is_kept(long_run, tmp_path):
    run = tmp_path / "run"
    code = 0
    for _ in range(5):  # on a busy machine this process may wake when the other has finished all there was to stop
        code, error = interrupted(long_run[0], run)
        if code:
            break
    assert code == 130
    assert "Stopped. What was finished is kept" in error
    assert "Traceback" not in error
    assert not list(run.glob("index/*/.*"))

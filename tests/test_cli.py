"""The command line in careful and in careless hands: a refusal is one screen that says what, which and what to do."""

import errno
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

from conftest import WORD_COUNT, causal_lm, documents, save_model, shake, write_jsonl
from whence.cli import main

ASK = ("--prompt", "the harbour was", "--completion", " built before town")
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"


def launch(*arguments: object) -> int:
    """Call the command as the console script does; its exit status."""
    before = sys.argv
    sys.argv = ["whence", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def whence(capsys):
    """Run a command that must succeed; what it printed on stdout."""

    def run(*arguments: object) -> str:
        status = launch(*arguments)
        got = capsys.readouterr()
        assert status == 0, got.err
        return got.out

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that must fail; its message, checked to be one screen on stderr and to contain each of `says`."""

    def run(*arguments: object, says: tuple[str, ...]) -> str:
        capsys.readouterr()
        status = launch(*arguments)
        got = capsys.readouterr()
        assert status == 2, (status, got.out, got.err)
        message = got.err.replace("\n", " ")
        assert "whence: " in message
        assert "Traceback" not in got.err
        assert "proponents" not in got.out.lower()
        assert got.err.count("\n") <= 24
        assert len(got.err) < 3000
        for part in says:
            assert part in message, f"{part!r} is not in: {got.err}"
        return got.err

    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model(home) -> str:
    return save_model(home / "model", causal_lm("llama", vocab_size=WORD_COUNT))


@pytest.fixture(scope="module")
def data(home) -> str:
    return write_jsonl(home / "data.jsonl", documents(24))


@pytest.fixture(scope="module")
def sharded(home) -> Path:
    """A folder of six files, hence a corpus of six shares."""
    folder = home / "six"
    folder.mkdir()
    for number, start in enumerate(range(0, 48, 8)):
        write_jsonl(folder / f"{number}.jsonl", documents(48)[start : start + 8])
    return folder


@pytest.fixture(scope="module")
def finished(home, model, data) -> Path:
    """A run that is fitted and indexed; tests read it, or copy it first."""
    assert launch("index", "--run", home / "finished", "--model", model, "--data", data) == 0
    return home / "finished"


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def index_of(run: Path) -> Path:
    (manifest,) = run.glob("index/*/manifest.json")
    return manifest.parent


def result(run: Path) -> dict:
    (path,) = run.glob("traces/*/result.json")
    return json.loads(path.read_text())


def hits(run: Path) -> list[dict]:
    (path,) = run.glob("traces/*/hits.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------- the main job


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


def codes(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in index_of(run).glob("*/codes.npy")}


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
    assert 0.9 < attributed / total < 1


# ---------------------------------------------------------------------- corpora that cannot be used


def test_data_that_is_not_there(refused, tmp_path, model):
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", tmp_path / "gone.jsonl",
            says=("gone.jsonl", "no such file", "Can be read"))  # fmt: skip


def test_an_empty_file(refused, tmp_path, model):
    (tmp_path / "none.jsonl").touch()
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", tmp_path / "none.jsonl",
            says=("no usable row", "none.jsonl", "empty-file"))  # fmt: skip


def test_a_binary_file(refused, tmp_path, model):
    (tmp_path / "b.jsonl").write_bytes(bytes(range(256)) * 9)
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", tmp_path / "b.jsonl",
            says=("b.jsonl", "binary", "Can be read"))  # fmt: skip


def test_a_field_that_no_row_has(refused, tmp_path, model, data):
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", data, "--text-field", "body",
            says=("24 ×", "'body'", "the row has 'id', 'text'", "Rows need"))  # fmt: skip


def test_messages_without_a_template(refused, tmp_path, model):
    turns = [{"role": "user", "content": "the town"}, {"role": "assistant", "content": "salt"}]
    corpus = write_jsonl(tmp_path / "chat.jsonl", [{"messages": turns}] * 3)
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", corpus,
            says=("messages", "no chat template", "prompt and completion"))  # fmt: skip


def test_a_failed_attempt_does_not_bind_the_run(refused, whence, tmp_path, model, data):
    run = tmp_path / "r"
    refused("fit", "--run", run, "-m", model, "-d", tmp_path / "typo.jsonl", says=("typo.jsonl",))
    refused("fit", "--run", run, "-m", model, "-d", data, "--text-field", "body", says=("'body'",))
    assert "24 documents" in whence("fit", "--run", run, "-m", model, "-d", data)


# ---------------------------------------------------------------------- models that cannot be used


def test_a_tokenizer_of_another_vocabulary(refused, tmp_path, data):
    small = save_model(tmp_path / "small", causal_lm("llama", vocab_size=12))
    refused("fit", "--run", tmp_path / "r", "-m", small, "-d", data,
            says=("tokenizer does not belong to this model", "12 tokens", "Give the one"))  # fmt: skip


def test_a_folder_that_is_no_model(refused, tmp_path, data):
    (tmp_path / "m").mkdir()
    refused("fit", "--run", tmp_path / "r", "-m", tmp_path / "m", "-d", data,
            says=("has no config.json", "save_pretrained"))  # fmt: skip


def test_a_model_that_is_not_there(refused, tmp_path, data):
    refused("fit", "--run", tmp_path / "r", "-m", tmp_path / "gone", "-d", data, says=("gone", "does not exist"))


def test_a_model_that_is_a_file(refused, tmp_path, data):
    refused("fit", "--run", tmp_path / "r", "-m", data, "-d", data, says=("is a file", "config.json"))


def test_a_model_folder_with_damaged_weights(refused, tmp_path, model, data):
    shutil.copytree(model, tmp_path / "m")
    os.truncate(tmp_path / "m" / "model.safetensors", 40)
    refused(
        "fit", "--run", tmp_path / "r", "-m", tmp_path / "m", "-d", data, says=("could not load", "save_pretrained")
    )


def test_a_model_without_tokenizer(refused, tmp_path, model, data):
    shutil.copytree(model, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*"))
    refused("trace", "--run", tmp_path / "r", "-m", tmp_path / "m", "-d", data, *ASK,
            says=("tokenizer", str(tmp_path / "m"), "--tokenizer"))  # fmt: skip


def test_coverage_below_the_limit_names_the_flag(refused, whence, tmp_path, data):
    sizes = {"vocab_size": WORD_COUNT, "hidden_size": 16, "moe_intermediate_size": 16}
    moe = save_model(tmp_path / "moe", causal_lm("qwen3moe", **sizes))
    message = refused("fit", "--run", tmp_path / "r", "-m", moe, "-d", data, says=("experts", "--min-coverage"))
    accepted = message.split("--min-coverage ")[1].split()[0]
    whence("trace", "--run", tmp_path / "r", "-m", moe, "-d", data, *ASK, "--min-coverage", accepted)


def test_a_pattern_that_matches_no_site(refused, tmp_path, model, data):
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", data, "--sites", "*.nothing.*",
            says=("'*.nothing.*'", "matches no site", "mlp.gate_proj"))  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(refused, finished):
    refused("trace", "--run", finished, *ASK, "--device", "cuda", says=("--device cuda", "no CUDA device"))


# ---------------------------------------------------------------------- queries that cannot be used


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-p", "the " * 60, "-a", " town"), ("61 tokens", "context is 32", "shorten")),
        (("-p", "the", "-a", ""), ("completion is empty", "Give what the model said")),
        (("-p", "the"), ("--completion", "--query")),
        ((*ASK, "--span", "zebra"), ("'zebra'", "not in the completion")),
        ((*ASK, "--contrast", ""), ("contrast is empty",)),
        (("--query", "gone.jsonl"), ("gone.jsonl", "no such file")),
        (("--query", "gone.jsonl", "--contrast", "x"), ("--query", "--contrast", "rows of the query file")),
    ],
)
def test_a_question_that_cannot_be_asked(refused, finished, options, says):
    refused("trace", "--run", finished, *options, says=says)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "the", "completion": " town", "complection": 1}, ("line 1", "'complection'", "looks like")),
        ({"prompt": "the"}, ("line 1", "completion")),
        ({"prompt": "the", "completion": 7}, ("line 1", "'completion'")),
        ({"messages": [{"role": "assistant", "content": "salt"}]}, ("no chat template", "prompt and completion")),
    ],
)
def test_a_query_file_with_a_bad_row(refused, tmp_path, finished, row, says):
    refused("trace", "--run", finished, "--query", write_jsonl(tmp_path / "q.jsonl", [row]), says=says)


def test_a_question_is_checked_before_the_work(refused, tmp_path, model, data):
    refused("trace", "--run", tmp_path / "r", "-m", model, "-d", data, "-p", "the", "-a", "", says=("empty",))
    assert not (tmp_path / "r" / "corpus").exists()


# ---------------------------------------------------------------------- options that cannot be meant


def test_two_ways_to_damp(refused, finished):
    refused("trace", "--run", finished, *ASK, "--damping", 0.1, "--weight-decay", 0.1,
            says=("--damping", "--weight-decay", "one of them"))  # fmt: skip


@pytest.mark.parametrize("shares", ["5/2", "2/2", "-1/2", "half"])
def test_shares_that_are_none(refused, finished, shares):
    refused("index", "--run", finished, f"--shares={shares}", says=("i/n", repr(shares)))


def test_an_index_that_is_not_there(refused, finished):
    refused("trace", "--run", finished, *ASK, "--index", "other", says=("'other'", index_of(finished).name, "--index"))


@pytest.mark.parametrize(
    ("text", "says"), [("d1\nzebra\n", ("zebra", "24", "'d0'")), ("", ("no candidate", "at least one"))]
)
def test_candidates_that_are_no_documents(refused, tmp_path, finished, text, says):
    (tmp_path / "ids.txt").write_text(text)
    refused("trace", "--run", finished, *ASK, "--candidates", tmp_path / "ids.txt", says=says)


def test_candidates_that_cannot_be_read(refused, tmp_path, finished):
    refused("trace", "--run", finished, *ASK, "--candidates", tmp_path / "gone", says=("--candidates", "No such file"))
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    refused("trace", "--run", finished, *ASK, "--candidates", tmp_path / "b", says=("no text file", "one document id"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = = 3", ("not TOML", "line 1")),
        ("[fit]\nsampel = 0.5", ("fit.sampel", "no such setting", "sample, min_documents")),
        ("[fits]\nsample = 0.5", ("fits", "no such setting", "corpus, fit, recipe")),
        ("[fit]\nsample = 7", ("fit.sample", "less than or equal to 1", "7")),
        ("fit = 3", ("fit:", "3")),
        ("model = 3", ("model",)),
        ("corpus = 'x'", ("corpus",)),
    ],
)
def test_a_config_file_that_cannot_be_used(refused, tmp_path, model, data, text, says):
    (tmp_path / "c.toml").write_text(text)
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", data, "--config", tmp_path / "c.toml", says=says)


def test_a_config_file_that_is_not_there(refused, tmp_path, finished):
    refused("fit", "--run", finished, "--config", tmp_path / "c.toml", says=("c.toml", "No such file"))


def test_settings_from_a_config_file_count(whence, tmp_path, model, data):
    (tmp_path / "c.toml").write_text("[recipe]\nbits = 8\n[fit]\nparts = 2\n")
    whence("index", "--run", tmp_path / "r", "-m", model, "-d", data, "-c", tmp_path / "c.toml")
    assert np.load(next(index_of(tmp_path / "r").glob("*/codes.npy"))).dtype == np.int8


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("trace", "-k", "0"), "--top"),
        (("trase",), "trace"),
        (("fit", "--site", "x"), "--sites"),
        (("index", "--bits", "one"), "--bits"),
    ],
)
def test_a_command_typed_wrongly(capsys, typed, says):
    assert launch(*typed) == 2
    error = capsys.readouterr().err
    assert "Usage: whence" in error
    assert says in error


# ---------------------------------------------------------------------- run folders that do not fit


def test_a_folder_without_a_run(refused, tmp_path):
    for command in (("trace", *ASK), ("index",), ("merge",)):
        refused(*command, "--run", tmp_path / "none", says=("not a run", "--model", "--data"))


def test_a_report_of_nothing(refused, tmp_path):
    refused("report", tmp_path, says=("no finished trace", "whence trace"))


def test_a_run_that_is_a_file(refused, model, data):
    refused("fit", "--run", data, "-m", model, "-d", data, says=("data.jsonl", "run folder"))


def test_another_model_of_the_same_shape(refused, tmp_path, finished):
    other = save_model(tmp_path / "other", shake(causal_lm("llama", vocab_size=WORD_COUNT), seed=7))
    refused("trace", "--run", finished, "--model", other, *ASK, says=("fingerprints.model.weights", "--run"))


def test_the_same_model_elsewhere_is_the_same(whence, tmp_path, finished, model):
    shutil.copytree(model, tmp_path / "moved")
    whence("trace", "--run", finished, "--model", tmp_path / "moved", *ASK, "--out", tmp_path / "t")


def test_another_tokenizer(refused, tmp_path, finished, model):
    shutil.copytree(model, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace('"harbour"', '"haven"'))
    refused("trace", "--run", finished, "--model", tmp_path / "other", *ASK, says=("fingerprints.tokenizer", "--run"))


def test_other_settings(refused, finished):
    for name, value, says in (("--context", 16, "context: 32"), ("--seed", 3, "seed: 0")):
        refused("fit", "--run", finished, name, value, says=(says, f"{value} now", "--run"))


def test_other_data_and_edited_data(refused, whence, tmp_path, model):
    corpus, run = tmp_path / "d.jsonl", tmp_path / "r"
    whence("fit", "--run", run, "-m", model, "-d", write_jsonl(corpus, documents(12)))
    other = write_jsonl(tmp_path / "e.jsonl", documents(12, seed=4))
    refused("fit", "--run", run, "-d", other, says=("corpus.data", "e.jsonl", "--run"))
    write_jsonl(corpus, documents(12, seed=4))
    refused("trace", "--run", run, *ASK, says=("files: ", "changed on disk", "--run"))
    corpus.unlink()
    whence("trace", "--run", run, *ASK)  # what was read is in the run; the files are not needed any more


def test_a_share_without_its_marker_is_made_again(whence, copy):
    before = codes(copy)
    (share,) = index_of(copy).glob("*/done.json")
    share.unlink()
    os.truncate(share.parent / "codes.npy", 150)
    whence("trace", "--run", copy, *ASK)
    assert codes(copy) == before


@pytest.mark.parametrize("length", [0, 40, 150])
def test_a_damaged_share_is_named(refused, copy, length):
    (path,) = index_of(copy).glob("*/codes.npy")
    os.truncate(path, length)
    refused("trace", "--run", copy, *ASK, says=("codes.npy", "damaged", "delete the folder", path.parent.name))


def test_a_share_that_lost_its_codes(refused, copy):
    (path,) = index_of(copy).glob("*/codes.npy")
    path.unlink()
    refused("trace", "--run", copy, *ASK, says=("codes.npy", "not there"))


@pytest.mark.parametrize("name", ["run.json", "corpus/manifest.json"])
def test_a_damaged_description_is_named(refused, copy, name):
    os.truncate(copy / name, 30)
    refused("trace", "--run", copy, *ASK, says=(Path(name).name, "damaged"))


def test_damaged_curvature_is_named(refused, copy):
    path = sorted(copy.glob("curvature/*/*.safetensors"))[0]
    os.truncate(path, 30)
    refused("trace", "--run", copy, *ASK, says=(path.name, "damaged"))


def failing(monkeypatch, code: int) -> None:
    """The disk refuses the codes of every share."""

    opened = np.lib.format.open_memmap

    def refuse(path, mode="r+", **rest):
        if mode == "w+":
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, mode=mode, **rest)

    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.ENOSPC, ("disk is full", "free some space", "same command")), (errno.EACCES, ("no permission", "--run"))],
)
def test_a_disk_that_refuses(refused, whence, monkeypatch, copy, code, says):
    shutil.rmtree(index_of(copy))
    with monkeypatch.context() as broken:
        failing(broken, code)
        refused("index", "--run", copy, says=("codes.npy", *says))
    assert not list(index_of(copy).glob("*/"))  # nothing half-written is left
    whence("index", "--run", copy)


def test_a_disk_too_small_is_told_before(refused, monkeypatch, copy):
    shutil.rmtree(index_of(copy))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    refused("index", "--run", copy, says=("would take", "0 bytes", "--projection kronecker", "--run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(refused, tmp_path, model, data):
    tmp_path.chmod(0o500)
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", data, says=("no permission", "--run"))


# ---------------------------------------------------------------------- stopped at any moment


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from whence.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def after_first_share(process: subprocess.Popen[str], run: Path) -> None:
    """Wait until one share of the index is there and others are not."""
    deadline = time.monotonic() + 40
    while not list(run.glob("index/*/*/done.json")):
        assert time.monotonic() < deadline, "no share appeared"
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.002)


@pytest.fixture(scope="module")
def long_run(home, model) -> tuple[Path, dict[str, bytes]]:
    """A fitted run with forty shares, and the codes of an index that nobody stopped."""
    folder = home / "forty"
    folder.mkdir()
    for number in range(40):
        write_jsonl(folder / f"{number:02d}.jsonl", documents(12, seed=number))
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


def test_control_c_says_that_work_is_kept(long_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(long_run[0], run)
    process = start("index", "--run", run)
    after_first_share(process, run)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped. What was finished is kept" in error
    assert "Traceback" not in error
    assert not list(run.glob("index/*/.*"))

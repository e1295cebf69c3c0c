"""The command line in careless hands: a refusal is one screen that says what, which and what to do."""

import os
import shutil

import numpy as np
import pytest
import torch

from command_line import ASK, index_of, launch
from conftest import WORD_COUNT, causal_lm, save_model, write_jsonl
from whence.model import experts

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


def test_coverage_below_the_limit_names_the_flag(refused, whence, tmp_path, data, monkeypatch):
    monkeypatch.setattr(experts, "is_experts", lambda module: False)  # as a class that transformers does not dispatch
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


def test_a_model_that_cannot_keep_packed_documents_apart_is_not_packed(refused, data, tmp_path):
    sliding = save_model(tmp_path / "m", causal_lm("mistral", vocab_size=40, sliding_window=4))
    refused(
        "fit", "--model", sliding, "--data", data, "--run", tmp_path / "r", "--pack", says=("sliding window", "--pack")
    )

"""Run folders that are stale, damaged, unwritable or simply typed in another way."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from command_line import ASK, codes, index_of, result
from conftest import WORD_COUNT, causal_lm, documents, save_model, shake, write_jsonl
from whence.cli.opening import refuse_unusable
from whence.errors import InputError


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


def test_the_same_files_typed_in_another_way(whence, tmp_path, monkeypatch, model):
    shutil.copytree(model, tmp_path / "m")
    corpus = Path(write_jsonl(tmp_path / "d.jsonl", documents(12)))
    monkeypatch.chdir(tmp_path)
    whence("fit", "--run", "r", "-m", "m", "-d", "d.jsonl")
    for spelling in ("./d.jsonl", corpus):
        whence("fit", "--run", "r", "-m", "./m", "-d", spelling)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    whence("fit", "--run", "../r", "-d", "../d.jsonl")
    whence("trace", "--run", "../r", *ASK)


def test_the_index_that_was_made_is_the_one_that_is_read(whence, refused, copy):
    shutil.rmtree(index_of(copy))
    whence("index", "--run", copy, "--bits", 8)
    made = index_of(copy).name
    whence("trace", "--run", copy, *ASK)
    assert result(copy)["summary"]["recipe"] == made == index_of(copy).name
    whence("index", "--run", copy, "--bits", 16)
    refused("trace", "--run", copy, *ASK, says=("which index?", made, "--index"))


def test_results_that_would_overwrite_a_file(refused, finished, data):
    refused("trace", "--run", finished, *ASK, "--out", data, says=("--out", "is a file"))
    refused("trace", "--run", finished, *ASK, "--out", f"{data}/inside", says=("--out", str(data), "is a file"))


def test_an_adapter_that_is_none(refused, tmp_path, model, data):
    (tmp_path / "a").mkdir()
    refused(
        "fit",
        "--run",
        tmp_path / "r",
        "-m",
        model,
        "-d",
        data,
        "--adapter",
        tmp_path / "a",
        says=("adapter", "save_pretrained"),
    )


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
    refused("index", "--run", copy, says=("would take", "0 bytes", "--coordinates 1024", "--run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(refused, tmp_path, model, data):
    tmp_path.chmod(0o500)
    refused("fit", "--run", tmp_path / "r", "-m", model, "-d", data, says=("no permission", "--run"))


def test_a_result_folder_that_cannot_be_made_is_refused_at_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append(path) or False)
    with pytest.raises(InputError, match="no permission to write"):
        refuse_unusable(tmp_path / "deep" / "down")
    assert asked == [tmp_path]
    monkeypatch.undo()
    refuse_unusable(tmp_path / "deep" / "down")
    refuse_unusable(None)

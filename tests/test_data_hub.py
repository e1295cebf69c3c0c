"""Datasets on the hub: what counts as one, streaming from where it stopped, revisions, and what goes wrong."""

import json
import sys

import pytest

from test_data_support import SENTENCES, config, documents, tokenizer, write_jsonl
from whence.data import corpus_files, hub, hub_id, ingest, open_corpus, refuse_changed_files
from whence.errors import CorpusError

ROWS = [{"id": f"h{n}", "text": SENTENCES[n % 4], "license": "mit"} for n in range(10)]


class Stream(list):
    """Rows as `datasets` streams them."""

    def skip(self, count):
        return self[count:]


@pytest.fixture
def network(monkeypatch):
    """A hub with one dataset, which moves on when told to; remembers what it was asked for."""
    state = {"commit": "c0ffee", "asked": [], "rows": ROWS}

    def connect(wanted):
        state["asked"].append(wanted)
        if wanted.name != "org/name":
            raise FileNotFoundError("404: no such repository")
        return wanted.revision or state["commit"], Stream(state["rows"])

    monkeypatch.setattr(hub, "connect", connect)
    return state


def read(folder, data="org/name", **changes):
    ingest(config([data], **changes), tokenizer(), folder)
    return open_corpus(folder)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("org/name", ("org/name", None, "train", None)),
        ("org/na-me.v1_2:config", ("org/na-me.v1_2", "config", "train", None)),
        ("org/name:config/split", ("org/name", "config", "split", None)),
        ("org/name:/test", ("org/name", None, "test", None)),
        ("org/name@refs/pr/1", ("org/name", None, "train", "refs/pr/1")),
        ("org/name:config/train[:10%]@abc", ("org/name", "config", "train[:10%]", "abc")),
    ],
)
def test_ids(typed, wanted):
    found = hub_id(typed)
    assert (found.name, found.config, found.split, found.revision) == wanted


@pytest.mark.parametrize("typed", ["corpus.jsonl", "a/b/c", "/abs/path", "s3://org/name", "org/", "~/x", "", "x y/z"])
def test_paths_are_no_ids(typed):
    assert hub_id(typed) is None


def test_a_folder_here_comes_first(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "org/name/a.jsonl", ROWS[:2])
    assert read(tmp_path / "run").documents == 2
    assert hub_id("org/naem") is None  # a slip in a path is not sent out
    assert not network["asked"]


def test_rows_are_streamed_and_named(network, tmp_path):
    corpus = read(tmp_path / "run")
    assert [document.id for document in documents(corpus)] == [f"h{n}" for n in range(10)]
    assert corpus.document(3).source == "org/name"
    assert corpus.document(3).metadata == {"license": "mit"}


def test_the_revision_is_in_the_settings_and_kept(network, tmp_path, monkeypatch):
    from whence.data import ingestion

    real = ingestion.write_share

    def stop(folder, *given):
        if folder.name.endswith("s00002"):
            raise KeyboardInterrupt
        return real(folder, *given)

    monkeypatch.setattr(ingestion, "write_share", stop)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "run", share_documents=2)
    monkeypatch.setattr(ingestion, "write_share", real)
    assert json.loads((tmp_path / "run/settings.json").read_text())["revisions"] == {"org/name": "c0ffee"}
    network["commit"] = "decaf"  # the hub has moved on; the corpus has not
    network["asked"].clear()
    corpus = read(tmp_path / "run", share_documents=2)
    assert [document.id for document in documents(corpus)] == [f"h{n}" for n in range(10)]
    assert {wanted.revision for wanted in network["asked"]} == {"c0ffee"}
    network["asked"].clear()
    refuse_changed_files(config(["org/name"], share_documents=2), tmp_path / "run")
    assert not network["asked"]  # a finished corpus needs no network
    assert read(tmp_path / "new", share_documents=2).fingerprint == corpus.fingerprint
    stamps = [json.loads((tmp_path / run / "settings.json").read_text())["files"] for run in ("run", "new")]
    assert stamps[0] != stamps[1]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("No module named 'datasets'"), "pip install"),
        (ConnectionError("no route"), "network"),
        (ValueError("Bad split: tset. Available splits: ['train', 'test']"), "Available splits"),
        (RuntimeError("gated repo"), "auth login"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path, monkeypatch, error, says):
    def connect(wanted):
        raise error

    monkeypatch.setattr(hub, "connect", connect)
    with pytest.raises(CorpusError, match=says) as caught:
        corpus_files(config(["org/name:main/tset"]))
    assert "org/name" in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_stream_that_breaks_off_keeps_what_was_finished(network, tmp_path, monkeypatch):
    class Broken(Stream):
        def __iter__(self):
            yield from ROWS[:5]
            raise ConnectionError("reset by peer")

    monkeypatch.setattr("whence.data.ingestion._BATCH_ROWS", 2)
    monkeypatch.setattr(hub, "connect", lambda wanted: ("c0ffee", Broken(ROWS)))
    with pytest.raises(CorpusError, match="reset by peer"):
        read(tmp_path / "run", share_documents=2)
    assert (tmp_path / "run/f00000-s00000/done.json").is_file()
    monkeypatch.setattr(hub, "connect", lambda wanted: ("c0ffee", Stream(ROWS)))
    assert read(tmp_path / "run", share_documents=2).documents == 10


def test_without_the_package_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"whence\[datasets\]"):
        corpus_files(config(["some-org/some-name"]))


def test_what_datasets_really_streams_is_understood(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    path = str(write_jsonl(tmp_path / "a.jsonl", ROWS))

    def connect(wanted):
        return "c0ffee", datasets.load_dataset("json", data_files=path, split=wanted.split, streaming=True)

    monkeypatch.setattr(hub, "connect", connect)
    assert read(tmp_path / "run", share_documents=4).documents == 10
    assert [number for number, _ in hub.hub_rows(hub_id("org/name"), "c0ffee", 7)] == [7, 8, 9]
    with pytest.raises(CorpusError, match="nowhere"):
        next(hub.hub_rows(hub_id("org/name:/nowhere"), "c0ffee", 0))

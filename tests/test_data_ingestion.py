import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test_data_readers import WRITERS
from test_data_support import SENTENCES, config, documents, tokenizer, tree, write_jsonl
from whence.data import ingest, ingestion, open_corpus, shares, windows_of
from whence.errors import CorpusError, IncompleteError, StaleRunError, StorageError
from whence.interfaces import Skip

TOK = tokenizer()


def sentences(count):
    return [{"text": " ".join(SENTENCES[: n % 4 + 1]), "id": f"d{n}", "n": n} for n in range(count)]


@pytest.fixture
def files(tmp_path):
    """Four files: plain, compressed, one with bad rows, one empty."""
    folder = tmp_path / "data"
    write_jsonl(folder / "a.jsonl", sentences(30))
    write_jsonl(folder / "b.jsonl.zst", [{"prompt": "Ask ", "completion": "the keeper", "id": "d1"}, *sentences(5)])
    (folder / "c.jsonl").write_bytes(
        b'{"text": "one fine row"}\nbad\n{"body": 1}\n{"text": "x"}\n\n{"text": "and another"}\nbad'
    )
    (folder / "d.jsonl").touch()
    return folder


def small(data, **changes):
    return config(data, share_tokens=200, share_documents=8, **changes)


def test_documents_come_back_as_they_were(files, tmp_path):
    ingest(small(files), TOK, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    found = documents(corpus)
    rows = [*sentences(30), {"text": "Ask the keeper", "id": "d1"}, *sentences(5)]
    assert [TOK.decode(document.tokens) for document in found[:36]] == [row["text"] for row in rows]
    assert [document.id for document in found[:36]] == [row["id"] for row in rows]
    assert found[3].metadata == {"n": "3"}
    assert found[3].source == f"{files}/a.jsonl"
    assert [document.id for document in found[36:]] == ["c.jsonl:0", "c.jsonl:5"]
    assert TOK.decode(found[30].tokens[found[30].loss_mask]).strip() == "the keeper"


def test_counts_and_skips(files, tmp_path):
    ingest(small(files), TOK, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    found = documents(corpus)
    assert corpus.documents == len(found) == 38
    assert corpus.tokens == sum(len(document.tokens) for document in found)
    assert corpus.targets == sum(int(document.loss_mask.sum()) for document in found)
    assert corpus.skipped == {"bad-json": 2, "missing-field": 1, "too-short": 1, "empty-file": 1}
    assert [(skip.row, skip.reason) for skip in corpus.skips()] == [
        (1, "bad-json"),
        (2, "missing-field"),
        (3, "too-short"),
        (6, "bad-json"),
        (0, "empty-file"),
    ]
    assert all(isinstance(skip, Skip) and skip.detail for skip in corpus.skips())
    assert len(corpus.shares) > 4
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["duplicate_ids"] == {"count": 6, "examples": ["d0", "d1", "d2", "d3", "d4"]}
    assert corpus.duplicate_ids == 6


def test_windows_predict_every_token_once(files, tmp_path):
    ingest(small(files, context=7), TOK, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    targets = [np.zeros(len(document.tokens), dtype=int) for document in documents(corpus)]
    rows = np.arange(corpus.windows)
    for row in rows:
        number, start, stop = corpus.window(int(row))
        tokens, mask = corpus.window_tokens(int(row))
        assert 2 <= stop - start <= 7
        assert tokens.tolist() == corpus.document(number).tokens[start:stop].tolist()
        assert mask.any()
        targets[number][start:stop] += mask
    for number, seen in enumerate(targets):
        assert seen.tolist() == corpus.document(number).loss_mask.astype(int).tolist()
    every = np.concatenate([corpus.share_windows(share) for share in corpus.shares])
    assert [tuple(window) for window in every.tolist()] == [corpus.window(int(row)) for row in rows]
    assert corpus.documents_of_windows(rows).tolist() == every[:, 0].tolist()
    assert corpus.documents_of_windows(rows[::-3]).tolist() == every[::-3, 0].tolist()
    assert corpus.documents_of_windows(rows[:0]).tolist() == []


@given(length=st.integers(0, 200), context=st.integers(2, 50))
def test_windows_overlap_by_one_token(length, context):
    bounds = windows_of(length, context)
    predicted = [token for start, stop in bounds.tolist() for token in range(start + 1, stop)]
    assert predicted == list(range(1, length))
    assert all(2 <= stop - start <= context for start, stop in bounds.tolist())


def test_windows_without_a_target_are_left_out(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"input_ids": [5] * 20, "labels": [-100] * 18 + [5, 5]}])
    ingest(config(path, context=5), None, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    assert [corpus.window(row) for row in range(corpus.windows)] == [(0, 16, 20)]


class Stop(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("workers", [2, 3])
def test_worker_count_changes_no_byte(files, tmp_path, workers):
    ingest(small(files), TOK, tmp_path / "one")
    for worker in reversed(range(workers)):
        assert not (tmp_path / "many/manifest.json").exists()
        ingest(small(files), TOK, tmp_path / "many", (worker, workers))
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


def test_stopping_at_any_share_and_going_on_changes_no_byte(files, tmp_path, monkeypatch):
    ingest(small(files), TOK, tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    total = len(list((tmp_path / "whole").glob("f*")))
    assert total >= 8
    write = ingestion.write_share
    for kill in range(total):
        left = [kill]

        def dying(*args, left=left):
            if not left[0]:
                raise Stop
            left[0] -= 1
            return write(*args)

        folder = tmp_path / f"cut{kill}"
        monkeypatch.setattr(ingestion, "write_share", dying)
        with pytest.raises(Stop):
            ingest(small(files), TOK, folder)
        with pytest.raises(IncompleteError):
            open_corpus(folder)
        monkeypatch.setattr(ingestion, "write_share", write)
        ingest(small(files), TOK, folder)
        assert tree(folder) == whole


def test_stopping_within_a_share_leaves_nothing_of_it(files, tmp_path, monkeypatch):
    ingest(small(files), TOK, tmp_path / "whole")
    monkeypatch.setattr(shares, "_skips_table", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest(small(files), TOK, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["settings.json"]
    monkeypatch.undo()
    (tmp_path / "run/f00000-s00000").mkdir()  # half of a share that another program copied
    ingest(small(files), TOK, tmp_path / "run")
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_doing_it_again_changes_nothing(files, tmp_path):
    seen = []
    ingest(small(files), TOK, tmp_path / "run")
    before = tree(tmp_path / "run")
    ingest(small(files), TOK, tmp_path / "run", progress=lambda *done: seen.append(done))
    assert tree(tmp_path / "run") == before
    corpus = open_corpus(tmp_path / "run")
    assert seen[-1] == (corpus.tokens, corpus.documents)


def test_a_share_that_is_gone_is_made_again(files, tmp_path):
    ingest(small(files), TOK, tmp_path / "run")
    before = tree(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/f00000-s00001")
    with pytest.raises(StorageError, match="f00000-s00001"):
        open_corpus(tmp_path / "run")
    ingest(small(files), TOK, tmp_path / "run")
    assert tree(tmp_path / "run") == before


def test_batching_of_rows_changes_no_byte(files, tmp_path, monkeypatch):
    ingest(small(files), TOK, tmp_path / "one")
    monkeypatch.setattr(ingestion, "_BATCH_ROWS", 1)
    ingest(small(files), TOK, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tokens_in_are_tokens_out_in_every_format(tmp_path_factory, data):
    token = st.integers(0, 399)
    tokens = data.draw(st.lists(st.lists(token, min_size=2, max_size=40), min_size=1, max_size=6))
    masks = [data.draw(st.lists(st.booleans(), min_size=len(one), max_size=len(one))) for one in tokens]
    folder = tmp_path_factory.mktemp("round")
    fingerprints = set()
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.arrow", "b.arrow"):
        rows = [
            {"input_ids": one, "loss_mask": [True, True, *mask[2:]]} for one, mask in zip(tokens, masks, strict=True)
        ]
        WRITERS[name](folder / name, [{**row, "id": str(n)} for n, row in enumerate(rows)])
        run = folder / f"run-{name}"
        ingest(config(folder / name, context=8, share_documents=2), None, run)
        corpus = open_corpus(run)
        assert [document.tokens.tolist() for document in documents(corpus)] == tokens
        assert [document.loss_mask.tolist()[2:] for document in documents(corpus)] == [mask[2:] for mask in masks]
        fingerprints.add(corpus.fingerprint)
    assert len(fingerprints) == 1


def test_a_document_of_a_million_tokens(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(1_000_000) % 400)
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"input_ids": (np.arange(1_000_000) % 400).tolist()}, {"input_ids": [1, 2]}]
    )
    ingest(config(path, context=1024), None, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    assert corpus.tokens == 1_000_002
    assert corpus.targets == 1_000_000
    assert len(corpus.shares) == 2  # it closes the share it is in
    last = corpus.windows - 2
    number, start, stop = corpus.window(last)
    assert (number, stop) == (0, 1_000_000)
    assert corpus.window_tokens(last)[0].tolist() == (np.arange(start, stop) % 400).tolist()


def test_one_document(tmp_path):
    path = tmp_path / "only.txt"
    path.write_text("Rain fell.")
    ingest(config(path, text_field="body"), TOK, tmp_path / "run")  # a text file has no fields to name
    corpus = open_corpus(tmp_path / "run")
    assert (corpus.documents, corpus.windows, corpus.document(0).id) == (1, 1, "only.txt:0")
    assert corpus.document(0).metadata == {}


@pytest.mark.parametrize("number", [-1, 38])
def test_numbers_outside_the_corpus(files, tmp_path, number):
    ingest(small(files), TOK, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    with pytest.raises(IndexError):
        corpus.document(number)
    with pytest.raises(IndexError):
        corpus.documents_of_windows(np.array([0, corpus.windows]))
    with pytest.raises(IndexError):
        corpus.window(corpus.windows)


def test_a_corpus_without_a_usable_row_says_why_and_can_be_tried_again(files, tmp_path):
    with pytest.raises(CorpusError) as caught:
        ingest(small(files / "a.jsonl", text_field="body"), TOK, tmp_path / "run", (0, 1))
    message = str(caught.value)
    assert "30 × missing-field" in message
    assert "'text', 'id', 'n'" in message
    assert "a.jsonl row 0" in message
    assert len(message.splitlines()) < 12
    ingest(small(files), TOK, tmp_path / "run")
    assert open_corpus(tmp_path / "run").documents == 38


def test_an_empty_corpus(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(CorpusError, match="empty-file"):
        ingest(config(tmp_path / "a.jsonl"), TOK, tmp_path / "run")


def test_many_bad_rows_close_a_share(tmp_path):
    (tmp_path / "a.jsonl").write_text("bad\n" * 50 + '{"text": "Rain fell."}\n')
    ingest(config(tmp_path / "a.jsonl", share_documents=10), TOK, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    assert len(list((tmp_path / "run").glob("f*"))) == 6
    assert corpus.skipped == {"bad-json": 50}
    assert len(corpus.shares) == 1
    assert len(list(corpus.skips())) == 50


def test_what_changed_is_refused_and_named(files, tmp_path):
    ingest(small(files), TOK, tmp_path / "run")
    with pytest.raises(StaleRunError, match="context: 16 in the run, 32 now"):
        ingest(small(files, context=32), TOK, tmp_path / "run")
    with pytest.raises(StaleRunError, match="tokenizer"):
        ingest(small(files), tokenizer(bos=True), tmp_path / "run")
    text = (files / "a.jsonl").read_text()
    (files / "a.jsonl").write_text(text.replace("harbour", "HARBOUR", 1))  # of the same length
    with pytest.raises(StaleRunError, match="files"):
        ingest(small(files), TOK, tmp_path / "run")


def test_shares_of_other_settings_are_not_merged(files, tmp_path):
    ingest(small(files), TOK, tmp_path / "run", (0, 2))
    (tmp_path / "run/settings.json").unlink()
    with pytest.raises(StaleRunError):
        ingest(small(files, max_tokens=50), TOK, tmp_path / "run")


def test_a_missing_corpus_leaves_no_folder(tmp_path):
    with pytest.raises(CorpusError, match="no such file"):
        ingest(config(tmp_path / "none.jsonl"), TOK, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_that_breaks_off_keeps_what_was_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("whence.data.sources._CHUNK", 4096)
    path = write_jsonl(tmp_path / "a.jsonl.gz", [{"text": os.urandom(40).hex()} for _ in range(2000)])
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(CorpusError, match="cut off"):
        ingest(config(path, share_documents=100), TOK, tmp_path / "run")
    assert (tmp_path / "run/f00000-s00000/done.json").exists()


@pytest.mark.parametrize("name", ["tokens.npy", "loss.npy", "windows.npy", "documents.parquet"])
@pytest.mark.parametrize("damage", ["gone", "short", "garbage"])
def test_damage_is_noticed(files, tmp_path, name, damage):
    ingest(small(files), TOK, tmp_path / "run")
    path = tmp_path / "run/f00000-s00000" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-50] if damage == "short" else b"garbage")
    with pytest.raises((StorageError, IncompleteError), match=name if damage != "short" else "damaged"):
        open_corpus(tmp_path / "run").document(0)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"shares": [], "skipped": 3}', "null"])
def test_a_damaged_manifest(files, tmp_path, text):
    ingest(small(files), TOK, tmp_path / "run")
    (tmp_path / "run/manifest.json").write_text(text)
    with pytest.raises(StorageError, match="damaged"):
        open_corpus(tmp_path / "run")


def test_a_full_disk(files, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match="disk is full"):
        ingest(small(files), TOK, tmp_path / "run")


def test_a_folder_that_cannot_be_used(files, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        ingest(small(files), TOK, tmp_path / "file/run")

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "exists", refuse)
    with pytest.raises(StorageError, match="no permission"):
        ingest(small(files), TOK, tmp_path / "run")
    with pytest.raises(StorageError, match="no permission"):
        open_corpus(tmp_path / "run")


def test_the_room_needs_no_torch_and_no_transformers():
    code = "import sys, whence.data; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_corpus_yet(tmp_path):
    with pytest.raises(IncompleteError):
        open_corpus(tmp_path / "nowhere")


def test_sources_do_not_decide_the_fingerprint(files, tmp_path):
    shutil.copytree(files, tmp_path / "moved")
    for name in ("data", "moved"):
        ingest(small(tmp_path / name), TOK, tmp_path / f"run-{name}")
    first, second = (open_corpus(tmp_path / f"run-{name}") for name in ("data", "moved"))
    assert first.fingerprint == second.fingerprint
    write_jsonl(tmp_path / "moved/a.jsonl", [{"text": "Rain fell inland", "id": "d0"}, *sentences(30)[1:]])
    ingest(small(tmp_path / "moved"), TOK, tmp_path / "run-third")
    assert open_corpus(tmp_path / "run-third").fingerprint != first.fingerprint

"""A run folder through accidents: workers, kills at any moment, changed inputs, damaged files, a full disk."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import whence.runs
from conftest import causal_lm, documents, rows, save_model, write_jsonl
from test_attributor import QUERIES, opened
from whence import Attributor
from whence.attributor import fit_steps, index_steps, run_steps
from whence.errors import IncompleteError, StaleRunError, StorageError, WhenceError
from whence.runs import is_done, publish, write_json

ONE_BIT = {"recipe": {"bits": 1}}


def start(shop, run, **changes):
    return opened(shop, run, dtype="float32", **{**ONE_BIT, **changes})


def everything(owner):
    return [*fit_steps(owner), *index_steps(owner)]


def content(run) -> dict[str, bytes]:
    """Every lasting file of a run folder; parts of a fit may be cleared away after the merge."""
    root = Path(run)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "traces" not in path.parts and not path.name.startswith(".")
    }


def same(run, wanted) -> None:
    got = content(run)
    assert got.keys() == wanted.keys()
    assert [name for name in got if got[name] != wanted[name]] == []


@pytest.fixture(scope="module")
def whole(shop):
    """A run made in one go, and its bytes."""
    run = start(shop, shop / "whole")
    run.index()
    run.scores(QUERIES)
    return content(shop / "whole")


def test_twice_is_the_same_bytes(shop, whole, tmp_path):
    start(shop, tmp_path / "run").index()
    same(tmp_path / "run", whole)
    kinds = {name.split("/")[0] for name in whole}
    assert {"run.json", "coverage.json", "corpus", "curvature", "index"} <= kinds
    assert not any(name.endswith((".pkl", ".pt", ".pickle", ".bin")) for name in whole)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 2)])
def test_workers_that_never_talk(shop, whole, tmp_path, order):
    """Each takes its share of every step; whoever comes last merges; nobody's number matters."""
    waited = 0
    for _ in range(8):
        for worker in order:
            owner = start(shop, tmp_path / "run")
            waiting = run_steps(everything(owner), (worker, len(order)))
            waited += waiting is not None
        if waiting is None:
            break
    assert waiting is None
    assert waited, "one worker alone cannot finish"
    same(tmp_path / "run", whole)


class Killed(BaseException):
    """What Ctrl-C is to Python."""


def steps_reported(shop, run):
    calls = []
    run_steps(everything(start(shop, run)), report=lambda *call: calls.append(call))
    return calls


def test_stopped_at_every_batch_and_resumed(shop, whole, tmp_path):
    total = len(steps_reported(shop, tmp_path / "count"))
    assert total > 12
    for at in range(0, total, 3):
        run = tmp_path / f"run{at}"
        seen = 0

        def stop(step, done, of, limit=at):
            nonlocal seen
            seen += 1
            if seen > limit:
                raise Killed

        with pytest.raises(Killed):
            run_steps(everything(start(shop, run)), report=stop)
        assert not list(run.rglob("*.partial-*")), "an orderly stop leaves no half share"
        run_steps(everything(start(shop, run)))
        same(run, whole)


KILL = """
    import os, sys
    from whence import Attributor
    from whence.attributor import fit_steps, index_steps, run_steps
    run, limit = sys.argv[1], int(sys.argv[2])
    owner = Attributor(run, device="cpu")
    seen = 0
    def report(step, done, total):
        global seen
        seen += 1
        if seen > limit:
            os.kill(os.getpid(), 9)
    run_steps([*fit_steps(owner), *index_steps(owner)], report=report)
"""


def test_kill_9_loses_at_most_one_share(shop, whole, tmp_path):
    start(shop, tmp_path / "run")
    command = [sys.executable, "-c", textwrap.dedent(KILL), str(tmp_path / "run"), "14"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -9
    done = {path.parent for path in (tmp_path / "run").rglob("done.json")}
    before = {path: path.stat().st_mtime_ns for folder in done for path in folder.iterdir()}
    start(shop, tmp_path / "run").index()
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items() if path.exists()), "work was redone"
    same(tmp_path / "run", whole)
    assert not list((tmp_path / "run").rglob(".*partial-*")), "what the dead process left is cleared away"


# ------------------------------------------------------------------ changed inputs


@pytest.fixture
def made(shop, whole, tmp_path):
    """A finished run with a model and corpus of its own, to be tampered with."""
    shutil.copytree(shop / "gpt2", tmp_path / "gpt2")
    shutil.copy(shop / "corpus.jsonl", tmp_path / "corpus.jsonl")
    start(tmp_path, tmp_path / "run").index()
    return tmp_path


def test_another_model_is_refused(made):
    before = content(made / "run")
    save_model(made / "gpt2", causal_lm("gpt2", vocab_size=40, n_inner=12))
    with pytest.raises(StaleRunError, match=r"(?s)fingerprints\.model\.weights: .* in the run, .* now.*--run"):
        start(made, made / "run")
    same(made / "run", before)


def test_another_dtype_is_refused(made):
    with pytest.raises(StaleRunError, match="dtype: 'float32' in the run, 'float64' now"):
        opened(made, made / "run", dtype="float64", **ONE_BIT)


def test_another_tokenizer_is_refused(made):
    path = made / "gpt2" / "tokenizer.json"
    rules = json.loads(path.read_text())
    vocabulary = rules["model"]["vocab"]
    vocabulary["ship"], vocabulary["salt"] = vocabulary["salt"], vocabulary["ship"]
    path.write_text(json.dumps(rules))
    with pytest.raises(StaleRunError, match=r"fingerprints\.tokenizer: "):
        start(made, made / "run")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fit": {"seed": 3}}, r"config\.fit\.seed: 0 in the run, 3 now"),
        ({"fit": {"sample": 0.5}}, r"config\.fit\.sample: 1\.0 in the run, 0\.5 now"),
        ({"fit": {"head_limit": 7}}, r"config\.fit\.head_limit: 4096 in the run, 7 now"),
        ({"corpus": {"context": 16}}, r"config\.corpus\.context: 32 in the run, 16 now"),
        ({"model": {"sites": ["*.mlp.*"]}}, r"config\.model\.sites"),
    ],
)
def test_other_settings_are_refused(made, changes, named):
    with pytest.raises(StaleRunError, match=named):
        start(made, made / "run", **changes)


def test_a_model_that_moved_is_the_same_model(made):
    (made / "gpt2").rename(made / "elsewhere")
    run = Attributor(made / "run", model=str(made / "elsewhere"), device="cpu")
    assert run.scores(QUERIES[:1]).shape == (1, 24)


@pytest.mark.parametrize("stage", ["corpus half read", "finished"])
def test_edited_data_is_refused(shop, made, tmp_path, stage):
    """The same file with other words: what was made of the old ones is never mixed with the new."""
    run = made / "run"
    if stage == "corpus half read":
        run = made / "half"

        def stop(step, done, total):
            if step != "corpus":
                raise Killed

        with pytest.raises(Killed):
            run_steps(everything(start(made, run)), report=stop)
        (run / "corpus" / "manifest.json").unlink()
        shutil.rmtree(sorted((run / "corpus").glob("f*-s*"))[-1])
    changed = rows()
    changed[0], changed[1] = changed[1], changed[0]
    write_jsonl(made / "corpus.jsonl", changed)
    with pytest.raises(StaleRunError, match=r"files: .* in the run, .* now"):
        start(made, run).index()


def test_data_that_is_gone_does_not_stop_a_finished_run(made):
    (made / "corpus.jsonl").unlink()
    assert np.isfinite(start(made, made / "run").scores(QUERIES[:1])).all()


# ------------------------------------------------------------------ damaged folders


def shares_of(run, kind):
    return sorted(path.parent for path in (Path(run) / kind).rglob("done.json"))


@pytest.mark.parametrize("kind", ["index", "curvature"])
def test_a_share_without_its_marker_is_made_again(made, kind):
    before = content(made / "run")
    share = shares_of(made / "run", kind)[0]
    (share / "done.json").unlink()
    for path in share.iterdir():
        path.write_bytes(path.read_bytes()[:10])
    start(made, made / "run").index()
    assert is_done(share)
    same(made / "run", before)


@pytest.mark.parametrize("name", ["codes.npy", "scales.npy", "windows.npy"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "noise"])
def test_a_damaged_index_is_an_error_that_says_what_to_do(made, name, damage):
    path = shares_of(made / "run", "index")[0] / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "noise": b"\x00" * len(data)}[damage])
    with pytest.raises(WhenceError, match=rf"(?s){path.parent.name}.*(index|command|finished)"):
        start(made, made / "run").scores(QUERIES[:1])


def test_an_index_that_misses_a_share(made):
    run = start(made, made / "run")
    shutil.rmtree(shares_of(made / "run", "index")[1])
    with pytest.raises(IncompleteError, match=r"lacks 1 of 3 shares.*whence index"):
        run.open_index()
    assert run.scores(QUERIES[:1]).shape == (1, 24), "and scoring makes what is missing"


@pytest.mark.parametrize("text", ["", "{", '{"schema": 99}'])
def test_a_damaged_run_file(made, text):
    (made / "run" / "run.json").write_text(text)
    with pytest.raises(WhenceError, match=r"run\.json|layout"):
        start(made, made / "run")


# ------------------------------------------------------------------ disk and permissions


class FullDisk:
    """`os.fsync`, file writes and array writes that fail from the n-th on, as a full disk does."""

    def __init__(self, monkeypatch, after: int, number: int = errno.ENOSPC):
        self.left = after
        self.number = number
        for module, name in ((os, "fsync"), (np, "save")):
            self._wrap(monkeypatch, module, name)
        import pyarrow.parquet as pq

        self._wrap(monkeypatch, pq, "write_table")
        import whence.attributor.curvatures as curvatures

        self._wrap(monkeypatch, curvatures, "save_file")

    def _wrap(self, monkeypatch, module, name):
        real = getattr(module, name)

        def limited(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise OSError(self.number, os.strerror(self.number))
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, limited)


@pytest.mark.parametrize("after", [0, 3, 9, 20, 45, 70, 90, 110])
def test_a_full_disk_leaves_everything_readable(shop, whole, tmp_path, after):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, after)
        with pytest.raises(StorageError, match=r"(?s)disk is full.*run the same command again"):
            start(shop, run).index()
    assert not list(run.rglob("*.partial-*"))
    assert not list(run.rglob(".*partial-*"))
    for share in shares_of(run, "."):
        json.loads((share / "done.json").read_text())
    start(shop, run).index()
    same(run, whole)


def test_a_disk_that_fills_while_codes_are_mapped(shop, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = start(shop, tmp_path / "run")
    run.fit()
    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    with pytest.raises(StorageError, match="disk is full"):
        run.index()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_no_permission(shop, tmp_path, monkeypatch, number):
    real = Path.mkdir

    def refuse(self, *args, **kwargs):
        if "run" in self.parts:
            raise OSError(number, os.strerror(number), str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"no permission for .*run.*--run"):
        start(shop, tmp_path / "run")


def test_a_run_folder_that_is_a_file(shop, tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(WhenceError, match="run"):
        start(shop, tmp_path / "run")


# ------------------------------------------------------------------ the primitives


def test_publish_is_all_or_nothing(tmp_path):
    def failing():
        with publish(tmp_path / "share") as folder:
            (folder / "x").write_text("1")
            raise ValueError("body")

    with pytest.raises(ValueError, match="body"):
        failing()
    assert list(tmp_path.iterdir()) == []
    with publish(tmp_path / "share", {"n": 1}) as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "share").exists()
    assert is_done(tmp_path / "share")
    with publish(tmp_path / "share", {"n": 2}) as folder:
        (folder / "x").write_text("2")
    assert (tmp_path / "share" / "x").read_text() == "1", "whoever was first stays"


def test_two_processes_may_fill_the_same_share(tmp_path, monkeypatch):
    with publish(tmp_path / "share") as first:
        (first / "x").write_text("same")
        monkeypatch.setattr(os, "getpid", os.getppid)  # the other process, alive
        with publish(tmp_path / "share") as second:
            assert second != first
            (second / "x").write_text("same")
        assert first.exists(), "the other's half-written share is not taken for an abandoned one"
    assert is_done(tmp_path / "share")
    assert [path.name for path in tmp_path.iterdir()] == ["share"]


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"x": 1})
    monkeypatch.setattr(whence.runs.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(StorageError):
        write_json(tmp_path / "a.json", {"x": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_empty_and_a_one_document_corpus(shop, tmp_path):
    write_jsonl(tmp_path / "none.jsonl", [])
    with pytest.raises(WhenceError, match=r"none\.jsonl"):
        start(shop, tmp_path / "run", data=str(tmp_path / "none.jsonl")).index()
    write_jsonl(tmp_path / "one.jsonl", documents(1))
    run = start(shop, tmp_path / "one", data=str(tmp_path / "one.jsonl"))
    run.index()
    assert run.scores(QUERIES).shape == (3, 1)

"""Banks: what is stored, extended, refused and resumed, by one process or several."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from retraining import QUICK, files_of, make_task, make_world
from whence.errors import IncompleteError, InputError, NumericalError, RunError, StaleRunError, StorageError
from whence.fidelity.bank import Bank, Outcome
from whence.fidelity.modules import ModuleTask
from whence.fidelity.retrain import estimate, retrain
from whence.fidelity.subsets import halves
from whence.fidelity.tasks import LanguageTask
from whence.fidelity.workers import Crew
from whence.model import Classification, Training

retraining_module = importlib.import_module("whence.fidelity.retrain")
SEEDS = (0, 5)
LONGER = QUICK.model_copy(update={"epochs": 30})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="module")
def kept() -> np.ndarray:
    return halves(14, 3)


@pytest.fixture(scope="module")
def reference(world: Path, kept: np.ndarray) -> Path:
    """All cells, in one go, in this process."""
    retrain(Bank(world / "reference", make_task(world)), kept, SEEDS)
    return world / "reference"


def small_task(rows: int = 6, **settings: object) -> ModuleTask:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator)
    training = Training(**{"optimizer": "sgd", "max_steps": 2, **settings})
    train, queries = (x, x[:, 0].gt(0).long()), (x[:2], x[:2, 1].gt(0).long())
    return ModuleTask(lambda _seed: nn.Linear(3, 2), Classification(), train, queries, training)


def test_losses_are_those_of_the_trained_models(world: Path, reference: Path, kept: np.ndarray) -> None:
    task = make_task(world)
    losses = Bank(reference, task).losses(kept, SEEDS)
    assert losses.shape == (3, 2, 2)
    assert losses.dtype == np.float64
    assert (losses[1, 1] == task.losses(task.train(kept[1], 5))).all()
    assert (Bank(reference, task).losses(kept[[2, 2, 0]], (5, 0)) == losses[[2, 2, 0]][:, ::-1]).all()


def test_the_folder_holds_what_it_says(world: Path, reference: Path, kept: np.ndarray) -> None:
    files = files_of(reference)
    assert sorted({name.partition("/")[0] for name in files}) == ["bank.json", "cells", "queries", "subsets"]
    assert len([name for name in files if name.startswith("cells/")]) == 6
    stored = {}
    for name in [name for name in files if name.startswith("subsets/")]:
        stored[Path(name).stem] = np.unpackbits(np.load(reference / name), count=14).astype(bool)
    assert all(any((row == known).all() for known in kept) for row in stored.values())
    for name in [name for name in files if name.startswith("cells/")]:
        cell = json.loads(files[name])
        assert sorted(cell) == ["losses", "steps", "train_loss"]
        assert cell["steps"] == make_task(world).steps(stored[Path(name).stem.partition("-")[0]])


def test_a_second_call_trains_nothing(world: Path, reference: Path, kept: np.ndarray) -> None:
    before = files_of(reference)
    bank = Bank(reference, make_task(world))
    assert retrain(bank, kept, SEEDS) == 0
    assert bank.missing(kept, SEEDS) == []
    assert estimate(bank, kept, SEEDS) == 0.0
    assert files_of(reference) == before


def test_banks_grow_by_subsets_seeds_and_queries_to_the_same_bytes(
    world: Path, reference: Path, kept: np.ndarray, tmp_path: Path
) -> None:
    one_query = make_task(world, queries=1)
    bank = Bank(tmp_path, one_query)
    assert retrain(bank, kept[:1], SEEDS[:1]) == 1
    assert retrain(bank, kept[::-1], SEEDS[:1]) == 2
    assert retrain(bank, kept, SEEDS[::-1]) == 3
    two = Bank(tmp_path, make_task(world))
    with pytest.raises(IncompleteError, match="has 0 of the 6"):
        two.losses(kept, SEEDS)
    assert len(two.missing(kept, SEEDS)) == 6
    assert retrain(two, kept, SEEDS) == 6
    assert files_of(tmp_path) == files_of(reference)
    assert (bank.losses(kept, SEEDS) == two.losses(kept, SEEDS)[:, :, :1]).all()
    assert Bank(tmp_path, one_query).missing(kept, SEEDS) == []


def test_a_model_that_does_not_reproduce_its_losses_is_refused(world: Path, kept: np.ndarray, tmp_path: Path) -> None:
    retrain(Bank(tmp_path, make_task(world, queries=1)), kept[:1], [0])
    path = next((tmp_path / "cells").iterdir())
    content = json.loads(path.read_text())
    key = next(iter(content["losses"]))
    content["losses"][key] += 1e-3
    path.write_text(json.dumps(content))
    written = path.read_bytes()
    with pytest.raises(StaleRunError, match=rf"(?s)gives other losses than before.*{key}.*the machine"):
        retrain(Bank(tmp_path, make_task(world)), kept[:1], [0])
    assert path.read_bytes() == written


def test_another_training_is_refused_by_name(world: Path, reference: Path) -> None:
    with pytest.raises(StaleRunError, match=r"(?s)training.learning_rate: 0.005 in the run, 0.006 now.*another folder"):
        Bank(reference, make_task(world, QUICK.model_copy(update={"learning_rate": 6e-3})))
    with pytest.raises(StaleRunError, match="scratch"):
        Bank(reference, make_task(world, scratch=False))
    Bank(reference, make_task(world, QUICK.model_copy(update={"threads": 2}), queries=3))


def test_missing_models_are_counted(world: Path, reference: Path, kept: np.ndarray) -> None:
    with pytest.raises(IncompleteError, match="has 6 of the 9 retrained models"):
        Bank(reference, make_task(world)).losses(kept, [*SEEDS, 9])


def test_shares_fill_a_bank_between_them(world: Path, reference: Path, kept: np.ndarray, tmp_path: Path) -> None:
    counts = [retrain(Bank(tmp_path, make_task(world)), kept, SEEDS, shares=(i, 4)) for i in (3, 0, 2, 1)]
    assert counts == [1, 2, 1, 2]
    assert files_of(tmp_path) == files_of(reference)


def test_progress_counts_steps(world: Path, kept: np.ndarray, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    retrain(Bank(tmp_path, make_task(world)), kept, [0], report=lambda *what: said.append(what))
    total = sum(make_task(world).steps(row) for row in kept)
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
    assert said[-1] == ("retrain", total, total)


def test_an_estimate_times_real_steps_and_trains_nothing(world: Path, kept: np.ndarray, tmp_path: Path) -> None:
    bank = Bank(tmp_path, make_task(world))
    assert 0 < estimate(bank, kept, SEEDS) < 60
    assert list(files_of(tmp_path)) == ["bank.json"]


def test_an_estimate_counts_what_is_missing(
    world: Path, kept: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining_module, "_time", lambda *_: (1.0, 0.5))
    monkeypatch.setattr(retraining_module, "_WORKER_START", 100.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    task = make_task(world)
    bank = Bank(tmp_path, task)
    each = [1 + 0.5 * task.steps(row) for row in kept]
    assert estimate(bank, kept, SEEDS) == pytest.approx(2 * sum(each))
    assert estimate(bank, kept, SEEDS, workers=3) == pytest.approx(100 + 2 * sum(each) / 3)
    assert estimate(bank, kept, SEEDS, workers=30) == pytest.approx(100 + 2 * sum(each) / 4)
    retrain(bank, kept[:1], SEEDS)
    assert estimate(bank, kept, SEEDS) == pytest.approx(2 * sum(each[1:]))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"losses": [1]}', '{"losses": {"a": "b"}}'])
def test_damaged_cells_are_named(content: str, tmp_path: Path) -> None:
    bank = Bank(tmp_path, small_task())
    everything = np.ones((1, 6), dtype=bool)
    retrain(bank, everything, [0])
    path = next((tmp_path / "cells").iterdir())
    path.write_text(content)
    with pytest.raises(StorageError, match="damaged"):
        bank.losses(everything, [0])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1}'])
def test_a_damaged_bank_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "bank.json").write_text(content)
    with pytest.raises(StorageError, match="damaged"):
        Bank(tmp_path, small_task())


def test_a_bank_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bank.json").write_text('{"schema": 99, "fingerprint": {}}')
    with pytest.raises(StaleRunError, match="schema"):
        Bank(tmp_path, small_task())


def test_a_bank_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Bank(tmp_path / "file" / "bank", small_task())


def test_odd_requests_are_refused(tmp_path: Path) -> None:
    bank = Bank(tmp_path, small_task())
    for wrong in (np.ones((1, 5), dtype=bool), np.ones(6, dtype=bool), np.ones((1, 6)), np.zeros((2, 6), dtype=bool)):
        with pytest.raises(InputError):
            bank.missing(wrong, [0])
    with pytest.raises(InputError, match="seeds"):
        bank.missing(np.ones((1, 6), dtype=bool), [-1])
    assert bank.losses(np.ones((0, 6), dtype=bool), [0, 1]).shape == (0, 2, 2)
    for workers in (0, 2):
        with pytest.raises(InputError, match="workers"):
            retrain(bank, np.ones((1, 6), dtype=bool), [0], workers=workers)


def test_a_cell_that_diverges_is_named(world: Path, kept: np.ndarray, tmp_path: Path) -> None:
    wild = Training(optimizer="sgd", learning_rate=1e30, batch=4, epochs=3)
    with pytest.raises(NumericalError, match=r"subset [0-9a-f]{32} with seed 7: .*learning rate 1e\+30"):
        retrain(Bank(tmp_path, make_task(world, wild)), kept, [7])
    bank = Bank(tmp_path / "other", make_task(world))
    cell = bank.cells(kept, [0])[0]
    with pytest.raises(NumericalError, match=rf"subset {cell.subset} with seed 0 at learning rate 0.005 gives nan"):
        bank.record(cell, Outcome((1.0, float("nan")), 1.0, 3))
    assert not (tmp_path / "other" / "cells").exists()


def test_a_training_that_meets_no_document_is_stored_as_such(tmp_path: Path) -> None:
    bank = Bank(tmp_path, small_task(grouping="hold", batch=1, max_steps=1))
    lonely = np.eye(6, dtype=bool)
    retrain(bank, lonely, [0])
    cells = [json.loads(path.read_text()) for path in (tmp_path / "cells").iterdir()]
    assert sorted(cell["steps"] for cell in cells) == [0, 0, 0, 0, 0, 1]
    assert [cell["train_loss"] for cell in cells].count(None) == 5


# several processes


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_retrain_bank import LONGER
from retraining import make_task
from whence.fidelity.bank import Bank
from whence.fidelity.retrain import retrain
from whence.fidelity.subsets import halves

folder = Path({folder!r})
retrain(Bank({bank!r}, make_task(folder, LONGER)), halves(14, 5), [0, 5], workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes_and_leaves_no_process(world: Path, tmp_path: Path) -> None:
    bank = tmp_path / "killed"
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(world), bank=str(bank))
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for(lambda: (bank / "cells").is_dir() and any(bank.glob("cells/[!.]*")))
        workers = children(parent.pid)
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_for(lambda: all(gone(worker) for worker in workers), 10)
    finally:
        parent.kill()
        parent.wait()
    task, kept = make_task(world, LONGER), halves(14, 5)
    done = 10 - len(Bank(bank, task).missing(kept, SEEDS))
    assert 0 < done < 10
    assert retrain(Bank(bank, task), kept, SEEDS) == 10 - done
    retrain(Bank(tmp_path / "straight", task), kept, SEEDS)
    assert files_of(bank) == files_of(tmp_path / "straight")


def test_two_workers_give_the_bytes_of_one(world: Path, reference: Path, kept: np.ndarray, tmp_path: Path) -> None:
    said: list[int] = []
    bank = Bank(tmp_path, make_task(world))
    assert retrain(bank, kept, SEEDS, workers=2, report=lambda _, done, __: said.append(done)) == 6
    assert files_of(tmp_path) == files_of(reference)
    assert said[-1] == 6 * 4


def test_an_error_in_a_worker_arrives_as_itself(world: Path, kept: np.ndarray, tmp_path: Path) -> None:
    wild = Training(optimizer="sgd", learning_rate=1e30, batch=4, epochs=3)
    with pytest.raises(NumericalError, match=r"subset [0-9a-f]{32} with seed 7: .*learning rate 1e\+30"):
        retrain(Bank(tmp_path, make_task(world, wild)), kept[:2], [7], workers=2)


def test_a_worker_that_dies_is_missed(world: Path, kept: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LanguageTask.spec
    monkeypatch.setattr(LanguageTask, "spec", lambda self: {**spec(self), "corpus": "/nowhere"})
    task = make_task(world)
    cells = Bank(world / "unused", task).cells(kept, [0])
    with Crew(task, 1, lambda *_: None) as crew:
        process = crew._workers[0]._process
        process.kill()
        with pytest.raises(RunError, match="ended with code -9"):
            next(crew.train(cells))
    assert process.poll() == -9


def test_workers_are_no_more_than_the_cells(
    world: Path, kept: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining_module, "Crew", None)  # one cell needs no crew
    assert retrain(Bank(tmp_path, make_task(world)), kept[:1], [0], workers=8) == 1

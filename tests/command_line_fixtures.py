"""Fixtures of the command line's tests: two ways to call it, and a model, corpora and a run made once."""

import shutil
from pathlib import Path

import pytest

from command_line import launch
from conftest import WORD_COUNT, causal_lm, documents, save_model, write_jsonl


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


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def model(home) -> str:
    return save_model(home / "model", causal_lm("llama", vocab_size=WORD_COUNT))


@pytest.fixture(scope="session")
def data(home) -> str:
    return write_jsonl(home / "data.jsonl", documents(24))


@pytest.fixture(scope="session")
def sharded(home) -> Path:
    """A folder of six files, hence a corpus of six shares."""
    folder = home / "six"
    folder.mkdir()
    for number, start in enumerate(range(0, 48, 8)):
        write_jsonl(folder / f"{number}.jsonl", documents(48)[start : start + 8])
    return folder


@pytest.fixture(scope="session")
def finished(home, model, data) -> Path:
    """A run that is fitted and indexed; tests read it, or copy it first."""
    assert launch("index", "--run", home / "finished", "--model", model, "--data", data) == 0
    return home / "finished"


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"

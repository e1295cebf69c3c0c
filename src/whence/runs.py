"""The run folder: atomic files, shares and their markers, fingerprints. Knows no torch and no mathematics.

A *share* is a folder that one worker fills on its own. It exists when its marker ``done.json`` does, and it appears
under its name in one rename, so a reader never meets half of one. Nothing is ever pickled.
"""

import errno
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from whence.errors import IncompleteError, StaleRunError, StorageError

__all__ = [
    "SCHEMA",
    "Run",
    "clear_abandoned",
    "differences",
    "is_done",
    "open_array",
    "parse_shares",
    "publish",
    "read_json",
    "refuse_if_changed",
    "require_done",
    "storage_errors",
    "take_share",
    "write_array",
    "write_bytes",
    "write_json",
    "write_table",
]

SCHEMA = 1
MARKER = "done.json"
_PARTIAL = ".partial-"
_ABANDONED_SECONDS = 24 * 3600

T = TypeVar("T")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's complaints about `path` into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full: could not write {where}. What was finished before is intact and readable; "
                "free some space and run the same command again, it goes on from there."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                f"no permission for {where}. Give a folder you may write to (--run, --out), or change its permissions."
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise StorageError(
                f"{where} is in the way of a run folder or of a result ({error.strerror}); move it away, or name "
                "another folder (--run, --out)."
            ) from error
        if error.errno == errno.ENOENT:
            raise IncompleteError(
                f"{where} is not there; the step that makes it has not finished, or it was moved."
            ) from error
        raise StorageError(f"could not use {where}: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _partial(path: Path) -> Path:
    """A hidden name beside `path` to write under; says which process writes there."""
    return path.with_name(f".{path.name}{_PARTIAL}{socket.gethostname()}@{os.getpid()}-{uuid.uuid4().hex[:6]}")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or none of it: temporary name, fsync, rename.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    temporary = _partial(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, so that equal content is equal bytes."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of the run folder.

    Raises:
        StorageError: It cannot be read or is damaged.
    """
    with storage_errors(path):
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}); delete it and run the step that makes it again.") from error


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a ``.npy`` inside a folder that `publish` will make visible."""
    with storage_errors(path):
        np.save(path, array, allow_pickle=False)


def open_array(path: Path) -> NDArray[Any]:
    """Memory-map a ``.npy`` file for reading.

    Raises:
        StorageError: It is missing, truncated or not an array.
    """
    with storage_errors(path):
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        except (ValueError, EOFError) as error:
            if path.exists() and path.stat().st_size:
                try:  # an array with no elements cannot be mapped, but can be read
                    return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
                except (ValueError, EOFError):
                    pass
            raise StorageError(
                f"{path} is damaged ({error}); delete the folder {path.parent.name} and run the "
                "command that made it again."
            ) from error


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file inside a folder that `publish` will make visible."""
    with storage_errors(path):
        pq.write_table(table, path, compression="zstd")


def _abandoned(path: Path) -> bool:
    """Whether the process that was filling a partial folder is gone."""
    host, _, rest = path.name.partition(_PARTIAL)[2].partition("@")
    pid = rest.partition("-")[0]
    if host == socket.gethostname() and pid.isdigit():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
    return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS


def clear_abandoned(folder: Path) -> None:
    """Delete, anywhere under `folder`, the half-written files of `write_bytes` whose process was killed."""
    with storage_errors(folder):
        for path in folder.rglob(f".*{_PARTIAL}*"):
            if path.is_file() and _abandoned(path):
                path.unlink(missing_ok=True)


def _appear(temporary: Path, folder: Path) -> None:
    """Rename, unless another worker has published the same share in the meantime."""
    if folder.exists():
        return
    try:
        temporary.rename(folder)
    except OSError:
        if not is_done(folder):
            raise
    _sync(folder.parent)


@contextmanager
def publish(folder: Path, marker: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Fill a folder under a temporary name, then make it appear whole under its own name.

    Args:
        folder: The final path. If it exists without a marker (half of an earlier copy) it is replaced.
        marker: What to write into ``done.json`` beside the time-free facts; may be filled while the body runs.

    Yields:
        The temporary folder to write into. On an exception it is removed and nothing appears.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    temporary = _partial(folder)
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for old in folder.parent.glob(f".{folder.name}{_PARTIAL}*"):
            if _abandoned(old):
                shutil.rmtree(old, ignore_errors=True)
        temporary.mkdir()
    try:
        yield temporary  # outside storage_errors: what the body raises is the body's to explain
        with storage_errors(folder):
            text = json.dumps(dict(marker or {}), indent=1, sort_keys=True) + "\n"
            (temporary / MARKER).write_text(text, encoding="utf-8")
            for path in temporary.iterdir():
                _sync(path)
            if folder.exists() and not is_done(folder):
                shutil.rmtree(folder)
            _appear(temporary, folder)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def is_done(folder: Path) -> bool:
    """Whether a share exists: its marker does."""
    return (folder / MARKER).is_file()


def require_done(folder: Path, step: str) -> Any:
    """The marker of a finished share.

    Raises:
        IncompleteError: It has not finished; `step` names the command that makes it.
    """
    if not is_done(folder):
        raise IncompleteError(f"{folder} is not finished; run `{step}` first (it goes on where it stopped).")
    return read_json(folder / MARKER)


def parse_shares(text: str | None) -> tuple[int, int]:
    """Read ``i/n``: this worker is the i-th (from 0) of n.

    >>> parse_shares("1/4")
    (1, 4)

    Raises:
        ValueError: It is not of that form, or i is not below n.
    """
    if text is None:
        return 0, 1
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise ValueError(f"--shares takes i/n with 0 <= i < n, as in 0/4; got {text!r}")
    return int(first), int(second)


def take_share(items: Sequence[T], shares: tuple[int, int]) -> list[T]:
    """The items that worker i of n works on: every n-th, starting with the i-th.

    >>> take_share("abcde", (1, 2))
    ['b', 'd']
    """
    index, workers = shares
    return list(items[index::workers])


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Lines that say which entries differ, for people.

    >>> differences({"model": "a", "seed": 0}, {"model": "b", "seed": 0})
    ["model: 'a' in the run, 'b' now"]
    """
    keys = sorted(set(stored) | set(current))
    return [
        f"{key}: {stored.get(key, '(absent)')!r} in the run, {current.get(key, '(absent)')!r} now"
        for key in keys
        if stored.get(key) != current.get(key)
    ]


def refuse_if_changed(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any], remedy: str) -> None:
    """Refuse to mix results of two different settings.

    Raises:
        StaleRunError: Naming what differs, and how to proceed.
    """
    changed = differences(stored, current)
    if changed:
        listing = "\n  ".join(changed)
        raise StaleRunError(f"{path} was made with other settings:\n  {listing}\n{remedy}")


class Run:
    """Paths and settings of one run folder.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "run.json").is_file()

    @property
    def corpus(self) -> Path:
        """Tokenised documents, by share."""
        return self.path / "corpus"

    @property
    def curvature(self) -> Path:
        """Fitted curvature, one file per site, and partial sums while fitting."""
        return self.path / "curvature"

    @property
    def index(self) -> Path:
        """Codes, by recipe and share."""
        return self.path / "index"

    @property
    def fidelity(self) -> Path:
        """What the fidelity lab retrained and found; the certificates."""
        return self.path / "fidelity"

    @property
    def traces(self) -> Path:
        """Results of traces."""
        return self.path / "traces"

    def read(self) -> dict[str, Any]:
        """The resolved configuration and fingerprints.

        Raises:
            IncompleteError: There is no run here.
            StaleRunError: It was written by a version with another layout.
        """
        if not self.exists:
            raise IncompleteError(
                f"{self.path} is not a run folder (it has no run.json); make one with "
                f"`whence fit --model M --data D --run {self.path}`."
            )
        content: dict[str, Any] = read_json(self.path / "run.json")
        if content.get("schema") != SCHEMA:
            raise StaleRunError(
                f"{self.path} has layout {content.get('schema')!r}, this version reads {SCHEMA}; "
                "use the whence version named in run.json, or make a new run."
            )
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the resolved configuration and fingerprints."""
        write_json(self.path / "run.json", {"schema": SCHEMA, **content})

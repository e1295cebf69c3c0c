"""From what the user typed (file, folder, glob, fsspec URL) to an ordered list of files. Reads no row of them."""

import glob as globbing
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import xxhash
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from whence.data.companions import beside, kind_of, separated
from whence.data.hub import HubId
from whence.errors import CorpusError

__all__ = ["FORMATS", "Listing", "SourceFile", "find_files", "source_file"]

COMPRESSED = (".gz", ".zst", ".zstd", ".bz2")
STRUCTURED = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".arrow", ".feather")
PROSE = (".txt", ".md")
FORMATS = (
    "JSON lines (.jsonl .ndjson .json), Parquet, CSV/TSV, Arrow (.arrow .feather), plain text (.txt .md), "
    "token files (Dolma's and OLMo-core's .npy, Megatron's .bin with .idx), a folder of these, a glob, a Hugging Face "
    "dataset folder (save_to_disk), any fsspec URL; text formats may be compressed (.gz .zst .bz2)"
)
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
_DOLMA = re.compile(r"/(documents|attributes)/")
_OBJECT = re.compile(rb'(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*"')
_CHUNK = 2**20
_SAMPLE = 2**16  # bytes
_ABOUT_DATA = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus.

    Attributes:
        source: The file as given: the argument, or the argument's folder and the path below it.
        name: The path below the folder that was given, or the file's own name; default ids begin with it.
        filesystem: The fsspec file system that opens it.
        path: Its path there.
        bytes: Its size, -1 if unknown.
        sample: Hash of its first and last bytes where it lies on a local disk, else empty; with the size it shows
            that a file was edited, without reading all of it. Of a dataset on the hub, its revision.
        weight: How often each of its documents was trained on.
        tags: What is known of all of its rows.
        attributes: The attribute files that are read with it, row by row, each with the name of its folder.
        companions: What lies beside a token file, each with its role: sidecar, mask, index.
        notes: What should be counted of every one of its documents.
        hub: Set if it is a dataset on the hub and no file.
    """

    source: str
    name: str
    filesystem: Any
    path: str
    bytes: int
    sample: str = ""
    weight: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)
    attributes: tuple[tuple[str, "SourceFile"], ...] = ()
    companions: tuple[tuple[str, "SourceFile"], ...] = ()
    notes: tuple[str, ...] = ()
    hub: HubId | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a corpus in order, those in its folders that are no data, and revisions of what is on the hub."""

    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...]
    revisions: Mapping[str, str] = field(default_factory=dict)


def decompressed(handle: Any, head: bytes) -> Any:
    """A buffered reader of a file's content from its start, whatever it is compressed with.

    Args:
        handle: The open file.
        head: Its first bytes, which tell; its name is not asked.

    Raises:
        OSError: While it is read, where compressed data ends early.
    """
    handle.seek(0)
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            raw: Any = pa.CompressedInputStream(pa.PythonFile(handle, mode="r"), name)
            return io.BufferedReader(raw, _CHUNK)
    return io.BufferedReader(handle, _CHUNK)


def begins_like_rows(filesystem: Any, path: str) -> bool:
    """Whether a file whose name tells no format begins like JSON lines, decompressed if need be.

    Names tell nothing if they have no suffix, compression aside, or lie in Dolma's ``documents`` or ``attributes``,
    where all files are JSON lines however they are called.
    """
    suffix = suffix_of(path)
    if suffix in STRUCTURED or not (suffix == "" or _DOLMA.search(f"/{path}")):
        return False
    try:
        with filesystem.open(path, "rb") as handle, decompressed(handle, handle.read(8)) as stream:
            start = stream.read(256)
    except (OSError, ValueError, EOFError, pa.ArrowException):
        return False
    return _OBJECT.match(start) is not None


def suffix_of(name: str) -> str:
    """The suffix that names the format, compression aside.

    >>> suffix_of("a/b.JSONL.gz")
    '.jsonl'
    """
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if suffix in COMPRESSED else suffix


def _refuse(given: str, what: str) -> CorpusError:
    return CorpusError(f"{given}: {what}\nCan be read: {FORMATS}.")


def _sample(filesystem: Any, path: str, size: int) -> str:
    if not isinstance(filesystem, LocalFileSystem) or not os.path.isfile(path):
        return ""
    with open(path, "rb") as handle:
        head = handle.read(_SAMPLE)
        handle.seek(max(len(head), size - _SAMPLE))
        return xxhash.xxh3_64_hexdigest(head + handle.read(_SAMPLE))


def source_file(filesystem: Any, path: str, source: str, name: str) -> SourceFile:
    """A file with its size and sample."""
    given = filesystem.info(path).get("size")
    size = -1 if given is None else int(given)
    return SourceFile(source, name, filesystem, path, size, _sample(filesystem, path, size))


def _read_json(filesystem: Any, path: str) -> Any:
    try:
        return json.loads(filesystem.cat_file(path))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path} should describe a Hugging Face dataset, but cannot be read: {error}") from error


def _saved_dataset(filesystem: Any, root: str, given: str) -> list[SourceFile] | None:
    """The Arrow files of a `save_to_disk` folder in its own order; None if it is not one."""
    if filesystem.exists(f"{root}/dataset_dict.json"):
        splits = _read_json(filesystem, f"{root}/dataset_dict.json").get("splits", [])
        if "train" not in splits:
            raise CorpusError(
                f"{given} is a dataset with the splits {', '.join(splits) or '(none)'} and no 'train'; "
                f"give the folder of the split you mean, as in {given.rstrip('/')}/{splits[0] if splits else 'train'}."
            )
        return _saved_dataset(filesystem, f"{root}/train", f"{given.rstrip('/')}/train")
    if not filesystem.exists(f"{root}/state.json"):
        return None
    entries = _read_json(filesystem, f"{root}/state.json").get("_data_files") or []
    names = [entry["filename"] for entry in entries]
    missing = [name for name in names if not filesystem.exists(f"{root}/{name}")]
    if missing or not names:
        raise CorpusError(f"{given} is a Hugging Face dataset folder, but its files are missing: {missing or 'all'}.")
    return [source_file(filesystem, f"{root}/{name}", f"{given.rstrip('/')}/{name}", name) for name in names]


def _attribute_file(path: str, roots: set[str]) -> bool:
    """Whether a path lies in an ``attributes`` folder that has ``documents`` beside it."""
    return any(f"/{path}".startswith(f"{root}/attributes/") for root in roots)


def _in_a_run(path: str, runs: set[str]) -> bool:
    """Whether a path lies in a run folder: tokens are stored there too, and must not be read as data."""
    return any(f"/{path}".startswith(f"{run}/") for run in runs)


def _select(filesystem: Any, below: Mapping[str, str]) -> list[str]:
    """Data among the files of a folder: prose counts only where there is nothing else beside it."""
    visible = [path for path in below if not any(part.startswith((".", "_")) for part in path.split("/"))]
    roots = {f"/{path}".rpartition("/documents/")[0] for path in visible if "/documents/" in f"/{path}"}
    runs = {f"/{path}".rpartition("/")[0] for path in below if path.endswith("/run.json")}
    visible = [path for path in visible if not _attribute_file(path, roots) and not _in_a_run(path, runs)]
    rows, companions = separated(visible)
    visible = [path for path in visible if path not in companions]
    rows += [path for path in visible if suffix_of(path) in STRUCTURED and os.path.basename(path) not in _ABOUT_DATA]
    rows += [path for path in visible if begins_like_rows(filesystem, below[path])]
    return sorted(rows or [path for path in visible if suffix_of(path) in PROSE])


def _folder(filesystem: Any, root: str, given: str) -> tuple[list[SourceFile], list[str]]:
    saved = _saved_dataset(filesystem, root, given)
    if saved is not None:
        return saved, []
    below = {path[len(root) :].lstrip("/"): path for path in filesystem.find(root)}
    chosen = _select(filesystem, below)
    if not chosen:
        example = ", ".join(sorted(below)[:5]) or "nothing"
        raise _refuse(given, f"the folder holds no file that can be read (it holds {example}).")
    files = [source_file(filesystem, below[name], f"{given.rstrip('/')}/{name}", name) for name in chosen]
    return files, [f"{given.rstrip('/')}/{name}" for name in sorted(set(below) - set(chosen))]


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _glob_local(pattern: str) -> list[str]:
    return sorted(path for path in globbing.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path))


def _fixed_part(pattern: str) -> str:
    """The folders of a pattern before its first wildcard, with the last slash.

    >>> _fixed_part("data/2024-*/a.jsonl")
    'data/'
    """
    before = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return before[: before.rfind("/") + 1]


def _glob(filesystem: Any, root: str, given: str) -> list[SourceFile]:
    if "://" in given or "::" in given:
        paths = [path for path in sorted(filesystem.glob(root)) if filesystem.isfile(path)]
        named = [(path, filesystem.unstrip_protocol(path)) for path in paths]
        fixed = _fixed_part(root)
    else:
        named = [(os.path.abspath(path), path) for path in _glob_local(given)]
        fixed = os.path.join(os.path.abspath(_fixed_part(os.path.expanduser(given)) or "."), "")
    companions = separated(path for path, _ in named)[1]
    named = [(path, source) for path, source in named if path not in companions]
    if not named:
        raise _refuse(given, "no file matches this pattern.")
    return [source_file(filesystem, path, source, path.removeprefix(fixed)) for path, source in named]


def _expand(given: str) -> tuple[list[SourceFile], list[str]]:
    filesystem, root = url_to_fs(os.path.expanduser(given) if "://" not in given else given)
    stem, prefix = (root[:-4], given[:-4]) if root.endswith(".idx") else (root, given)
    if not filesystem.isdir(root) and all(filesystem.isfile(f"{stem}{suffix}") for suffix in (".bin", ".idx")):
        return _expand(f"{prefix}.bin")  # Megatron names a pair of files by what they have in common
    if filesystem.isfile(root):
        return [source_file(filesystem, root, given, os.path.basename(root.rstrip("/")))], []
    if filesystem.isdir(root):
        return _folder(filesystem, root.rstrip("/"), given)
    if _is_glob(given):
        return _glob(filesystem, root, given), []
    if filesystem.exists(root):
        return [source_file(filesystem, root, given, os.path.basename(root))], []
    hint = " A dataset on the Hugging Face hub must be saved to a folder first, or given as hf://datasets/…"
    raise _refuse(given, "there is no such file or folder." + (hint if given.count("/") == 1 else ""))


def _guarded(given: str, action: Callable[[str], tuple[list[SourceFile], list[str]]]) -> Any:
    try:
        return action(given)
    except PermissionError as error:
        raise CorpusError(f"{given}: no permission to read it ({error}); change its permissions.") from error
    except ImportError as error:
        raise CorpusError(f"{given}: this kind of URL needs another package: {error}") from error
    except (OSError, ValueError) as error:
        raise _refuse(given, f"it cannot be opened: {error}") from error


def _with_companions(file: SourceFile) -> SourceFile:
    """A token file with what lies beside it."""
    if kind_of(file.path) is None:
        return file
    found = []
    for role, paths in beside(file.path):
        path = next((each for each in paths if file.filesystem.isfile(each)), None)
        if path is not None:
            source = file.source[: file.source.rfind("/") + 1] + os.path.basename(path)
            found.append((role, source_file(file.filesystem, path, source, os.path.basename(path))))
    return replace(file, companions=tuple(found))


def _find(given: str) -> tuple[list[SourceFile], list[str]]:
    files, ignored = _expand(given)
    return [_with_companions(file) for file in files], ignored


def find_files(data: Sequence[str]) -> Listing:
    """The files that `data` names, in order; folders are read recursively and sorted.

    Raises:
        CorpusError: Something is missing, matches nothing or may not be read.
    """
    files: list[SourceFile] = []
    ignored: list[str] = []
    for given in data:
        found, rest = _guarded(given, _find)
        files.extend(found)
        ignored.extend(rest)
    return Listing(tuple(files), tuple(ignored))

"""Dolma's attribute files: row by row beside the documents they describe, found by where they lie.

    X/documents/2019/a.jsonl.gz     rows {id, text, source, ...}
    X/attributes/lang/2019/a.jsonl.gz   rows {id, attributes: {key: [[start, end, score], ...]}}, one for each document

Both are read in step, so a file of any size needs the memory of two rows. Knows no tokens, and not what tags are for.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fsspec.core import url_to_fs

from whence.data.config import CorpusConfig
from whence.data.readers import Row, open_rows
from whence.data.sources import COMPRESSED, SourceFile, source_file, suffix_of
from whence.errors import CorpusError
from whence.interfaces import Skip

__all__ = ["beside", "tagged"]

_REMEDY = "Make the attributes again from these documents, or leave them out with --attributes none."
Sets = dict[str, dict[str, str]]
"""Path below the documents, without suffixes -> name of the attribute set -> path of its file."""


def _stem(path: str) -> str:
    """A path without the suffixes of format and compression, which may differ between a file and its attributes.

    >>> _stem("2019/a.b.jsonl.gz")
    '2019/a.b'
    """
    if path.lower().endswith(COMPRESSED):
        path = os.path.splitext(path)[0]
    return path[: -len(suffix_of(path))] if suffix_of(path) in (".jsonl", ".json", ".ndjson") else path


def _below(file: SourceFile) -> str:
    """Where a file lies below its ``documents`` folder, or as it is called if there is none."""
    _, found, rest = file.path.rpartition("/documents/")
    return rest if found else file.name


class _Folder:
    """An attributes folder: the files in it, by what they are beside."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem, self.root = filesystem, root.rstrip("/")
        paths = filesystem.find(self.root) if filesystem.isdir(self.root) else []
        self.paths = {_stem(path[len(self.root) + 1 :]): path for path in paths}
        self._sets: dict[str, list[str]] = {}  # what it is beside -> sets, "" for the folder itself
        for inner in sorted(self.paths):
            parts = inner.split("/")
            for depth in range(len(parts)):
                self._sets.setdefault("/".join(parts[depth:]), []).append("/".join(parts[:depth]))

    def of(self, stem: str) -> list[tuple[str, SourceFile]]:
        """The attribute files of a document file, with the names of their sets, in order."""
        found = []
        for name in self._sets.get(stem, ()):
            path = self.paths[f"{name}/{stem}" if name else stem]
            file = source_file(self.filesystem, path, path, os.path.basename(path))
            found.append((name or os.path.basename(self.root), file))
        return found

    def sets(self) -> set[str]:
        """The first level of its folders."""
        return {inner.partition("/")[0] for inner in self.paths if "/" in inner}


def _automatic(files: Sequence[SourceFile]) -> Iterator[SourceFile]:
    folders: dict[tuple[int, str], _Folder] = {}
    for file in files:
        root, found, _ = file.path.rpartition("/documents/")
        if not found or file.hub is not None:
            yield file
            continue
        key = id(file.filesystem), root
        if key not in folders:
            folders[key] = _Folder(file.filesystem, f"{root}/attributes")
        attributes = folders[key].of(_stem(_below(file)))
        lacks = len({name.partition("/")[0] for name, _ in attributes}) < len(folders[key].sets())
        yield replace(file, attributes=tuple(attributes), notes=("no-attributes",) if lacks else ())


def _given(files: Sequence[SourceFile], folders: Sequence[str]) -> Iterator[SourceFile]:
    opened = [(given, _Folder(*url_to_fs(os.path.expanduser(given)))) for given in folders]
    for given, folder in opened:
        if not folder.paths:
            raise CorpusError(f"--attributes {given}: there is no such folder, or it is empty.")
    for file in files:
        attributes = []
        for given, folder in opened:
            found = folder.of(_stem(_below(file)))
            if not found:
                raise CorpusError(
                    f"{file.source} has no attribute file: --attributes {given} holds none called "
                    f"{_stem(_below(file))}.jsonl(.gz, .zst); it has {', '.join(list(folder.paths)[:5])}. {_REMEDY}"
                )
            attributes += found
        yield replace(file, attributes=tuple(attributes))


def beside(files: Sequence[SourceFile], attributes: Sequence[str]) -> list[SourceFile]:
    """Files with the attribute files that are to be read with them.

    Args:
        files: Documents.
        attributes: Folders; or ``auto``: an ``attributes`` folder beside ``documents``; or ``none``.

    Raises:
        CorpusError: A folder that was named holds nothing for one of the files.
    """
    if list(attributes) == ["none"]:
        return list(files)
    return list(_automatic(files) if list(attributes) == ["auto"] else _given(files, attributes))


class _Step:
    """One attribute file, read in step with its documents."""

    def __init__(self, name: str, file: SourceFile, start: int) -> None:
        self.name, self.file = name, file
        self._items = open_rows(file, start)
        self._next: Row | Skip | None = self._read()

    def _read(self) -> Row | Skip | None:
        item = next(self._items, None)
        return None if isinstance(item, Skip) and item.reason == "empty-file" else item

    def at(self, row: Row, id_field: str) -> Mapping[str, Any] | None:
        """The attributes of a document; None if their line cannot be read.

        Raises:
            CorpusError: The files are not aligned.
        """
        while self._next is not None and self._next.row < row.row:
            self._next = self._read()
        item = self._next
        if item is None or item.row != row.row:
            raise self._misfit(row, "ends before" if item is None else f"has no row {row.row}, which is")
        if isinstance(item, Skip):
            return None
        for key in (id_field, "source"):
            theirs, ours = item.fields.get(key), row.fields.get(key)
            if theirs is not None and ours is not None and str(theirs) != str(ours):
                raise self._misfit(row, f"says {key} {str(theirs)[:80]!r} where there is")
        found = item.fields.get("attributes")
        return found if isinstance(found, Mapping) else None

    def end(self, last: int) -> None:
        """Check that nothing is left when the documents end.

        Raises:
            CorpusError: There are attributes of documents that do not exist.
        """
        while self._next is not None and self._next.row <= last:
            self._next = self._read()
        if self._next is not None:
            raise CorpusError(
                f"{self.file.source} goes on after its documents end: it has a row {self._next.row}, the documents "
                f"end with {last}. {_REMEDY}"
            )

    def _misfit(self, row: Row, what: str) -> CorpusError:
        name = row.fields.get("id")
        return CorpusError(
            f"{self.file.source} does not go with {row.source} row by row: it {what} row {row.row}"
            + (f", document {str(name)[:80]!r}. " if name is not None else ". ")
            + _REMEDY
        )


def tagged(file: SourceFile, items: Iterable[Row | Skip], start: int, config: CorpusConfig) -> Iterator[Row | Skip]:
    """Rows with what is known of them besides their fields: tags of their source, and their attributes.

    Args:
        file: What is read.
        items: Its rows from `start` on.
        start: First row.
        config: Names of the fields.

    Raises:
        CorpusError: An attribute file has other rows, or fewer or more, than the documents.
    """
    steps = [_Step(name, each, start) for name, each in file.attributes]
    last = start - 1
    for item in items:
        last = item.row
        if isinstance(item, Skip):
            yield item
            continue
        found = {step.name: step.at(item, config.id_field) for step in steps}
        notes = (*item.notes, *file.notes, *(("bad-attributes",) if None in found.values() else ()))
        good = {name: attributes for name, attributes in found.items() if attributes is not None}
        yield replace(item, tags=file.tags, attributes=good, notes=notes)
    for step in steps:
        step.end(last)

"""Rows that are asked about, one thing a row: read from any format of a corpus, each named once.

Knows nothing of what a row means; `responses.py` and `items.py` say.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from whence.data import find_files, open_rows
from whence.errors import CorpusError, QueryError
from whence.interfaces import Skip

__all__ = ["first_of", "read_each", "set_apart"]

T = TypeVar("T")


def read_each(
    path: str,
    make: Callable[[dict[str, Any], str, int], T],
    name_of: Callable[[T], str | None],
    *,
    what: str,
    hint: str,
) -> list[T]:
    """Read a file, row by row.

    Args:
        path: JSON lines, CSV, Parquet or any format of a corpus.
        make: (columns, the row's place in words, its number) to what it stands for.
        name_of: Its id.
        what: One of them, in a word.
        hint: What a row has to hold, in words.

    Raises:
        QueryError: The file cannot be read or is empty, a row cannot be read, or two have one id.
    """
    found: list[T] = []
    try:
        for file in find_files([path]).files:
            for row in open_rows(file):
                if isinstance(row, Skip):
                    raise QueryError(f"{row.source} line {row.row + 1}: {row.reason}: {row.detail}")
                found.append(make(dict(row.fields), f"{row.source} line {row.row + 1}", len(found)))
    except CorpusError as error:
        raise QueryError(f"the {what}s cannot be read: {error}") from error
    if not found:
        raise QueryError(f"{path} holds no {what}; give one row for each, with {hint}.")
    seen: set[str | None] = set()
    for name in map(name_of, found):
        if name in seen:
            raise QueryError(f"{path}: several {what}s are called {name!r}; give each its own id, or none at all.")
        seen.add(name)
    return found


def first_of(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of some columns that holds anything, or None."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def set_apart(before: str, text: str) -> str:
    """A text to stand after another, with a blank before it unless one of them has one there.

    >>> set_apart("What is it?", "A tree."), set_apart("", "A tree.")
    (' A tree.', 'A tree.')
    """
    return text if not before or before[-1].isspace() or text[:1].isspace() else f" {text}"

"""Results as JSON text, and back with an error that says what is wrong. Knows no result in particular."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from whence.errors import IncompleteError, StorageError
from whence.runs import read_json

__all__ = ["dumps", "read_record", "read_result"]

M = TypeVar("M", bound=BaseModel)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; numbers that are not finite become their names, which pydantic reads back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def dumps(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII: lone surrogates (settings may hold any text) and odd line ends cannot break a reader."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=True, allow_nan=False)


def read_result(folder: Path, model: type[M], schema: int, what: str, command: str) -> M:
    """Read the result.json of a finished piece of work.

    Args:
        folder: Where the command wrote.
        model: What it holds.
        schema: The layout this version reads.
        what: What it is, without article.
        command: The command that makes it.

    Raises:
        IncompleteError: The folder holds no result.json.
        StorageError: It cannot be read, is damaged or has another layout.
    """
    path = Path(folder) / "result.json"
    if not path.is_file():
        raise IncompleteError(
            f"{folder} holds no finished {what} (no result.json); run `{command}` with this folder as output."
        )
    article = "an" if what[0] in "aeiou" else "a"
    return read_record(path, model, schema, f"{article} {what}", f"run `{command}` again")


def read_record(path: Path, model: type[M], schema: int, what: str, remedy: str) -> M:
    """Read a result that was written with its layout under ``schema``.

    Args:
        path: The JSON file, which exists.
        model: What it holds.
        schema: The layout this version reads.
        what: What it is, in words.
        remedy: What to do about a file that cannot be read, in words.

    Raises:
        StorageError: It cannot be read, is damaged or has another layout.
    """
    try:
        content = read_json(path)
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is damaged ({error}); delete it and {remedy}.") from error
    if not isinstance(content, dict) or content.get("schema") != schema:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise StorageError(f"{path} has layout {found!r}, this version reads {schema}; {remedy} with this version.")
    try:
        return model.model_validate({key: content[key] for key in model.model_fields if key in content})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{path} is not {what} ({where}: {first['msg']}); {remedy}.") from error

"""A trace on disk: result.json (all of it), hits.jsonl, hits.parquet and page.html, which are views of it.

Knows nothing about how any of them looks. Each file appears whole or not at all, and result.json comes last: it is the
one that is read back, and the views can be made again from it with ``save(load(folder), folder)``.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from whence.errors import IncompleteError, StorageError
from whence.interfaces import TraceResult
from whence.report.facts import SIGN
from whence.report.html import page
from whence.report.text import visible
from whence.runs import read_json, write_bytes

__all__ = ["SCHEMA", "load", "save"]

SCHEMA = 1
_UNIT = "nats; > 0 supports the output"


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


def _dumps(value: Any, indent: int | None = None) -> str:
    # ASCII keeps lone surrogates (settings may hold any text) and odd line ends from breaking a reader.
    return json.dumps(_plain(value), indent=indent, ensure_ascii=True, allow_nan=False)


def _result_bytes(result: TraceResult) -> bytes:
    return (_dumps({"schema": SCHEMA, "unit": SIGN, **result.model_dump()}, indent=1) + "\n").encode("ascii")


def _lines(result: TraceResult) -> Iterator[str]:
    for trace in result.traces:
        for kind, hits in (("proponent", trace.proponents), ("opponent", trace.opponents)):
            for hit in hits:
                yield _dumps({"query_id": trace.query_id, "list": kind, "unit": _UNIT, **hit.model_dump()}) + "\n"


def _parquet_bytes(result: TraceResult) -> bytes:
    table: pa.Table = result.to_arrow()
    notes = {
        "whence.schema": str(SCHEMA),
        "whence.version": visible(result.summary.whence_version),
        "whence.unit": SIGN,
        "whence.certificate": visible(result.summary.certificate.line),
    }
    buffer = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **notes}), buffer, compression="zstd"
    )
    return buffer.getvalue()


def save(result: TraceResult, folder: Path) -> dict[str, Path]:
    """Write a result for people and for programs.

    Args:
        result: All traces of one call.
        folder: Made if absent; files of the same names are replaced, others stay.

    Returns:
        The paths by name: ``result``, ``jsonl``, ``parquet``, ``page``.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    content = {  # everything is rendered before anything is written
        "jsonl": ("hits.jsonl", "".join(_lines(result)).encode("ascii")),
        "parquet": ("hits.parquet", _parquet_bytes(result)),
        "page": ("page.html", page(result).encode("utf-8")),
        "result": ("result.json", _result_bytes(result)),
    }
    folder = Path(folder)
    paths = {}
    for key, (name, data) in content.items():
        paths[key] = folder / name
        write_bytes(paths[key], data)
    return paths


def load(folder: Path) -> TraceResult:
    """Read back what `save` wrote.

    Raises:
        IncompleteError: The folder holds no result.json.
        StorageError: It cannot be read, is damaged or has another layout.
    """
    path = Path(folder) / "result.json"
    if not path.is_file():
        raise IncompleteError(
            f"{folder} holds no finished trace (no result.json); run `whence trace` with this folder as output."
        )
    try:
        content = read_json(path)
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is damaged ({error}); delete it and run `whence trace` again.") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise StorageError(
            f"{path} has layout {found!r}, this version reads {SCHEMA}; run `whence trace` again with this version."
        )
    try:
        return TraceResult.model_validate({key: content.get(key) for key in ("summary", "traces")})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"{path} is not a trace result ({where}: {first['msg']}); run `whence trace` again."
        ) from error

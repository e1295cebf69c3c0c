"""A trace on disk: result.json (all of it), hits.jsonl, hits.parquet and page.html, which are views of it.

Knows nothing about how any of them looks. Each file appears whole or not at all, and result.json comes last: it is the
one that is read back, and the views can be made again from it with ``save(load(folder), folder)``.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from whence.interfaces import TraceResult
from whence.report.facts import SIGN
from whence.report.html import page
from whence.report.records import dumps, read_result
from whence.report.text import visible
from whence.runs import write_bytes

__all__ = ["SCHEMA", "load", "save"]

SCHEMA = 1


def _result_bytes(result: TraceResult) -> bytes:
    return (dumps({"schema": SCHEMA, "unit": SIGN, **result.model_dump()}, indent=1) + "\n").encode("ascii")


def _lines(result: TraceResult) -> Iterator[str]:
    for trace in result.traces:
        for kind, hits in (("proponent", trace.proponents), ("opponent", trace.opponents)):
            for hit in hits:
                yield (
                    dumps(
                        {
                            "query_id": trace.query_id,
                            "list": kind,
                            "unit": f"{trace.unit}; > 0 supports the output",
                            **hit.model_dump(),
                        }
                    )
                    + "\n"
                )


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
    return read_result(folder, TraceResult, SCHEMA, "trace result", "whence trace")

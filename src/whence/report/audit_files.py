"""Audits of answers on disk: result.json (all of it), page.html, and a table as JSON lines and Parquet; and back.

Each file appears whole or not at all, and result.json comes last: it is the one that is read back.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from whence.interfaces import ContaminationResult, DocumentEvidence, SafetyResult
from whence.report.contamination_page import contamination_page
from whence.report.records import dumps, read_result
from whence.report.safety_page import safety_page
from whence.report.text import visible
from whence.runs import write_bytes

__all__ = ["load_contamination", "load_safety", "save_contamination", "save_safety", "write_audit"]

SCHEMA = 1
Row = Mapping[str, Any]


def write_audit(result: BaseModel, folder: Path, page: str, table: str, rows: Sequence[Row]) -> dict[str, Path]:
    """Write an audit's files.

    Args:
        result: All of it.
        folder: Made if absent; files of the same names are replaced, others stay.
        page: The page as HTML.
        table: Name of the table, without ending.
        rows: Its rows; values are text, numbers, truth values or None.

    Returns:
        The paths by name: ``page``, ``jsonl``, ``parquet``, ``result``.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    buffer = io.BytesIO()
    clean = [{key: visible(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(clean), buffer, compression="zstd")
    content = {
        "jsonl": (f"{table}.jsonl", "".join(dumps(row) + "\n" for row in rows).encode("ascii")),
        "parquet": (f"{table}.parquet", buffer.getvalue()),
        "page": ("page.html", page.encode("utf-8")),
        "result": ("result.json", (dumps({"schema": SCHEMA, **result.model_dump()}, indent=1) + "\n").encode("ascii")),
    }
    paths = {}
    for key, (name, data) in content.items():
        paths[key] = Path(folder) / name
        write_bytes(paths[key], data)
    return paths


def save_safety(result: SafetyResult, folder: Path) -> dict[str, Path]:
    """Write a safety audit; the table has one row per answer and document. See `write_audit`."""
    return write_audit(result, folder, safety_page(result, folder), "documents", list(_safety_rows(result)))


def _safety_rows(result: SafetyResult) -> Iterator[Row]:
    for each in result.responses:
        head = {"answer": each.id, "verdict": each.verdict, "confidence": each.confidence, "runner_up": each.runner_up}
        for side, documents in (("proponent", each.documents), ("opponent", each.opponents)):
            for found in documents:
                row = {**head, "list": side, **found.model_dump(exclude={"metadata", "text", "reworded"})}
                yield row if result.reworded is None else {**row, **_wordings(found)}


def _wordings(found: DocumentEvidence) -> Row:
    """In how many other wordings a document holds; None where its question has none, or for an opponent."""
    each = found.reworded
    return {
        "wordings": None if each is None else len(each.p),
        "wordings_held": None if each is None else each.held,
        "wordings_held_answer": None if each is None else each.held_answer,
        "wordings_p": None if each is None else " ".join(f"{p:.6g}" for p in each.p),
    }


def load_safety(folder: Path) -> SafetyResult:
    """Read back what `save_safety` wrote.

    Raises:
        IncompleteError: The folder holds no result.json.
        StorageError: It is damaged or has another layout.
    """
    return read_result(folder, SafetyResult, SCHEMA, "safety audit", "whence audit safety")


def save_contamination(result: ContaminationResult, folder: Path) -> dict[str, Path]:
    """Write a contamination audit; the table has one row per item. See `write_audit`."""
    return write_audit(result, folder, contamination_page(result, folder), "items", list(_item_rows(result)))


def _item_rows(result: ContaminationResult) -> Iterator[Row]:
    for each in result.items:
        first = each.documents[0] if each.documents else None
        yield {
            **each.model_dump(include={"id", "date", "correct", "verdict", "confidence", "runner_up", "known"}),
            **each.model_dump(include={"twin_gap", "cloze_gap"}),
            **each.exposure.model_dump(),
            "document": first.id if first else None,
            "source": first.source if first else None,
            "document_influence": first.influence if first else None,
        }


def load_contamination(folder: Path) -> ContaminationResult:
    """Read back what `save_contamination` wrote. Raises as `load_safety`."""
    return read_result(folder, ContaminationResult, SCHEMA, "contamination audit", "whence audit contamination")

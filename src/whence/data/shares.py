"""One share of a tokenised corpus on disk: written whole, read memory-mapped.

    tokens.npy         uint32 [stored], documents one after the other; packed, also what stands before them in a chunk
    loss.npy           bool [stored]; True where the token is a target
    windows.npy        int64 [W, 3]: document within the share, start, stop (half-open, within the document; a start
                       below 0 is that many tokens before it)
    documents.parquet  id, source, row, hash, metadata (JSON), offset, length, origin (JSON); one row per document
    skipped.parquet    source, row, reason, detail; one row per row that was left out
    done.json          counts, content hash, the rows it covers

Knows no tokenizer and no other share.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from whence.data.packing import Filling
from whence.errors import StorageError
from whence.interfaces import Document, Origin, Skip
from whence.runs import open_array, publish, storage_errors, write_array, write_table

__all__ = ["OpenShare", "open_share", "read_ids", "read_skips", "stored_tokens", "write_share"]

_DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("hash", pa.string()),
        ("metadata", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("origin", pa.string()),
    ]
)
_SKIPS = pa.schema([("source", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])


def _origin(document: Document) -> str | None:
    return None if document.origin is None else json.dumps(asdict(document.origin), ensure_ascii=False)


def _documents_table(filling: Filling) -> pa.Table:
    documents = filling.documents
    columns: dict[str, Any] = {
        "id": [document.id for document in documents],
        "source": [document.source for document in documents],
        "row": [document.row for document in documents],
        "hash": [document.hash for document in documents],
        "metadata": [json.dumps(dict(document.metadata), ensure_ascii=False) for document in documents],
        "offset": filling.offsets,
        "length": [len(document.tokens) for document in documents],
        "origin": [_origin(document) for document in documents],
    }
    return pa.table(columns, schema=_DOCUMENTS)


def _skips_table(skips: Sequence[Skip]) -> pa.Table:
    columns = {name: [getattr(skip, name) for skip in skips] for name in _SKIPS.names}
    return pa.table(columns, schema=_SKIPS)


def _content_hash(documents: Sequence[Document], arrays: Mapping[str, NDArray[Any]]) -> str:
    """A hash of what the share says, not of how or where its files lay: sources are left out."""
    hasher = xxhash.xxh3_128()
    for name in sorted(arrays):
        hasher.update(name.encode())
        hasher.update(np.ascontiguousarray(arrays[name]).tobytes())
    for document in documents:
        hasher.update(json.dumps([document.id, document.row, document.hash, dict(document.metadata)]).encode())
    return hasher.hexdigest()


def _flat(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *(part.astype(dtype) for part in parts)])


def _numbered(windows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Windows of all documents with the documents' numbers, int64 [W, 3]."""
    numbers = np.repeat(np.arange(len(windows)), [len(each) for each in windows])
    bounds = np.concatenate([np.zeros((0, 2), dtype=np.int64), *windows])
    return np.column_stack([numbers.astype(np.int64), bounds])


def write_share(folder: Path, filling: Filling, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write a share; it appears whole or not at all.

    Args:
        folder: Where it appears.
        filling: What has been collected for it.
        facts: Further entries of its marker.

    Returns:
        The marker: counts, content hash and `facts`.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    documents, skips = filling.documents, filling.skips
    arrays = {
        "tokens": _flat([tokens for tokens, _ in filling.pieces], np.uint32),
        "loss": _flat([loss for _, loss in filling.pieces], np.bool_),
        "windows": _numbered(filling.windows),
    }
    marker = {
        **facts,
        "documents": len(documents),
        "windows": len(arrays["windows"]),
        "tokens": filling.own,
        "stored": len(arrays["tokens"]),
        "position": filling.position,
        "targets": int(arrays["loss"].sum()),
        "skips": dict(sorted(Counter(skip.reason for skip in skips).items())),
        "notes": dict(sorted(Counter(note for document in documents for note in document.notes).items())),
        "hash": _content_hash(documents, arrays),
    }
    with publish(folder, marker) as temporary:
        for name, array in arrays.items():
            write_array(temporary / f"{name}.npy", array)
        write_table(temporary / "documents.parquet", _documents_table(filling))
        write_table(temporary / "skipped.parquet", _skips_table(skips))
    return marker


def _read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    with storage_errors(path):
        try:
            return pq.read_table(path, columns=list(columns) if columns else None, partitioning=None)
        except pa.ArrowException as error:
            raise StorageError(
                f"{path} is damaged ({error}); delete the folder {path.parent} and ingest the corpus again."
            ) from error


@dataclass(frozen=True)
class OpenShare:
    """A share, open for reading: arrays are memory-mapped, the table of documents is in memory."""

    tokens: NDArray[np.uint32]
    loss: NDArray[np.bool_]
    windows: NDArray[np.int64]
    table: pa.Table
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def slice(self, document: int, start: int = 0, stop: int | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Tokens int64 and loss mask of part of a document; a start below 0 takes tokens before it along."""
        first = int(self.offsets[document])
        last = first + (int(self.lengths[document]) if stop is None else stop)
        return np.array(self.tokens[first + start : last], dtype=np.int64), np.array(self.loss[first + start : last])

    def document(self, number: int) -> Document:
        """A document of the share."""
        row = self.table.slice(number, 1).to_pylist()[0]
        tokens, loss = self.slice(number)
        origin = None if row.get("origin") is None else Origin(**json.loads(row["origin"]))
        return Document(
            row["id"], row["source"], row["row"], row["hash"], tokens, loss, json.loads(row["metadata"]), origin=origin
        )


def stored_tokens(folder: Path) -> NDArray[np.uint32]:
    """The stored tokens of a share, memory-mapped."""
    return open_array(folder / "tokens.npy")


def open_share(folder: Path, documents: int, windows: int, stored: int) -> OpenShare:
    """Open a share and check that it holds what the manifest promises.

    Raises:
        StorageError: It is damaged.
    """
    arrays = [open_array(folder / f"{name}.npy") for name in ("tokens", "loss", "windows")]
    table = _read_table(folder / "documents.parquet")
    found = (table.num_rows, len(arrays[2]), len(arrays[0]), len(arrays[1]))
    if found != (documents, windows, stored, stored):
        raise StorageError(
            f"{folder} is damaged: it holds {found[0]} documents, {found[1]} windows and {found[2]} tokens, the "
            f"manifest says {documents}, {windows} and {stored}. Delete the corpus folder "
            f"{folder.parent} and ingest again."
        )
    offsets, lengths = (table[name].to_numpy() for name in ("offset", "length"))
    return OpenShare(arrays[0], arrays[1], arrays[2], table, offsets, lengths)


def read_ids(folder: Path) -> list[tuple[str, str]]:
    """What a share's documents are known by: the source their row names (or none) and the id, unique within it."""
    table = _read_table(folder / "documents.parquet", ["id", "metadata"])
    return [
        (json.loads(metadata).get("source", "") if '"source"' in metadata else "", id_)
        for id_, metadata in zip(table["id"].to_pylist(), table["metadata"].to_pylist(), strict=True)
    ]


def read_skips(folder: Path) -> Iterator[Skip]:
    """The rows of a share that were left out."""
    for row in _read_table(folder / "skipped.parquet").to_pylist():
        yield Skip(**row)

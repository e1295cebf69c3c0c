"""One share of a tokenised corpus on disk: written whole, read memory-mapped.

    tokens.npy         uint32 [tokens], documents one after the other
    loss.npy           bool [tokens]; True where the token is a target
    windows.npy        int64 [W, 3]: document within the share, start, stop (half-open, within the document)
    documents.parquet  id, source, row, hash, metadata (JSON), offset, length; one row per document
    skipped.parquet    source, row, reason, detail; one row per row that was left out
    done.json          counts, content hash, the rows it covers

Knows no tokenizer and no other share.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from whence.errors import StorageError
from whence.interfaces import Document, Skip
from whence.runs import open_array, publish, storage_errors, write_array, write_table

__all__ = ["OpenShare", "open_share", "read_ids", "read_skips", "windows_of", "write_share"]

_DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("hash", pa.string()),
        ("metadata", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
_SKIPS = pa.schema([("source", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])


def windows_of(length: int, context: int) -> NDArray[np.int64]:
    """Windows of a document: start and stop, int64 [W, 2].

    Neighbours overlap by one token, so that every token but the first is predicted exactly once.

    >>> windows_of(7, 4).tolist()
    [[0, 4], [3, 7]]
    >>> windows_of(8, 4).tolist()
    [[0, 4], [3, 7], [6, 8]]
    """
    starts = np.arange(0, max(length - 1, 0), context - 1, dtype=np.int64)
    return np.stack([starts, np.minimum(starts + context, length)], axis=1)


def _all_windows(documents: Sequence[Document], context: int) -> NDArray[np.int64]:
    """Windows of all documents that have a target, int64 [W, 3]."""
    found = [np.zeros((0, 3), dtype=np.int64)]
    for number, document in enumerate(documents):
        bounds = windows_of(len(document.tokens), context)
        targets = np.concatenate([[0], np.cumsum(document.loss_mask)])
        some = targets[bounds[:, 1]] > targets[bounds[:, 0] + 1]
        kept = bounds[some]
        found.append(np.column_stack([np.full(len(kept), number, dtype=np.int64), kept]))
    return np.concatenate(found)


def _documents_table(documents: Sequence[Document]) -> pa.Table:
    lengths = np.asarray([len(document.tokens) for document in documents], dtype=np.int64)
    columns: dict[str, Any] = {
        "id": [document.id for document in documents],
        "source": [document.source for document in documents],
        "row": [document.row for document in documents],
        "hash": [document.hash for document in documents],
        "metadata": [json.dumps(dict(document.metadata), ensure_ascii=False) for document in documents],
        "offset": np.cumsum(lengths) - lengths,
        "length": lengths,
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


def write_share(
    folder: Path, documents: Sequence[Document], skips: Sequence[Skip], context: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a share; it appears whole or not at all.

    Args:
        folder: Where it appears.
        documents: Its documents, in order.
        skips: The rows that were left out among them.
        context: Length of a window in tokens.
        facts: Further entries of its marker.

    Returns:
        The marker: counts, content hash and `facts`.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    arrays = {
        "tokens": _flat([document.tokens for document in documents], np.uint32),
        "loss": _flat([document.loss_mask for document in documents], np.bool_),
        "windows": _all_windows(documents, context),
    }
    marker = {
        **facts,
        "documents": len(documents),
        "windows": len(arrays["windows"]),
        "tokens": len(arrays["tokens"]),
        "targets": int(arrays["loss"].sum()),
        "skips": dict(sorted(Counter(skip.reason for skip in skips).items())),
        "notes": dict(sorted(Counter(note for document in documents for note in document.notes).items())),
        "hash": _content_hash(documents, arrays),
    }
    with publish(folder, marker) as temporary:
        for name, array in arrays.items():
            write_array(temporary / f"{name}.npy", array)
        write_table(temporary / "documents.parquet", _documents_table(documents))
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
        """Tokens int64 and loss mask of part of a document."""
        first = int(self.offsets[document])
        last = first + (int(self.lengths[document]) if stop is None else stop)
        return np.array(self.tokens[first + start : last], dtype=np.int64), np.array(self.loss[first + start : last])

    def document(self, number: int) -> Document:
        """A document of the share."""
        row = self.table.slice(number, 1).to_pylist()[0]
        tokens, loss = self.slice(number)
        return Document(row["id"], row["source"], row["row"], row["hash"], tokens, loss, json.loads(row["metadata"]))


def open_share(folder: Path, documents: int, windows: int, tokens: int) -> OpenShare:
    """Open a share and check that it holds what the manifest promises.

    Raises:
        StorageError: It is damaged.
    """
    arrays = [open_array(folder / f"{name}.npy") for name in ("tokens", "loss", "windows")]
    table = _read_table(folder / "documents.parquet")
    found = (table.num_rows, len(arrays[2]), len(arrays[0]), len(arrays[1]))
    if found != (documents, windows, tokens, tokens):
        raise StorageError(
            f"{folder} is damaged: it holds {found[0]} documents, {found[1]} windows and {found[2]} tokens, the "
            f"manifest says {documents}, {windows} and {tokens}. Delete the corpus folder "
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

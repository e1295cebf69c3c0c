"""Writers of the token files that tests read, from the formats' published layouts. Imports nothing of whence."""

import csv
import gzip
import io
import struct
from pathlib import Path

import numpy as np

EOS = 0


def stream(documents) -> np.ndarray:
    return np.concatenate([np.asarray(each, dtype=np.int64) for each in documents] or [np.zeros(0, np.int64)])


def sidecar_text(documents, source="/somewhere/a.jsonl.gz") -> str:
    out, at = io.StringIO(), 0
    writer = csv.writer(out)
    for number, each in enumerate(documents):
        writer.writerow([at, at + len(each), f"doc-{number}", source, number + 1])
        at += len(each)
    return out.getvalue()


def write_memmap(path: Path, documents, dtype="uint16", sidecar=True, source="/somewhere/a.jsonl.gz") -> Path:
    """Headerless tokens, and the sidecar start,end,id,src,loc beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream(documents).astype(np.dtype(dtype).newbyteorder("<")).tofile(path)
    if sidecar:
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(sidecar_text(documents, source).encode()))
    return path


CODES = {"uint8": 1, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write_megatron(path: Path, documents, dtype="uint16") -> Path:
    """``.bin`` and ``.idx``; a document is a list of sequences."""
    sequences = [np.asarray(part) for document in documents for part in document]
    size = np.dtype(dtype).itemsize
    lengths = np.array([len(each) for each in sequences], dtype="<i4")
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]).astype("<i8") * size
    bounds = np.cumsum([0, *(len(document) for document in documents)]).astype("<i8")
    path.parent.mkdir(parents=True, exist_ok=True)
    stream(sequences).astype(np.dtype(dtype).newbyteorder("<")).tofile(path)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, CODES[dtype], len(sequences), len(bounds))
    path.with_suffix(".idx").write_bytes(
        head + lengths.tobytes() + pointers[: len(lengths)].tobytes() + bounds.tobytes()
    )
    return path

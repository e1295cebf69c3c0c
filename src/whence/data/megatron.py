r"""Megatron's indexed datasets: tokens in ``.bin``, and in ``.idx`` where sequences and documents lie.

    MMIDIDX\0\0    9 bytes
    version        uint64, 1
    type           uint8: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float64, 7 float32, 8 uint16
    sequences      uint64, n
    boundaries     uint64, d: one more than there are documents
    lengths        int32 [n], tokens of each sequence
    pointers       int64 [n], where each begins in the .bin, in bytes
    documents      int64 [d], the first sequence of each document, then n
    modes          int8 [n], of multimodal data only

All little-endian. A document is a run of sequences. Knows no tokenizer.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.data.flat import FlatFile
from whence.data.sidecars import Span
from whence.data.sources import SourceFile
from whence.errors import CorpusError

__all__ = ["open_megatron"]

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
_BLOCK = 2**16  # documents or sequences


@dataclass(frozen=True, slots=True)
class _Index:
    """An index whose arrays are read in parts."""

    file: SourceFile
    dtype: np.dtype[Any]
    lengths: FlatFile
    pointers: FlatFile
    documents: FlatFile


def _wrong(index: SourceFile, what: str) -> CorpusError:
    return CorpusError(f"{index.source} is no usable index of a Megatron dataset: {what}.")


def _header(index: SourceFile) -> tuple[np.dtype[Any], int, int]:
    """Type of the tokens, number of sequences, number of document boundaries."""
    with index.filesystem.open(index.path, "rb") as handle:
        head = handle.read(_HEADER.size)
    if not head.startswith(_MAGIC):
        raise _wrong(index, f"it begins with {head[:9]!r} and not with {_MAGIC!r}")
    if len(head) < _HEADER.size:
        raise _wrong(index, f"it is cut off within its header, after {len(head)} bytes")
    _, version, code, sequences, boundaries = _HEADER.unpack(head)
    if version != 1:
        raise _wrong(index, f"it has version {version}, and only 1 is known")
    dtype = np.dtype(_TYPES[code]) if code in _TYPES else None
    if dtype is None or dtype.kind not in "iu":
        found = f"{dtype} (code {code})" if dtype is not None else f"of the unknown code {code}"
        raise _wrong(index, f"its tokens are {found}, not whole numbers")
    return dtype, sequences, boundaries


def _open(index: SourceFile) -> _Index:
    dtype, n, d = _header(index)
    starts = np.cumsum([_HEADER.size, 4 * n, 8 * n, 8 * d])
    end = int(starts[3])
    if index.bytes not in (end, end + n):
        state = "is cut off" if index.bytes < end else "is longer than it says"
        raise _wrong(index, f"it {state}: {index.bytes:,} bytes for {n:,} sequences and {d:,} boundaries, not {end:,}")
    places = [int(start) for start in starts[:3]]
    return _Index(
        index,
        dtype,
        FlatFile(index, "<i4", places[0], n),
        FlatFile(index, "<i8", places[1], n),
        FlatFile(index, "<i8", places[2], d),
    )


def _check_sequences(index: _Index, tokens: SourceFile) -> int:
    """Check that sequences lie one behind the other; how many tokens they have.

    Raises:
        CorpusError: They do not.
    """
    at = 0
    for start in range(0, len(index.lengths), _BLOCK):
        lengths = index.lengths.read(start, start + _BLOCK).astype(np.int64)
        ends = at + np.cumsum(lengths)
        pointers = index.pointers.read(start, start + _BLOCK)
        if lengths.min() < 0 or not np.array_equal(pointers, (ends - lengths) * index.dtype.itemsize):
            raise _wrong(index.file, "its sequences do not lie one behind the other; it is damaged")
        at = int(ends[-1])
    if at * index.dtype.itemsize > tokens.bytes:
        raise CorpusError(
            f"{tokens.source} is cut off, or {index.file.source} is not its index: the index has {at:,} tokens of "
            f"{index.dtype}, {at * index.dtype.itemsize:,} bytes, and the file has {tokens.bytes:,}."
        )
    return at


def _check_documents(index: _Index) -> None:
    last, n = 0, len(index.lengths)
    for start in range(0, len(index.documents), _BLOCK):
        part = index.documents.read(start, start + _BLOCK)
        if int(part[0]) < last or (np.diff(part) < 0).any() or (start == 0 and int(part[0]) != 0):
            raise _wrong(index.file, "its documents do not lie one behind the other; it is damaged")
        last = int(part[-1])
    if len(index.documents) == 0 or last != n:
        raise _wrong(index.file, f"its documents end at sequence {last:,}, and there are {n:,}")


def _spans(index: _Index) -> Iterator[Span]:
    at = 0
    for start in range(0, len(index.documents) - 1, _BLOCK):
        bounds = index.documents.read(start, start + _BLOCK + 1)
        lengths = index.lengths.read(int(bounds[0]), int(bounds[-1]))
        ends: NDArray[np.int64] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        places = at + ends[bounds - bounds[0]]
        at = int(places[-1])
        for low, high in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
            yield Span(low, high)


def open_megatron(file: SourceFile) -> tuple[FlatFile, Iterator[Span]]:
    """The tokens of a ``.bin`` file, and where its documents lie.

    Args:
        file: With its index among its `companions`.

    Raises:
        CorpusError: The index is damaged, or the two do not fit.
    """
    index = _open(dict(file.companions)["index"])
    _check_sequences(index, file)
    _check_documents(index)
    whole = replace(file, bytes=file.bytes - file.bytes % index.dtype.itemsize)
    return FlatFile(whole, index.dtype), _spans(index)

"""Sidecars of token files: which tokens are a document, and which row of which file they were made from.

    0,812,doc-1,s3://bucket/documents/a.jsonl.gz,1      start, end (exclusive), id, source, line (1-based)
    812,997                                             start, end: all that OLMo-core itself writes

Knows no tokens. Read line by line.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from whence.data.sources import SourceFile, decompressed
from whence.errors import CorpusError

__all__ = ["Span", "sidecar_spans"]

_REMEDY = "Make the sidecar again, or move it away to have documents cut at end-of-sequence tokens."


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start..stop of a token file that are one document, its id, and its 0-based row in the original file."""

    start: int
    stop: int
    id: str | None = None
    file: str | None = None
    row: int | None = None


def _wrong(sidecar: SourceFile, file: SourceFile, what: str) -> CorpusError:
    return CorpusError(f"{sidecar.source} does not go with {file.source}: {what}. {_REMEDY}")


def _span(cells: list[str]) -> Span:
    """A line as a span.

    Raises:
        ValueError: It is not one.
    """
    if len(cells) not in (2, 5):
        raise ValueError(f"{len(cells)} columns, expected start,end,id,src,loc or start,end")
    start, stop = int(cells[0]), int(cells[1])
    if not 0 <= start <= stop:
        raise ValueError(f"a document from token {start} to token {stop}")
    if len(cells) == 2:
        return Span(start, stop)
    line = int(cells[4]) if cells[4] else 0
    return Span(start, stop, cells[2] or None, cells[3] or None, line - 1 if line > 0 else None)


def _beyond(sidecar: SourceFile, file: SourceFile, span: Span, length: int) -> CorpusError:
    hint = "the tokens were cut off, or they are narrower than they were read (--token-dtype uint16)"
    return _wrong(sidecar, file, f"a document ends at token {span.stop:,}, and there are {length:,}; {hint}")


def _lines(sidecar: SourceFile) -> Iterator[tuple[int, list[str]]]:
    with sidecar.filesystem.open(sidecar.path, "rb") as handle:
        head = handle.read(8)
        if not head:
            return
        rows = csv.reader(io.TextIOWrapper(decompressed(handle, head), encoding="utf-8", newline=""))
        for cells in rows:
            if cells and not (rows.line_num == 1 and [cell.strip() for cell in cells[:2]] == ["start", "end"]):
                yield rows.line_num, cells


def sidecar_spans(sidecar: SourceFile, file: SourceFile, length: int) -> Iterator[Span]:
    """The documents of a token file in order, as its sidecar has them.

    Args:
        sidecar: CSV, compressed or not.
        file: The token file, for messages.
        length: How many tokens it has.

    Raises:
        CorpusError: The sidecar is damaged, its documents overlap or go beyond the file, or it covers half of it.
    """
    at, number = 0, 0
    try:
        for number, cells in _lines(sidecar):
            try:
                span = _span(cells)
            except ValueError as error:
                raise CorpusError(f"{sidecar.source} line {number} is no entry of a sidecar: {error}.") from error
            if span.start < at:
                raise _wrong(sidecar, file, f"line {number} begins at token {span.start:,}, before the end of the last")
            if span.stop > length:
                raise _beyond(sidecar, file, span, length)
            at = span.stop
            yield span
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise CorpusError(
            f"{sidecar.source}, the sidecar of {file.source}, is damaged or cut off after line {number}: {told[0]}. "
            f"{_REMEDY}"
        ) from error
    if not at and length:
        raise _wrong(sidecar, file, f"it names no document, and there are {length:,} tokens")
    if at * 2 == length:
        raise _wrong(
            sidecar, file, f"it ends at token {at:,}, the middle of the file; its tokens are wider than they were read "
            "(--token-dtype uint32), or half of the sidecar is missing"
        )  # fmt: skip

"""Files as streams of rows. Knows fields, not documents: what a row means is decided in rows.py.

Formats are recognised by their first bytes where those decide (Parquet, Arrow, gzip, zstd, bzip2) and by suffix
otherwise. Every row is yielded, as a `Row` or as a `Skip` with a reason, so that nothing is lost unseen. Memory is
bounded by the largest row, or for Parquet and Arrow by one batch of the file.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from whence.data.companions import kind_of
from whence.data.hub import HubId, hub_rows
from whence.data.sources import FORMATS, MAGIC, PROSE, SourceFile, begins_like_rows, decompressed, suffix_of
from whence.data.token_files import TokenFormat, token_rows
from whence.errors import CorpusError
from whence.interfaces import Origin, Skip

__all__ = ["Row", "open_rows"]

LARGEST_ROW = 2**28  # bytes of one line, text file or cell; above this a row is a Skip
_ANY_TOKENS = TokenFormat()
_BATCH_ROWS = 256
_CHUNK = 2**20
_BETWEEN = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()
_WIDE_TEXT = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its file.

    Attributes:
        source: The file, as given.
        name: The file's short name, for default ids.
        row: 0-based row in the file; for JSON lines the line.
        fields: Field name to value.
        tags: What is known of all rows of its source.
        attributes: What its attribute files say: name of the set -> attribute -> value or spans.
        notes: What should be counted about how it was read.
        origin: Its place in a token file; None if it comes from anything else.
    """

    source: str
    name: str
    row: int
    fields: dict[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: Origin | None = None


Item = Row | Skip
Reader = Callable[[SourceFile, Any, int], Iterator[Item]]


def _broken(file: SourceFile, what: object) -> CorpusError:
    return CorpusError(f"{file.source}: {what}\nCan be read: {FORMATS}.")


@contextmanager
def _read_errors(file: SourceFile, kind: str) -> Iterator[None]:
    """Turn what libraries raise on a damaged or forbidden file into a `CorpusError`."""
    try:
        yield
    except PermissionError as error:
        raise CorpusError(f"{file.source}: no permission to read it; change its permissions.") from error
    except FileNotFoundError as error:
        raise CorpusError(f"{file.source}: the file is gone; it was there when the corpus was listed.") from error
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        text = str(error).strip().splitlines()
        raise _broken(
            file, f"the {kind} file is damaged or cut off: {text[0] if text else type(error).__name__}"
        ) from error


def _text_head(file: SourceFile, stream: Any) -> bytes:
    """The first bytes of a text file, its byte-order mark consumed.

    Raises:
        CorpusError: They are no UTF-8 text.
    """
    head: bytes = stream.peek(4096)[:4096]
    if head.startswith(_WIDE_TEXT):
        raise _broken(file, "the text is UTF-16 or UTF-32; convert it, as in `iconv -t UTF-8`.")
    if b"\0" in head:
        raise _broken(file, "the file is binary, not text.")
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
        return head[len(codecs.BOM_UTF8) :]
    return head


def _parse(source: str, name: str, number: int, line: bytes) -> Item:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Skip(source, number, "bad-utf8", f"byte {error.start} of the line: {error.reason}")
    except (ValueError, RecursionError) as error:
        return Skip(source, number, "bad-json", f"{error}; the line begins {line[:60].decode('utf-8', 'replace')!r}")
    if not isinstance(value, dict):
        return Skip(source, number, "not-an-object", f"it is a JSON {type(value).__name__}")
    return Row(source, name, number, value)


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines without their end; None for one that is too long to hold."""
    while line := stream.readline(LARGEST_ROW + 1):
        if len(line) <= LARGEST_ROW:
            yield line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_CHUNK)
        yield None


def _json_lines(file: SourceFile, stream: Any, start: int) -> Iterator[Item]:
    for number, line in enumerate(_lines(stream)):
        if number < start:
            continue
        if line is None:
            yield Skip(file.source, number, "row-too-big", f"more than {LARGEST_ROW} bytes in one line")
        elif line.strip():
            yield _parse(file.source, file.name, number, line)


class _ArrayText:
    """The text of a JSON array as far as it has been read, and how far it has been used."""

    def __init__(self, file: SourceFile, stream: Any) -> None:
        self.file = file
        self.stream = codecs.getreader("utf-8")(stream)
        self.text, self.at, self.ended = "", 0, False
        self.more(_CHUNK)
        self.at = self.text.index("[") + 1

    def more(self, size: int) -> None:
        """Read on, dropping what has been used."""
        new = self.stream.read(size)
        self.text, self.at, self.ended = self.text[self.at :] + new, 0, not new

    def to_element(self) -> bool:
        """Go to the next element; False at the end of the array."""
        while True:
            found = _BETWEEN.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text):
                return self.text[self.at] != "]"
            if self.ended:
                raise _broken(self.file, "the JSON array is cut off.")
            self.more(_CHUNK)

    def element(self) -> Any:
        """Decode the element here, reading on while it is not complete."""
        wanted = _CHUNK
        while True:
            try:
                value, stop = _DECODER.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise _broken(self.file, "an element of the JSON array is nested too deeply.") from error
            except ValueError as error:
                if self.ended or len(self.text) - self.at > LARGEST_ROW:
                    raise _broken(self.file, f"the JSON array is damaged or cut off: {error}") from error
            else:
                if stop < len(self.text) or self.ended:
                    self.at = stop
                    return value
            self.more(wanted)
            wanted *= 2


def _elements(file: SourceFile, stream: Any) -> Iterator[Any]:
    """The elements of one JSON array, read piece by piece."""
    array = _ArrayText(file, stream)
    while array.to_element():
        yield array.element()


def _json_array(file: SourceFile, stream: Any, start: int) -> Iterator[Item]:
    for number, value in enumerate(_elements(file, stream)):
        if number < start:
            continue
        if isinstance(value, dict):
            yield Row(file.source, file.name, number, value)
        else:
            yield Skip(file.source, number, "not-an-object", f"it is a JSON {type(value).__name__}")


def _json(file: SourceFile, stream: Any, start: int) -> Iterator[Item]:
    head = _text_head(file, stream)
    array = head.lstrip().startswith(b"[")
    with _read_errors(file, "JSON"):
        yield from (_json_array if array else _json_lines)(file, stream, start)


def _csv_row(file: SourceFile, number: int, header: list[str], cells: list[str]) -> Item:
    if len(cells) != len(header):
        return Skip(file.source, number, "bad-csv", f"{len(cells)} cells where the header has {len(header)}")
    if any("\udc80" <= mark <= "\udcff" for cell in cells for mark in cell):
        return Skip(file.source, number, "bad-utf8", "")
    return Row(file.source, file.name, number, dict(zip(header, cells, strict=True)))


def _csv_records(file: SourceFile, rows: Iterator[list[str]], start: int) -> Iterator[Item]:
    header = next(rows, None)
    if header is None:
        return
    number = -1
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            if number >= start:
                yield Skip(file.source, number, "bad-csv", str(error))
            continue
        number += 1
        if cells and number >= start:
            yield _csv_row(file, number, header, cells)


def _csv(file: SourceFile, stream: Any, start: int) -> Iterator[Item]:
    first = _text_head(file, stream).split(b"\n")[0].decode("utf-8", "replace")
    delimiter = "\t" if suffix_of(file.path) == ".tsv" else max(",;\t|", key=first.count)
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_ROW))
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        with _read_errors(file, "CSV"):
            yield from _csv_records(file, csv.reader(text, delimiter=delimiter, strict=True), start)
    finally:
        text.detach()  # the file is the caller's to close


def _prose(file: SourceFile, stream: Any, start: int, field: str = "text") -> Iterator[Item]:
    """A text file is one document."""
    _text_head(file, stream)
    with _read_errors(file, "text"):
        content = stream.read(LARGEST_ROW + 1)
    if start or not content:
        return
    if len(content) > LARGEST_ROW:
        yield Skip(file.source, 0, "row-too-big", f"more than {LARGEST_ROW} bytes in one text file")
        return
    try:
        yield Row(file.source, file.name, 0, {field: content.decode("utf-8")})
    except UnicodeDecodeError as error:
        yield Skip(file.source, 0, "bad-utf8", f"byte {error.start} of the file: {error.reason}")


def _batch_rows(file: SourceFile, batch: Any, first: int, start: int) -> Iterator[Item]:
    """The rows of a record batch from `start` on, a few at a time."""
    for offset in range(max(0, start - first), batch.num_rows, _BATCH_ROWS):
        part = batch.slice(offset, _BATCH_ROWS)
        try:
            rows: list[Any] = part.to_pylist()
        except (UnicodeDecodeError, pa.ArrowException):
            rows = [_one(part, number) for number in range(part.num_rows)]
        for number, row in enumerate(rows, first + offset):
            if isinstance(row, dict):
                yield Row(file.source, file.name, number, row)
            else:
                yield Skip(file.source, number, "bad-utf8", str(row))


def _one(batch: Any, number: int) -> Any:
    try:
        return batch.slice(number, 1).to_pylist()[0]
    except (UnicodeDecodeError, pa.ArrowException) as error:
        return str(error)


def _tables(file: SourceFile, batches: Iterator[Any], first: int, start: int) -> Iterator[Item]:
    for batch in batches:
        if first + batch.num_rows > start:
            yield from _batch_rows(file, batch, first, start)
        first += batch.num_rows


def _parquet(file: SourceFile, stream: Any, start: int) -> Iterator[Item]:
    import pyarrow.parquet as pq

    with _read_errors(file, "Parquet"):
        table = pq.ParquetFile(stream)
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first + rows > start:
                batches = table.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group])
                yield from _tables(file, batches, first, start)
            first += rows


def _arrow(file: SourceFile, stream: Any, start: int) -> Iterator[Item]:
    with _read_errors(file, "Arrow"):
        if stream.read(6) == b"ARROW1":
            table = pa.ipc.open_file(stream)
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            stream.seek(0)
            batches = iter(pa.ipc.open_stream(stream))
        yield from _tables(file, batches, 0, start)


def _choose(file: SourceFile, head: bytes, text_field: str) -> Reader:
    suffix = suffix_of(file.path)
    if head.startswith(b"PAR1"):
        return _parquet
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return _arrow
    if suffix in (".parquet", ".arrow", ".feather"):
        raise _broken(file, f"it is named {suffix} but its content is not.")
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json
    if suffix in (".csv", ".tsv"):
        return _csv
    if suffix in PROSE:
        return partial(_prose, field=text_field)
    if suffix == ".bin":
        raise _broken(file, "a .bin file is read with its Megatron index, and no .idx of that name lies beside it.")
    raise _broken(file, f"the format {suffix or '(no suffix)'} is not known.")


def _hub(file: SourceFile, hub: HubId, start: int) -> Iterator[Item]:
    for number, fields in hub_rows(hub, file.sample, start):
        yield Row(file.source, file.name, number, fields)


def _tokens(file: SourceFile, start: int, form: TokenFormat) -> Iterator[Item]:
    with _read_errors(file, "token"):
        for item in token_rows(file, start, form):
            if isinstance(item, Skip):
                yield item
            else:
                yield Row(file.source, file.name, item.row, item.fields, notes=item.notes, origin=item.origin)


def _items(file: SourceFile, start: int, text_field: str, form: TokenFormat) -> Iterator[Item]:
    if file.hub is not None:
        yield from _hub(file, file.hub, start)
        return
    if kind_of(file.path) == "numpy" or "index" in dict(file.companions):
        yield from _tokens(file, start, form)
        return
    with _read_errors(file, "given"):
        handle = file.filesystem.open(file.path, "rb")
    with handle:
        with _read_errors(file, "given"):
            head = handle.read(8)
            handle.seek(0)
        reader = _json if begins_like_rows(file.filesystem, file.path) else _choose(file, head, text_field)
        if not head:
            return
        if reader in (_parquet, _arrow):
            yield from reader(file, handle, start)
            return
        with _read_errors(file, "compressed" if head.startswith(tuple(MAGIC)) else "given"):
            stream = decompressed(handle, head)
            stream.peek(1)
        yield from reader(file, stream, start)


def open_rows(
    file: SourceFile, start: int = 0, text_field: str = "text", form: TokenFormat = _ANY_TOKENS
) -> Iterator[Item]:
    """The rows of one file, streamed.

    Args:
        file: From `find_files`.
        start: Rows before this one are passed over (cheaply where the format allows).
        text_field: What to call the content of a plain text file, which has no fields of its own.
        form: How to read a token file.

    Yields:
        A `Row` for what could be read and a `Skip` for what could not; both carry the row's number.

    Raises:
        CorpusError: The file as a whole cannot be read: no permission, cut off, binary, of unknown format.
    """
    some = False
    for item in _items(file, start, text_field, form):
        some = True
        yield item
    if not some and start == 0:
        yield Skip(file.source, 0, "empty-file", f"{file.bytes} bytes, no row")

"""Token files as rows: tokens that somebody else's tokenizer made, and where each document of them came from.

    .npy         headerless integers (Dolma's tokenizer, OLMo-core), which numpy itself cannot load; or an array that
                 numpy saved, one stream or one document a row. Documents lie where a sidecar says (sidecars.py), or
                 end at end-of-sequence tokens. A label mask beside it says which tokens are trained on.
    .bin, .idx   Megatron's (megatron.py)

A row's number is its place among the documents of the file. Tokens between documents are listed as skipped. Nothing
is loaded whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from whence.data.companions import is_mask, kind_of
from whence.data.config import TokenDtype
from whence.data.flat import FlatFile
from whence.data.megatron import open_megatron
from whence.data.sidecars import Span, sidecar_spans
from whence.data.sources import COMPRESSED, SourceFile
from whence.errors import CorpusError
from whence.interfaces import Origin, Skip

__all__ = ["TokenFormat", "TokenRow", "token_rows"]

LARGEST_DOCUMENT = 2**26  # tokens; one document has to be held in memory
_NUMPY = b"\x93NUMPY"
_BLOCK = 2**20  # tokens
_SAMPLE = 2**14  # tokens
_LOOKED_AT = 64  # documents


@dataclass(frozen=True, slots=True)
class TokenFormat:
    """How token files are to be read.

    Attributes:
        vocabulary: Every id must be below it.
        dtype: Type of headerless tokens.
        eos: The end-of-sequence token, if there is one.
        ids: Field for the tokens.
        id: Field for the document's id.
    """

    vocabulary: int = 2**32
    dtype: TokenDtype = "auto"
    eos: int | None = None
    ids: str = "input_ids"
    id: str = "id"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One document of a token file: number, fields, place, notes."""

    row: int
    fields: dict[str, Any]
    origin: Origin
    notes: tuple[str, ...] = ()


def _other(dtype: np.dtype[Any]) -> str:
    return "uint16" if dtype.itemsize == 4 else "uint32"


def _bad_ids(file: SourceFile, worst: int, form: TokenFormat, headerless: np.dtype[Any] | None) -> CorpusError:
    hint = "The tokens were made for another model, or the file is damaged."
    if headerless is not None:
        hint = f"Read as {headerless}; they are probably {_other(headerless)}: --token-dtype {_other(headerless)}. " + (
            "If not, they were made for another model."
        )
    return CorpusError(
        f"{file.source} holds token {worst}, but the model's vocabulary has {form.vocabulary:,} tokens. {hint}"
    )


def _check_sample(array: FlatFile, form: TokenFormat, headerless: np.dtype[Any] | None) -> None:
    """Look at the start, middle and end of a file for signs that it is read with the wrong type.

    Raises:
        CorpusError: There are ids beyond the vocabulary, or every other token is 0 (the upper halves of wider ones).
    """
    middle = len(array) // 2
    for start in (0, middle - middle % 2, max(0, len(array) - _SAMPLE) // 2 * 2):
        sample = array.read(start, start + _SAMPLE)
        _check_ids(array.file, sample, form, headerless)
        narrow = headerless is not None and headerless.itemsize == 2 and form.dtype == "auto"
        if narrow and len(sample) >= 8 and not sample[1::2].any() and sample[::2].any():
            raise CorpusError(
                f"{array.file.source} read as uint16 has a 0 after every token: its tokens are uint32. "
                "Say --token-dtype uint32 (or uint16, if they are as they should be)."
            )


def _check_ids(file: SourceFile, tokens: NDArray[Any], form: TokenFormat, headerless: np.dtype[Any] | None) -> None:
    low, high = (int(tokens.min()), int(tokens.max())) if len(tokens) else (0, 0)
    if low < 0 or high >= form.vocabulary:
        raise _bad_ids(file, low if low < 0 else high, form, headerless)


def _dtype(form: TokenFormat) -> np.dtype[Any]:
    """The type of headerless tokens: the narrowest that holds the vocabulary, unless it was given."""
    wide: DTypeLike = "<u2" if form.vocabulary <= 2**16 else "<u4"
    return np.dtype({"auto": wide, "uint16": "<u2", "uint32": "<u4"}[form.dtype])


def _saved_by_numpy(file: SourceFile) -> tuple[tuple[int, ...], np.dtype[Any], int] | None:
    """Shape, type and header bytes of an array that numpy saved; None if the file has no such header."""
    with file.filesystem.open(file.path, "rb") as handle:
        if handle.read(len(_NUMPY)) != _NUMPY:
            return None
        handle.seek(0)
        try:
            version = np.lib.format.read_magic(handle)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"version {version} of the format is not known")
            shape, columns_first, dtype = readers[version](handle)
        except ValueError as error:
            raise CorpusError(f"{file.source}: the header that numpy wrote is damaged: {error}") from error
        if columns_first and len(shape) > 1:
            raise CorpusError(f"{file.source}: the array lies column by column; save it with np.ascontiguousarray.")
        return shape, dtype, handle.tell()


def _numbers(file: SourceFile, form: TokenFormat) -> tuple[FlatFile, int | None, np.dtype[Any] | None]:
    """The tokens of a .npy file, the length of its rows if it has any, and the type it was read with if headerless."""
    saved = _saved_by_numpy(file)
    if saved is None:
        return FlatFile(file, _dtype(form)), None, _dtype(form)
    shape, dtype, offset = saved
    if dtype.kind not in "iu" or len(shape) not in (1, 2):
        raise CorpusError(
            f"{file.source} holds an array of {dtype} with shape {shape}; token ids are whole numbers in one stream, "
            "or in rows of one document each."
        )
    array = FlatFile(file, dtype, offset, int(np.prod(shape)))
    return array, (shape[1] if len(shape) == 2 else None), None


def _row_spans(length: int, width: int) -> Iterator[Span]:
    """Documents of an array with one document a row."""
    for start in range(0, length, max(width, 1)):
        yield Span(start, start + width)


def _ended(array: FlatFile, eos: int) -> Iterator[Span]:
    """Documents cut behind their end-of-sequence tokens; the last one may have none."""
    begin = 0
    for start in range(0, len(array), _BLOCK):
        for end in (np.flatnonzero(array.read(start, start + _BLOCK) == eos) + start + 1).tolist():
            yield Span(begin, end)
            begin = end
    if begin < len(array):
        yield Span(begin, len(array))


def _mask(file: SourceFile, length: int) -> FlatFile | None:
    """The label mask beside a token file.

    Raises:
        CorpusError: It has another length.
    """
    mask = dict(file.companions).get("mask")
    if mask is None:
        return None
    saved = _saved_by_numpy(mask)
    if saved is not None and saved[1].itemsize != 1:
        raise CorpusError(f"{mask.source} holds {saved[1]}, and a label mask holds a bool for each token.")
    found = FlatFile(mask, np.uint8, 0 if saved is None else saved[2])
    if len(found) != length:
        raise CorpusError(
            f"{mask.source} does not go with {file.source}: it has {len(found):,} entries for {length:,} tokens."
        )
    return found


def _masked(mask: FlatFile, span: Span) -> NDArray[np.bool_]:
    part = mask.read(span.start, span.stop)
    if len(part) and int(part.max()) > 1:
        raise CorpusError(f"{mask.file.source} is no label mask: a byte of it is {int(part.max())}, not 0 or 1.")
    return part.astype(bool)


def _check_ends(array: FlatFile, spans: Iterator[Span], eos: int | None) -> Iterator[Span]:
    """The same spans, unless the first of them show that the sidecar belongs to other tokens.

    Raises:
        CorpusError: None of them ends with the end-of-sequence token, and it stands in the middle of some.
    """
    first = list(islice(spans, _LOOKED_AT))
    parts = [array.read(span.start, span.stop) for span in first if span.stop - span.start > 1]
    inside = sum(bool((part[1:-1] == eos).any()) for part in parts)
    if eos is not None and len(parts) >= 4 and inside and not any(part[-1] == eos for part in parts):
        raise CorpusError(
            f"{array.file.source} does not go with its sidecar: none of the first {len(parts)} documents ends with the "
            f"end-of-sequence token ({eos}), which stands in the middle of {inside} of them. Make the sidecar again, "
            "or move it away to have documents cut at end-of-sequence tokens."
        )
    return chain(first, spans)


def _spans(
    file: SourceFile, array: FlatFile, width: int | None, form: TokenFormat
) -> tuple[Iterator[Span], tuple[str, ...]]:
    """Where the documents of a .npy file lie, and what should be said of how that was found."""
    if width is not None:
        return _row_spans(len(array), width), ()
    sidecar = dict(file.companions).get("sidecar")
    if sidecar is not None:
        return _check_ends(array, sidecar_spans(sidecar, file, len(array)), form.eos), ()
    if form.eos is None:
        raise CorpusError(
            f"{file.source} cannot be cut into documents: no sidecar (.csv.gz) lies beside it, and the tokenizer has "
            "no end-of-sequence token."
        )
    return _ended(array, form.eos), ("no-sidecar",)


def _gap(file: SourceFile, array: FlatFile, row: int, start: int, stop: int) -> Skip:
    return Skip(file.source, row, "no-document", f"tokens {start:,} to {stop:,} of the file", array.read(start, stop))


def _item(file: SourceFile, array: FlatFile, mask: FlatFile | None, row: int, span: Span, form: TokenFormat) -> Any:
    tokens = array.read(span.start, span.stop)
    if not len(tokens):
        return Skip(file.source, row, "empty", "no tokens")
    if len(tokens) > LARGEST_DOCUMENT:
        return Skip(file.source, row, "row-too-big", f"{len(tokens):,} tokens in one document", tokens)
    fields: dict[str, Any] = {form.ids: tokens}
    if mask is not None:
        fields["loss_mask"] = _masked(mask, span)
    if span.id:
        fields[form.id] = span.id
    return fields


def _rows(
    array: FlatFile,
    spans: Iterable[Span],
    mask: FlatFile | None,
    start: int,
    form: TokenFormat,
    headerless: np.dtype[Any] | None,
    notes: tuple[str, ...],
) -> Iterator[TokenRow | Skip]:
    file, at, row = array.file, 0, -1
    for row, span in enumerate(spans):
        before, at = at, span.stop
        if row < start:
            continue
        if span.start > before:
            yield _gap(file, array, row, before, span.start)
        made = _item(file, array, mask, row, span, form)
        if isinstance(made, Skip):
            yield made
            continue
        _check_ids(file, made[form.ids], form, headerless)
        yield TokenRow(row, made, Origin(span.start, span.stop, span.file, span.row), notes)
    if at < len(array):
        yield _gap(file, array, row + 1, at, len(array))


def token_rows(file: SourceFile, start: int, form: TokenFormat) -> Iterator[TokenRow | Skip]:
    """The documents of a token file, in order.

    Args:
        file: The tokens; what lies beside them is in its `companions`.
        start: Documents before this one are passed over.
        form: How to read it.

    Yields:
        A `TokenRow` for each document, a `Skip` for each stretch of tokens that belongs to none; a `Skip` has its
        tokens, so that what is yielded is the file in full.

    Raises:
        CorpusError: The file is cut off, of another type, does not fit its sidecar, mask or index, or is a mask.
    """
    if file.path.lower().endswith(COMPRESSED):
        raise CorpusError(f"{file.source}: a token file has to be decompressed before it can be read in parts.")
    if is_mask(file.path):
        raise CorpusError(f"{file.source} is a label mask by its name; give the token file that it lies beside.")
    if file.bytes == 0:
        return
    if kind_of(file.path) == "megatron":
        tokens, spans = open_megatron(file)
        yield from _rows(tokens, spans, None, start, form, None, ())
        return
    array, width, headerless = _numbers(file, form)
    _check_sample(array, form, headerless)
    found, notes = _spans(file, array, width, form)
    yield from _rows(array, found, _mask(file, len(array)), start, form, headerless, notes)

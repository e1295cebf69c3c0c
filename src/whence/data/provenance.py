"""From a document's tokens back to the characters of the row they were made from.

A wrong place is worse than none, so a text counts as the row's only if it is known to be: it has the hash that was
stored when the row was read, or the row itself is read again, or the tokenizer spells every text in tokens without
loss. And the text, tokenised again, must give the document's tokens; then the tokenizer's own offsets are the places.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from whence.data.config import CorpusConfig
from whence.data.readers import Row, open_rows
from whence.data.rows import text_hash
from whence.data.sources import source_file
from whence.data.tokenization import Tokenizer, offsets_of
from whence.errors import CorpusError
from whence.interfaces import Document

__all__ = ["CharacterMap", "characters_of"]

_LONGEST = 2**20  # tokens; of longer documents tokens alone are named
_LARGEST_FILE = 2**26  # bytes that are read at most to come to a row again
_MARKS = [
    (0, 0),
    (0, 1),
    (1, 0),
    (1, 1),
]  # special tokens before and behind a text that the tokenizer did not put there
_BORDER = 40  # characters around the border of a prompt and a completion that are tried for it


@dataclass(frozen=True, slots=True)
class CharacterMap:
    """Where each token of a document is in its row.

    Attributes:
        fields: The fields whose texts, joined, are counted.
        reach: First and last character (half-open) of every token, int64 [T, 2].
        checked: How the text is known to be the row's.
    """

    fields: tuple[str, ...]
    reach: NDArray[np.int64]
    checked: Literal["hash", "row", "tokenizer"]

    def range(self, start: int, stop: int) -> tuple[int, int] | None:
        """Characters of tokens start..stop; None if they have none, as special tokens."""
        part = self.reach[start:stop]
        part = part[part[:, 1] > part[:, 0]]
        return (int(part[:, 0].min()), int(part[:, 1].max())) if len(part) else None


def _spelled(document: Document, tokenizer: Tokenizer) -> str:
    """The document's tokens as text, without the special tokens at its ends."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    plain = np.flatnonzero([token not in special for token in document.tokens.tolist()])
    inner = document.tokens[plain[0] : plain[-1] + 1].tolist() if len(plain) else []
    return str(tokenizer.decode(inner, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _lossless(tokenizer: Tokenizer) -> bool:
    """Whether tokens spell the bytes of any text: nothing is normalised, trimmed or put before it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not tokenizer.is_fast or backend is None:
        return False
    rules = json.loads(backend.to_str())
    decoder = (rules.get("decoder") or {}).get("type")
    prefixed = '"add_prefix_space": true' in json.dumps(rules.get("pre_tokenizer"))
    return rules.get("normalizer") is None and decoder == "ByteLevel" and not prefixed


def _read_back(source: str, number: int) -> Row | None:
    """A row of a local file that is not too large, read again; None if that cannot be done."""
    try:
        filesystem, path = url_to_fs(os.path.expanduser(source) if "://" not in source else source)
        if not isinstance(filesystem, LocalFileSystem) or not filesystem.isfile(path):
            return None
        file = source_file(filesystem, path, source, os.path.basename(path))
        if file.bytes > _LARGEST_FILE:
            return None
        found = next((item for item in open_rows(file, number) if item.row >= number), None)
    except (CorpusError, OSError, ValueError, ImportError):
        return None
    return found if isinstance(found, Row) and found.row == number else None


def _texts(row: Row | None, config: CorpusConfig) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The texts of a row that a document may have been made from, with the names of their fields."""
    for names in ((config.text_field,), (config.prompt_field, config.completion_field)):
        parts = tuple(row.fields.get(name) for name in names) if row is not None else ()
        if parts and all(isinstance(part, str) for part in parts):
            yield names, tuple(str(part) for part in parts)


def _by_hash(text: str, document: Document, config: CorpusConfig, border: int) -> tuple[str, ...]:
    """The fields whose texts join to this text, found by the hash that was stored of them; none if it does not fit.

    Args:
        text: What the tokens spell.
        document: With the hash.
        config: Names of the fields.
        border: About where the completion begins.
    """
    if text_hash(text) == document.hash:
        return (config.text_field,)
    for cut in range(max(0, border - _BORDER), min(len(text), border + _BORDER) + 1):
        if text_hash(text[:cut], text[cut:]) == document.hash:
            return (config.prompt_field, config.completion_field)
    return ()


def _reach(document: Document, text: str, tokenizer: Tokenizer) -> NDArray[np.int64] | None:
    """Where the document's tokens are in a text; None if the text does not become these tokens."""
    tokens, end = document.tokens.tolist(), (len(text), len(text))
    for special in (True, False):
        ids, reach = offsets_of(text, tokenizer, special)
        for before, after in _MARKS:
            if tokens[before : len(tokens) - after] == ids:
                return np.asarray([*[(0, 0)] * before, *reach, *[end] * after], dtype=np.int64).reshape(-1, 2)
    return None


def _row_map(document: Document, tokenizer: Tokenizer, config: CorpusConfig, row: Row | None) -> CharacterMap | None:
    for names, parts in _texts(row, config):
        if document.origin is None and text_hash(*parts) != document.hash:
            continue
        reach = _reach(document, "".join(parts), tokenizer)
        if reach is not None:
            return CharacterMap(names, reach, "row")
    return None


def _of_token_file(document: Document, tokenizer: Tokenizer, config: CorpusConfig, origin: Any) -> CharacterMap | None:
    row = None
    if origin.file is not None and origin.row is not None:
        row = _read_back(origin.file, origin.row)
    if row is not None:
        return _row_map(document, tokenizer, config, row)
    if not _lossless(tokenizer):
        return None
    reach = _reach(document, _spelled(document, tokenizer), tokenizer)
    return None if reach is None else CharacterMap((config.text_field,), reach, "tokenizer")


def characters_of(document: Document, tokenizer: Tokenizer | None, config: CorpusConfig) -> CharacterMap | None:
    """Where a document's tokens are in the text of its row.

    Args:
        document: From text, a prompt and completion, or a token file.
        tokenizer: The one its tokens are of; needs offsets.
        config: How the corpus was read.

    Returns:
        None where the place is not certain: a conversation, token ids without a text, a tokenizer that changes the
        text it is given, a row that says something else now, a document of more than a million tokens.
    """
    if tokenizer is None or not tokenizer.is_fast or not 0 < len(document.tokens) <= _LONGEST:
        return None
    if document.origin is not None:
        return _of_token_file(document, tokenizer, config, document.origin)
    text = _spelled(document, tokenizer)
    reach = _reach(document, text, tokenizer)
    if reach is not None:
        first = int(document.loss_mask.argmax())
        fields = _by_hash(text, document, config, int(reach[first, 0]))
        if fields:
            return CharacterMap(fields, reach, "hash")
    if _lossless(tokenizer):  # then the tokens would have spelled the row's text if they were made from it alone
        return None
    return _row_map(document, tokenizer, config, _read_back(document.source, document.row))

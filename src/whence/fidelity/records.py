"""Questions as JSON and back, without their names, and the hash by which a bank knows them again."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash

from whence.interfaces import EncodedQuery, EncodedText, Query

__all__ = ["canonical", "content_hash", "query_of", "query_record"]


def content_hash(text: str) -> str:
    """Hash of a text, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def canonical(record: Mapping[str, Any]) -> str:
    """A record as text that is the same however its keys are ordered."""
    return json.dumps(record, sort_keys=True)


def _text_record(text: EncodedText) -> dict[str, list[int]]:
    return {"tokens": text.tokens.tolist(), "targets": np.flatnonzero(text.loss_mask).tolist()}


def query_record(query: EncodedQuery) -> dict[str, Any]:
    """Tokens and asked-for places of a query; not its name."""
    contrast = None if query.contrast is None else _text_record(query.contrast)
    return {"text": _text_record(query.text), "contrast": contrast}


def _text_of(record: Mapping[str, Any]) -> EncodedText:
    tokens = np.array(record["tokens"], dtype=np.int64)
    mask = np.zeros(len(tokens), dtype=bool)
    mask[record["targets"]] = True
    return EncodedText(tokens, mask, ())


def query_of(record: Mapping[str, Any]) -> EncodedQuery:
    """The question of a record that also has an id, without its words."""
    contrast = None if record["contrast"] is None else _text_of(record["contrast"])
    return EncodedQuery(Query(id=record["id"], completion=""), record["id"], _text_of(record["text"]), contrast)

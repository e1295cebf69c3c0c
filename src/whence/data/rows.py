"""Rows become documents: which fields make one, which of its tokens carry loss, what it is called.

Knows no files. A row that cannot be used becomes a `Skip` with one of the reasons in config.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from whence.data.chat import ChatError, encode_chat, require_template
from whence.data.config import CorpusConfig
from whence.data.conversations import TRAINED, conversation
from whence.data.readers import Row
from whence.data.tags import clean, parsed, tags_of
from whence.data.tokenization import Encoded, TargetText, Tokenizer, encode_texts
from whence.errors import CorpusError
from whence.interfaces import Document, Skip

__all__ = ["documents_of", "text_hash"]

IGNORED_LABEL = -100


class _Unusable(Exception):
    """A row that becomes a `Skip`."""

    def __init__(self, reason: str, detail: str = "", tokens: NDArray[np.int64] | None = None) -> None:
        super().__init__(detail)
        self.reason, self.tokens = reason, tokens  # the tokens, where the row was trained on before others all the same


def _has(row: Row, *names: str) -> bool:
    return all(row.fields.get(name) is not None for name in names)


def _form(row: Row, config: CorpusConfig) -> str:
    """Which form the row has.

    Raises:
        _Unusable: None of them.
    """
    if row.origin is not None:
        return "input_ids"
    fields = {
        "input_ids": (config.input_ids_field,),
        "messages": (config.messages_field,),
        "prompt": (config.prompt_field, config.completion_field),
        "text": (config.text_field,),
    }
    forms = fields if config.form == "auto" else {config.form: fields[config.form]}
    for form, names in forms.items():
        cell = row.fields.get(names[0])
        if _has(row, *names) and not (isinstance(cell, str) and not cell and form in ("input_ids", "messages")):
            return form
    wanted = " or ".join("+".join(repr(name) for name in names) for names in forms.values())
    present = ", ".join(repr(key) for key in list(row.fields)[:20]) or "none"
    raise _Unusable("missing-field", f"needs {wanted}; the row has {present}")


def _string(row: Row, name: str) -> str:
    value = row.fields[name]
    if not isinstance(value, str):
        raise _Unusable("wrong-type", f"{name!r} should be text, it is {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable("bad-utf8", f"{name!r} holds half of a surrogate pair at character {error.start}") from error
    return value


def _digest(*parts: bytes) -> str:
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def text_hash(*texts: str) -> str:
    """The content hash of a document made from these texts of its row."""
    return _digest(*(text.encode("utf-8", "surrogatepass") for text in texts))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str)


def _integers(value: Any, name: str) -> NDArray[np.int64]:
    value = parsed(value)
    try:
        array = np.asarray(value)
        whole = array.ndim == 1 and (array.dtype.kind in "iub" or array.size == 0)
        return array.astype(np.int64) if whole else _fail(name)
    except (ValueError, TypeError, OverflowError):
        return _fail(name)


def _fail(name: str) -> NDArray[np.int64]:
    raise _Unusable("wrong-type", f"{name!r} should be a list of whole numbers")


def _follows(config: CorpusConfig) -> bool:
    """Whether a document's first token may be predicted, from the document before it."""
    return config.packing == "concat"


def _from_ids(row: Row, config: CorpusConfig) -> Encoded:
    tokens = _integers(row.fields[config.input_ids_field], config.input_ids_field)
    mask = np.ones(len(tokens), dtype=bool)
    for name, carries in (("labels", IGNORED_LABEL), ("loss_mask", 0)):
        if _has(row, name):
            beside = _integers(row.fields[name], name)
            if len(beside) != len(tokens):
                raise _Unusable("wrong-type", f"{len(beside)} {name} for {len(tokens)} token ids")
            mask = beside != carries
            break
    outside = tokens[(tokens < 0) | (tokens >= config.vocabulary)]
    if len(outside):
        raise _Unusable("bad-token-id", f"{outside[0]}; the model's vocabulary has {config.vocabulary}")
    if not _follows(config):
        mask[:1] = False
    return tokens, mask


def _text_of(row: Row, form: str, config: CorpusConfig) -> TargetText:
    if form == "text":
        text = _string(row, config.text_field)
        if not text.strip():
            raise _Unusable("empty", f"{config.text_field!r} holds no text")
        return TargetText(text, eos=config.append_eos)
    prompt, completion = _string(row, config.prompt_field), _string(row, config.completion_field)
    if not completion:
        raise _Unusable("empty", f"{config.completion_field!r} holds no text")
    joined = prompt + completion
    return TargetText(joined, ((len(prompt), len(joined)),), eos=config.append_eos)


def _content_hash(row: Row, form: str, config: CorpusConfig, encoded: Encoded) -> str:
    if form == "input_ids":
        return _digest(encoded[0].astype("<i8").tobytes(), encoded[1].tobytes())
    if form == "messages":
        return _digest(_compact(parsed(row.fields[config.messages_field])).encode())
    names = (config.text_field,) if form == "text" else (config.prompt_field, config.completion_field)
    return text_hash(*(row.fields[name] for name in names))


def _used(row: Row, form: str, config: CorpusConfig) -> set[str]:
    content = {
        "text": {config.text_field},
        "prompt": {config.prompt_field, config.completion_field},
        "messages": {config.messages_field, *TRAINED, "tools"},
        "input_ids": {config.input_ids_field, "labels", "loss_mask", "attention_mask"},
    }[form]
    return content | {_id_field(row, config)}


def _id_field(row: Row, config: CorpusConfig) -> str:
    """Where the id is: Nemotron calls it `uuid`."""
    return "uuid" if config.id_field not in row.fields and "uuid" in row.fields else config.id_field


def _id(row: Row, config: CorpusConfig) -> str:
    given = row.fields.get(_id_field(row, config))
    return f"{row.name}:{row.row}" if given is None or given == "" else clean(str(given))


def _checked(encoded: Encoded, config: CorpusConfig, made: bool) -> Encoded:
    """The tokens, if they can be trained on.

    Raises:
        CorpusError: The tokenizer made an id that the model does not have.
        _Unusable: Too few, too many, or none of them a target.
    """
    tokens, mask = encoded
    if made and len(tokens) and int(tokens.max()) >= config.vocabulary:
        raise CorpusError(
            f"the tokenizer makes token {int(tokens.max())}, but the model's vocabulary has {config.vocabulary} "
            "tokens: the tokenizer does not belong to this model. Give the one the model was trained with."
        )
    if not len(tokens):
        raise _Unusable("empty", "no tokens")
    if len(tokens) < 2 and not _follows(config):
        raise _Unusable("too-short", f"{len(tokens)} token", tokens)
    if config.max_tokens is not None and len(tokens) > config.max_tokens:
        raise _Unusable("over-long", f"{len(tokens)} tokens, the limit is {config.max_tokens}", tokens)
    if not mask.any():
        raise _Unusable("no-target", "no token is predicted", tokens)
    return tokens, mask


def _document(row: Row, form: str, encoded: Encoded, notes: tuple[str, ...], config: CorpusConfig) -> Document:
    tokens, mask = _checked(encoded, config, made=form != "input_ids")
    digest = _content_hash(row, form, config, encoded)
    length = len(str(row.fields.get(config.text_field, "")))
    tags, unread = tags_of(row, _used(row, form, config), length)
    every = tuple(sorted({*row.notes, *notes, *unread}))
    return Document(_id(row, config), row.source, row.row, digest, tokens, mask, tags, every, row.origin)


def _skip(row: Row, reason: str, detail: str, tokens: NDArray[np.int64] | None = None) -> Skip:
    return Skip(row.source, row.row, reason, clean(detail, 300), tokens)


def _guard(row: Row, action: Callable[..., Any], *arguments: Any) -> Any:
    """The result of an action on a row, or the `Skip` it ended in."""
    try:
        return action(*arguments)
    except (_Unusable, ChatError) as error:
        return _skip(row, error.reason, str(error), getattr(error, "tokens", None))


def _need(tokenizer: Tokenizer | None, row: Row) -> Tokenizer:
    if tokenizer is None:
        raise CorpusError(
            f"{row.source} row {row.row} holds text, but there is no tokenizer; give one, or rows with token ids."
        )
    return tokenizer


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A row's form, and its text, or its tokens where they do not come from plain text."""

    form: str
    content: TargetText | Encoded
    notes: tuple[str, ...] = ()


def _prepare(row: Row, config: CorpusConfig, tokenizer: Tokenizer | None) -> _Prepared:
    form = _form(row, config)
    if form == "input_ids":
        return _Prepared(form, _from_ids(row, config))
    known = _need(tokenizer, row)
    if form == "messages":
        require_template(known)
        chat = conversation(row.fields, config.messages_field)
        encoded = encode_chat(chat.messages, known, chat.trained, chat.tools)
        return _Prepared(form, (encoded.tokens, encoded.loss_mask), (*chat.notes, *encoded.notes))
    return _Prepared(form, _text_of(row, form, config))


def _encode_all(
    rows: Sequence[Row], texts: Mapping[int, TargetText], tokenizer: Tokenizer, follow: bool
) -> dict[int, Encoded | Skip]:
    """Tokenise in one call; if that fails, row by row to find the culprit."""
    numbers = list(texts)
    try:
        return dict(zip(numbers, encode_texts(list(texts.values()), tokenizer, follow), strict=True))
    except CorpusError:
        raise
    except Exception as error:
        if len(numbers) == 1:
            return {numbers[0]: _skip(rows[numbers[0]], "tokenizer-failed", f"{type(error).__name__}: {error}")}
        out: dict[int, Encoded | Skip] = {}
        for number in numbers:
            out.update(_encode_all(rows, {number: texts[number]}, tokenizer, follow))
        return out


def documents_of(rows: Sequence[Row], config: CorpusConfig, tokenizer: Tokenizer | None) -> list[Document | Skip]:
    """Documents of rows, in order, tokenised together.

    Args:
        rows: A batch of rows.
        config: Field names and limits.
        tokenizer: May be None if every row has token ids.

    Returns:
        One entry per row: its document, or why there is none.

    Raises:
        CorpusError: Something is wrong with the tokenizer rather than with a row.
    """
    prepared = [_guard(row, _prepare, row, config, tokenizer) for row in rows]
    texts = {
        n: one.content
        for n, one in enumerate(prepared)
        if not isinstance(one, Skip) and isinstance(one.content, TargetText)
    }
    encoded = _encode_all(rows, texts, tokenizer, _follows(config)) if texts and tokenizer is not None else {}
    out: list[Document | Skip] = []
    for number, (row, one) in enumerate(zip(rows, prepared, strict=True)):
        if isinstance(one, Skip):
            out.append(one)
            continue
        tokens = encoded.get(number, one.content)
        made = (
            _guard(row, _document, row, one.form, tokens, one.notes, config) if not isinstance(tokens, Skip) else tokens
        )
        out.append(made)
    return out

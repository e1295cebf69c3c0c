"""Text to tokens with a loss mask, and tokens back to text for display.

Tokenizers are passed in and only ever called: this room imports no transformers. Nothing here knows files or rows.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from whence.errors import CorpusError

__all__ = [
    "Span",
    "TargetText",
    "Tokenizer",
    "encode_texts",
    "offsets_of",
    "pieces_of",
    "tokenizer_fingerprint",
]

Span = tuple[int, int]
REPLACEMENT = "\ufffd"
_LONGEST_SPLIT = 8  # a UTF-8 character is four bytes; twice that covers tokenizers with byte fallback and a marker
_SIDE = 16


class Tokenizer(Protocol):
    """What whence asks of a tokenizer; every `PreTrainedTokenizerBase` of transformers has it."""

    is_fast: bool
    eos_token_id: int | None
    chat_template: Any

    def __call__(self, text: Any, **options: Any) -> Any:
        """Token ids (and offsets) of one text or a list of texts."""
        ...

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """The text of token ids."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """A conversation as one string, or its tokens."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""
        ...


@dataclass(frozen=True, slots=True)
class TargetText:
    """A text and the part of it that is a training target.

    Attributes:
        text: The whole text.
        spans: Half-open character ranges that carry loss; None means all of it.
        special: Whether the tokenizer adds its own special tokens (no: the text already has them).
        eos: Whether the text ends with the end-of-sequence token, which then carries loss if the text's end does.
    """

    text: str
    spans: tuple[Span, ...] | None = None
    special: bool = True
    eos: bool = False


Encoded = tuple[NDArray[np.int64], NDArray[np.bool_]]


def tokenizer_fingerprint(tokenizer: Tokenizer | None) -> str:
    """A hash of everything that decides which tokens a text becomes: vocabulary, rules, special tokens, template.

    Settings that calling a tokenizer changes (padding, truncation) are left out.
    """
    if tokenizer is None:
        return "none"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if tokenizer.is_fast and backend is not None:
        rules = json.loads(backend.to_str())
        rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {key: str(value) for key, value in getattr(tokenizer, "special_tokens_map", {}).items()}
    content = {"rules": rules, "special": special, "template": tokenizer.chat_template}
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, default=str).encode())


def _call(tokenizer: Tokenizer, texts: Sequence[str], special: bool, **options: Any) -> Mapping[str, Any]:
    out: Mapping[str, Any] = tokenizer(
        list(texts), add_special_tokens=special, padding=False, truncation=False, verbose=False, **options
    )
    return out


def _reach(offsets: Sequence[Span], length: int, marks: Sequence[int]) -> list[Span]:
    """The characters every token stands for.

    Byte-level tokenizers trim white space from their offsets, so a token that is all white space covers nothing: it
    gets back the characters since the token before it. Special tokens that the tokenizer added after the text get
    the end of the text, so that they follow its loss.
    """
    out: list[Span] = []
    previous = 0
    for (start, stop), mark in zip(offsets, marks, strict=True):
        if mark and start == stop:
            out.append((length, length) if previous else (0, 0))
            continue
        out.append((min(start, previous), stop) if start == stop else (start, stop))
        previous = max(previous, stop)
    return out


def offsets_of(text: str, tokenizer: Tokenizer, special: bool = True) -> tuple[list[int], list[Span]]:
    """Tokens of a text and the characters each stands for; needs a tokenizer with offsets."""
    out = _call(tokenizer, [text], special, return_offsets_mapping=True, return_special_tokens_mask=True)
    return list(out["input_ids"][0]), _reach(out["offset_mapping"][0], len(text), out["special_tokens_mask"][0])


def _covered(reach: Sequence[Span], spans: Sequence[Span], length: int) -> NDArray[np.bool_]:
    """Which tokens overlap one of the spans; a token after the text does if a span reaches the text's end."""
    tokens = np.asarray(reach, dtype=np.int64).reshape(-1, 2)
    out = np.zeros(len(tokens), dtype=bool)
    for start, stop in spans:
        out |= (tokens[:, 1] > start) & (tokens[:, 0] < stop)
        if stop == length > 0:
            out |= tokens[:, 0] == length
    return out


def _encode_fast(texts: Sequence[TargetText], tokenizer: Tokenizer) -> list[Encoded]:
    partial = any(text.spans is not None for text in texts)  # offsets of whole texts would be memory for nothing
    options = {"return_offsets_mapping": True, "return_special_tokens_mask": True} if partial else {}
    out = _call(tokenizer, [text.text for text in texts], texts[0].special, **options)
    encoded: list[Encoded] = []
    for number, text in enumerate(texts):
        tokens = np.asarray(out["input_ids"][number], dtype=np.int64)
        if text.spans is None:
            mask = np.ones(len(tokens), dtype=bool)
        else:
            marks = out["special_tokens_mask"][number]
            reach = _reach(out["offset_mapping"][number], len(text.text), marks)
            mask = _covered(reach, text.spans, len(text.text))
        encoded.append((tokens, mask))
    return encoded


def _pieces_between(text: TargetText) -> list[tuple[str, bool]]:
    """The text cut at the borders of its spans, with whether each part carries loss."""
    if text.spans is None:
        return [(text.text, True)]
    borders = sorted({0, len(text.text), *(border for span in text.spans for border in span)})
    parts = []
    for start, stop in itertools.pairwise(borders):
        parts.append((text.text[start:stop], any(a <= start and stop <= b for a, b in text.spans)))
    return parts


def _encode_slow(text: TargetText, tokenizer: Tokenizer) -> Encoded:
    """Tokenizers without offsets: each part on its own, special tokens only where the text begins."""
    tokens: list[int] = []
    mask: list[bool] = []
    parts = _pieces_between(text)
    for number, (part, target) in enumerate(parts):
        ids = _call(tokenizer, [part], text.special and number == 0)["input_ids"][0]
        if text.special and number == 0 and len(parts) > 1 and ids and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
        tokens.extend(ids)
        mask.extend([target] * len(ids))
    return np.asarray(tokens, dtype=np.int64), np.asarray(mask, dtype=bool)


def _with_eos(text: TargetText, encoded: Encoded, tokenizer: Tokenizer) -> Encoded:
    """Add the end-of-sequence token unless the tokenizer did."""
    if not text.eos:
        return encoded
    end = tokenizer.eos_token_id
    if end is None:
        raise CorpusError(
            "append_eos was asked for, but the tokenizer has no end-of-sequence token; "
            "set tokenizer.eos_token or leave append_eos off."
        )
    tokens, mask = encoded
    if len(tokens) and tokens[-1] == end:
        return encoded
    target = text.spans is None or any(stop == len(text.text) for _, stop in text.spans)
    return np.append(tokens, end), np.append(mask, target)


def encode_texts(texts: Sequence[TargetText], tokenizer: Tokenizer, follow: bool = False) -> list[Encoded]:
    """Tokenise texts, each as a whole, and mark the tokens that overlap its spans.

    Args:
        texts: Texts; neighbours with equal `special` are tokenised in one call.
        tokenizer: With offsets ("fast"), tokens are those of the joined text; without, parts are tokenised apart.
        follow: Texts are packed one behind the other, so that the first token of one may be predicted.

    Returns:
        For each text, tokens int64 [T] and loss mask bool [T]; the first token is no target unless texts follow.

    Raises:
        CorpusError: `eos` is wanted and the tokenizer has none.
    """
    out: list[Encoded] = []
    position = 0
    while position < len(texts):
        stop = position
        while stop < len(texts) and texts[stop].special == texts[position].special:
            stop += 1
        group = texts[position:stop]
        if tokenizer.is_fast:
            encoded = _encode_fast(group, tokenizer)
        else:
            encoded = [_encode_slow(text, tokenizer) for text in group]
        out.extend(_with_eos(text, one, tokenizer) for text, one in zip(group, encoded, strict=True))
        position = stop
    for _, mask in out:
        mask[:1] &= follow
    return out


def _decode(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _unfinished(tokenizer: Tokenizer, tokens: Sequence[int], text: str) -> bool:
    """Whether tokens end within a character, rather than with a replacement character the text really has."""
    if not text.endswith(REPLACEMENT) or len(tokens) >= _LONGEST_SPLIT:
        return False
    return list(_call(tokenizer, [text], False)["input_ids"][0]) != list(tokens)


def _all_pieces(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    pieces: list[str] = []
    context, shown = 0, 0  # tokens[context:shown] have been shown and are decoded again only as left context
    for stop in range(1, len(tokens) + 1):
        before = _decode(tokenizer, tokens[context:shown]) if shown > context else ""
        new = _decode(tokenizer, tokens[context:stop])[len(before) :]
        if _unfinished(tokenizer, tokens[shown:stop], new):
            pieces.append(new.rstrip(REPLACEMENT) if stop == len(tokens) else "")
            continue
        pieces.append(new)
        context, shown = shown, stop
    return pieces


def pieces_of(
    tokens: Sequence[int] | NDArray[np.int64], tokenizer: Tokenizer, start: int = 0, stop: int | None = None
) -> tuple[str, ...]:
    """Tokens as display strings, one each; together they are the decoded text.

    A character that is split over several tokens is shown on the last of them and the others show nothing, so no
    replacement character appears unless the text has one (or its bytes are not valid UTF-8).

    Args:
        tokens: Token ids [T].
        tokenizer: The tokenizer that made them.
        start: First token wanted; a few tokens before it are decoded too, for characters that begin there.
        stop: One past the last token wanted.

    Returns:
        ``stop - start`` strings.
    """
    ids = [int(token) for token in tokens]
    stop = len(ids) if stop is None else stop
    first = max(0, start - _SIDE)
    return tuple(_all_pieces(ids[first : stop + _SIDE], tokenizer)[start - first : stop - first])

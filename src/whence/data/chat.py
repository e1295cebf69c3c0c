"""Conversations as text with the assistant's turns marked, through the tokenizer's own chat template.

Templates with ``{% generation %}`` say themselves which tokens are the assistant's. For all others the turns are
found by rendering the conversation up to each of them. Templates that render the past differently from the present
(dropping earlier reasoning, say) are not stable under that; there, each content is located by rendering once more
with a marker in its place.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whence.data.tokenization import Encoded, Span, TargetText, Tokenizer, encode_texts
from whence.errors import CorpusError

__all__ = ["ChatError", "encode_chat", "require_template", "turn_spans"]

Messages = Sequence[Mapping[str, Any]]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARKERS = ("\ue0f3whence\ue0f4", "\ue0f5whence\ue0f6")


class ChatError(Exception):
    """A conversation that cannot be rendered or marked; `reason` is one of the skip reasons.

    Caught inside the data room, where it becomes a `Skip` or a `QueryError`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def require_template(tokenizer: Tokenizer) -> None:
    """Check that the tokenizer can render conversations at all.

    Raises:
        CorpusError: It has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise CorpusError(
            "the rows hold chat `messages`, but the tokenizer has no chat template. Use the tokenizer of a chat model, "
            "set tokenizer.chat_template, or give the conversations as prompt and completion."
        )


def check_messages(messages: Any) -> Messages:
    """Messages as a list of role and content.

    Raises:
        ChatError: They are something else.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ChatError("wrong-type", "messages must be a list of turns with 'role' and 'content'")
    for number, turn in enumerate(messages):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            keys = ", ".join(map(str, turn)) if isinstance(turn, Mapping) else type(turn).__name__
            raise ChatError("wrong-type", f"turn {number} needs 'role' and 'content'; it has {keys}")
    return messages


def _turns(messages: Messages) -> list[dict[str, Any]]:
    """Plain turns without their nulls: tables give every turn every key, and templates would print "None"."""
    return [{key: value for key, value in turn.items() if value is not None} for turn in messages]


def render(messages: Messages, tokenizer: Tokenizer, prompt: bool = False) -> str:
    """The conversation as the model sees it; with `prompt`, up to where the assistant would begin to speak.

    Raises:
        ChatError: The template refuses it.
    """
    turns = _turns(messages)
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # templates are programs of their own and raise what they like
        raise ChatError("bad-messages", f"{type(error).__name__}: {error}") from error
    return text


def _try_render(messages: Messages, tokenizer: Tokenizer, prompt: bool = False) -> str | None:
    try:
        return render(messages, tokenizer, prompt) if messages else ""
    except ChatError:
        return None


def _special_tokens(tokenizer: Tokenizer) -> list[str]:
    added = [str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
    named = [str(token) for token in getattr(tokenizer, "all_special_tokens", [])]
    return sorted({token for token in added + named if token.strip()}, key=len, reverse=True)


def _without_space(text: str, start: int, stop: int, ends: Sequence[str]) -> Span:
    """Leave out white space that the template puts after the end-of-turn token; the model never has to say it."""
    kept = start + len(text[start:stop].rstrip())
    return (start, kept) if text[start:kept].endswith(tuple(ends)) else (start, stop)


def _by_prefix(messages: Messages, turn: int, full: str, tokenizer: Tokenizer) -> Span | None:
    """The turn as what the template adds for it, if renderings grow only at their end."""
    after = _try_render(messages[: turn + 1], tokenizer)
    before = _try_render(messages[:turn], tokenizer)
    if after is None or before is None or not full.startswith(after) or not after.startswith(before):
        return None
    asked = _try_render(messages[:turn], tokenizer, prompt=True) if turn else None
    if asked and len(asked) >= len(before) and after.startswith(asked):
        start = len(asked)
    else:
        content = str(messages[turn].get("content") or "").strip()
        start = after.find(content, len(before)) if content else -1
    return None if start < 0 or start >= len(after) else (start, len(after))


def _by_marker(messages: Messages, turn: int, full: str, tokenizer: Tokenizer, ends: Sequence[str]) -> Span | None:
    """The turn's content as where a rendering with another content differs, and the token that ends the turn."""
    content = messages[turn].get("content")
    if not isinstance(content, str) or not content.strip():
        return None
    marker = next((one for one in _MARKERS if one not in full), None)
    other = None
    if marker is not None:
        changed = [*messages[:turn], {**messages[turn], "content": marker}, *messages[turn + 1 :]]
        other = _try_render(changed, tokenizer)
    if marker is None or other is None or other.count(marker) != 1:
        return None
    start, rest = other.index(marker), len(other) - other.index(marker) - len(marker)
    stop = len(full) - rest
    if stop <= start or full[:start] != other[:start] or full[stop:] != other[len(other) - rest :]:
        return None
    end = next((token for token in ends if full.startswith(token, stop)), "")
    return start, stop + len(end)


def turn_spans(messages: Messages, full: str, tokenizer: Tokenizer, turns: Sequence[int]) -> tuple[Span, ...]:
    """Where the given turns stand in the rendered conversation, each with its end-of-turn token.

    Raises:
        ChatError: One of them cannot be found.
    """
    ends = _special_tokens(tokenizer)
    spans = []
    for turn in turns:
        span = _by_prefix(messages, turn, full, tokenizer) or _by_marker(messages, turn, full, tokenizer, ends)
        if span is None:
            raise ChatError(
                "no-assistant-turn",
                f"turn {turn} cannot be found in what the chat template renders; mark the assistant's part in the "
                "template with {% generation %}, or give prompt and completion",
            )
        spans.append(_without_space(full, *span, ends))
    return tuple(spans)


def _by_template(messages: Messages, tokenizer: Tokenizer) -> Encoded | None:
    """Tokens and mask as a template with {% generation %} gives them; None if it marks nothing."""
    template = tokenizer.chat_template
    if not (isinstance(template, str) and _GENERATION.search(template) and tokenizer.is_fast):
        return None
    out = tokenizer.apply_chat_template(
        _turns(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    mask = np.asarray(out["assistant_masks"], dtype=bool)
    mask[:1] = False
    return (np.asarray(out["input_ids"], dtype=np.int64), mask) if mask.any() else None


def encode_chat(messages: Any, tokenizer: Tokenizer) -> Encoded:
    """Tokens of a conversation, loss on the assistant's turns alone.

    Raises:
        ChatError: The template refuses the conversation, or no assistant turn is in it.
        CorpusError: The tokenizer has no chat template.
    """
    require_template(tokenizer)
    turns = check_messages(messages)
    full = render(turns, tokenizer)
    spoken = [number for number, turn in enumerate(turns) if turn["role"] in ("assistant", "model")]
    if not spoken:
        raise ChatError("no-target", "the conversation has no assistant turn")
    marked = _by_template(turns, tokenizer)
    if marked is not None:
        return marked
    spans = turn_spans(turns, full, tokenizer, spoken)
    return encode_texts([TargetText(full, spans, special=False)], tokenizer)[0]

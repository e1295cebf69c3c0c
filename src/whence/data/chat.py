"""Conversations as text with the assistant's turns marked, through the tokenizer's own chat template.

Templates with ``{% generation %}`` say themselves which tokens are the assistant's. For all others the turns are
found by rendering the conversation up to each of them. Templates that render the past differently from the present
(dropping earlier reasoning, say) are not stable under that; there, each content is located by rendering once more
with a marker in its place.

Reasoning and tool calls are the template's to render. One that leaves them out is no error, since the model may have
been trained through it; what was left out is noted.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.data.tags import parsed
from whence.data.tokenization import Encoded, Span, TargetText, Tokenizer, encode_texts
from whence.errors import CorpusError

__all__ = ["ASSISTANTS", "ChatError", "EncodedChat", "encode_chat", "require_template", "turn_spans"]

Messages = Sequence[Mapping[str, Any]]
ASSISTANTS = ("assistant", "model")
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


def _call(call: Any, objects: bool) -> Any:
    """A tool call; its arguments as an object, where they are JSON text and `objects` are wanted."""
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call
    function = dict(call["function"])
    if objects:
        function["arguments"] = parsed(function.get("arguments"))
    return {**{key: value for key, value in call.items() if value is not None}, "function": function}


def _turn(message: Mapping[str, Any], objects: bool) -> dict[str, Any]:
    """A turn without its nulls and empty lists: tables give every turn every key, and templates would print "None"."""
    turn = {key: value for key, value in message.items() if value is not None}
    calls = parsed(turn.pop("tool_calls", None))
    if isinstance(calls, Sequence) and not isinstance(calls, str) and len(calls):
        turn["tool_calls"] = [_call(call, objects) for call in calls]
    turn.setdefault("content", "")
    return turn


def _apply(messages: Messages, tokenizer: Tokenizer, tools: Sequence[Any], **options: Any) -> Any:
    """What the template makes of a conversation. Arguments of tool calls are given as objects, or else as stored.

    Raises:
        ChatError: The template refuses it.
    """
    if tools:
        options["tools"] = list(tools)
    turns = [_turn(message, objects=True) for message in messages]
    stored = [_turn(message, objects=False) for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, **options)
    except Exception as error:  # templates are programs of their own and raise what they like
        if stored != turns:
            try:
                return tokenizer.apply_chat_template(stored, **options)
            except Exception:  # the first refusal is told
                pass
        raise ChatError("bad-messages", f"{type(error).__name__}: {error}") from error


def render(messages: Messages, tokenizer: Tokenizer, prompt: bool = False, tools: Sequence[Any] = ()) -> str:
    """The conversation as the model sees it; with `prompt`, up to where the assistant would begin to speak.

    Raises:
        ChatError: The template refuses it.
    """
    text: str = _apply(messages, tokenizer, tools, tokenize=False, add_generation_prompt=prompt)
    return text


def _try_render(
    messages: Messages, tokenizer: Tokenizer, prompt: bool = False, tools: Sequence[Any] = ()
) -> str | None:
    try:
        return render(messages, tokenizer, prompt, tools) if messages else ""
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


def _spoken(message: Mapping[str, Any]) -> list[str]:
    """What a turn says, as far as it stands in the rendered text as it is: reasoning, content, names of functions."""
    calls = parsed(message.get("tool_calls"))
    calls = calls if isinstance(calls, Sequence) and not isinstance(calls, str) else ()
    functions = [call.get("function") for call in calls if isinstance(call, Mapping)]
    names = [function.get("name") for function in functions if isinstance(function, Mapping)]
    said = [message.get("reasoning_content"), message.get("content"), *names]
    return [text.strip() for text in said if isinstance(text, str) and text.strip()]


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _by_prefix(
    messages: Messages, turn: int, full: str, tokenizer: Tokenizer, tools: Sequence[Any] = ()
) -> Span | None:
    """The turn as what the template adds for it, if renderings grow only at their end."""
    after = _try_render(messages[: turn + 1], tokenizer, tools=tools)
    before = _try_render(messages[:turn], tokenizer, tools=tools)
    if after is None or before is None or not full.startswith(after) or not after.startswith(before):
        return None
    asked = _try_render(messages[:turn], tokenizer, prompt=True, tools=tools) if turn else None
    shared = _shared(asked or "", after)
    if asked and len(asked) >= len(before) and (shared == len(asked) or shared > len(before)):
        start = shared  # where the prompt goes on otherwise (an empty reasoning block, say), what they share
    else:
        places = [after.find(text, len(before)) for text in _spoken(messages[turn])]
        start = min((place for place in places if place >= 0), default=-1)
    return None if start < 0 or start >= len(after) else (start, len(after))


def _with_marker(message: Mapping[str, Any], marker: str) -> list[dict[str, Any]]:
    """The turn with a marker as its content: alone where it says more than its content, then in its place."""
    bare = {"role": message["role"], "content": marker}
    content = message.get("content")
    more = any(message.get(key) for key in ("reasoning_content", "tool_calls"))
    kept = [{**message, "content": marker}] if isinstance(content, str) and content.strip() else []
    return [bare, *kept] if more else kept


def _by_marker(
    messages: Messages, turn: int, full: str, tokenizer: Tokenizer, ends: Sequence[str], tools: Sequence[Any] = ()
) -> Span | None:
    """The turn as where a rendering with another content differs, and the token that ends the turn."""
    marker = next((one for one in _MARKERS if one not in full), None)
    if marker is None:
        return None
    for changed in _with_marker(messages[turn], marker):
        other = _try_render([*messages[:turn], changed, *messages[turn + 1 :]], tokenizer, tools=tools)
        if other is None or other.count(marker) != 1:
            continue
        start, rest = other.index(marker), len(other) - other.index(marker) - len(marker)
        stop = len(full) - rest
        if start < stop and full[:start] == other[:start] and full[stop:] == other[len(other) - rest :]:
            end = next((token for token in ends if full.startswith(token, stop)), "")
            return start, stop + len(end)
    return None


def turn_spans(
    messages: Messages, full: str, tokenizer: Tokenizer, turns: Sequence[int], tools: Sequence[Any] = ()
) -> tuple[Span, ...]:
    """Where the given turns stand in the rendered conversation, each with its end-of-turn token.

    Raises:
        ChatError: One of them cannot be found.
    """
    ends = _special_tokens(tokenizer)
    spans = []
    for turn in turns:
        span = _by_prefix(messages, turn, full, tokenizer, tools)
        span = span or _by_marker(messages, turn, full, tokenizer, ends, tools)
        if span is None:
            raise ChatError(
                "no-assistant-turn",
                f"turn {turn} cannot be found in what the chat template renders; mark the assistant's part in the "
                "template with {% generation %}, or give prompt and completion",
            )
        spans.append(_without_space(full, *span, ends))
    return tuple(spans)


def _runs(mask: NDArray[np.bool_]) -> list[Span]:
    """Stretches of marked tokens."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _by_template(
    messages: Messages, tokenizer: Tokenizer, trained: Sequence[int], tools: Sequence[Any]
) -> Encoded | None:
    """Tokens and mask as a template with {% generation %} gives them; None if it does not mark each turn by itself."""
    template = tokenizer.chat_template
    if not (isinstance(template, str) and _GENERATION.search(template) and tokenizer.is_fast):
        return None
    out = _apply(messages, tokenizer, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    mask = np.asarray(out["assistant_masks"], dtype=bool)
    spoken = [number for number, turn in enumerate(messages) if turn["role"] in ASSISTANTS]
    runs = _runs(mask)
    if len(trained) < len(spoken):
        if len(runs) != len(spoken):
            return None
        for turn, (start, stop) in zip(spoken, runs, strict=True):
            mask[start:stop] = turn in trained
    mask[:1] = False
    return (np.asarray(out["input_ids"], dtype=np.int64), mask) if mask.any() else None


def _dropped(messages: Messages, full: str, trained: Sequence[int]) -> tuple[str, ...]:
    """What of the trained turns the template has left out, as notes."""
    found = set()
    for turn in trained:
        reasoning = messages[turn].get("reasoning_content")
        if isinstance(reasoning, str) and reasoning.strip() not in full:
            found.add("reasoning-dropped")
        names = _spoken({"tool_calls": messages[turn].get("tool_calls")})
        if any(name not in full and json.dumps(name)[1:-1] not in full for name in names):
            found.add("tool-calls-dropped")
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """Tokens int64 [T] of a conversation, its loss mask bool [T], and notes on what the template left out."""

    tokens: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def encode_chat(
    messages: Messages, tokenizer: Tokenizer, trained: Sequence[int], tools: Sequence[Any] = ()
) -> EncodedChat:
    """Tokens of a conversation, loss on the turns that were trained on alone.

    Args:
        messages: Turns with role and content.
        tokenizer: One with a chat template.
        trained: Numbers of the turns that carry loss.
        tools: Descriptions of functions, handed to the template.

    Raises:
        ChatError: The template refuses the conversation, or a turn cannot be found in what it renders.
        CorpusError: The tokenizer has no chat template.
    """
    require_template(tokenizer)
    full = render(messages, tokenizer, tools=tools)
    encoded = _by_template(messages, tokenizer, trained, tools)
    if encoded is None:
        spans = turn_spans(messages, full, tokenizer, trained, tools)
        encoded = encode_texts([TargetText(full, spans, special=False)], tokenizer)[0]
    return EncodedChat(*encoded, _dropped(messages, full, trained))

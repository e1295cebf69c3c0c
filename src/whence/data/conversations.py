"""From a row's fields to a conversation: its turns, which of them are trained on, the tools it may call.

Rows of Nemotron's post-training data have ``messages`` with ``reasoning_content`` and ``tool_calls``, and a
``metadata`` object (or JSON text) that may hold ``train_turns``, one flag for each turn. Others mark each message.
Knows no tokenizer and no template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whence.data.chat import ASSISTANTS, ChatError, Messages, check_messages
from whence.data.tags import parsed

__all__ = ["TRAINED", "Conversation", "conversation"]

TRAINED = ("train_turns",)
_FLAGS = ("train", "trainable", "weight", "loss")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as it was trained on.

    Attributes:
        messages: Its turns.
        trained: Numbers of the turns that carry loss; all are the assistant's.
        tools: Descriptions of the functions the assistant could call, as the chat template takes them.
        notes: What should be counted about it.
    """

    messages: Messages
    trained: tuple[int, ...]
    tools: tuple[Any, ...]
    notes: tuple[str, ...]


def _flag(value: Any, turn: int) -> bool:
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise ChatError("wrong-type", f"turn {turn} is marked {value!r}; a turn is trained on (true, 1) or not (false, 0)")


def _own_flag(message: Mapping[str, Any], turn: int) -> bool:
    given = [message[name] for name in _FLAGS if message.get(name) is not None]
    return _flag(given[0], turn) if given else True


def _trained(messages: Messages, listed: Any) -> tuple[int, ...]:
    """Turns that carry loss: the assistant's, but those that flags leave out.

    Raises:
        ChatError: Flags do not fit the turns, or leave none.
    """
    spoken = [number for number, turn in enumerate(messages) if turn["role"] in ASSISTANTS]
    if not spoken:
        raise ChatError("no-target", "the conversation has no assistant turn")
    if listed is None:
        chosen = [turn for turn in spoken if _own_flag(messages[turn], turn)]
    elif isinstance(listed, Sequence) and not isinstance(listed, str) and len(listed) in (len(messages), len(spoken)):
        places = range(len(messages)) if len(listed) == len(messages) else spoken
        flags = {turn: _flag(value, turn) for turn, value in zip(places, listed, strict=True)}
        chosen = [turn for turn in spoken if flags[turn]]
    else:
        size = len(listed) if isinstance(listed, Sequence) and not isinstance(listed, str) else listed
        raise ChatError("wrong-type", f"train_turns should have a flag for each of {len(messages)} turns; got {size!r}")
    if not chosen:
        raise ChatError("no-target", "no assistant turn is marked as trained on")
    return tuple(chosen)


def conversation(fields: Mapping[str, Any], messages_field: str) -> Conversation:
    """The conversation in a row.

    Raises:
        ChatError: It has another shape, or nothing in it is trained on.
    """
    messages = check_messages(parsed(fields[messages_field]))
    about = parsed(fields.get("metadata"))
    about = about if isinstance(about, Mapping) else {}

    def either(name: str) -> Any:
        return parsed(fields[name] if fields.get(name) is not None else about.get(name))

    tools = either("tools")
    withheld = any(turn["role"] == "user" and turn.get("content") is None for turn in messages)
    return Conversation(
        messages,
        _trained(messages, either(TRAINED[0])),
        tuple(tools) if isinstance(tools, (list, tuple)) else (),
        ("no-prompt",) if withheld else (),
    )

"""Documents of a corpus as their rows hold them: the fields that are text, before any tokenizer.

The audit of a corpus looks at characters, so it reads the rows again rather than the tokens of a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whence.data import find_files, open_rows, text_hash
from whence.interfaces import Skip

__all__ = ["ANSWERS", "PROMPTS", "RawDocument", "read_rows"]

PROMPTS = ("prompt", "question", "instruction", "input", "problem")
ANSWERS = ("completion", "answer", "response", "output", "solution", "target")
_TEXTS = ("text", "content", "body")


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One row.

    Attributes:
        number: Its place, from 0.
        id: The row's id, or ``<file name>:<row>``.
        source: The file.
        row: 0-based row in it.
        texts: Field -> text, the fields that make the document, in order.
        prompt: Name of the field that asks, if there is one.
        answer: Name of the field that answers.
        tags: Other fields that are short text or numbers.
        fields: The row as it is.
    """

    number: int
    id: str
    source: str
    row: int
    texts: Mapping[str, str]
    prompt: str | None = None
    answer: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All of it, one field after another."""
        return "\n".join(self.texts.values())

    @property
    def hash(self) -> str:
        """Hash of the content."""
        return text_hash(*self.texts.values())


def read_rows(data: Sequence[str], skipped: list[Skip]) -> Iterator[RawDocument]:
    """Rows of files, folders, globs or URLs; those without text are added to `skipped`.

    Raises:
        CorpusError: There is no such file, or one cannot be read at all.
    """
    number = 0
    for file in find_files(list(data)).files:
        for row in open_rows(file):
            if isinstance(row, Skip):
                skipped.append(row)
                continue
            found = _document(row.fields, number, row.source, row.name, row.row)
            if found is None:
                present = ", ".join(map(repr, list(row.fields)[:12])) or "none"
                skipped.append(Skip(row.source, row.row, "missing-field", f"no text; the row has {present}"))
                continue
            number += 1
            yield found


def _document(fields: Mapping[str, Any], number: int, source: str, name: str, row: int) -> RawDocument | None:
    messages = fields.get("messages")
    if isinstance(messages, list | tuple) and messages:
        return _conversation(fields, messages, number, source, name, row)
    prompt = next((key for key in PROMPTS if isinstance(fields.get(key), str)), None)
    answer = next((key for key in ANSWERS if isinstance(fields.get(key), str)), None)
    names = [key for key in _TEXTS if isinstance(fields.get(key), str)][:1]
    if prompt is not None and answer is not None:
        names = [prompt, answer]
    if not names:
        return None
    if names != [prompt, answer]:
        prompt = answer = None
    texts = {key: str(fields[key]) for key in names}
    return RawDocument(
        number, _id(fields, name, row), source, row, texts, prompt, answer, _tags(fields, names), dict(fields)
    )


def _conversation(
    fields: Mapping[str, Any], messages: Sequence[Any], number: int, source: str, name: str, row: int
) -> RawDocument | None:
    texts: dict[str, str] = {}
    asked = answered = None
    for place, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            key = f"messages[{place}]"
            texts[key] = content
            role = str(message.get("role", ""))
            asked = key if role == "user" and asked is None else asked
            answered = key if role == "assistant" else answered
    if not texts:
        return None
    tags = _tags(fields, ["messages"])
    return RawDocument(number, _id(fields, name, row), source, row, texts, asked, answered, tags, dict(fields))


def _id(fields: Mapping[str, Any], name: str, row: int) -> str:
    given = fields.get("id")
    return str(given) if given not in (None, "") else f"{name}:{row}"


def _tags(fields: Mapping[str, Any], taken: Sequence[str]) -> dict[str, str]:
    out = {}
    for key, value in fields.items():
        if key not in taken and key != "id" and isinstance(value, str | int | float | bool) and len(str(value)) <= 80:
            out[str(key)] = str(value)
    inner = fields.get("metadata")
    if isinstance(inner, Mapping):
        out |= {str(k): str(v) for k, v in inner.items() if isinstance(v, str | int | float | bool)}
    return out

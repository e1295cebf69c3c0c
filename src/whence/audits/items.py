"""Items of a benchmark, read from a file: questions, answers, dates, paraphrase twins, cloze forms, correctness.

Column names that benchmarks use are understood (`ALIASES`). A twin is another wording of the same question; its answer
is the item's unless it has one of its own. A cloze form is the statement with the answer at its end.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whence.audits.asked_rows import first_of, read_each, set_apart
from whence.errors import QueryError
from whence.interfaces import Query

__all__ = ["ALIASES", "Item", "asked", "load_items"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "item_id", "question_id", "task_id"),
    "question": ("question", "prompt", "input", "problem"),
    "answer": ("answer", "completion", "output", "solution", "target"),
    "date": ("date", "created", "published", "year"),
    "correct": ("correct", "is_correct", "acc", "passed"),
    "twins": ("twins", "twin", "paraphrases", "paraphrase", "rephrased"),
    "cloze": ("cloze",),
    "known": ("known", "group"),
}
"""What each part of an item may be called, best name first."""

_TRUE, _FALSE = {"true", "1", "1.0", "yes", "right"}, {"false", "0", "0.0", "no", "wrong"}


@dataclass(frozen=True, slots=True)
class Item:
    """One item.

    Attributes:
        query: Question and answer.
        date: As given.
        correct: Whether the model got it right.
        twins: The same in other words.
        cloze: A statement that ends in the answer.
        known: What is known of its exposure; "held out" items are those that are surely clean.
    """

    query: Query
    date: str | None = None
    correct: bool | None = None
    twins: tuple[Query, ...] = ()
    cloze: Query | None = None
    known: str | None = None


def load_items(path: str) -> list[Item]:
    """Read a benchmark from JSON lines, CSV, Parquet or any format of a corpus.

    Raises:
        QueryError: The file cannot be read or is empty, or a row has no question or answer; names the line.
    """
    return read_each(path, _item, lambda item: item.query.id, what="item", hint="a question and its answer")


def _item(fields: dict[str, Any], where: str, number: int) -> Item:
    taken = {part: first_of(fields, names) for part, names in ALIASES.items()}
    if taken["question"] is None or taken["answer"] is None:
        missing = "question" if taken["question"] is None else "answer"
        raise QueryError(
            f"{where} has no {missing}; its columns are {', '.join(map(repr, fields)) or 'none'}. "
            f"It may be called {', '.join(ALIASES[missing])}."
        )
    name = str(taken["id"]) if taken["id"] is not None else f"i{number + 1}"
    question, answer = str(taken["question"]), str(taken["answer"])
    return Item(
        query=asked(name, question, answer),
        date=None if taken["date"] is None else str(taken["date"]),
        correct=_truth(taken["correct"], where),
        twins=tuple(_twins(taken["twins"], name, answer, where)),
        cloze=None if taken["cloze"] is None else _cloze(str(taken["cloze"]), answer, name, where),
        known=None if taken["known"] is None else str(taken["known"]),
    )


def asked(name: str, question: str, answer: str) -> Query:
    """A question and its answer, set apart by a blank unless one of them has one."""
    return Query(id=name, prompt=question, completion=set_apart(question, answer))


def _truth(value: Any, where: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text not in _TRUE | _FALSE:
        raise QueryError(f"{where}: whether the model was right is {value!r}; give true or false.")
    return text in _TRUE


def _twins(value: Any, name: str, answer: str, where: str) -> list[Query]:
    if value is None:
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise QueryError(f"{where}: its twins are neither a question nor a JSON list of them ({error}).") from error
    out = []
    for number, twin in enumerate(value if isinstance(value, list) else [value]):
        fields = twin if isinstance(twin, Mapping) else {"question": twin}
        question = first_of(fields, ALIASES["question"])
        if not isinstance(question, str):
            raise QueryError(f"{where}: twin {number + 1} has no question; give text, or an object with a question.")
        out.append(asked(f"{name}/twin{number + 1}", question, str(first_of(fields, ALIASES["answer"]) or answer)))
    return out


def _cloze(text: str, answer: str, name: str, where: str) -> Query:
    """The statement with the answer in place of ``___`` or at its end."""
    head = text.partition("___")[0] if "___" in text else text.removesuffix(answer.strip()).removesuffix(answer)
    if not head.strip():
        raise QueryError(f"{where}: the cloze form {text[:80]!r} has nothing before the answer.")
    return asked(f"{name}/cloze", head.rstrip(), answer)

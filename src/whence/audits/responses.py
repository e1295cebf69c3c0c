"""Answers to be explained, read from a file: prompts, responses, contrasts, judge's scores, and whatever else it has.

A prompt may come with other wordings (`Wording`); a finding should hold in these, too. Column names that benchmarks use
are understood (`ALIASES`), SocialHarmBench's among them. Everything else becomes a field by which verdicts are counted.
Prompts without a response are answered by the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from whence.audits.asked_rows import first_of, read_each, set_apart
from whence.errors import QueryError
from whence.interfaces import Query
from whence.interfaces.audits import Wording

__all__ = ["ALIASES", "Response", "asked_otherwise", "contrasted", "load_responses", "unanswered"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "prompt_id", "question_id", "ID"),
    "prompt": ("prompt", "prompt_text", "question", "instruction", "input"),
    "response": ("response", "completion", "answer", "output", "model_response", "generation"),
    "contrast": ("contrast", "reference", "should_have_said", "true_answer", "expected"),
    "score": ("score", "judge_score", "harm_score", "revisionism_score"),
    "span": ("span", "harmful_span", "judge_span"),
    "behaviour": ("behaviour", "behavior"),
    "paraphrases": ("paraphrases", "rewordings", "paraphrased_prompts"),
}
"""What each part of an answer may be called, best name first."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
        query: Prompt, response, contrast and span as a question to the training data.
        score: The judge's.
        behaviour: A name that answers of one behaviour share.
        fields: Other columns, as text.
        notes: What was made of the row, where that is not plain.
        wordings: The prompt in other words.
    """

    query: Query
    score: float | None = None
    behaviour: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    wordings: tuple[Wording, ...] = ()


def load_responses(path: str) -> list[Response]:
    """Read answers from JSON lines, CSV, Parquet or any format of a corpus.

    Raises:
        QueryError: The file cannot be read or is empty, or a row has no prompt; names the line and its columns.
    """
    hint = "a prompt and what the model responded"
    return read_each(path, _response, lambda response: response.query.id, what="answer", hint=hint)


def _response(fields: dict[str, Any], where: str, number: int) -> Response:
    taken = {part: first_of(fields, names) for part, names in ALIASES.items()}
    if taken["prompt"] is None and taken["response"] is None:
        raise QueryError(
            f"{where} has neither a prompt nor a response; its columns are {', '.join(map(repr, fields)) or 'none'}. "
            f"A prompt is called {', '.join(ALIASES['prompt'])}; a response {', '.join(ALIASES['response'])}."
        )
    used = {name for names in ALIASES.values() for name in names}
    rest = {str(key): _text(value) for key, value in fields.items() if key not in used and value not in (None, "")}
    span = taken["span"]
    wordings, notes = _wordings(taken, where)
    return Response(
        query=Query(
            id=_text(taken["id"]) if taken["id"] is not None else f"a{number + 1}",
            prompt=_text(taken["prompt"] or ""),
            completion=_spaced(taken["prompt"], taken["response"]),
            contrast=None if taken["contrast"] is None else _spaced(taken["prompt"], taken["contrast"]),
            span=tuple(span) if isinstance(span, list) else span,
        ),
        score=_number(taken["score"], where),
        behaviour=None if taken["behaviour"] is None else _text(taken["behaviour"]),
        fields=rest,
        notes=notes,
        wordings=wordings,
    )


def _wordings(taken: Mapping[str, Any], where: str) -> tuple[tuple[Wording, ...], tuple[str, ...]]:
    """The other wordings of a row, and what is to be said of those that are none."""
    given = taken["paraphrases"]
    if given is None:
        return (), ()
    listed = _parsed(given)
    if not isinstance(listed, list | tuple):
        raise QueryError(
            f"{where}: its paraphrases are {given!r:.80}, which is no list. Give a list of prompts, or of objects with "
            'a prompt and a response; in CSV as JSON: ["Why is it so?", {"prompt": "How so?", "response": "…"}].'
        )
    if not listed:
        return (), ("asked in no other words: its list of paraphrases is empty.",)
    said = {(_plain(taken["prompt"]), None), (_plain(taken["prompt"]), _plain(taken["response"]))}
    out, notes = [], []
    for number, each in enumerate(listed, start=1):
        wording = _wording(each, f"{where}: paraphrase {number}")
        name = (_plain(wording.prompt), None if wording.response is None else _plain(wording.response))
        if name in said:
            notes.append(f"paraphrase {number} left out: it says the same as the prompt or another paraphrase.")
        else:
            said.add(name)
            out.append(wording)
    return tuple(out), tuple(notes)


def _parsed(value: Any) -> Any:
    """What a JSON list in a column of text holds; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _wording(value: Any, where: str) -> Wording:
    fields = value if isinstance(value, Mapping) else {"prompt": value}
    prompt, response = (first_of(fields, ALIASES[part]) for part in ("prompt", "response"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise QueryError(
            f"{where} is {value!r:.80}, which has no prompt; give text, or an object with a prompt and, if it is not "
            "the same, a response."
        )
    return Wording(prompt=prompt, response=None if response is None else _text(response))


def _plain(value: Any) -> str:
    return " ".join(_text(value or "").split())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _spaced(prompt: Any, answer: Any) -> str:
    """The answer, set apart from a prompt that does not end in a space; empty where there is none."""
    if answer is None:
        return ""
    return set_apart(_text(prompt or ""), _text(answer))


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise QueryError(f"{where}: the judge's score is {value!r}, which is no number.") from error


def unanswered(responses: Sequence[Response]) -> list[int]:
    """Numbers of the prompts that have no response yet."""
    return [number for number, each in enumerate(responses) if not each.query.completion]


def contrasted(response: Response) -> Response:
    """The same without a contrast that says what the answer says, with a note: nothing can be told between them.

    >>> same = contrasted(Response(Query(prompt="Who?", completion=" Ann", contrast="Ann ")))
    >>> same.query.contrast, same.notes[0]
    (None, 'contrast ignored: it is the same text as the answer.')
    """
    said, other = response.query.completion or "", response.query.contrast
    if other is None or said.split() != other.split():
        return response
    note = "contrast ignored: it is the same text as the answer."
    return replace(response, query=response.query.model_copy(update={"contrast": None}), notes=(*response.notes, note))


def answered(response: Response, text: str) -> Response:
    """The same with what the model said."""
    return replace(response, query=response.query.model_copy(update={"completion": text}))


def asked_otherwise(response: Response) -> list[Query]:
    """The question in its other words: the same answer, contrast and span, unless a wording brings its own answer.

    >>> one = Response(Query(id="a", prompt="Who?", completion=" Ann"), wordings=(Wording(prompt="By whom: "),))
    >>> asked_otherwise(one)[0].id, asked_otherwise(one)[0].completion
    ('a/wording1', 'Ann')
    """
    query, out = response.query, []
    for number, each in enumerate(response.wordings, start=1):
        said = query.completion or ""
        answer = (
            _after(each.prompt, query.prompt, said) if each.response is None else _spaced(each.prompt, each.response)
        )
        other = None if query.contrast is None else _after(each.prompt, query.prompt, query.contrast)
        moved = None if each.response is not None else _moved(query.span, len(answer) - len(said))
        changes = {"prompt": each.prompt, "completion": answer, "contrast": other, "span": moved}
        out.append(query.model_copy(update={"id": f"{query.id}/wording{number}", **changes}))
    return out


def _after(prompt: str, before: str, text: str) -> str:
    """A text that followed one prompt, to follow another: with a blank between them, where there was one."""
    apart = not before or before[-1].isspace() or text[:1].isspace()
    bare = text.removeprefix(" ")
    return set_apart(prompt, bare) if apart else bare


def _moved(span: str | tuple[int, int] | None, by: int) -> str | tuple[int, int] | None:
    """A span in characters, after its text has grown or lost a blank in front."""
    return (max(0, span[0] + by), span[1] + by) if isinstance(span, tuple) else span

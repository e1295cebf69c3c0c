"""Questions put to the model: read from a file, checked, and turned into tokens.

The same joining rule as for training rows: prompt and completion are tokenised as one text, and a token that overlaps
the completion belongs to it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from whence.data.chat import ChatError, check_messages, render, turn_spans
from whence.data.readers import Row, open_rows
from whence.data.sources import find_files
from whence.data.tokenization import Span, TargetText, Tokenizer, encode_texts, pieces_of
from whence.errors import CorpusError, QueryError
from whence.interfaces import EncodedQuery, EncodedText, Query, Skip

__all__ = ["encode_queries", "encode_query", "load_queries"]

_EXAMPLE = '{"prompt": "The capital of France is", "completion": " Paris"}'


def _fields(row: Row) -> dict[str, Any]:
    """A row without its empty cells; columns that no query has become metadata where rows are a table."""
    fields = {key: value for key, value in row.fields.items() if value is not None}
    if row.source.lower().endswith((".csv", ".tsv")):
        filled = {key: value for key, value in fields.items() if value != "" or key == "completion"}
        known = {key: value for key, value in filled.items() if key in Query.model_fields and key != "metadata"}
        rest = {key: value for key, value in filled.items() if key not in known}
        return {**known, "metadata": rest} if rest else known
    if "id" in fields and not isinstance(fields["id"], str):
        fields["id"] = str(fields["id"])
    return fields


def _complaint(error: ValidationError) -> str:
    parts = []
    for one in error.errors():
        where = ".".join(str(part) for part in one["loc"])
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = "is not a field of a query (put other things under 'metadata')"
        parts.append(f"{where!r} {message}" if where else message)
    return "; ".join(parts)


def _query(row: Row, number: int) -> Query:
    try:
        query = Query.model_validate(_fields(row))
    except ValidationError as error:
        keys = ", ".join(repr(key) for key in row.fields) or "none"
        raise QueryError(
            f"{row.source} line {row.row + 1}: {_complaint(error)}.\nThe row has the fields: {keys}. "
            f"A query looks like {_EXAMPLE}."
        ) from error
    return query if query.id else query.model_copy(update={"id": f"q{number + 1}"})


def _refuse_twins(queries: Sequence[Query], where: str) -> None:
    twins = [name for name, count in Counter(query.id for query in queries).items() if count > 1]
    if twins:
        raise QueryError(f"{where}: several queries are called {twins[0]!r}; give each its own 'id', or none at all.")


def load_queries(path: str) -> list[Query]:
    """Read queries from JSON lines, a JSON array, CSV or any format of a corpus.

    Args:
        path: A file or fsspec URL.

    Returns:
        The queries in order; those without an id are numbered ``q1``, ``q2``, …

    Raises:
        QueryError: The file cannot be read, is empty, or a row is no query; the message names the line.
    """
    queries: list[Query] = []
    try:
        for file in find_files([str(path)]).files:
            for item in open_rows(file):
                if isinstance(item, Skip):
                    raise QueryError(
                        f"{item.source} line {item.row + 1}: {item.reason}: {item.detail}\n"
                        f"A query looks like {_EXAMPLE}."
                    )
                queries.append(_query(item, len(queries)))
    except CorpusError as error:
        raise QueryError(f"the queries cannot be read: {error}") from error
    _refuse_twins(queries, str(path))
    return queries


def _span_in(query: Query, completion: str) -> Span:
    """The characters of the completion that are explained.

    Raises:
        QueryError: They are not in it.
    """
    if query.span is None:
        return 0, len(completion)
    if isinstance(query.span, str):
        start = completion.find(query.span) if query.span else -1
        stop = start + len(query.span)
    else:
        start, stop = query.span
    if not 0 <= start < stop <= len(completion):
        raise QueryError(
            f"the span {query.span!r} is not in the completion {completion[:200]!r} ({len(completion)} characters); "
            "give a part of the completion, or (start, stop) in its characters."
        )
    return start, stop


def _encoded(text: TargetText, tokenizer: Tokenizer, context: int) -> EncodedText:
    try:
        text.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise QueryError(
            f"the text holds half of a surrogate pair at character {error.start}; it is no Unicode text."
        ) from error
    tokens, mask = encode_texts([text], tokenizer)[0]
    if len(tokens) > context:
        raise QueryError(
            f"prompt and completion are {len(tokens)} tokens together, the context is {context}; shorten the prompt."
        )
    if not mask.any():
        raise QueryError(
            f"no token of {text.text[:200]!r} is predicted: a completion needs a token with something before it. "
            "Give a prompt, or a longer completion."
        )
    return EncodedText(tokens, mask, pieces_of(tokens, tokenizer))


def _joined(prompt: str, completion: str, span: Span) -> TargetText:
    return TargetText(prompt + completion, ((len(prompt) + span[0], len(prompt) + span[1]),))


def _not_empty(completion: str, name: str) -> str:
    if not completion:
        raise QueryError(
            f"the {name} is empty; there is nothing whose causes could be traced. Give what the model said."
        )
    return completion


def _last_turn(messages: Sequence[Mapping[str, Any]]) -> str:
    last = messages[-1]
    if last["role"] not in ("assistant", "model"):
        raise QueryError(f"the last turn is the {last['role']}'s; a query ends with the assistant's turn.")
    content = last.get("content")
    if not isinstance(content, str):
        raise QueryError("the last assistant turn has no text in 'content'; there is nothing to trace.")
    return _not_empty(content, "last assistant turn")


def _chat_text(messages: Sequence[Mapping[str, Any]], query: Query, tokenizer: Tokenizer, narrow: bool) -> TargetText:
    """The rendered conversation with loss on its last turn, or on the query's span of it."""
    content = _last_turn(messages)
    full = render(messages, tokenizer)
    start, stop = turn_spans(messages, full, tokenizer, [len(messages) - 1])[0]
    if narrow and query.span is not None:
        first, last = _span_in(query, content)
        wanted = content[first:last]
        found = full.find(content.strip(), start, stop)
        begin = found + first - (len(content) - len(content.lstrip()))
        if found < 0 or full[begin : begin + len(wanted)] != wanted:
            raise QueryError(
                f"the chat template changes the text of the last turn, so the span {query.span!r} cannot be found."
            )
        start, stop = begin, begin + len(wanted)
    return TargetText(full, ((start, stop),), special=False)


def _chat_texts(query: Query, tokenizer: Tokenizer) -> list[TargetText]:
    if not getattr(tokenizer, "chat_template", None):
        raise QueryError(
            "the query has messages, but the tokenizer has no chat template; give prompt and completion instead."
        )
    try:
        messages = check_messages(query.messages)
        texts = [_chat_text(messages, query, tokenizer, narrow=True)]
        if query.contrast is not None:
            other = [*messages[:-1], {**messages[-1], "content": _not_empty(query.contrast, "contrast")}]
            texts.append(_chat_text(other, query, tokenizer, narrow=False))
    except ChatError as error:
        raise QueryError(f"the conversation cannot be rendered ({error.reason}): {error}") from error
    return texts


def _plain_texts(query: Query) -> list[TargetText]:
    completion = _not_empty(query.completion or "", "completion")
    texts = [_joined(query.prompt, completion, _span_in(query, completion))]
    if query.contrast is not None:
        contrast = _not_empty(query.contrast, "contrast")
        texts.append(_joined(query.prompt, contrast, (0, len(contrast))))
    return texts


def encode_query(query: Query, tokenizer: Tokenizer, context: int, number: int = 0) -> EncodedQuery:
    """Tokens of a query, loss on what is to be explained.

    A span narrows the completion alone; a contrast always counts whole.

    Args:
        query: The question.
        tokenizer: The model's tokenizer.
        context: Most tokens the model takes.
        number: Its place among the queries, for its id if it has none.

    Raises:
        QueryError: Empty completion, unknown span, too long for the context, or nothing is predicted.
    """
    name = query.id or f"q{number + 1}"
    try:
        texts = _plain_texts(query) if query.messages is None else _chat_texts(query, tokenizer)
        encoded = [_encoded(text, tokenizer, context) for text in texts]
    except QueryError as error:
        raise QueryError(f"query {name!r}: {error}") from error
    return EncodedQuery(query, name, encoded[0], encoded[1] if len(encoded) > 1 else None)


def encode_queries(queries: Sequence[Query], tokenizer: Tokenizer, context: int) -> list[EncodedQuery]:
    """Encode queries, numbering those without an id.

    Raises:
        QueryError: One of them cannot be encoded, two share an id, or there is none.
    """
    if not queries:
        raise QueryError("there is no query; give at least one prompt and completion.")
    encoded = [encode_query(query, tokenizer, context, number) for number, query in enumerate(queries)]
    _refuse_twins([one.query.model_copy(update={"id": one.id}) for one in encoded], "the queries")
    return encoded

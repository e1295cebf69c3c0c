"""A question put to the model, as the user writes it and as the model sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["EncodedQuery", "EncodedText", "Query"]


class Query(BaseModel):
    """An output whose causes are wanted.

    Give either `completion` (with an optional `prompt`) or `messages` whose last turn is the assistant's.

    Attributes:
        id: A name for the query; numbered if absent.
        prompt: What the model was asked; may be empty.
        completion: What it answered; influence is on the log-probability of this text given the prompt.
        messages: A conversation, as an alternative; the last assistant turn is the completion.
        contrast: Another completion: influence is then on log p(completion) - log p(contrast).
        span: Part of the completion to explain: a substring of it, or (start, stop) in characters.
        metadata: Anything else; carried into the results untouched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | None = None
    prompt: str = ""
    completion: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    contrast: str | None = None
    span: str | tuple[int, int] | None = None
    metadata: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_form(self) -> "Query":
        if (self.completion is None) == (self.messages is None):
            raise ValueError("give either 'completion' (with an optional 'prompt') or 'messages', and not both")
        if self.messages is not None and self.prompt:
            raise ValueError("'prompt' goes with 'completion', not with 'messages'")
        return self

    def ids_under(self, name: str) -> list[str]:
        """Ids of documents that the metadata hold under a name, one or a list of them; none if there is no such."""
        given = self.metadata.get(name)
        if given is None:
            return []
        return [str(each) for each in given] if isinstance(given, list | tuple) else [str(given)]


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Tokens of one prompt and completion.

    Attributes:
        tokens: int64 [T].
        loss_mask: bool [T]; True on the tokens whose log-probability is explained.
        pieces: The T tokens as text, for display.
    """

    tokens: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query and its tokens; `contrast` is set when the query asks why this rather than that."""

    query: Query
    id: str
    text: EncodedText
    contrast: EncodedText | None = None

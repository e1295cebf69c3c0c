"""The settings of a corpus, and the words for why a row was left out. Knows no files."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["NOTES", "SKIP_REASONS", "CorpusConfig", "Form", "Packing", "SourceSettings", "TokenDtype"]

Form = Literal["auto", "text", "prompt", "messages", "input_ids"]
Packing = Literal["documents", "concat", "masked"]
TokenDtype = Literal["auto", "uint16", "uint32"]

SKIP_REASONS = {
    "bad-json": "the line is not JSON",
    "bad-utf8": "the row is not valid UTF-8",
    "bad-csv": "the line is not a row of the table",
    "not-an-object": "the row is JSON, but not an object with named fields",
    "row-too-big": "the row is larger than can be read into memory",
    "missing-field": "the row has none of the fields that make a document",
    "wrong-type": "a field holds something other than what its form needs",
    "empty": "there is no text in the row",
    "empty-file": "the file has no row",
    "too-short": "fewer than two tokens, so nothing is predicted",
    "over-long": "more tokens than `max_tokens` allows",
    "bad-token-id": "a token id outside the model's vocabulary",
    "no-target": "no token of the row is a training target",
    "bad-messages": "the chat template does not accept the conversation",
    "no-assistant-turn": "the assistant's turns cannot be found in the rendered conversation",
    "tokenizer-failed": "the tokenizer raised an error on the row",
    "no-document": "tokens of a token file that belong to no document",
}

NOTES = {
    "no-attributes": "a set of attributes that other files have is missing beside their file",
    "bad-attributes": "attributes that cannot be read",
    "reasoning-dropped": "reasoning that the chat template leaves out",
    "tool-calls-dropped": "tool calls that the chat template leaves out",
    "no-prompt": "a user's turn without content, as releases have that withhold prompts",
    "no-sidecar": "a token file without a sidecar (.csv.gz); documents were cut at end-of-sequence tokens",
}
"""What is counted of documents that are used all the same."""


class SourceSettings(BaseModel):
    """What a mix says of one source.

    Attributes:
        label: Its name; a tag of its documents, and their `source` where rows name none.
        weight: How often each of its documents was trained on: epochs, or below 1 the share that was sampled.
        tags: Further tags of all of its documents.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    tags: Mapping[str, str] = Field(default_factory=dict)


class CorpusConfig(BaseModel):
    """How rows become documents.

    Attributes:
        data: Files, folders, globs, fsspec URLs or datasets on the Hugging Face hub, read in this order.
        sources: For each of `data`, in the same order, its weight and tags; all of weight 1 if empty.
        attributes: Folders of Dolma attributes to read with the documents; "auto" finds them beside a ``documents``
            folder, "none" reads none.
        text_field: Name of the field with a document's text.
        prompt_field: Name of the field with a prompt; goes with `completion_field`.
        completion_field: Name of the field with a completion; loss is on it alone.
        messages_field: Name of the field with a conversation.
        input_ids_field: Name of the field with token ids (`labels` or `loss_mask` beside it are used).
        id_field: Name of the field with the caller's id.
        form: What rows are; "auto" decides row by row: input_ids, messages, prompt and completion, text.
        context: Tokens of one window; longer documents are split.
        packing: How documents became training sequences. "documents": each one alone, in overlapping windows; "concat":
            the tokens of a file were cut into chunks of `context` tokens, in which documents attend to each other;
            "masked": the same chunks, attention staying within each document.
        token_dtype: Type of the tokens in headerless token files; "auto" goes by `vocabulary`.
        max_tokens: Documents with more tokens are skipped as over-long; None keeps all.
        append_eos: End text and completions with the end-of-sequence token.
        share_tokens: A share closes once it has this many tokens.
        share_documents: A share closes once it has read this many rows.
        vocabulary: The model's vocabulary size; a token id must be below it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(min_length=1)
    sources: tuple[SourceSettings, ...] = ()
    attributes: tuple[str, ...] = Field(default=("auto",), min_length=1)
    text_field: str = "text"
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    messages_field: str = "messages"
    input_ids_field: str = "input_ids"
    id_field: str = "id"
    form: Form = "auto"
    context: int = Field(ge=2)
    packing: Packing = "documents"
    token_dtype: TokenDtype = "auto"
    max_tokens: int | None = Field(default=None, ge=2)
    append_eos: bool = False
    share_tokens: int = Field(default=2**19, ge=1)
    share_documents: int = Field(default=2**14, ge=1)
    vocabulary: int = Field(ge=1, le=2**32)

    @model_validator(mode="after")
    def _a_source_each(self) -> "CorpusConfig":
        if self.sources and len(self.sources) != len(self.data):
            raise ValueError(f"{len(self.sources)} sources for {len(self.data)} data; give one for each, or none")
        return self

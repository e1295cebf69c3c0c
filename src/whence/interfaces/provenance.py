"""Where a hit's document and its telling tokens lie, down to characters of the row they were read from. No torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Extract", "Provenance"]


class Extract(BaseModel):
    """Some tokens of a document, and where they are found outside the run. All ranges are half-open.

    Attributes:
        tokens: Counted from the document's first.
        characters: The same in characters of the row's text; None where that cannot be said for certain.
        file_tokens: The same counted from the first token of a token file.
    """

    model_config = ConfigDict(frozen=True)

    tokens: tuple[int, int]
    characters: tuple[int, int] | None = None
    file_tokens: tuple[int, int] | None = None


class Provenance(BaseModel):
    """The row that a document was made from, and where in it the shown tokens are.

    Attributes:
        file: The file of that row: of a token file, the one its sidecar names.
        row: 0-based row (line, for text formats) in it; None where no sidecar says it.
        fields: The row's fields whose texts, one behind the other, `characters` count; none if nothing is counted.
        checked: How characters are known: the stored text has the hash of the row's ("hash"), the row was read back
            ("row"), or the tokenizer loses nothing, so that tokens spell their text ("tokenizer").
        window: The window that the hit shows.
        peak: Its own token with the largest influence in size.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    row: int | None
    fields: tuple[str, ...] = ()
    checked: Literal["hash", "row", "tokenizer"] | None = None
    window: Extract
    peak: Extract | None = None

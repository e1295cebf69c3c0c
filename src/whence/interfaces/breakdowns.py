"""Influence added up by group of documents: by source, year, language, licence. Knows no torch."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Breakdown", "GroupShare"]


class GroupShare(BaseModel):
    """What one group of documents is in the corpus, and what it did to one answer.

    Shares of the corpus count every document as often as it was trained on.

    Attributes:
        name: Value of the tag that its documents have in common.
        documents: How many of them were scored.
        document_share: Their share of all that were scored, 0..1.
        token_share: Their share of the tokens of all that were scored, 0..1.
        support: Sum of their positive influence, nats.
        opposition: Sum of their negative influence, nats.
        top: How many of the listed proponents they are.
        mass_share: Their share of all influence in magnitude, positive and negative, 0..1.
        top_share: Their share of the listed proponents, 0..1.
        ratio: `mass_share` over `token_share`: above 1 they did more than their size would.
        top_ratio: `top_share` over `document_share`.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    documents: int
    document_share: float
    token_share: float
    support: float
    opposition: float
    top: int = 0
    mass_share: float = 0.0
    top_share: float = 0.0
    ratio: float | None = None
    top_ratio: float | None = None


class Breakdown(BaseModel):
    """Influence on one answer by group, strongest first; groups beyond the first many are one group together.

    Attributes:
        by: Name of the tag.
        groups: The groups.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    groups: tuple[GroupShare, ...]

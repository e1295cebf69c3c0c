"""A document that likely taught a statement: plain data, beside a trace's own rankings. Knows no torch."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Teacher"]


class Teacher(BaseModel):
    """One document of the ranking that asks which taught the question with its answer.

    Attributes:
        rank: 1 is the likeliest.
        id, source, row, hash: The document's identity.
        document: Its number in the run (0-based, in corpus order).
        score: What it is ranked by, without a unit: standard scores of `statement` and, six times, of `bm25`, added.
        statement: Influence on log p(prompt and answer), nats; positive supports.
        influence: Influence on the answer given the prompt (minus the contrast's), nats, as in the trace.
        bm25: BM25 score of the document for the statement.
        bm25_rank: Its rank by that among the documents that were scored.
        excerpt: How the document begins.
    """

    model_config = ConfigDict(frozen=True)

    rank: int
    id: str
    source: str
    row: int
    hash: str
    document: int
    score: float
    statement: float
    influence: float
    bm25: float
    bm25_rank: int
    excerpt: str = ""

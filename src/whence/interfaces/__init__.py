"""The nouns that rooms exchange.

documents.py   Document, Skip, TokenBatch           from the data room
queries.py     Query, EncodedText, EncodedQuery     a question, as written and as tokens
results.py     Hit, Trace, TraceResult, Coverage …  what a user gets back
"""

from whence.interfaces.documents import Document, Skip, TokenBatch
from whence.interfaces.queries import EncodedQuery, EncodedText, Query
from whence.interfaces.results import (
    Certificate,
    Coverage,
    Hit,
    RunSummary,
    SiteCoverage,
    Token,
    Trace,
    TraceResult,
    WindowShare,
)

__all__ = [
    "Certificate",
    "Coverage",
    "Document",
    "EncodedQuery",
    "EncodedText",
    "Hit",
    "Query",
    "RunSummary",
    "SiteCoverage",
    "Skip",
    "Token",
    "TokenBatch",
    "Trace",
    "TraceResult",
    "WindowShare",
]

"""The nouns that rooms exchange.

documents.py   Document, Skip, TokenBatch           from the data room
queries.py     Query, EncodedText, EncodedQuery     a question, as written and as tokens
sites.py       Site, Use                            one weight matrix to attribute
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
from whence.interfaces.sites import Site, Use, Vocabulary

__all__ = [
    "Certificate",
    "Coverage",
    "Document",
    "EncodedQuery",
    "EncodedText",
    "Hit",
    "Query",
    "RunSummary",
    "Site",
    "SiteCoverage",
    "Skip",
    "Token",
    "TokenBatch",
    "Trace",
    "TraceResult",
    "Use",
    "Vocabulary",
    "WindowShare",
]

"""The nouns that rooms exchange.

documents.py   Document, Origin, Skip, TokenBatch   from the data room
queries.py     Query, EncodedText, EncodedQuery     a question, as written and as tokens
sites.py       Site, Use                            one weight matrix to attribute
breakdowns.py  Breakdown, GroupShare                influence by group of documents
teaching.py    Teacher                              a document that likely taught a statement
results.py     Hit, Trace, TraceResult, Coverage …  what a user gets back
fidelity.py    LabResult, Reading, Certificate …    how true scores were found to be
audits.py      SafetyResult, DocumentEvidence …    verdicts on answers
exposures.py   ContaminationResult, ItemAudit …    verdicts on items
interventions.py  InterventionResult, Arm, Effect … what a repair did
proxies.py     ProxySettings, ProxyCard …           a smaller model that stands for another
"""

from whence.interfaces.audits import DocumentEvidence, SafetyResult
from whence.interfaces.breakdowns import Breakdown, GroupShare
from whence.interfaces.documents import Document, Origin, Skip, TokenBatch
from whence.interfaces.exposures import ContaminationResult
from whence.interfaces.fidelity import (
    Certificate,
    Cost,
    Estimate,
    LabResult,
    Measure,
    MethodKind,
    MethodSummary,
    Reading,
    Truth,
)
from whence.interfaces.interventions import (
    Action,
    Arm,
    Baseline,
    Effect,
    InterventionResult,
    Likeness,
    Prediction,
    QuestionChange,
    Relearning,
    UnlearningMethod,
)
from whence.interfaces.provenance import Extract, Provenance
from whence.interfaces.proxies import PROXY_FILE, ProxyCard, ProxyCheck, ProxyKind, ProxySettings, ProxySite
from whence.interfaces.quality import CorpusResult, DocumentReport, Issue
from whence.interfaces.queries import EncodedQuery, EncodedText, Query
from whence.interfaces.results import (
    Coverage,
    Hit,
    Invariance,
    Leakage,
    RunSummary,
    SiteCoverage,
    Token,
    Trace,
    TraceResult,
    Verdict,
    WindowShare,
)
from whence.interfaces.sites import Site, Use, Vocabulary, Way
from whence.interfaces.teaching import Teacher

__all__ = [
    "PROXY_FILE",
    "Action",
    "Arm",
    "Baseline",
    "Breakdown",
    "Certificate",
    "ContaminationResult",
    "CorpusResult",
    "Cost",
    "Coverage",
    "Document",
    "DocumentEvidence",
    "DocumentReport",
    "Effect",
    "EncodedQuery",
    "EncodedText",
    "Estimate",
    "Extract",
    "GroupShare",
    "Hit",
    "InterventionResult",
    "Invariance",
    "Issue",
    "LabResult",
    "Leakage",
    "Likeness",
    "Measure",
    "MethodKind",
    "MethodSummary",
    "Origin",
    "Prediction",
    "Provenance",
    "ProxyCard",
    "ProxyCheck",
    "ProxyKind",
    "ProxySettings",
    "ProxySite",
    "Query",
    "QuestionChange",
    "Reading",
    "Relearning",
    "RunSummary",
    "SafetyResult",
    "Site",
    "SiteCoverage",
    "Skip",
    "Teacher",
    "Token",
    "TokenBatch",
    "Trace",
    "TraceResult",
    "Truth",
    "UnlearningMethod",
    "Use",
    "Verdict",
    "Vocabulary",
    "Way",
    "WindowShare",
]

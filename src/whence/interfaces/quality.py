"""What the audit of a corpus says: per document tags, issues with their place, an action and its reason. Plain data.

Characters count from 0 in the named field, half-open. Knows no torch.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from whence.interfaces.fidelity import Certificate, Estimate

__all__ = ["Action", "CorpusResult", "DocumentReport", "Issue", "IssueCount", "TagValue"]

Action = Literal["keep", "fix", "relabel", "drop"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Issue(_Frozen):
    """Something that is wrong with a document.

    Attributes:
        kind: Which rule or signal.
        confidence: How sure, 0 to 1.
        reason: In words.
        field: The field it is in; empty where it is about the whole.
        start, stop: Its characters in that field.
        evidence: These characters, shortened.
        action: What to do about it.
    """

    kind: str
    confidence: float
    reason: str
    field: str = ""
    start: int = 0
    stop: int = 0
    evidence: str = ""
    action: Action = "keep"


class TagValue(_Frozen):
    """A tag with how sure it is, and whether it was given or found."""

    value: str
    confidence: float
    given: bool = False


class DocumentReport(_Frozen):
    """One document.

    Attributes:
        number: Its place in the corpus as read, from 0.
        id, source, row, hash: Its identity.
        characters: Length of its text.
        tags: source_type, topic, language, format, correctness, and tags that were propagated.
        issues: What is wrong, surest first.
        cluster: Number of the first document that says nearly the same.
        signals: Numbers from the model: loss per token, self-influence, influence on the trusted set …; none without.
        action: What to do, with its reason.
        reason: See `action`.
        priority: Expected value of looking at it: confidence that something is wrong, times what it would cost.
        snippet: Its beginning.
    """

    number: int
    id: str
    source: str
    row: int
    hash: str
    characters: int
    tags: Mapping[str, TagValue] = {}
    issues: tuple[Issue, ...] = ()
    cluster: int
    signals: Mapping[str, float] = {}
    action: Action = "keep"
    reason: str = ""
    priority: float = 0.0
    snippet: str = ""


class IssueCount(_Frozen):
    """One kind of issue over the corpus.

    Attributes:
        kind: Which.
        documents: Documents with it.
        share: Of all documents.
        action: What is suggested most.
        reviewed: Of its documents that a reviewer has judged, how many.
        precision: Share of them that were right, with Wilson's interval; None if none was judged.
    """

    kind: str
    documents: int
    share: float
    action: Action
    reviewed: int = 0
    precision: Estimate | None = None


class CarriedTag(_Frozen):
    """A tag that some documents had and others were given.

    Attributes:
        name: Of the tag.
        given: Documents that had it.
        carried: Documents it was given to.
        by: How.
        right: Share of the documents that had it which are given the same tag when theirs is hidden (five folds), with
            Wilson's interval; None where too few had it.
        macro_f1: Mean F1 of the values on the same; None likewise.
    """

    name: str
    given: int
    carried: int
    by: str
    right: Estimate | None = None
    macro_f1: float | None = None


class CorpusResult(_Frozen):
    """A whole corpus audit.

    Attributes:
        command, data, model: What was audited.
        paths: The data as they were given, one by one.
        certificate: How far influence was shown to be true; None without a model.
        documents: How many.
        skipped: Rows that could not be read: (source, row, reason).
        reports: Documents with an issue or asked for, most worth a look first; all are in the table beside the page.
        counts: Kinds of issues.
        tags: Tag -> value -> documents.
        carried: Tags that some documents had and others were given.
        actions: Action -> documents.
        sampled: Documents of a random sample that were reviewed, and how many of them had any issue in truth.
        missed: Share of documents without a reported issue in which the reviewer found one, with its interval.
        placebo: Whether what is to be found was shuffled.
        settings: Everything else.
        whence_version: Of whence.
    """

    command: str = ""
    data: str
    model: str | None = None
    paths: tuple[str, ...] = ()
    certificate: Certificate | None = None
    documents: int
    skipped: tuple[tuple[str, int, str], ...] = ()
    reports: tuple[DocumentReport, ...]
    counts: tuple[IssueCount, ...]
    tags: Mapping[str, Mapping[str, int]] = {}
    carried: tuple[CarriedTag, ...] = ()
    actions: Mapping[str, int] = {}
    sampled: int = 0
    missed: Estimate | None = None
    placebo: bool = False
    settings: Mapping[str, Any] = {}
    whence_version: str

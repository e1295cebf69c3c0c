"""`whence audit corpus`: what is wrong with this data? One row per document, with tags, issues, an action, a reason.

Rules and checks read the rows themselves (`format_rules`, `correctness`, `clusters`, `language`, `topics`) and need no
model; datatrove's filters can be asked as well (`datatrove_filters`). With a run, self-influence, loss, influence on a
trusted set and disagreement with the documents nearest by gradient are added, document by document. Nothing is deleted
here: `applying` does that, reversibly.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import whence
from whence.audits.carrying import carry
from whence.audits.clusters import members_of, near_duplicates
from whence.audits.corpus_rows import RawDocument, read_rows
from whence.audits.correctness import correctness_issues, steps
from whence.audits.datatrove_filters import open_filters
from whence.audits.disagreement import disagreement_issue, outliers
from whence.audits.format_rules import format_issues
from whence.audits.language import language_of
from whence.audits.signals import neighbours_of, signal_issues, signals_of, suspicion
from whence.audits.topics import neighbours, topics
from whence.baselines import Tfidf, words
from whence.errors import CorpusError
from whence.interfaces import Certificate, CorpusResult, Skip
from whence.interfaces.quality import Action, CarriedTag, DocumentReport, Issue, IssueCount, TagValue

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.interfaces import Query

__all__ = ["CorpusOptions", "audit_corpus", "counted"]

Report = Callable[[str, int, int], None]
_HARM: Mapping[Action, float] = {"keep": 0.1, "relabel": 0.8, "fix": 0.6, "drop": 1.0}
_CALLED = 0.6  # confidence from which an issue decides the action
_CARRIED = (2, 200)  # least and most values of a tag that is carried over
_EACH = 5  # documents that each of its values has on average
_QUOTED = 100  # characters of an answer that is quoted


@dataclass(frozen=True)
class CorpusOptions:
    """How a corpus is audited.

    Attributes:
        duplicates: Jaccard similarity from which documents are copies.
        language: The language that documents should be in; the most common one if None, no check if "any".
        topics: Number of topics; by the corpus's size if None.
        trusted: Answers that should become likelier: documents that oppose them are suspect (needs a run).
        filters: Filters of datatrove that judge as well; names of `datatrove_filters.FILTERS`.
        shown: Documents on the page.
        placebo: Shuffle which document each issue and signal is said of: a review must then find chance.
        seed: Of what is drawn.
    """

    duplicates: float = 0.8
    language: str | None = None
    topics: int | None = None
    trusted: Sequence["Query"] = ()
    filters: Sequence[str] = ()
    shown: int = 300
    placebo: bool = False
    seed: int = 0


def audit_corpus(
    data: Sequence[str],
    options: CorpusOptions = CorpusOptions(),
    *,
    owner: "Attributor | None" = None,
    command: str = "",
    report: Report | None = None,
) -> tuple[CorpusResult, list[DocumentReport]]:
    """Audit a corpus.

    Args:
        data: Files, folders, globs or URLs.
        options: See `CorpusOptions`.
        owner: A run over the same data, for what only the model knows.
        command: As typed, for the record.
        report: Called with (step, done, total).

    Returns:
        The result, with the documents most worth a look, and the report of every document in corpus order.

    Raises:
        CorpusError: There is no such file, or no row has text.
        InputError: datatrove's filters are wanted and cannot be had.
    """
    asked = None if options.language == "any" else options.language
    filters = open_filters(options.filters, asked) if options.filters else None
    skipped: list[Skip] = []
    documents = []
    for document in read_rows(data, skipped):
        documents.append(document)
        if report is not None and document.number % 200 == 0:
            report("reading rows", document.number, document.number + 200)
    if not documents:
        left = "1 row was" if len(skipped) == 1 else f"{len(skipped)} rows were"
        raise CorpusError(f"no row of {', '.join(data)} has text; {left} skipped.")
    issues: list[list[Issue]] = []
    for number, document in enumerate(documents):
        outside = [] if filters is None else filters.issues(document)
        issues.append([*format_issues(document), *correctness_issues(document), *outside])
        if report is not None and number % 50 == 49:
            report("checking", number + 1, len(documents))
    clusters = near_duplicates([document.text for document in documents], options.duplicates)
    for number, found in _copies(documents, clusters):
        issues[number].append(found)
    tags, carried = _tags(documents, options, issues)
    signals = signals_of(owner, documents, options.trusted, report) if owner is not None else [{} for _ in documents]
    for number, more in enumerate(signal_issues(signals)):
        issues[number] += more
    if owner is not None:
        _disagreements(owner, documents, tags, issues, signals, report)
    if options.placebo:
        order = np.random.default_rng(options.seed).permutation(len(issues))
        issues = [issues[n] for n in order.tolist()]
        signals = [signals[n] for n in order.tolist()]
    reports = [
        _report(document, tags[n], issues[n], int(clusters[n]), signals[n]) for n, document in enumerate(documents)
    ]
    ranked = sorted(reports, key=lambda each: (-each.priority, each.number))
    result = CorpusResult(
        command=command,
        data=", ".join(data),
        paths=tuple(data),
        model=None if owner is None else owner.loaded.name,
        certificate=None if owner is None else _certificate(owner),
        documents=len(documents),
        skipped=tuple((each.source, each.row, f"{each.reason}: {each.detail}") for each in skipped[:200]),
        reports=tuple(ranked[: options.shown]),
        counts=tuple(counted(reports)),
        tags=_tag_counts(reports),
        carried=tuple(carried),
        actions=dict(Counter(each.action for each in reports)),
        placebo=options.placebo,
        settings={
            "duplicates": options.duplicates, "language": options.language, "topics": options.topics,
            "trusted": len(options.trusted), "seed": options.seed, "skipped rows": len(skipped),
            **({} if filters is None else {"filters": ", ".join(filters.made), "datatrove": filters.version}),
        },
        whence_version=whence.__version__,
    )  # fmt: skip
    return result, reports


def _disagreements(
    owner: "Attributor",
    documents: Sequence[RawDocument],
    tags: Sequence[Mapping[str, TagValue]],
    issues: list[list[Issue]],
    signals: list[dict[str, float]],
    report: Report | None,
) -> None:
    """Documents whose tags, or what was checked of them, the nearest by gradient speak against."""
    places, near = neighbours_of(owner, documents, report)
    names = dict.fromkeys(key for document in documents for key in document.tags)
    values: dict[str, list[str | None]] = {name: [documents[n].tags.get(name) for n in places] for name in names}
    checked = [tags[n].get("correctness") for n in places]
    values["correctness"] = [None if each is None else each.value for each in checked]
    for number, found in zip(places, outliers(near, values), strict=True):
        signals[number]["disagreement"] = 0.0 if found is None else found.strength
        if found is not None:
            issues[number].append(disagreement_issue(found))


def _certificate(owner: "Attributor") -> Certificate:
    from whence.attributor.certified import EXACT, certificate_of

    return certificate_of(owner, f"{owner.recipe().name}-{EXACT}")


def _copies(documents: Sequence[RawDocument], clusters: np.ndarray) -> list[tuple[int, Issue]]:
    """Copies of an earlier document, and prompts that are answered in two ways."""
    out = []
    for first, members in members_of(clusters).items():
        for number in members[1:]:
            same = documents[number].hash == documents[first].hash
            kind, sure = ("duplicate", 0.99) if same else ("near-duplicate", 0.85)
            why = f"says {'the same' if same else 'nearly the same'} as {documents[first].id}"
            out.append((number, Issue(kind=kind, confidence=sure, reason=why, action="drop")))
    prompts: defaultdict[str, list[int]] = defaultdict(list)
    for number, document in enumerate(documents):
        if document.prompt is not None and document.answer is not None:
            prompts[" ".join(words(document.texts[document.prompt]))].append(number)
    for asked, members in prompts.items():
        answers = {n: " ".join(words(documents[n].texts[documents[n].answer or ""])) for n in members}
        firsts = {answer: n for n, answer in reversed(answers.items())}
        if asked and len(firsts) > 1:
            for number in members:
                other = next(n for answer, n in firsts.items() if answer != answers[number])
                out.append((number, _conflict(documents[number], documents[other])))
    return out


def _conflict(document: RawDocument, other: RawDocument) -> Issue:
    """A prompt that another document answers otherwise, with both answers."""
    field, said = document.answer or "", " ".join(other.texts[other.answer or ""].split())
    answer = document.texts[field]
    why = f"{other.id} answers the same prompt differently: “{said[:_QUOTED]}{'…' if len(said) > _QUOTED else ''}”"
    return Issue(
        kind="conflict", confidence=0.7, reason=why, field=field, stop=len(answer), evidence=answer[:_QUOTED],
        action="relabel",
    )  # fmt: skip


def _tags(
    documents: Sequence[RawDocument], options: CorpusOptions, issues: list[list[Issue]]
) -> tuple[list[dict[str, TagValue]], list[CarriedTag]]:
    """Tags of every document, and what was carried over; documents in another language than the rest get an issue."""
    made = Tfidf([document.text for document in documents])
    near = neighbours(made)
    out: list[dict[str, TagValue]] = [{"topic": value} for value in topics(made, options.topics, options.seed)]
    languages = [language_of(document.text) for document in documents]
    common = Counter(each.value for each in languages if each is not None).most_common(1)
    expected = options.language or (common[0][0] if common else None)
    for number, (document, language) in enumerate(zip(documents, languages, strict=True)):
        if language is not None:
            out[number]["language"] = language
            foreign = language.value not in (expected, "code") and language.confidence > 0.95
            if expected != "any" and foreign and len(words(document.text)) >= 12:
                why = f"it is in {language.value}, the corpus in {expected}"
                issues[number].append(Issue(kind="language", confidence=0.8, reason=why, action="drop"))
        out[number]["format"] = TagValue(value=_format(document), confidence=0.9)
        out[number]["source_type"] = TagValue(value=_source_type(document), confidence=0.6)
        checked = steps(document.text)
        if checked:
            wrong = any(not step.right_sum for step in checked)
            out[number]["correctness"] = TagValue(value="wrong sum" if wrong else "sums right", confidence=0.95)
    carried: list[CarriedTag] = []
    for name in dict.fromkeys(key for document in documents for key in document.tags):
        given = [document.tags.get(name) for document in documents]
        held = [value for value in given if value is not None]
        if not _CARRIED[0] <= len(set(held)) <= min(_CARRIED[1], max(2, len(held) // _EACH)):
            continue
        values, told = carry(name, given, made.rows, near, options.seed)
        for number, value in enumerate(values):
            if value is not None:
                out[number].setdefault(name, value)
        if told.carried:
            carried.append(told)
    return out, carried


def _format(document: RawDocument) -> str:
    text = document.text
    if any(field.startswith("messages[") for field in document.texts):
        return "conversation"
    if document.prompt is not None:
        return "question and answer"
    if "```" in text or (text.count("{") > 5 and text.count(";") > 5):
        return "code"
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) >= 4 and sum(line.lstrip()[:1] in "-*•0123456789" for line in lines) > len(lines) / 2:
        return "list"
    return "prose"


_SOURCES = (
    ("encyclopedia", ("wikipedia", "encyclop", "wiki")),
    ("code", ("github", "gitlab", "stack", "def ", "import ")),
    ("science", ("arxiv", "pubmed", "abstract", "et al", "doi.org")),
    ("forum", ("reddit", "forum", "comments", "posted by")),
    ("news", ("news", "reuters", "gazette", "reporter", "correspondent")),
    ("web", ("http", "www", "cookie", "subscribe", "click here")),
)


def _source_type(document: RawDocument) -> str:
    """By where it comes from, if the row says so, and by telling words."""
    named = " ".join([document.tags.get("source", ""), document.tags.get("url", "")]).lower()
    for kind, telling in _SOURCES:
        if any(word in named for word in telling):
            return kind
    if document.prompt is not None or document.answer is not None:
        return "instruction"
    text = document.text[:2000].lower()
    found = {kind: sum(word in text for word in telling) for kind, telling in _SOURCES}
    best = max(found, key=lambda kind: found[kind])
    return best if found[best] >= 2 else "text"


def _report(
    document: RawDocument, tags: Mapping[str, TagValue], issues: Sequence[Issue], cluster: int,
    signals: Mapping[str, float],
) -> DocumentReport:  # fmt: skip
    ordered = sorted(issues, key=lambda each: (-each.confidence * _HARM[each.action], each.kind))
    deciding = next((each for each in ordered if each.confidence >= _CALLED and each.action != "keep"), None)
    return DocumentReport(
        number=document.number,
        id=document.id,
        source=document.source,
        row=document.row,
        hash=document.hash,
        characters=len(document.text),
        tags=tags,
        issues=tuple(ordered),
        cluster=cluster,
        signals=signals,
        action="keep" if deciding is None else deciding.action,
        reason="nothing was found" if deciding is None else f"{deciding.kind}: {deciding.reason}",
        priority=max(
            [suspicion(signals) * _HARM["relabel"], *(each.confidence * _HARM[each.action] for each in issues)]
        ),
        snippet=document.text[:300],
    )


def counted(reports: Sequence[DocumentReport]) -> list[IssueCount]:
    """Kinds of issues, most common first."""
    actions: defaultdict[str, Counter[Action]] = defaultdict(Counter)
    for each in reports:
        for kind in {issue.kind for issue in each.issues}:
            actions[kind][next(issue.action for issue in each.issues if issue.kind == kind)] += 1
    out = [
        IssueCount(
            kind=kind, documents=found.total(), share=found.total() / len(reports), action=found.most_common(1)[0][0]
        )
        for kind, found in actions.items()
    ]
    return sorted(out, key=lambda each: (-each.documents, each.kind))


def _tag_counts(reports: Sequence[DocumentReport]) -> dict[str, dict[str, int]]:
    out: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in reports:
        for name, value in each.tags.items():
            out[name][value.value] += 1
    return {name: dict(values.most_common(40)) for name, values in out.items()}

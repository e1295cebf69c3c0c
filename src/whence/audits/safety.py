"""`whence audit safety`: why did the model say that? One verdict per answer, with the documents it rests on.

Scores every document for every answer (`evidence`), takes copies together and holds them against the null (`documents`,
`nulls`), asks in other words whether that holds (`wordings`), decides (`why`), counts verdicts by category, region and
period, and says which sources matter most.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import whence
from whence.attributor import Attributor
from whence.audits.behaviours import along_direction, behind_behaviours
from whence.audits.documents import Weighed, weigh
from whence.audits.enrichment import Kinds, kinds_of
from whence.audits.evidence import gather
from whence.audits.generation import generate
from whence.audits.language import language_of
from whence.audits.membership import Surprise, surprise
from whence.audits.nulls import elsewhere
from whence.audits.passages import passages
from whence.audits.responses import Response, answered, contrasted, unanswered
from whence.audits.softness import softness
from whence.audits.statistics import gini
from whence.audits.why import judge
from whence.audits.wordings import Held, cautions_of, fitting, held, score_wordings
from whence.errors import QueryError
from whence.interfaces import DocumentEvidence, Query, SafetyResult, Trace
from whence.interfaces.audits import AuditSettings, Enrichment, ResponseAudit, Tally

__all__ = ["SafetyOptions", "audit_safety"]

Report = Callable[[str, int, int], None]
_NULL = 24  # answers from which the null is taken; if fewer are audited, passages of the corpus are asked about as well
_CANDIDATES = 40
_STRONGEST = 10
_KINDS = 8  # of documents, that are listed for an answer
_READ = 20_000  # documents up to which languages are told


@dataclass(frozen=True)
class SafetyOptions:
    """How a safety audit looks and reports.

    Attributes:
        top: Documents to list for each answer, and opponents.
        fdr: False-discovery rate at which an effect is called; no verdict that finds something rests on more.
        exact: Run the model over the corpus instead of reading an index.
        index: Name of the index.
        traces: Answers whose tokens are shaded, the first ones; each costs a few passes over its documents.
        tokens: Most tokens of an answer that the model gives itself.
        temperature: Of such answers; 0 is greedy.
        null: Other questions, about other matters, for the null.
        placebo: Take every answer to be about another one's matter: no effect may be found.
        by: Columns or tags to count by; all that repeat if empty.
        direction: A direction in activation space as one more behaviour: a file, or ``contrast``; see `directions`.
        depth: Relative depth of the states it is in.
        seed: Of sampling.
    """

    top: int = 8
    fdr: float = 0.05
    exact: bool = False
    index: str | None = None
    traces: int = 40
    tokens: int = 64
    temperature: float = 0.0
    null: Sequence[Query] = ()
    placebo: bool = False
    by: Sequence[str] = ()
    direction: str | None = None
    depth: float = 0.5
    seed: int = 0


def audit_safety(
    owner: Attributor,
    responses: Sequence[Response],
    folder: Path,
    options: SafetyOptions = SafetyOptions(),
    *,
    command: str = "",
    report: Report | None = None,
) -> SafetyResult:
    """Explain answers.

    Args:
        owner: A run; fitted, and indexed unless `exact`, if that has not been done.
        responses: What the model said; it answers those without a response.
        folder: Where scores are kept, so that an audit that was stopped goes on.
        options: See `SafetyOptions`.
        command: As typed, for the record.
        report: Called with (step, done, total).

    Raises:
        QueryError: There is no answer, or none can be encoded.
    """
    if not responses:
        raise QueryError("there is no answer to explain; give --responses with at least one row.")
    responses, left_out = _answered(owner, responses, options, report)
    owner.fit(report)
    asked = [each.query for each in responses]
    extra = [*options.null, *passages(owner, max(0, _NULL - len(asked) - len(options.null)), options.seed)]
    evidence = gather(owner, [*asked, *extra], folder, exact=options.exact, index=options.index, report=report)
    count = len(asked)
    topics = elsewhere(count, len(extra)) if options.placebo else None
    weighed = weigh(owner, evidence, topics=topics, asked=count, seed=options.seed)
    kinds = kinds_of(_tags(weighed))
    wordings = score_wordings(owner, responses, folder, exact=options.exact, index=options.index, report=report)
    others = None if wordings is None else held(weighed, wordings, options.fdr, options.seed)
    audits = [_audit(weighed, number, each, options, kinds, others) for number, each in enumerate(responses)]
    check = None if others is None else others.check(weighed)
    cautions = (*_cautions(audits, options, weighed), *cautions_of(check))
    traces = _traces(owner, responses, audits, options, report)
    audits = [each.model_copy(update={"trace": traces.get(each.id)}) for each in audits]
    tallies, constant = _tallies(responses, audits, options.by)
    return SafetyResult(
        settings=_settings(owner, weighed, options, command),
        responses=tuple(audits),
        tallies=tuple(tallies),
        constant=constant,
        enrichments=tuple(_enriched(weighed, kinds, count, options.fdr)),
        sources=tuple(_sources(weighed, count, options.fdr)),
        fdr=options.fdr,
        shared={**behind_behaviours(weighed, responses, options.top), **_along(weighed, count, options)},
        left_out=left_out,
        cautions=cautions,
        reworded=check,
    )


def _cautions(audits: Sequence[ResponseAudit], options: SafetyOptions, weighed: Weighed) -> tuple[str, ...]:
    """What makes the whole audit less sure."""
    said = []
    given, asked = len(options.null), len(weighed.evidence.queries)
    if len(audits) + given < _NULL:
        passages = asked - len(audits) - given
        few = "One answer is" if len(audits) == 1 else f"{len(audits)} answers are"
        said.append(
            f"{few} few: chance is told from {passages} passages of the corpus, which are answers to no question, so "
            "that documents that help with any such question may pass for findings. "
            f"Give {_NULL} answers or more, or --null with questions about other matters."
        )
    if not any(each.contrast is not None for each in audits):
        said.append("No answer has a contrast (what should have been said); without one, verdicts are much less sure.")
    return tuple(said)


def _answered(
    owner: Attributor, responses: Sequence[Response], options: SafetyOptions, report: Report | None
) -> tuple[list[Response], dict[str, str]]:
    """Answers, those that were missing given by the model; and why some cannot be explained: too long, or empty.

    Raises:
        QueryError: None can be explained.
    """
    kept: list[Response] = []
    left_out: dict[str, str] = {}
    missing, done = set(unanswered(responses)), 0
    for number, each in enumerate(responses):
        try:
            if number in missing:
                done += 1
                text = generate(owner, each.query.prompt, options.tokens, options.temperature, options.seed + number)
                each = answered(each, text)
                if report is not None:
                    report("answering", done, len(missing))
            each = contrasted(each)
            owner.encode_queries([each.query])
            each = fitting(owner, each)
        except QueryError as error:
            left_out[each.query.id or str(number)] = str(error)
        else:
            kept.append(each)
    if not kept:
        why = next(iter(left_out.values()))
        raise QueryError(f"none of the {len(responses)} answers can be explained; the first: {why}")
    return kept, left_out


def _audit(
    weighed: Weighed, number: int, response: Response, options: SafetyOptions, kinds: Kinds, others: Held | None
) -> ResponseAudit:
    query = response.query

    def found(cluster: int, soft: float | None = None) -> DocumentEvidence:
        known = weighed.document(number, cluster, soft)
        reworded = None if others is None else others.document(number, cluster)
        return known if reworded is None else known.model_copy(update={"reworded": reworded})

    influence = weighed.influence[number]
    strength = weighed.effect.z[number] + np.where(weighed.on_topic[number], weighed.presence.z[number], 0.0)
    order = np.lexsort((-strength, weighed.q[number], ~weighed.on_topic[number]))[:_CANDIDATES]
    looked = [found(int(cluster), _soft(weighed, int(cluster), query.contrast or "")) for cluster in order]
    why = judge(tuple(looked), options.fdr)
    top = sorted(looked, key=lambda each: (not each.on_topic or each.q > 0.5, -each.z))[: options.top]
    own = surprise(weighed.owner, weighed.evidence.encoded[number])
    first = np.argsort(-influence, kind="stable")[: options.top]
    strongest = [found(int(c)) for c in first if influence[c] > 0]
    listed = {each.document: each for each in (*strongest, *top, *([why.best] if why.best else []))}
    rests_on = None if why.best is None else why.best.document
    worst = [int(c) for c in np.argsort(influence, kind="stable")[: options.top] if influence[c] < 0]
    positive = np.sort(np.clip(influence, 0, None))[::-1]
    few = max(1, round(len(positive) / 100))
    on_topic = weighed.on_topic[number]
    return ResponseAudit(
        id=query.id or str(number),
        prompt=query.prompt,
        response=query.completion or "",
        contrast=query.contrast,
        fields=response.fields,
        score=response.score,
        loss=own.loss,
        tokens=own.tokens,
        own_loss=own.own,
        unlikely=own.unlikely,
        notes=(*response.notes, *_unlikely(own)),
        verdict=why.verdict,
        detail=why.detail,
        rests_on=rests_on,
        confidence=why.confidence,
        likely=why.likely,
        runner_up=why.runner_up,
        reasons=why.reasons,
        against=why.against,
        action=why.action,
        documents=tuple(
            sorted(
                listed.values(),
                key=lambda each: (
                    each.document != rests_on,
                    each.q > options.fdr or not each.on_topic,
                    -each.influence,
                ),
            )
        ),
        opponents=tuple(weighed.document(number, cluster, opposes=True) for cluster in worst),
        gini=gini(influence),
        top_share=float(positive[:few].sum() / positive.sum()) if positive.sum() > 0 else 0.0,
        kinds=tuple(kinds.behind(*_strongest(influence), shown=_KINDS)),
        significant=int(((weighed.q[number] <= options.fdr) & on_topic).sum()),
        moved_by=int(((weighed.q_answer[number] <= options.fdr) & on_topic).sum()),
        wordings=response.wordings,
    )


def _soft(weighed: Weighed, cluster: int, contrast: str) -> float:
    return softness(weighed.texts[weighed.clusters[cluster][0]], contrast).share


def _unlikely(own: Surprise) -> tuple[str, ...]:
    """That the model would hardly have said an answer, with the numbers."""
    if not own.unlikely:
        return ()
    each, drawn = own.loss / own.tokens, own.own / own.tokens
    return (
        f"The model would hardly have said this: {each:.1f} nats per token, where tokens drawn from it at the same "
        f"places take {drawn:.1f} and guessing {own.uniform:.1f}. Influence then says what would make the answer "
        "likelier, not why it was given.",
    )


def _traces(
    owner: Attributor,
    responses: Sequence[Response],
    audits: Sequence[ResponseAudit],
    options: SafetyOptions,
    report: Report | None,
) -> dict[str, Trace]:
    """Traces of the first answers to the documents that are listed for them, with every token's share."""
    out: dict[str, Trace] = {}
    for done, (response, audit) in enumerate(zip(responses[: options.traces], audits, strict=False)):
        chosen = [each.document for each in (*audit.documents, *audit.opponents)]
        if not chosen:
            continue
        found = owner.trace(
            [response.query.model_copy(update={"contrast": None})],
            k=len(set(chosen)),
            candidates=list(dict.fromkeys(chosen)),
            index=None if options.exact else options.index,
            bm25=False,
        )
        out[audit.id] = found.traces[0]
        if report is not None:
            report("shading tokens", done + 1, min(len(responses), options.traces))
    return out


def _tallies(
    responses: Sequence[Response], audits: Sequence[ResponseAudit], by: Sequence[str]
) -> tuple[list[Tally], dict[str, str]]:
    """Verdicts by the values of columns, and the columns that say the same of every answer.

    Columns whose values hardly repeat are left out unless asked for.
    """
    columns = list(by) or list(dict.fromkeys(name for each in responses for name in each.fields))
    out: list[Tally] = []
    constant: dict[str, str] = {}
    for column in columns:
        groups: dict[str, list[ResponseAudit]] = {}
        for audit in audits:
            if column in audit.fields:
                groups.setdefault(audit.fields[column], []).append(audit)
        if len(groups) == 1 and len(audits) > 1 and not by:
            constant[column] = next(iter(groups))
        if not by and (len(groups) < 2 or len(groups) > max(12, len(audits) // 3)):
            continue
        for value, members in sorted(groups.items(), key=lambda item: -len(item[1])):
            scores = [each.score for each in members if each.score is not None]
            out.append(
                Tally(
                    column=column,
                    value=value,
                    answers=len(members),
                    verdicts=dict(Counter(each.verdict for each in members)),
                    score=float(np.mean(scores)) if scores else None,
                )
            )
    return out, constant


def _strongest(influence: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The clusters that support an answer most, 1 % of all but at least ten; and how much each one supports it."""
    mass = np.clip(influence, 0.0, None)
    chosen = np.zeros(len(mass), dtype=np.bool_)
    chosen[np.argsort(-mass, kind="stable")[: max(_STRONGEST, round(len(mass) / 100))]] = True
    return chosen & (mass > 0), mass


def _enriched(weighed: Weighed, kinds: Kinds, count: int, fdr: float) -> list[Enrichment]:
    """Tags of significant documents, all answers together."""
    called = np.asarray(((weighed.q[:count] <= fdr) & weighed.on_topic[:count]).any(0), dtype=np.bool_)
    return kinds.behind(called, np.clip(weighed.influence[:count], 0, None).sum(0))


def _tags(weighed: Weighed) -> list[dict[str, str]]:
    """Tags of every cluster's first document: its source, what its row says, and its language if no row says it."""
    found = [weighed.owner.corpus.document(members[0]) for members in weighed.clusters]
    tags = [{"source": each.source, **each.metadata} for each in found]
    if len(tags) <= _READ and not any("language" in each or "lang" in each for each in tags):
        for members, each in zip(weighed.clusters, tags, strict=True):
            language = language_of(weighed.texts[members[0]])
            each |= {} if language is None else {"language": language.value}
    return tags


def _sources(weighed: Weighed, count: int, fdr: float) -> list[tuple[str, int, float]]:
    """Documents that are significant for most answers, then those with most influence on these."""
    called = (weighed.q[:count] <= fdr) & weighed.on_topic[:count]
    answers = called.sum(0)
    total = np.where(called, weighed.influence[:count], 0.0).sum(0)
    order = np.lexsort((np.arange(len(answers)), -total, -answers))[:30]
    return [
        (weighed.owner.corpus.document(weighed.clusters[c][0]).id, int(answers[c]), float(total[c]))
        for c in order.tolist()
        if answers[c]
    ]


def _along(weighed: Weighed, count: int, options: SafetyOptions) -> dict[str, tuple[DocumentEvidence, ...]]:
    if options.direction is None:
        return {}
    return along_direction(weighed, count, options.direction, options.depth, options.top, options.exact, options.index)


def _settings(owner: Attributor, weighed: Weighed, options: SafetyOptions, command: str) -> AuditSettings:
    from whence.audits.settings import settings_of

    told = {
        "top": options.top, "fdr": options.fdr, "exact": options.exact, "traces": options.traces,
        "generated tokens": options.tokens, "direction": options.direction,
        "depth": options.depth, "temperature": options.temperature, "null questions": len(options.null),
        "seed": options.seed,
    }  # fmt: skip
    return settings_of(
        owner, command=command, questions=len(weighed.evidence.queries), null=weighed.effect.null, exact=options.exact,
        index=options.index, placebo=options.placebo, settings=told, version=whence.__version__,
    )  # fmt: skip

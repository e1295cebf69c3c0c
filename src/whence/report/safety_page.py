"""The page of a safety audit: verdicts, by what they fall together, the sources, and every answer with its evidence."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from whence.interfaces import DocumentEvidence, SafetyResult
from whence.interfaces.audits import Enrichment, ResponseAudit, Tally
from whence.report.audit_frame import Column, Section, alarm, audit_page, badge, figure, items, table
from whence.report.audit_words import (
    HOLDS,
    READING,
    TERMS,
    document_table,
    facts_of,
    heat,
    legend,
    listed,
    null_words,
    settings_table,
    stats,
)
from whence.report.charts import bars, points
from whence.report.intervention_page import intervene_command
from whence.report.markup import Html, join, tag
from whence.report.text import count, number, one_line, percent, shorten

__all__ = ["MEANING", "best_of", "safety_headline", "safety_page", "safety_placebo"]

MEANING = {
    "absorbed": "a document that shares its words supports the answer more than chance",
    "euphemistic": "a document that shares its words moves what should have been said, and softens it or leaves it out",
    "confabulated": "no effect of a document was found, and none is clearly present",
    "cannot tell": "a document is present and no effect was shown, or no explanation stands out; each answer says "
    "which",
}
_TERMS = {
    "belief": "how the explanations share one unit, by the constants of docs/audits.md; no probability",
    "own tokens": "what as many tokens drawn from the model at the answer's places would cost, in nats; an answer that "
    "costs far more is not one that the model would give",
    "top 1 %, Gini": "how far all positive influence on the answer is that of few documents: the share of the "
    "strongest 1 %, and Gini's coefficient, 0 if all do alike and towards 1 if one does all",
    **TERMS,
}
_ORDER = ("absorbed", "euphemistic", "cannot tell", "confabulated")  # what was found comes first
_MOOD: dict[str, Literal["bad", "good", "unsure", "plain"]] = {
    "absorbed": "bad",
    "euphemistic": "bad",
    "confabulated": "plain",
    "cannot tell": "unsure",
}


def safety_headline(result: SafetyResult) -> str:
    """What was found, in a sentence."""
    found, total = Counter(str(each.verdict) for each in result.responses), len(result.responses)
    parts = [f"{found[name]} {name}" for name in MEANING if found[name]]
    there = sum(each.detail == "present, effect not shown" for each in result.responses)
    once = sum(each.detail == "only in this wording" for each in result.responses)
    kinds = [f"{count(there)} with a document present, effect not shown"] if there else []
    kinds += [f"{count(once)} only in this wording"] if once else []
    if kinds:
        parts[-1] += f" ({'; '.join(kinds)})"
    named = sum(each.significant > 0 for each in result.responses)
    moved = sum(each.moved_by > 0 for each in result.responses)
    unlikely = sum(each.unlikely for each in result.responses)
    start = "PLACEBO: " if result.settings.placebo else ""
    noun = "answer" if total == 1 else "answers"
    said = (
        f"{start}Of {count(total)} {noun}: {', '.join(parts)}. For {count(named)} of {count(total)} a document that "
        f"shares words has more effect than chance (false-discovery rate {result.fdr:g}), for {count(moved)} on the "
        "answer itself."
    )
    said += _reworded(result)
    if unlikely:
        said += (
            f" {count(unlikely)} of {count(total)} the model would hardly have said: of these it is told what would "
            "make them likelier, not why they were given."
        )
    return said


def _reworded(result: SafetyResult) -> str:
    """How many findings were asked about in other words, as a sentence; empty where none was."""
    check = result.reworded
    if check is None:
        return ""
    held = sum(bool(each.wordings) and each.confidence is not None for each in result.responses)
    once = sum(each.detail == "only in this wording" for each in result.responses)
    noun = "answer was" if check.answers == 1 else "answers were"
    return (
        f" {count(check.answers)} {noun} asked about in {count(check.wordings)} other wordings: "
        f"{count(held)} of {count(held + once)} findings hold in at least half of theirs."
    )


def safety_placebo(result: SafetyResult) -> tuple[str, bool] | None:
    """What a placebo shuffled, what must be zero, and whether it was; None of an audit that is none."""
    if not result.settings.placebo:
        return None
    total = len(result.responses)
    found = sum(each.significant > 0 for each in result.responses)
    end = "passed" if not found else f"not passed; by chance that happens in {result.fdr:.0%} of placebos"
    said = (
        "PLACEBO. Every answer was held against the documents on another answer's matter. An effect must be found on "
        f"none: found on {count(found)} of {count(total)}: {end}. Documents are still present for the other matter, so "
        "“present, effect not shown” is expected."
    )
    check = result.reworded
    if check is not None and check.on_topic is not None:
        said += (
            f" In other wordings effects held on {percent(check.on_topic)} of {count(check.pairs)} pairs on that "
            f"matter, {percent(check.chance)} of all off topic; by chance at most {percent(check.level)}."
        )
    return said, not found


def best_of(each: ResponseAudit) -> DocumentEvidence | None:
    """The document that a verdict rests on; None where it rests on none."""
    return next((found for found in each.documents if found.document == each.rests_on), None)


def safety_page(result: SafetyResult, folder: Path | None = None) -> str:
    """The whole page as HTML; with the audit's folder, findings say which command measures a removal."""
    return audit_page(
        title="whence: why did it say that?",
        question="Why did the model say that?",
        headline=join(
            [
                *([alarm(*check)] if (check := safety_placebo(result)) else []),
                tag("p", safety_headline(result)),
                *[tag("p", tag("b", "Caution: "), each) for each in result.cautions],
                tag(
                    "p",
                    "Verdicts rest on training documents alone, not on a model that judges. ",
                    null_words(result.settings),
                ),
                *_chance(result),
                *_missing(result),
            ]
        ),
        facts=facts_of(result.settings),
        sections=[
            Section("verdicts", "Verdicts", _verdicts(result)),
            Section("groups", _grouped(result.tallies), _tallies(result)),
            Section("sources", "Sources that matter most", _sources(result)),
            Section("kinds", "Kinds of documents behind the answers", _enriched(result)),
            Section("behaviours", "Behaviours", _behaviours(result)),
            Section("answers", "Answer by answer", _answers(result.responses, folder)),
            Section("left-out", "Left out", _left_out(result)),
        ],
        settings=settings_table(result.settings),
        version=result.settings.whence_version,
        certificate=result.settings.certificate,
        note=READING,
    )


def _missing(result: SafetyResult) -> list[Html]:
    if not result.left_out:
        return []
    return [tag("p", f"{count(len(result.left_out))} answers could not be explained; the reasons are below.")]


def _chance(result: SafetyResult) -> list[Html]:
    """What other wordings do to documents that have nothing to do with them."""
    check = result.reworded
    if check is None:
        return []
    said = (
        "Findings were held against other wordings of the question: an effect holds in a wording if its p is at most "
        f"{check.level:g}, and what a verdict rests on has to hold in half of them. Of documents off topic "
        f"{percent(check.chance)} do (chance: {percent(check.level)}, less where there are contrasts)."
    )
    return [tag("p", said)]


def _verdicts(result: SafetyResult) -> Html:
    found = Counter(str(each.verdict) for each in result.responses)
    rows = [{"verdict": name, "answers": found[name]} for name in MEANING]
    charts = [
        figure(bars(rows, x="answers", y="verdict", title="Verdicts", unit="answers", prefix="verdicts"), "Verdicts")
    ]
    pairs = _overlap(result.responses)
    if pairs:
        drawn = points(
            pairs, x="presence", y="influence", color="verdict", title="Presence against influence", prefix="overlap",
            x_title="presence (BM25), standard deviations", y_title="influence on the answer, nats", log_y=True,
        )  # fmt: skip
        caption = (
            "Each mark is an answer's document: the one its verdict rests on or, where it rests on none, the most "
            "present of those listed. Further right it shares more words; higher up it is predicted to support the "
            "answer more."
        )
        charts.append(figure(drawn, "Presence against influence", caption))
    meanings = tag(
        "ul", *[tag("li", badge(name, _MOOD[name]), " ", MEANING[name]) for name in MEANING], cls="plain why"
    )
    return join([meanings, tag("div", *charts, cls="charts")])


def _overlap(responses: Sequence[ResponseAudit]) -> list[dict[str, str | float]]:
    best = [
        (best_of(each) or max(each.documents, key=lambda found: found.presence), each.verdict)
        for each in responses
        if each.documents
    ]
    return [
        {"presence": first.presence, "influence": first.influence, "verdict": verdict}
        for first, verdict in sorted(best, key=lambda pair: list(MEANING).index(pair[1]))
    ]


def _grouped(tallies: Sequence[Tally]) -> str:
    """A heading that names the columns shown."""
    names = list(dict.fromkeys(each.column for each in tallies))
    return f"By {listed([shorten(one_line(name), 40) for name in names])}" if names else "By column"


def _tallies(result: SafetyResult) -> Html:
    same = [
        f"{shorten(one_line(name), 40)} (“{shorten(one_line(value), 60)}”)" for name, value in result.constant.items()
    ]
    left = [tag("p", f"Not counted by, as all answers have the same: {listed(same)}.", cls="note")] if same else []
    return join([_counts(result.tallies), *left])


def _counts(tallies: Sequence[Tally]) -> Html:
    if not tallies:
        return Html("")
    columns = [Column("Column"), Column("Value"), Column("Answers", "number")]
    columns += [Column(name.capitalize(), "number", hint=meaning) for name, meaning in MEANING.items()]
    scored = any(each.score is not None for each in tallies)
    columns += [Column("Judge's score", "number")] if scored else []
    rows: list[list[str | int | float | None]] = []
    for each in tallies:
        counts = [each.verdicts.get(name, 0) for name in MEANING]
        rows.append([each.column, shorten(one_line(each.value), 80), each.answers, *counts])
        if scored:
            rows[-1].append(each.score)
    return table(columns, rows, "tallies")


def _sources(result: SafetyResult) -> Html:
    if not result.sources:
        said = f"No effect of a document was found at a false-discovery rate of {result.fdr:g}."
        return tag("p", said, cls="empty")
    columns = [Column("Document"), Column("Answers", "number"), Column("Influence together, nats", "number")]
    return table(columns, [list(each) for each in result.sources], "documents")


def _enriched(result: SafetyResult) -> Html:
    if not result.enrichments:
        return Html("")
    first = result.enrichments[0]
    noun = "document has" if first.chosen == 1 else "documents have"
    said = f"{count(first.chosen)} {noun} a shown effect for some answer; the kinds that stand out most come first."
    return join([tag("p", said), _kinds(result.enrichments, "With effect", "enriched")])


def _kinds(found: Sequence[Enrichment], chosen: str, key: str = "") -> Html:
    columns = [
        Column("Tag"), Column("Value"), Column(chosen, "number"), Column("Of the corpus"),
        Column("Odds ratio"), Column("Fisher p", "number", 2), Column("Share of influence"),
    ]  # fmt: skip
    rows: list[list[str | int | float | None]] = [
        [
            each.tag, shorten(one_line(each.value), 80), each.inside, percent(each.base),
            f"{number(each.odds.value, 2)} (95 % {number(each.odds.low, 2)} to {number(each.odds.high, 2)})", each.p,
            percent(each.mass),
        ]
        for each in found
    ]  # fmt: skip
    return table(columns, rows, key)


def _left_out(result: SafetyResult) -> Html:
    rows = [[name, shorten(one_line(why), 200)] for name, why in result.left_out.items()]
    return table([Column("Answer"), Column("Why", wide=True)], rows, "left") if rows else Html("")


def _behaviours(result: SafetyResult) -> Html:
    return join(join([tag("h3", name), document_table(documents)]) for name, documents in result.shared.items())


def _answers(responses: Sequence[ResponseAudit], folder: Path | None) -> Html:
    order = {name: place for place, name in enumerate(_ORDER)}
    ranked = sorted(
        enumerate(responses), key=lambda pair: (order[pair[1].verdict], pair[1].detail, -(pair[1].confidence or 0.0))
    )
    listing = items([(f"answer-{i}", _line(each), _inside(each, folder)) for i, each in ranked], "list")
    terms = {**_TERMS, **(HOLDS if any(each.wordings for each in responses) else {})}
    return join([legend(terms, "What the numbers and columns mean"), listing])


def _line(each: ResponseAudit) -> Html:
    said = shorten(one_line(each.response), 140)
    score = tag("span", f"judge {number(each.score)}", cls="note") if each.score is not None else ""
    return join(
        [
            badge(_verdict(each), _MOOD[each.verdict]), " ",
            *([tag("span", "hardly the model's own", cls="chip")] if each.unlikely else []),
            tag("span", shorten(each.id, 40, "both"), cls="note"),
            tag("b", shorten(one_line(each.prompt), 120), dir="auto"), " ",
            tag("span", said, cls="said", dir="auto"), score,
        ]
    )  # fmt: skip


def _verdict(each: ResponseAudit) -> str:
    if each.confidence is not None:
        return f"{each.verdict} {each.confidence:.0%}"
    return f"{each.verdict}: {each.detail}" if each.detail else each.verdict


def _inside(each: ResponseAudit, folder: Path | None) -> Html:
    likely = [(name, value) for name, value in sorted(each.likely.items(), key=lambda item: -item[1]) if value >= 0.01]
    beliefs = " · ".join(f"{name} {value:.0%}" for name, value in likely)
    own = "" if each.own_loss is None else f", own tokens {number(each.own_loss / max(1, each.tokens))}"
    told = [
        *([("Beliefs", beliefs, _TERMS["belief"])] if each.significant else []),
        ("Loss, nats per token", f"{number(each.loss / max(1, each.tokens))}{own}", _TERMS["own tokens"]),
        ("Influence of the top 1 % of documents", percent(each.top_share), _TERMS["top 1 %, Gini"]),
        ("Concentration (Gini)", f"{each.gini:.2f}", _TERMS["top 1 %, Gini"]),
        ("Documents with a shown effect", count(each.significant), "on the answer or on the contrast, q at most fdr"),
        *[(name, shorten(one_line(value), 80), "") for name, value in each.fields.items() if value.strip()],
    ]
    contrast = (
        [tag("p", tag("b", "It should have said: "), each.contrast, cls="text", dir="auto")] if each.contrast else []
    )
    why = _reasons(f"Why {each.verdict}", each.reasons)
    other = _reasons(f"What speaks for “{each.runner_up}”", each.against) if each.runner_up else ""
    parts: list[str] = [
        heat(each.trace, each.prompt, each.response),
        *contrast,
        *[tag("p", tag("b", "Note: "), note, cls="why") for note in each.notes],
        tag("p", tag("b", "What to do: "), each.action),
        *(
            [tag("p", tag("code", intervene_command(folder, each.id)))]
            if folder and each.confidence is not None
            else []
        ),
        tag("div", why, other, cls="columns") if other else why,
        stats(told),
        tag(
            "h4",
            "Documents: the one it rests on, then those that support the answer"
            if each.rests_on is not None
            else "Documents that support the answer most",
        ),
        document_table(each.documents, each.trace),
    ]
    if each.wordings:
        parts.append(_wordings(each))
    if each.kinds:
        most = each.kinds[0].chosen
        said = tag("summary", f"What kinds of documents the {most} strongest are, against the corpus")
        parts.append(tag("details", said, _kinds(each.kinds, f"Of the {most}")))
    if each.opponents:
        against = join(
            [
                tag("summary", f"Documents that speak against it ({len(each.opponents)})"),
                document_table(each.opponents, each.trace),
            ]
        )
        parts.append(tag("details", against))
    return join(parts)


def _wordings(each: ResponseAudit) -> Html:
    """The other wordings, and what the document does to them that the verdict rests on (else the first one)."""
    best = best_of(each) or next(iter(each.documents), None)
    found = None if best is None else best.reworded
    own = any(wording.response is not None for wording in each.wordings)
    columns = [Column("The question in other words", wide=True), *([Column("Answer", wide=True)] if own else [])]
    columns += [Column("Effect p", "number", 2, hint="on answer or contrast")] if found else []
    columns += [Column("On the answer alone, p", "number", 2)] if found else []
    rows: list[list[str | int | float | None]] = []
    for place, wording in enumerate(each.wordings):
        said = [shorten(one_line(wording.response or "the same"), 200)] if own else []
        values = [found.p[place], found.p_answer[place]] if found else []
        rows.append([shorten(one_line(wording.prompt), 300), *said, *values])
    head = f"Asked in other words ({len(each.wordings)})"
    if best is not None and found is not None:
        head += f": {shorten(best.id, 60, 'both')} holds in {found.held}, on the answer itself in {found.held_answer}"
    return tag("details", tag("summary", head), table(columns, rows))


def _reasons(title: str, sentences: Sequence[str]) -> Html:
    return tag("div", tag("h4", title), tag("ul", *[tag("li", each) for each in sentences], cls="dots why"))

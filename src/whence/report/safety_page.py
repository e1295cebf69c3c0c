"""The page of a safety audit: verdicts, by what they fall together, the sources, and every answer with its evidence."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from whence.interfaces import SafetyResult
from whence.interfaces.audits import Enrichment, ResponseAudit, Tally
from whence.report.audit_frame import Column, Section, audit_page, badge, figure, items, table
from whence.report.audit_words import READING, document_table, facts_of, heat, null_words, settings_table
from whence.report.charts import bars, points
from whence.report.markup import Html, join, tag
from whence.report.text import count, number, one_line, percent, shorten

__all__ = ["MEANING", "safety_headline", "safety_page"]

MEANING = {
    "absorbed": "documents that state the claim support it more than chance",
    "euphemistic": "documents about the matter soften it or leave it out",
    "confabulated": "no document about the matter does more than chance",
    "cannot tell": "none of these is likelier than all the others together",
}
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
    named = sum(each.significant > 0 for each in result.responses)
    start = "PLACEBO, nothing is to be found: " if result.settings.placebo else ""
    noun = "answer" if total == 1 else "answers"
    return (
        f"{start}Of {count(total)} {noun}: {', '.join(parts)}. For {count(named)} of them a document about the matter "
        f"has more effect than chance (false-discovery rate {result.fdr:g})."
    )


def safety_page(result: SafetyResult) -> str:
    """The whole page as HTML."""
    return audit_page(
        title="whence: why did it say that?",
        question="Why did the model say that?",
        headline=join(
            [
                tag("p", safety_headline(result)),
                tag(
                    "p",
                    "Verdicts rest on training documents alone, not on a model that judges. ",
                    null_words(result.settings),
                ),
                *_missing(result),
            ]
        ),
        facts=facts_of(result.settings),
        sections=[
            Section("verdicts", "Verdicts", _verdicts(result)),
            Section("groups", "By category, region and period", _tallies(result.tallies)),
            Section("sources", "Sources that matter most", _sources(result)),
            Section("kinds", "Kinds of documents behind the answers", _enriched(result)),
            Section("behaviours", "Behaviours", _behaviours(result)),
            Section("answers", "Answer by answer", _answers(result.responses)),
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


def _verdicts(result: SafetyResult) -> Html:
    found = Counter(str(each.verdict) for each in result.responses)
    rows = [{"verdict": name, "answers": found[name]} for name in MEANING]
    charts = [
        figure(bars(rows, x="answers", y="verdict", title="Verdicts", unit="answers", prefix="verdicts"), "Verdicts")
    ]
    pairs = _overlap(result.responses)
    if pairs:
        drawn = points(
            pairs, x="overlap", y="influence", color="verdict", title="Shared words against effect", prefix="overlap",
            x_title="longest run of words shared with the answer", y_title="influence, nats", log_y=True,
        )  # fmt: skip
        caption = "Each mark is the best document of an answer: far right it is there, high up it did something."
        charts.append(figure(drawn, "Shared words against effect", caption))
    meanings = tag(
        "ul", *[tag("li", badge(name, _MOOD[name]), " ", MEANING[name]) for name in MEANING], cls="plain why"
    )
    return join([meanings, tag("div", *charts, cls="charts")])


def _overlap(responses: Sequence[ResponseAudit]) -> list[dict[str, str | float]]:
    best = [(each.documents[0], each.verdict) for each in responses if each.documents]
    return [
        {"overlap": len(first.overlap.split()), "influence": first.influence, "verdict": verdict}
        for first, verdict in best
    ]


def _tallies(tallies: Sequence[Tally]) -> Html:
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
        return tag("p", "No document about any of the matters has more effect than chance.", cls="empty")
    columns = [Column("Document"), Column("Answers", "number"), Column("Influence together, nats", "number")]
    return table(columns, [list(each) for each in result.sources], "documents")


def _enriched(result: SafetyResult) -> Html:
    if not result.enrichments:
        return Html("")
    first = result.enrichments[0]
    said = f"{count(first.chosen)} documents are significant for some answer; the kinds that stand out most come first."
    return join([tag("p", said), _kinds(result.enrichments, "Significant", "enriched")])


def _kinds(found: Sequence[Enrichment], chosen: str, key: str = "") -> Html:
    columns = [
        Column("Tag"), Column("Value"), Column(chosen, "number"), Column("Of the corpus"),
        Column("Odds ratio"), Column("Fisher p", "number", 2), Column("Share of influence"),
    ]  # fmt: skip
    rows: list[list[str | int | float | None]] = [
        [
            each.tag, shorten(one_line(each.value), 80), each.inside, percent(each.base),
            f"{each.odds.value:.2g} (95 % {each.odds.low:.2g} to {each.odds.high:.2g})", each.p, percent(each.mass),
        ]
        for each in found
    ]  # fmt: skip
    return table(columns, rows, key)


def _left_out(result: SafetyResult) -> Html:
    rows = [[name, shorten(one_line(why), 200)] for name, why in result.left_out.items()]
    return table([Column("Answer"), Column("Why", wide=True)], rows, "left") if rows else Html("")


def _behaviours(result: SafetyResult) -> Html:
    return join(join([tag("h3", name), document_table(documents)]) for name, documents in result.shared.items())


def _answers(responses: Sequence[ResponseAudit]) -> Html:
    return items([(f"answer-{i}", _line(each), _inside(each)) for i, each in enumerate(responses)], "list")


def _line(each: ResponseAudit) -> Html:
    said = shorten(one_line(each.response), 140)
    score = tag("span", f"judge {number(each.score)}", cls="note") if each.score is not None else ""
    return join(
        [
            badge(f"{each.verdict} {each.confidence:.0%}", _MOOD[each.verdict]), " ",
            tag("b", shorten(one_line(each.prompt), 120), dir="auto"), " ",
            tag("span", said, cls="said", dir="auto"), score,
        ]
    )  # fmt: skip


def _inside(each: ResponseAudit) -> Html:
    likely = [(name, value) for name, value in sorted(each.likely.items(), key=lambda item: -item[1])]
    beliefs = " · ".join(f"{name} {value:.0%}" for name, value in likely)
    stats = [
        ("Beliefs", beliefs),
        ("Influence of the top 1 % of documents", percent(each.top_share)),
        ("Concentration (Gini)", f"{each.gini:.2f}"),
        ("Significant documents", count(each.significant)),
        *[(name, shorten(one_line(value), 80)) for name, value in each.fields.items()],
    ]
    contrast = (
        [tag("p", tag("b", "It should have said: "), each.contrast, cls="text", dir="auto")] if each.contrast else []
    )
    why = _reasons(f"Why {each.verdict}", each.reasons)
    other = _reasons(f"What speaks for {each.runner_up}", each.against)
    parts: list[str] = [
        heat(each.trace, each.prompt, each.response),
        *contrast,
        tag("p", tag("b", "What to do: "), each.action),
        tag("div", why, other, cls="columns"),
        tag("dl", *[tag("div", tag("dt", name), tag("dd", value)) for name, value in stats], cls="facts"),
        tag("h4", "Documents that support the answer"),
        document_table(each.documents, each.trace),
    ]
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


def _reasons(title: str, sentences: Sequence[str]) -> Html:
    return tag("div", tag("h4", title), tag("ul", *[tag("li", each) for each in sentences], cls="dots why"))

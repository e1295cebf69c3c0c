"""A result as one HTML file that needs nothing else: no network, no fonts, no cookies; readable without its script.

Holds the page's frame: head and policy, summary, legend, list of queries, and each query's section. What is inside
a section comes from cards.py (hits), figures.py (drawings) and about.py (settings and coverage).
"""

from whence.interfaces import RunSummary, Trace, TraceResult
from whence.report.about import about, certificate
from whence.report.breakdowns import breakdowns, scored_words
from whence.report.cards import bm25_table, cards
from whence.report.facts import EFFECT, bm25_sentence
from whence.report.figures import scatter
from whence.report.frame import fill
from whence.report.markup import Html, join, tag
from whence.report.teaching import taught
from whence.report.text import LEVELS, compact, count, nats, number, one_line, percent, scale, shorten
from whence.report.tokens import loose

__all__ = ["page"]


def page(result: TraceResult) -> str:
    """Render a result.

    Returns:
        A complete HTML document. Its policy forbids every request and every script but its own; all text of the
        result is escaped, hidden characters are shown.
    """
    return fill(
        "page.html",
        styles=("style.css",),
        script="page.js",
        title=join([_title(result)]),
        masthead=_masthead(result),
        legend=_legend(result.summary.unit),
        queries=_selector(result.traces),
        traces=join(_section(trace, i) for i, trace in enumerate(result.traces)) or _nothing(),
        about=about(result.summary),
        version=join([result.summary.whence_version]),
    )


def _title(result: TraceResult) -> str:
    if len(result.traces) == 1:
        return f"{shorten(one_line(result.traces[0].completion), 60)} – whence"
    return f"{len(result.traces)} answers – whence"


def _nothing() -> Html:
    return tag("p", "This result holds no query.", cls="empty")


def _masthead(result: TraceResult) -> Html:
    summary = result.summary
    facts = [
        ("Model", summary.model),
        ("Training data", f"{summary.data} · {count(summary.documents)} documents, {compact(summary.tokens)} tokens"),
        ("Method", f"{summary.method} · {summary.recipe}"),
        ("Attributed", _share(summary)),
    ]
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts]
    return join([tag("dl", *rows, cls="facts"), certificate(summary.certificate)])


def _share(summary: RunSummary) -> str:
    coverage = summary.coverage
    return f"{percent(coverage.share)} of {compact(coverage.parameters)} parameters"


_UNITS = {
    "nats": "Its unit is nats: how far log p(answer | prompt) is predicted to drop had that one document not been "
    "trained on.",
    "score": "This method's scores have no unit: read ranks, not sizes.",
}


def _legend(unit: str) -> Html:
    steps = [tag("i", cls=f"{'n' if k < 0 else 'p'}{abs(k)}" if k else None) for k in range(-LEVELS, LEVELS + 1)]
    return tag(
        "div",
        tag("span", "opposes", cls="end"),
        tag(
            "span", *steps, cls="ramp", role="img", aria_label="Scale of shades from opposes, orange, to supports, blue"
        ),
        tag("span", "supports", cls="end"),
        tag(
            "p",
            tag("b", "Influence > 0 supports the output."),
            f" {_UNITS[unit]} Every token is shaded by the influence that arises where the model predicted it, "
            "relative to the strongest token of the same text; grey tokens were not predicted (prompts, context). "
            "Point at a token for its value.",
        ),
        cls="legend",
    )


def _selector(traces: tuple[Trace, ...]) -> Html:
    if len(traces) < 2:
        return Html("")
    items = [
        tag(
            "li",
            tag(
                "a",
                tag("b", shorten(one_line(trace.completion), 70) or "(empty)"),
                tag("span", shorten(one_line(trace.prompt), 70, "end") or "no prompt"),
                href=f"#q{i}",
            ),
        )
        for i, trace in enumerate(traces)
    ]
    return tag("nav", tag("h2", f"{len(traces)} answers"), tag("ol", *items), cls="queries", aria_label="Answers")


def _section(trace: Trace, number_: int) -> Html:
    key = f"q{number_}"
    return tag(
        "section",
        _question(trace, key),
        _statistics(trace),
        _leakage(trace),
        tag(
            "div",
            _ranking(trace, key, "p", "Supports this answer", "No document supports it."),
            _ranking(trace, key, "o", "Opposes this answer", "No document opposes it."),
            cls="columns",
        ),
        _bm25(trace, key),
        taught(trace),
        breakdowns(trace),
        id=key,
        cls="trace",
        aria_label=f"Answer {number_ + 1}",
    )


def _question(trace: Trace, key: str) -> Html:
    parts = [
        tag(
            "div",
            tag("h2", "The answer", tag("small", shorten(trace.query_id, 80))),
            tag("p", "Shaded by all listed documents together", cls="by", aria_live="polite"),
            cls="head",
        )
    ]
    if trace.tokens:
        largest = scale([token.influence for token in trace.tokens])
        body = loose(trace.tokens, largest)
    else:
        body = join([tag("span", trace.prompt, cls="x"), tag("strong", trace.completion)])
    label = "Question and answer"
    parts.append(tag("div", body, cls="text query", dir="auto", tabindex=0, role="group", aria_label=label))
    parts.append(tag("p", *_loss(trace), cls="loss"))
    return tag("header", *parts, cls="question", id=f"{key}-question")


def _loss(trace: Trace) -> list[str]:
    if trace.contrast is not None:
        return [
            "Why this rather than ",
            tag("q", trace.contrast, dir="auto"),
            "? log p(this) − log p(that) = ",
            tag("b", nats(-trace.loss if trace.loss else 0.0), " nats"),
        ]
    explained = sum(token.target for token in trace.tokens)
    parts: list[str] = ["−log p(answer | prompt) = ", tag("b", number(trace.loss), " nats")]
    if explained:
        noun = "token" if explained == 1 else "tokens"
        parts.append(f" on {count(explained)} explained {noun}, {number(trace.loss / explained)} per token")
    return parts


def _statistics(trace: Trace) -> Html:
    facts = [
        ("Documents scored", _scored(trace)),
        ("Mean influence", f"{nats(trace.mean)} {trace.unit}"),
        ("Standard deviation", f"{number(trace.std)} {trace.unit}"),
        ("Sum of listed support", f"{nats(sum(hit.influence for hit in trace.proponents))} {trace.unit}"),
        ("Sum of listed opposition", f"{nats(sum(hit.influence for hit in trace.opponents))} {trace.unit}"),
    ]
    return tag("dl", *[tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], cls="stats")


def _leakage(trace: Trace) -> Html:
    """What the search could not see of the answer: one quiet line, and a warning where it is most of it."""
    if trace.leakage is None:
        return Html("")
    words = trace.leakage.words
    told = [tag("p", words[0].upper() + words[1:], ".", cls="note")]
    if trace.leakage.warning:
        told.append(tag("p", tag("strong", trace.leakage.warning), role="note"))
    return join(told)


def _scored(trace: Trace) -> str:
    return scored_words(trace).replace(" documents scored", "") if trace.where else count(trace.scored)


def _ranking(trace: Trace, key: str, side: str, title: str, empty: str) -> Html:
    hits = trace.proponents if side == "p" else trace.opponents
    body = cards(trace, hits, f"{key}{side}") if hits else tag("p", empty, cls="empty")
    return tag("section", tag("h3", title, tag("small", f"{len(hits)} listed")), body, cls=f"ranking side-{side}")


def _bm25(trace: Trace, key: str) -> Html:
    figure = scatter(trace, key)
    return tag(
        "section",
        tag("h3", "What BM25 would have said"),
        tag("p", EFFECT, " ", bm25_sentence(trace)),
        tag("div", bm25_table(trace, key), figure, cls="beside"),
        cls="bm25",
    )

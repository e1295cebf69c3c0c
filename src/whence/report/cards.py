"""One card per hit, and the table of what BM25 would have named. Knows nothing of the page around them."""

from collections.abc import Sequence

from whence.interfaces import Hit, Trace, WindowShare
from whence.report.facts import CHECKED, extract_words, identity, influence_rank_words, rank_words, z_score
from whence.report.figures import bar, profile
from whence.report.markup import Html, join, tag
from whence.report.text import count, nats, number, own, scale, shorten, strongest_span
from whence.report.tokens import shaded, strongest

__all__ = ["bm25_table", "cards"]

_SNIPPET = 48  # tokens


def cards(trace: Trace, hits: Sequence[Hit], key: str) -> Html:
    """The ranking as a list of cards; bars are relative to the strongest listed document of the query."""
    largest = scale([hit.influence for hit in (*trace.proponents, *trace.opponents)])
    return tag("ol", *[_card(trace, hit, largest, f"{key}{i}") for i, hit in enumerate(hits)], cls="cards")


def _card(trace: Trace, hit: Hit, largest: float, key: str) -> Html:
    values = ",".join(f"{value:.3g}" if value == value else "0" for value in hit.query_tokens)  # read by the script
    return tag(
        "li",
        _header(trace, hit, largest),
        _identity(hit),
        _ranks(trace, hit),
        _snippet(hit),
        _origin(hit),
        tag("div", _button(hit), *_more(hit), cls="more"),
        cls="card",
        id=key,
        data_q=values or None,
    )


def _header(trace: Trace, hit: Hit, largest: float) -> Html:
    z = z_score(trace, hit.influence)
    return tag(
        "div",
        tag("span", f"{hit.rank}", cls="rank"),
        tag(
            "span",
            tag("b", nats(hit.influence)),
            f" {trace.unit}",
            cls="influence pos" if hit.influence >= 0 else "influence neg",
        ),
        bar(hit.influence, largest),
        tag("span", f"z {nats(z)}", cls="z", title="standard deviations from the mean over all scored documents")
        if z is not None
        else "",
        cls="top",
    )


def _identity(hit: Hit) -> Html:
    chips = [
        tag("span", tag("span", shorten(name, 40)), " ", shorten(value, 60), cls="chip")
        for name, value in _tags(hit).items()
    ]
    return tag(
        "div",
        tag("b", shorten(identity(hit), 120, "both"), cls="id", dir="auto"),
        _source(hit),
        tag("span", f"{count(hit.length)} tokens", cls="source"),
        tag("code", hit.hash[:8], title=f"content hash {hit.hash}"),
        *chips,
        cls="identity",
    )


def _tags(hit: Hit) -> dict[str, str]:
    return {**hit.metadata, **({} if hit.weight == 1 else {"trained on": f"×{number(hit.weight)}"})}


def _source(hit: Hit) -> Html:
    return tag("span", f"{shorten(hit.source, 160, 'end')}, row {count(hit.row)}", cls="source", dir="auto")


def _ranks(trace: Trace, hit: Hit) -> Html:
    """The three rankings side by side, and where the number comes from."""
    items = [
        _place("Influence", influence_rank_words(trace, hit), f"of {count(trace.scored)}", nats(hit.influence)),
        _place("Gradient dot", rank_words(hit.gradient_dot_rank), "", nats(hit.gradient_dot)),
        _place("BM25", rank_words(hit.bm25_rank), "", number(hit.bm25)),
    ]
    return join([tag("dl", *items, cls="ranks"), _provenance(hit)])


def _place(ranking: str, rank: str, total: str, value: str) -> Html:
    shown = f"#{rank}" if rank[0].isdigit() else rank
    rest = tag("small", total) if total else ""
    return tag(
        "div", tag("dt", ranking), tag("dd", shown, rest), title=f"{ranking}: rank among all documents; value {value}"
    )


def _provenance(hit: Hit) -> Html:
    if hit.refined and hit.index_influence is not None:
        place = f", rank {count(hit.index_rank)}" if hit.index_rank is not None else ""
        return tag(
            "p", f"Computed by running the model; the index said {nats(hit.index_influence)} nats{place}.", cls="note"
        )
    if hit.refined:
        return tag("p", "Computed by running the model.", cls="note")
    return Html("")


def _snippet(hit: Hit) -> Html:
    if not hit.tokens:
        return tag("p", "The text of this document was not stored with the result.", cls="note")
    tokens = own(hit.tokens)
    start, stop = strongest_span(tokens, _SNIPPET)
    body = shaded(tokens[start:stop], scale([token.influence for token in tokens]))
    ends = "…" if start else "", "…" if stop < len(tokens) else ""
    return tag("blockquote", ends[0], body, ends[1], cls="text", dir="auto")


def _origin(hit: Hit) -> Html:
    """Where the document and the window that is shown of it are to be found."""
    found = hit.provenance
    if found is None:
        return Html("")
    file = tag("span", shorten(found.file, 160, "end"), dir="auto")
    row = "" if found.row is None else f", row {count(found.row)}"
    lines = [join(["Origin ", file, row]), f"Shown: {extract_words(found, found.window)}"]
    if found.peak is not None:
        lines.append(f"Strongest token: {extract_words(found, found.peak)}")
    return tag("p", join(lines, " · "), cls="note", title=CHECKED[found.checked])


def _button(hit: Hit) -> Html:
    if not hit.query_tokens:
        return Html("")
    label = "Shade the answer by this document"
    return tag(
        "button",
        label,
        type="button",
        cls="shade",
        aria_pressed="false",
        aria_label=f"{label}: {shorten(hit.id, 60)}",
        hidden=True,
    )


def _more(hit: Hit) -> list[Html]:
    parts = []
    if hit.tokens:
        parts.append(_full(hit))
    if hit.windows:
        parts.append(_windows(hit))
    if hit.sites:
        noun = "site" if len(hit.sites) == 1 else "sites"
        parts.append(tag("details", tag("summary", f"In the model ({count(len(hit.sites))} {noun})"), profile(hit)))
    return parts


def _full(hit: Hit) -> Html:
    tokens = own(hit.tokens)
    title = (
        f"Strongest window ({count(len(tokens))} of {count(hit.length)} tokens)"
        if len(tokens) < hit.length
        else f"Full text ({count(len(tokens))} tokens)"
    )
    body = shaded(hit.tokens, scale([token.influence for token in tokens]))
    return tag("details", tag("summary", title), strongest(tokens), tag("div", body, cls="text full", dir="auto"))


def _window_words(window: WindowShare) -> str:
    before = f" (after {count(window.context)} of other documents)" if window.context else ""
    return f"{count(window.start)}–{count(window.stop)}{before}"


def _windows(hit: Hit) -> Html:
    largest = scale([window.influence for window in hit.windows])
    rows = [
        tag(
            "tr",
            tag("td", _window_words(window), cls="num"),
            tag("td", nats(window.influence), cls="num"),
            tag("td", bar(window.influence, largest)),
        )
        for window in hit.windows
    ]
    head = tag("tr", tag("th", "Tokens", cls="num"), tag("th", "Influence, nats", cls="num"), tag("td", ""))
    noun = "window" if len(hit.windows) == 1 else "windows"
    return tag(
        "details", tag("summary", f"By window ({len(hit.windows)} {noun})"), tag("table", head, *rows, cls="windows")
    )


def bm25_table(trace: Trace, key: str) -> Html:
    """BM25's first documents with their influence; empty if it was not run."""
    if not trace.bm25_top:
        return Html("")
    names = ("BM25", "Score", "Influence, nats", "Influence rank", "Document")
    head = [tag("th", name, scope="col", cls=None if name == "Document" else "num") for name in names]
    rows = [_bm25_row(trace, hit, place, key) for place, hit in enumerate(trace.bm25_top, start=1)]
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows)),
        cls="scroll",
        tabindex=0,
        role="group",
        aria_label="BM25 ranking",
    )


def _bm25_row(trace: Trace, hit: Hit, place: int, key: str) -> Html:
    rank = hit.bm25_rank if hit.bm25_rank is not None else place
    words = influence_rank_words(trace, hit)
    name: str = tag("b", shorten(identity(hit), 80, "both"), cls="id", dir="auto")
    target = _anchor(trace, hit, key)
    if target:
        name = tag("a", name, href=f"#{target}")
    tokens = own(hit.tokens)
    start, stop = strongest_span(tokens, _SNIPPET // 2)
    snippet = shaded(tokens[start:stop], scale([token.influence for token in tokens]))
    side = "num pos" if hit.influence > 0 else "num neg" if hit.influence < 0 else "num"
    return tag(
        "tr",
        tag("td", count(rank), cls="num"),
        tag("td", number(hit.bm25), cls="num"),
        tag("td", nats(hit.influence), cls=side),
        tag("td", words, cls="num"),
        tag(
            "td",
            name,
            " ",
            _source(hit),
            tag("div", snippet, cls="text brief", dir="auto"),
        ),
    )


def _anchor(trace: Trace, hit: Hit, key: str) -> str | None:
    """The card of the same document, if it is listed."""
    for side, hits in (("p", trace.proponents), ("o", trace.opponents)):
        for i, other in enumerate(hits):
            if other.document == hit.document:
                return f"{key}{side}{i}"
    return None

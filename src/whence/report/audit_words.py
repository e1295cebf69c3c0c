"""How audits of answers say things: p-values, documents as rows and cards, settings. Shared by their pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from whence.interfaces import DocumentEvidence, Trace
from whence.interfaces.audits import AuditSettings
from whence.report.audit_frame import Column, table
from whence.report.markup import Html, join, tag
from whence.report.text import count, number, own, scale, shorten, strongest_span
from whence.report.tokens import loose, shaded

__all__ = [
    "HOLDS",
    "READING",
    "document_table",
    "facts_of",
    "heat",
    "holds_words",
    "legend",
    "listed",
    "null_words",
    "p_words",
    "settings_table",
    "stats",
]

READING = (
    "Influence is in nats: the predicted drop of log p(answer | prompt) if the document (with its copies) had not been "
    "trained on. Effect p: how often documents do as much to answers about other matters. q: false-discovery rate over "
    "all documents and answers of this audit, documents that share words with the question weighing more. BM25 says "
    "which documents are there (presence); influence says which of them did something (effect). A verdict's percentage "
    "is a belief that orders answers, and no probability; verdicts that found nothing have none, as absence of "
    "evidence is no evidence of absence."
)
TERMS = {
    "influence": "predicted drop of log p(answer | prompt), in nats, had the document (with its copies) not been "
    "trained on",
    "on the contrast": "the same of the answer that should have been given",
    "effect p, contrast p": "how often a document does as much to answers about other matters; small is rare",
    "presence p": "how often documents share as many words (BM25) with questions about other matters",
    "q": "false-discovery rate: the share of false ones among all that are called at this level or a better one",
    "ranks": "place among all documents, 1 first: by influence, by BM25 (shared words), by gradient dot (influence "
    "without curvature), by similarity of hidden states",
    "copies": "near-duplicates taken together as one document, itself included",
    "shares words": "cosine of words (TF-IDF) with the question is 0.1 or more; that is all it says, not that the "
    "matter is the same",
    "present": "shares more words than the best of all documents would by chance for one answer in ten",
}
"""What the columns of documents mean."""
HOLDS = {
    "holds in": "other wordings of the question in which the document has an effect on answer or contrast (p at most "
    "the audit's rate), of all that were asked",
}
"""What one more column means, where questions were asked in other words."""
_SNIPPET = 60
_RUN = 4  # words of a verbatim overlap that is worth a mention


def p_words(value: float) -> str:
    """A p-value as people write it.

    >>> p_words(0.5), p_words(0.00001)
    ('0.50', '1.0e-5')
    """
    return f"{value:.2f}" if value >= 0.095 else number(value, 2)


def holds_words(each: DocumentEvidence) -> str | None:
    """In how many other wordings a document has an effect: held of all; None where none was asked."""
    return None if each.reworded is None else f"{each.reworded.held} of {len(each.reworded.p)}"


def null_words(settings: AuditSettings) -> str:
    """Where p-values come from."""
    return (
        f"The null is {count(settings.null)} pairs of a question and a document that share hardly a word, "
        f"out of {count(settings.questions)} questions and {count(settings.documents)} documents."
    )


def facts_of(settings: AuditSettings) -> list[tuple[str, str]]:
    """Counts and names for the top of a page."""
    return [
        ("Model", shorten(settings.model, 80, "both")),
        ("Training data", shorten(settings.data, 120, "both")),
        ("Documents", count(settings.documents)),
        ("Scored by", settings.recipe),
    ]


def settings_table(settings: AuditSettings) -> Mapping[str, Any]:
    """Everything that decided the result."""
    return {
        **({"command": settings.command} if settings.command else {}),
        "run": settings.run,
        "model": settings.model,
        "data": settings.data,
        "documents": settings.documents,
        "questions": settings.questions,
        "pairs of the null": settings.null,
        "scored by": settings.recipe,
        "placebo": settings.placebo,
        **settings.settings,
    }


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them.

    >>> listed(["category", "region", "period"])
    'category, region and period'
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))


def legend(terms: Mapping[str, str], title: str = "What the columns mean") -> Html:
    """Terms and their meanings, folded."""
    rows = [tag("div", tag("dt", name), tag("dd", meaning)) for name, meaning in terms.items()]
    return tag("details", tag("summary", title), tag("dl", *rows, cls="terms"), cls="legend-of")


def stats(values: Sequence[tuple[str, str, str]]) -> Html:
    """Values by name, what they mean under the pointer: (name, value, meaning)."""
    rows = [tag("div", tag("dt", name, title=hint or None), tag("dd", value)) for name, value, hint in values]
    return tag("dl", *rows, cls="facts")


def document_table(
    documents: Sequence[DocumentEvidence], trace: Trace | None = None, key: str = "", *, tested: bool = True
) -> Html:
    """Documents of one answer side by side: effect and presence, ranks, the words they share.

    Args:
        documents: In order.
        trace: Of the answer, for the shades of their tokens.
        key: As for `table`.
        tested: Show each document's own tests; not where the page rests on others.
    """
    columns = [
        Column("Document", wide=True),
        Column("Influence, nats", "number", hint="on the answer; copies added up"),
        Column("On the contrast", "number", hint="influence on the answer it should have been"),
        Column("Effect p", "number", 2, hint="of supporting the answer; of opponents, of speaking against it"),
        Column("Contrast p", "number", 2, hint="of supporting the answer it should have been"),
        Column("Presence p", "number", 2, hint="of sharing so many words (BM25)"),
        Column("q", "number", 2, hint="false-discovery rate over the audit, weighted by presence"),
        Column("Rank: influence", "number", hint="among all documents"),
        Column("Rank: BM25", "number", hint="among all documents, by shared words"),
        Column("Copies", "number", hint="near-duplicates taken together, itself included"),
        Column("Holds in", hint="other wordings of the question in which it has an effect, of all"),
    ]
    left_out: set[int] = {2, 4} if all(each.contrast is None for each in documents) else set()
    left_out |= set() if tested else {3, 4, 5, 6}
    left_out |= {10} if all(each.reworded is None for each in documents) else set()
    rows: list[list[str | int | float | None]] = [
        [
            _document(each, trace, tested), each.influence, each.contrast, each.p_effect, each.p_contrast,
            each.p_presence, each.q, each.influence_rank, each.bm25_rank, each.copies, holds_words(each),
        ]
        for each in documents
    ]  # fmt: skip
    kept = [place for place in range(len(columns)) if place not in left_out]
    return table([columns[place] for place in kept], [[row[place] for place in kept] for row in rows], key)


def _document(each: DocumentEvidence, trace: Trace | None, tested: bool = True) -> Html:
    chips = [
        tag("span", tag("span", shorten(name, 30)), " ", shorten(value, 50), cls="chip")
        for name, value in [pair for pair in each.metadata.items() if pair[1].strip()][:6]
    ]
    words_shared = "present" if each.present and tested else "shares words" if each.on_topic else "shares hardly a word"
    about = tag("span", words_shared, cls="chip", title=f"cosine of words with the question {each.topic:.2f}")
    soft = (
        [tag("span", tag("span", "soft words"), f" {each.softness:.0%}", cls="chip")]
        if each.softness is not None and each.on_topic
        else []
    )
    shared = len(each.overlap.split())
    words = (
        [tag("span", tag("span", "shares"), f" {shared} words in a row: {shorten(each.overlap, 80)}", cls="chip")]
        if shared >= _RUN
        else []
    )
    others = f"gradient dot {count(each.dot_rank)}, states {count(each.states_rank)}"
    ranks = tag("span", tag("span", "rank by"), f" {others}", cls="chip")
    name = tag(
        "div",
        tag("b", shorten(each.id, 80, "both"), cls="id"),
        " ",
        about,
        *soft,
        *words,
        *chips,
        ranks,
        cls="identity",
    )
    return join([name, _snippet(each, trace)])


def _snippet(each: DocumentEvidence, trace: Trace | None) -> Html:
    """Its text around the tokens that matter, shaded where that is known."""
    hits = [] if trace is None else [*trace.proponents, *trace.opponents]
    hit = next((hit for hit in hits if hit.document == each.document and hit.tokens), None)
    if hit is None:
        return tag("div", shorten(each.text, 300), cls="text brief", dir="auto")
    tokens = own(hit.tokens)
    largest = scale([token.influence for token in tokens])
    start, stop = strongest_span(tokens, _SNIPPET)
    body = tag("div", "… " if start else "", shaded(tokens[start:stop], largest), cls="text brief", dir="auto")
    if stop - start >= len(tokens):
        return body
    whole = tag("div", shaded(tokens, largest), cls="text full", dir="auto")
    return join([body, tag("details", tag("summary", f"All {count(len(tokens))} tokens"), whole)])


def heat(trace: Trace | None, prompt: str, response: str) -> Html:
    """Prompt and answer, the answer's tokens shaded by the documents that were looked at together."""
    if trace is None or not trace.tokens:
        return tag("p", tag("span", prompt, cls="x"), response, cls="text query", dir="auto")
    largest = scale([token.influence for token in trace.tokens])
    note = f"−log p(answer | prompt) = {number(trace.loss)} nats; shaded by the documents listed."
    return join([tag("p", loose(trace.tokens, largest), cls="text query", dir="auto"), tag("p", note, cls="note")])

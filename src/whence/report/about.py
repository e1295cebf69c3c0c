"""The part of the page about the run: certificate, coverage, settings. Knows nothing of hits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from whence.interfaces import Certificate, Coverage, RunSummary
from whence.report.facts import Gap, gaps
from whence.report.figures import bar
from whence.report.lab_certificate import CertificateRow, certificate_rows
from whence.report.lab_words import CEILING, WORDS, basis, reading
from whence.report.markup import Html, join, tag
from whence.report.text import MISSING, compact, count, one_line, percent, shorten

__all__ = ["about", "certificate", "certificate_line"]


def certificate(value: Certificate) -> Html:
    """The line that says how far the scores have been shown to be true, and the figures behind it if there are any."""
    rows = certificate_rows(value)
    return join([certificate_line(value), _evidence(value, rows)]) if rows else certificate_line(value)


def certificate_line(value: Certificate) -> Html:
    """The line alone."""
    state = "measured" if value.state == "measured" else "unmeasured"
    return tag("p", value.line, cls=f"certificate {state}", role="note")


def _evidence(value: Certificate, rows: Sequence[CertificateRow]) -> Html:
    """Every measure of the certified method and of BM25, and what they rest on; closed until asked for."""
    heads = ("Measure", "This index", "Noise ceiling", "BM25", "Over BM25")
    head = tag("tr", *[tag("th", name, scope="col", cls=None if name == "Measure" else "num") for name in heads])
    table = tag("table", tag("thead", head), tag("tbody", *map(_measure, rows)))
    basis_ = [("Basis", basis(value.truth))] if value.truth is not None else []
    facts = [*basis_, ("Model", value.model), ("Retrained with", value.training), ("Index", value.recipe)]
    told = [tag("div", tag("dt", name), tag("dd", words, dir="auto")) for name, words in facts if words]
    return tag(
        "details",
        tag("summary", "The figures behind this line"),
        tag("div", table, cls="scroll"),
        tag("p", "Values with their 95 % bootstrap intervals. ", CEILING, cls="note"),
        tag("dl", *told, cls="facts"),
        cls="evidence",
    )


def _measure(row: CertificateRow) -> Html:
    words = WORDS[row.measure]
    name = tag("th", words.name, tag("div", words.unit, cls="note"), scope="row", title=words.meaning)
    cells = [MISSING if e is None else reading(e, row.places) for e in (row.method, row.ceiling, row.bm25, row.over)]
    return tag("tr", name, *[tag("td", cell, cls="num") for cell in cells])


def about(summary: RunSummary) -> Html:
    """Settings, coverage and counts of the run."""
    return tag(
        "section",
        tag("h2", "How these numbers were made"),
        certificate_line(summary.certificate),
        tag("div", _settings(summary), _coverage(summary.coverage), cls="columns"),
        cls="about",
        id="about",
    )


def _settings(summary: RunSummary) -> Html:
    facts = [
        ("Model", summary.model),
        ("Training data", summary.data),
        ("Run folder", summary.run),
        (
            "Documents",
            f"{count(summary.documents)} in {count(summary.windows)} windows, {count(summary.tokens)} tokens",
        ),
        ("Skipped", f"{count(summary.skipped)} rows could not be used (listed with reasons in the run folder)"),
        *[("Note", note) for note in summary.notes],
        ("n, documents trained on", count(summary.trained_on)),
        ("Method", summary.method),
        ("Codes", f"{summary.recipe}, {compact(summary.bytes_per_document)} bytes per document"),
        ("Damping", summary.damping),
        ("whence", summary.whence_version),
    ]
    if summary.invariance is not None:
        facts.insert(-1, ("Batches", summary.invariance.words))
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in facts]
    return tag("div", tag("h3", "Settings"), tag("table", *rows, cls="settings"), _all_settings(summary.settings))


def _all_settings(settings: Mapping[str, Any]) -> Html:
    if not settings:
        return Html("")
    rows = [
        tag("tr", tag("th", tag("code", str(name)), scope="row"), tag("td", tag("code", shorten(_value(value), 400))))
        for name, value in sorted(settings.items(), key=lambda item: str(item[0]))
    ]
    return tag("details", tag("summary", f"All settings ({len(settings)})"), tag("table", *rows, cls="settings"))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _coverage(coverage: Coverage) -> Html:
    missing = coverage.parameters - coverage.attributed
    found = gaps(coverage)
    body: list[str] = [
        tag("h3", "Coverage"),
        tag(
            "p",
            tag("b", percent(coverage.share, 2)),
            f" of the parameters are attributed: {compact(coverage.attributed)} of {compact(coverage.parameters)}"
            f" ({compact(missing)} are not, and their part in the answer is not in these numbers).",
        ),
        bar(coverage.share, 1.0),
    ]
    if found:
        head = tag("tr", *[tag("th", name, scope="col") for name in ("Not attributed", "Parameters", "Why")])
        body.append(tag("div", tag("table", tag("thead", head), tag("tbody", *map(_gap, found))), cls="scroll"))
    return tag("div", *body, cls="coverage")


def _gap(gap: Gap) -> Html:
    names = [
        tag("li", tag("code", shorten(one_line(site.name), 120)), f" {count(site.parameters)}") for site in gap.sites
    ]
    noun = "weight" if len(names) == 1 else "weights"
    listing = tag("details", tag("summary", f"{gap.kind}: {count(len(names))} {noun}"), tag("ul", *names))
    return tag("tr", tag("td", listing), tag("td", count(gap.parameters), cls="num"), tag("td", gap.reason))

"""The part of the page about the run: certificate, coverage, settings. Knows nothing of hits."""

import json
from collections.abc import Mapping
from typing import Any

from whence.interfaces import Certificate, Coverage, RunSummary
from whence.report.facts import Gap, gaps
from whence.report.figures import bar
from whence.report.markup import Html, tag
from whence.report.text import compact, count, one_line, percent, shorten

__all__ = ["about", "certificate"]


def certificate(value: Certificate) -> Html:
    """The line that says how far the scores have been shown to be true."""
    state = "measured" if value.state == "measured" else "unmeasured"
    return tag("p", value.line, cls=f"certificate {state}", role="note")


def about(summary: RunSummary) -> Html:
    """Settings, coverage and counts of the run."""
    return tag(
        "section",
        tag("h2", "How these numbers were made"),
        certificate(summary.certificate),
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
        ("n, documents trained on", count(summary.trained_on)),
        ("Method", summary.method),
        ("Codes", f"{summary.recipe}, {compact(summary.bytes_per_document)} bytes per document"),
        ("Damping", summary.damping),
        ("whence", summary.whence_version),
    ]
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

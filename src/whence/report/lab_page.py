"""A lab result as one page that needs no network: the table, the plots, a forest plot per measure, how to read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whence.interfaces import Certificate, Cost, LabResult, Measure
from whence.report.about import certificate as certificate_card
from whence.report.frame import fill
from whence.report.lab_figures import forest, key
from whence.report.lab_table import Row, Sheet, sheet
from whence.report.lab_words import CEILING, KINDS, LEADING, WORDS, basis, figure, interval
from whence.report.markup import Html, join, tag
from whence.report.text import MISSING, compact, count, number, one_line, shorten

__all__ = ["Drawing", "lab_page"]

_COSTS = ("Passes", "Seconds", "Bytes per document")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A plot for the page: its SVG, the sentences under it, and the file in which it is interactive."""

    svg: str
    sentences: Sequence[str]
    live: str


def lab_page(
    result: LabResult,
    drawings: Mapping[str, Drawing],
    links: Sequence[str] = (),
    certificate: Certificate | None = None,
) -> str:
    """Render a lab result.

    Args:
        result: What the lab found.
        drawings: The plots, by title.
        links: Names of the files beside the page.
        certificate: What was concluded for one index, shown on top.

    Returns:
        A complete HTML document under a policy that forbids every request and every script but its own.
    """
    found = sheet(result)
    return fill(
        "lab.html",
        styles=("style.css", "lab.css"),
        script="lab.js",
        title=join([f"Fidelity of {shorten(one_line(result.model), 60)} – whence"]),
        masthead=_masthead(result, certificate),
        table=_table(found) if found.rows else tag("p", "No method was measured.", cls="empty"),
        plots=_plots(drawings),
        measures=join(_measure(result, found, measure) for measure in found.measures),
        about=_about(result, found, links),
        version=join([result.whence_version]),
    )


def _masthead(result: LabResult, certificate: Certificate | None) -> Html:
    facts = [
        ("Model", result.model),
        ("Retrained with", result.training),
        ("Run folder", result.run),
        ("Measured on", f"{count(result.documents)} documents, {_queries(result.queries)}"),
    ]
    rows = [tag("div", tag("dt", name), tag("dd", value, dir="auto")) for name, value in facts]
    card = certificate_card(certificate) if certificate is not None else Html("")
    return join([tag("dl", *rows, cls="facts"), card])


def _queries(number_: int) -> str:
    return f"{count(number_)} {'query' if number_ == 1 else 'queries'}"


# --- the table ----------------------------------------------------------------------------------------------------


def _table(found: Sheet) -> Html:
    heads = [tag("th", "Method", scope="col", data_sort="text")]
    heads += [
        tag("th", WORDS[m].title, scope="col", cls="num", data_sort="number", title=WORDS[m].name)
        for m in found.measures
    ]
    heads += [tag("th", name, scope="col", cls="num", data_sort="number") for name in _COSTS]
    bodies = [_group(found, title, rows, len(heads)) for title, rows in found.groups]
    foot = [_ceiling_row(found)] if found.ceilings else []
    table = tag("table", tag("thead", tag("tr", *heads)), *bodies, *foot, cls="lab")
    return tag("div", table, cls="scroll", tabindex=0, role="group", aria_label="All methods and measures")


def _group(found: Sheet, title: str, rows: Sequence[Row], columns: int) -> Html:
    head = tag("tr", tag("th", title, scope="rowgroup", colspan=columns), cls="group")
    return tag("tbody", head, *[_row(found, row) for row in rows])


def _row(found: Sheet, row: Row) -> Html:
    imported = row.method.kind == "imported"  # the other kinds are groups of their own
    kind = tag("span", KINDS["imported"], cls="kind") if imported else Html("")
    name = tag("th", tag("bdi", shorten(row.name, 80, "both")), " ", kind, _settings(row), scope="row")
    cells = [_cell(found, row, measure) for measure in found.measures]
    return tag("tr", name, *cells, *_costs(row.method.cost))


def _settings(row: Row) -> Html:
    pairs = [f"{one_line(str(name))} {one_line(str(value))}" for name, value in row.method.settings.items()]
    return tag("div", shorten(", ".join(pairs), 160), cls="with", dir="auto") if pairs else Html("")


def _cell(found: Sheet, row: Row, measure: Measure) -> Html:
    estimate = row.estimates.get(measure)
    if estimate is None:
        return tag("td", MISSING, cls="num")
    value, ends = figure(estimate.value, found.places[measure]), interval(estimate, found.places[measure])
    shown = tag("b", value) if measure in row.leads else tag("span", value)
    return tag("td", shown, tag("div", ends, cls="ends"), cls="num", data_v=repr(estimate.value))


def _costs(cost: Cost | None) -> list[Html]:
    if cost is None:
        return [tag("td", MISSING, cls="num") for _ in _COSTS]
    parts = f"fit {number(cost.fit)}, index {number(cost.index)}, query {number(cost.query)}"
    return [
        tag("td", number(cost.passes, 2), cls="num", data_v=repr(cost.passes), title=parts),
        tag("td", number(cost.seconds, 2), cls="num", data_v=repr(cost.seconds)),
        tag("td", compact(cost.bytes_per_document), cls="num", data_v=repr(cost.bytes_per_document)),
    ]


def _ceiling_row(found: Sheet) -> Html:
    cells = []
    for measure in found.measures:
        ceiling = found.ceilings.get(measure)
        places = found.places[measure]
        told = (
            [figure(ceiling.value, places), tag("div", interval(ceiling, places), cls="ends")] if ceiling else [MISSING]
        )
        cells.append(tag("td", *told, cls="num"))
    row = tag("tr", tag("th", "noise ceiling", scope="row"), *cells, *[tag("td", "") for _ in _COSTS])
    return tag("tfoot", row)


# --- plots, measures, settings ------------------------------------------------------------------------------------


def _plots(drawings: Mapping[str, Drawing]) -> Html:
    figures = []
    for title, drawing in drawings.items():
        inside = tag("div", Html(drawing.svg), cls="scroll plot", tabindex=0, role="group", aria_label=title)
        link = tag("a", "With figures under the pointer, and zoom", href=drawing.live)
        figures.append(tag("figure", inside, tag("figcaption", " ".join(drawing.sentences), " ", link)))
    return tag("section", tag("h2", "Fidelity for what it costs"), *figures, id="plots") if figures else Html("")


def _measure(result: LabResult, found: Sheet, measure: Measure) -> Html:
    truth, words = result.truth(measure), WORDS[measure]
    return tag(
        "section",
        tag("h3", words.name, tag("small", words.unit)),
        tag("p", words.meaning),
        tag("p", basis(truth), cls="note", dir="auto") if truth is not None else "",
        forest(found, measure),
        cls="measure",
        id=measure,
    )


def _about(result: LabResult, found: Sheet, links: Sequence[str]) -> Html:
    kinds = list(dict.fromkeys(row.method.kind for row in found.rows))
    plain = f" One took {number(result.plain_seconds)} seconds here." if result.plain_seconds > 0 else ""
    reading = [
        tag("p", tag("b", "Bold"), f" is {LEADING}. Methods are measured on the same queries and models, so their "
            "paired difference may be surer than two intervals look."),
        tag("p", "Intervals are 95 % bootstrap intervals."),
        tag("p", CEILING),
        tag("p", "One pass is one plain forward and backward pass over the corpus; the cost of a method covers "
            f"fitting, indexing and scoring every document for every query.{plain}"),
        tag("p", f"{MISSING} means not measured, or a cost that is not known (scores of another tool)."),
        key(kinds),
    ]  # fmt: skip
    facts = [
        ("Command", tag("code", result.command)),
        ("Parameters", count(result.parameters)),
        ("whence", result.whence_version),
    ]
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in facts if value]
    files = [tag("li", tag("a", name, href=name)) for name in links]
    beside = [tag("h3", "Beside this page"), tag("ul", *files, cls="files")] if files else []
    return tag(
        "section",
        tag("h2", "How to read this"),
        tag("div", tag("div", *reading, cls="reading"), tag("div", tag("h3", "Settings"),
            tag("table", *rows, cls="settings"), *beside), cls="columns"),
        cls="about",
        id="about",
    )  # fmt: skip

"""The page of a contamination audit: accuracy with and without exposure, detectors, dates, and every item."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from whence.interfaces import ContaminationResult, Estimate
from whence.interfaces.exposures import Detector, ItemAudit
from whence.report.audit_frame import Cell, Column, Section, alarm, audit_page, badge, figure, items, table
from whence.report.audit_words import TERMS, document_table, facts_of, legend, settings_table, stats
from whence.report.charts import bars, lines, points
from whence.report.intervention_page import intervene_command
from whence.report.markup import Html, join, tag
from whence.report.text import count, number, one_line, percent, shorten

__all__ = ["EXPOSURE", "contamination_headline", "contamination_page", "contamination_placebo"]

EXPOSURE = {
    "verbatim": "a document holds its words, and training on it moved this answer",
    "paraphrase": "a document says it in other words, and training on it moved this answer",
    "present": "a document holds it, and no effect of that document on this answer could be shown",
    "same skill": "a document that does not hold it supports the answer more than chance",
    "no evidence": "nothing stands out; that is not the same as clean",
}
_MOOD: dict[str, Literal["bad", "good", "unsure", "plain"]] = {
    "verbatim": "bad",
    "paraphrase": "bad",
    "present": "unsure",
    "same skill": "plain",
    "no evidence": "plain",
}
_STEPS = {
    "verbatim": "leave these items out of the score or report accuracy without them, and take the documents out of the "
    "next training corpus",
    "paraphrase": "read item and document side by side; treat them as leaked if they are the same",
    "present": "report them as present; whether that did anything, earlier checkpoints (--checkpoints) or training "
    "without the document (whence intervene) show",
    "same skill": "keep them; the documents are practice",
    "no evidence": "keep them; --calibrate says what a leak would have had to be like to be seen",
}
_TERMS = {
    "spacings": "how far the first of an item's ranking is ahead of the second, in usual distances between neighbours "
    "of the ranking (Rényi); 1 is usual",
    "q of presence, q of effect": "false-discovery rate over the items of this benchmark, of one document standing out "
    "by its words, and by its influence on the answer; the latter weighted by presence",
    "8 words, 13 words": "share of the item's runs of so many words that are in the document which holds most of them",
    "loss": "−log p(answer | question), nats per token; by zlib: per byte of the answer compressed, as repetitive text "
    "is easy anyway",
    "Min-K%": "mean log p of the 20 % least likely tokens of question and answer (Shi et al. 2024): nearer 0 is better "
    "known",
    **{name: TERMS[name] for name in ("influence", "ranks", "copies", "shares words")},
}
_HINTS = {
    "8 words": _TERMS["8 words, 13 words"],
    "13 words": _TERMS["8 words, 13 words"],
    "Presence": f"{_TERMS['spacings']}; q: {_TERMS['q of presence, q of effect']}",
    "Effect on the answer": f"{_TERMS['spacings']}; q: {_TERMS['q of presence, q of effect']}",
    "Influence on the question": _TERMS["spacings"],
    "Share of the best document": "of all positive influence on the answer",
    "Predicted without it": "the document with most influence; a prediction, not a test",
    "Loss": _TERMS["loss"],
    "Loss by zlib": _TERMS["loss"],
    "Min-K%": _TERMS["Min-K%"],
}
_NAMES = {
    "there": "presence and shared runs together",
    "presence": "presence (BM25, standing out)",
    "effect": "effect on the answer",
    "question": "influence on the question",
    "whole": "influence on question and answer",
    "overlap_8": "8 words",
    "overlap_13": "13 words",
    "loss": "loss",
    "zlib": "zlib",
    "min_k": "Min-K%",
}
_READING = (
    "Presence and effect are two questions. Presence: does one document stand out by its words among all others for "
    "this item? Effect: does one stand out by its influence on the answer's tokens? Both are held against the item's "
    "own tail: k times the distance between its k-th and next document is alike for all k if nothing is special about "
    "the first (Rényi); the first distance is given in usual ones. q is the false-discovery rate over the items; that "
    "of effect is weighted by presence. A document's own ranks and influence in nats stand beside; they are no test. A "
    "verdict's percentage is a belief that orders items, and no probability; “present” and “no evidence” have none, as "
    "absence of evidence is no evidence of absence."
)


_MOVED = ("verbatim", "paraphrase")
"""Verdicts that say a document moved the answer."""


def _words(value: Estimate | None) -> str:
    return "not known" if value is None else f"{percent(value.value)} ({percent(value.low)} to {percent(value.high)})"


def contamination_headline(result: ContaminationResult) -> str:
    """What was found, in a sentence or two."""
    found, total = Counter(str(each.verdict) for each in result.items), len(result.items)
    parts = [f"{count(found[name])} {name}" for name in EXPOSURE if found[name]]
    start = "PLACEBO: " if result.settings.placebo else ""
    noun = "item" if total == 1 else "items"
    said = f"{start}Of {count(total)} {noun}: {', '.join(parts)} (false-discovery rate {result.fdr:g})."
    accuracy = result.accuracy
    if accuracy is None:
        return said
    said += f" Reported accuracy {_words(accuracy.reported)}"
    if accuracy.adjusted is not None:
        said += f", without items whose answer a leak moved {_words(accuracy.adjusted)}"
    if accuracy.attributable is not None:
        points = 100 * accuracy.attributable.value
        low, high = 100 * accuracy.attributable.low, 100 * accuracy.attributable.high
        said += f"; exposure accounts for {points:.1f} points ({low:.1f} to {high:.1f})"
    return said + "."


def contamination_placebo(result: ContaminationResult) -> tuple[str, bool] | None:
    """What a placebo shuffled, what must be zero, and whether it was; None of an audit that is none."""
    if not result.settings.placebo:
        return None
    total = len(result.items)
    found = sum(each.verdict in ("verbatim", "paraphrase") for each in result.items)
    end = "passed" if not found else f"not passed; by chance that happens in about {result.fdr:.0%} of placebos"
    said = (
        "PLACEBO. Every item was held against the documents that are there of another item, and what is known of items "
        "was exchanged. No answer may be moved by such a document, so verbatim and paraphrase must be said of none: "
        f"said of {count(found)} of {count(total)}: {end}. “Present” then speaks of the other item's documents and is "
        "expected."
    )
    return said, not found


def contamination_page(result: ContaminationResult, folder: Path | None = None) -> str:
    """The whole page as HTML; with the audit's folder, findings say which command measures a removal."""
    left = (
        [tag("p", f"{count(len(result.left_out))} items could not be asked and are left out; the reasons are below.")]
        if result.left_out
        else []
    )
    told = contamination_placebo(result)
    check = [alarm(*told)] if told else []
    clean = tag("p", "No evidence is not the same as clean: it says what this audit could see in this corpus.")
    return audit_page(
        title="whence: memorised or generalised?",
        question="Did it memorise that, or can it do it?",
        headline=join([*check, tag("p", contamination_headline(result)), clean, *left]),
        facts=facts_of(result.settings),
        sections=[
            Section("verdicts", "Verdicts", _verdicts(result)),
            Section("todo", "What to do", Html("") if result.settings.placebo else _todo(result)),
            Section("planted", "What this audit would have caught", _planted(result)),
            Section("detectors", "Signals against what is known", _detectors(result.detectors)),
            Section("dates", "By date, in both forms", _dates(result)),
            Section("items", "Item by item", _items(result.items, folder)),
            Section("null", "Is the null right?", _levels(result)),
            Section("left-out", "Left out", _left_out(result)),
        ],
        settings=settings_table(result.settings),
        version=result.settings.whence_version,
        certificate=result.settings.certificate,
        note=_READING,
    )


def _todo(result: ContaminationResult) -> Html:
    found = Counter(str(each.verdict) for each in result.items)
    rows = [
        tag("li", badge(name, _MOOD[name]), " ", f"{count(found[name])}: {todo}.")
        for name, todo in _STEPS.items()
        if found[name]
    ]
    return tag("ul", *rows, cls="plain why")


def _verdicts(result: ContaminationResult) -> Html:
    found = Counter(str(each.verdict) for each in result.items)
    meanings = [
        tag("li", badge(name, _MOOD[name]), " ", meaning, f" ({count(found[name])})")
        for name, meaning in EXPOSURE.items()
    ]
    marks = [
        {"presence": each.exposure.presence, "effect": each.exposure.effect, "verdict": str(each.verdict)}
        for each in result.items
    ]
    drawn = points(
        marks, x="presence", y="effect", color="verdict", title="Presence against effect", log_x=True, log_y=True,
        x_title="presence, usual spacings", y_title="effect, usual spacings", prefix="plane",
    )  # fmt: skip
    charts = [
        figure(
            drawn,
            "Presence against effect",
            "Further right, one document stands out more "
            "by its words; higher up, one does by its influence on the answer. The colour is the verdict.",
        )
    ]
    if result.deciles:
        unit = "accuracy" if result.accuracy is not None else "loss, nats per token"
        rows = [{"decile": f"{place}", "value": value} for place, _, value in result.deciles]
        chart = bars(rows, x="value", y="decile", title="By decile of effect", unit=unit, prefix="deciles")
        charts.append(figure(chart, "By decile of effect", "1 is the tenth with least effect of one document."))
    return join([tag("ul", *meanings, cls="plain why"), tag("div", *charts, cls="charts")])


def _planted(result: ContaminationResult) -> Html:
    if not result.planted:
        return Html("")
    columns = [
        Column("Planted"), Column("Items", "number"), Column("Flagged by either (95 %)"),
        Column("By effect alone (95 %)"), Column("By presence (BM25) alone (95 %)"),
        Column("Document found first (95 %)"),
        Column("Answer moved, nats per token", "number"),
    ]  # fmt: skip
    rows = [
        [
            each.group, each.items, _words(each.caught), _words(each.by_effect), _words(each.by_presence),
            None if each.found_first is None else _words(each.found_first), each.moved,
        ]
        for each in result.planted
    ]  # fmt: skip
    said = (
        "Leaks of this benchmark's own items were planted in a further training of the model and audited in the same "
        "way. Flagged: presence or effect at the false-discovery rate; each alone stands beside. What BM25 alone flags "
        "says that words are there, what effect alone flags that the answer was moved. Held-out items were not planted."
    )
    return join([tag("p", said), table(columns, rows)])


def _detectors(found: Sequence[Detector]) -> Html:
    if not found:
        return Html("")
    columns = [
        Column("Leaked as"), Column("Signal"), Column("AUROC", "number"), Column("95 %"),
        Column("Found at 1 % false alarms", "number"), Column("At 5 %", "number"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            each.group, _NAMES.get(each.name, each.name), each.auroc.value,
            f"{each.auroc.low:.2f} to {each.auroc.high:.2f}", each.at_1, each.at_5,
        ]
        for each in found
    ]  # fmt: skip
    charts = []
    for place, group in enumerate(dict.fromkeys(each.group for each in found)):
        curves = [
            {"false": x, "true": y, "signal": _NAMES.get(each.name, each.name)}
            for each in found
            if each.group == group and each.name in ("presence", "effect", "whole", "overlap_13", "loss", "min_k")
            for x, y in each.curve
        ]
        drawn = lines(
            curves, x="false", y="true", color="signal", title=f"Leaked as {group}", diagonal=True,
            x_title="false alarms", y_title="leaks found", prefix=f"roc{place}",
        )  # fmt: skip
        charts.append(figure(drawn, f"ROC, {group}", "Of items known to be leaked against items held out."))
    return join([tag("div", *charts, cls="charts"), table(columns, rows, "signals")])


def _dates(result: ContaminationResult) -> Html:
    dated = [each for each in result.items if each.date]
    if result.date is None or not dated:
        return Html("")
    rows: list[dict[str, str | float]] = [
        {"date": _year(each.date), "effect": each.exposure.effect, "form": "as asked"} for each in dated
    ]
    rows += [
        {"date": _year(each.date), "effect": each.cloze_effect, "form": "cloze"}
        for each in dated
        if each.cloze_effect is not None
    ]
    drawn = points(
        rows, x="date", y="effect", color="form", title="Effect by date", x_title="date", log_y=True,
        y_title="effect, usual spacings", prefix="dates",
    )  # fmt: skip
    said = [f"Rank correlation of effect with date, as asked: {result.date[0]:+.2f} (p {number(result.date[1], 2)})."]
    if result.date_cloze is not None:
        said.append(f"In cloze form: {result.date_cloze[0]:+.2f} (p {number(result.date_cloze[1], 2)}).")
    said.append("A trend in one form alone is a matter of form, not of a cut-off.")
    return join([tag("p", " ".join(said)), tag("div", figure(drawn, "Effect by date"), cls="charts")])


def _year(date: str | None) -> float:
    """A date as a number of years, as far as it can be read."""
    digits = (date or "").split("T")[0].split("-")
    try:
        year = float(digits[0])
        return year + (float(digits[1]) - 1) / 12 if len(digits) > 1 else year
    except ValueError:
        return float("nan")


def _items(found: Sequence[ItemAudit], folder: Path | None) -> Html:
    order = {name: place for place, name in enumerate(EXPOSURE)}
    ranked = sorted(enumerate(found), key=lambda pair: (order[pair[1].verdict], -(pair[1].confidence or 0.0)))
    listing = items([(f"item-{number}", _line(each), _inside(each, folder)) for number, each in ranked], "list")
    return join([legend(_TERMS, "What the numbers and columns mean"), listing])


def _line(each: ItemAudit) -> Html:
    right = "" if each.correct is None else tag("span", "right" if each.correct else "wrong", cls="chip")
    return join(
        [
            badge(each.verdict if each.confidence is None else f"{each.verdict} {each.confidence:.0%}",
                  _MOOD[each.verdict]), " ",
            tag("b", shorten(each.id, 60)), " ",
            tag("span", shorten(one_line(each.question), 160), cls="said", dir="auto"), " ", right,
        ]
    )  # fmt: skip


def _inside(each: ItemAudit, folder: Path | None) -> Html:
    found = each.exposure
    told = [
        ("8 words", percent(found.overlap_8)),
        ("13 words", percent(found.overlap_13)),
        ("Presence", f"{number(found.presence)} spacings, q of presence {number(found.q_presence, 2)}"),
        ("Effect on the answer", f"{number(found.effect)} spacings, q of effect {number(found.q_effect, 2)}"),
        ("Influence on the question", f"{number(found.question)} spacings"),
        ("Share of the best document", percent(found.concentration)),
        ("Predicted without it", f"{number(found.explained)} nats per token more"),
        ("Loss", f"{number(found.loss)} nats per token"),
        ("Loss by zlib", f"{number(found.zlib)} nats per byte"),
        ("Min-K%", number(found.min_k)),
    ]
    told += [("Runner-up", each.runner_up)] if each.runner_up else []
    told += [("Date", each.date)] if each.date else []
    told += [("Twins' loss less its own", number(each.twin_gap))] if each.twin_gap is not None else []
    told += [("Cloze loss less its own", number(each.cloze_gap))] if each.cloze_gap is not None else []
    told += [
        (f"At {shorten(name, 30)}", f"effect {number(effect)}, loss {number(loss)}")
        for name, (effect, loss) in each.saturation.items()
    ]
    return join(
        [
            tag("p", tag("span", each.question, cls="x"), each.answer, cls="text", dir="auto"),
            tag("ul", *[tag("li", reason) for reason in each.reasons], cls="dots why"),
            *([tag("p", tag("b", "What to do: "), each.action)] if each.action else []),
            *([tag("p", tag("code", intervene_command(folder, each.id)))] if folder and each.verdict in _MOVED else []),
            stats([(name, value, _HINTS.get(name, "")) for name, value in told]),
            document_table(each.documents, tested=False),
        ]
    )


def _levels(result: ContaminationResult) -> Html:
    rows = [
        {"rank": place + 1, "spacing": value / (sum(levels[1:]) / max(1, len(levels) - 1) or 1.0), "of": name}
        for name, levels in result.levels.items()
        for place, value in enumerate(levels)
        if place
    ]
    if not rows:
        return Html("")
    drawn = lines(
        rows, x="rank", y="spacing", color="of", title="Mean spacing by rank", x_title="k",
        y_title="k × spacing, over their mean", prefix="levels",
    )  # fmt: skip
    said = "From the second document on, k times the spacing must be flat if the tail is what the test takes it for."
    return join([tag("p", said), tag("div", figure(drawn, "Mean spacing by rank"), cls="charts")])


def _left_out(result: ContaminationResult) -> Html:
    rows = [[name, shorten(one_line(why), 200)] for name, why in result.left_out.items()]
    return table([Column("Item"), Column("Why", wide=True)], rows, "left") if rows else Html("")

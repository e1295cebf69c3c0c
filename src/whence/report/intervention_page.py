"""The page of an intervention: what was done, what it changed, how sure; every arm beside the others."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from whence.interfaces import Arm, Effect, Estimate, InterventionResult
from whence.report.audit_frame import Cell, Column, Section, alarm, audit_page, figure, interval_words, items, table
from whence.report.charts import bars, lines, points
from whence.report.markup import Html, join, tag
from whence.report.text import count, number, one_line, percent, plural, shorten, signed

__all__ = [
    "GROUP_WORDS",
    "arm_words",
    "intervene_command",
    "intervention_headline",
    "intervention_page",
    "recipe_warning",
    "unbounded",
]

GROUP_WORDS = {
    "targets": "the targets",
    "paraphrases": "their paraphrases",
    "utility": "the utility set",
    "documents": "the documents taken",
    "kept": "a sample of kept documents",
}
_DONE = {
    "remove": "left out of training",
    "down-weight": "weighed less in training",
    "relabel": "replaced by other rows in training",
    "add": "trained on beside the others",
    "unlearn": "unlearned without training again",
}
_NOTE = (
    "A change is that of −log p of a text in nats: above 0 the text became less likely. Intervals are 95 % over texts "
    "and, from three seeds on, over seeds; where there is neither a second text nor a third seed there is none. "
    "Retrained models are held against models trained on everything from the "
    "same seeds; edited models against the model as it was."
)


_UNLIKE = 0.25  # of the model's loss per token: from there on another recipe is likelier than another seed
_LEAST_GAP = 0.05  # nats per token


def arm_words(arm: Arm) -> str:
    """What an arm is, in a few words."""
    whose = {
        "influence": "documents named by influence",
        "BM25": "documents named by BM25",
        "the audit": "documents named by the audit",
        "random": "as many tokens at random",
        "oracle": "gold documents",
        "given documents": "the documents given",
        "rows": "the rows given",
        "removed only": "the same documents, only removed",
        "nothing": "no edit",
    }.get(arm.by, arm.by)
    same = f" (the same documents as {arm.same_as})" if arm.same_as else ""
    return f"{whose}: {'trained again' if arm.how == 'retrain' else arm.how}{same}"


def intervention_headline(result: InterventionResult) -> list[str]:
    """What was done, what it changed and how sure that is; a sentence each."""
    main = result.main
    how = f" ({main.how})" if result.action == "unlearn" else ""
    if result.action in ("relabel", "add"):
        rows = int(result.settings.get("rows trained on", 0))
        done = f"{plural(rows, 'row')} {_were(rows)} "
        done += "trained on beside the others" if result.action == "add" else "put in place of "
        done += "" if result.action == "add" else plural(len(main.documents), "document")
    else:
        named = "" if main.by in ("given documents", "oracle") else f" named by {main.by}"
        taken = plural(len(main.documents), f"{'gold ' if main.by == 'oracle' else ''}document") + named
        done = f"{taken} ({plural(main.tokens, 'token')}) {_were(len(main.documents))} {_DONE[result.action]}"
    start = "PLACEBO, other documents were taken than those named: " if result.placebo else ""
    return [f"{start}{done}{how}.", _changed(result), _sure(result), recipe_warning(result)]


def intervene_command(folder: Path, name: str) -> str:
    """What carries out what a safety or contamination audit in a folder suggests for one answer.

    >>> intervene_command(Path("why"), "x49")
    'whence intervene --audit why --id x49 --action remove'
    """
    return shlex.join(["whence", "intervene", "--audit", str(folder), "--id", name, "--action", "remove"])


def _were(things: int) -> str:
    return "was" if things == 1 else "were"


def recipe_warning(result: InterventionResult) -> str:
    """That models trained again on everything are not like the run's model; empty where they are.

    Held on documents that were trained on, where seeds differ least. Where the model lies a quarter of its loss outside
    of what seeds span, effects are those of another model than the one that was asked about.
    """
    held = [each for each in result.baselines if each.group in ("documents", "kept")]
    unlike = [each for each in held if each.gap > max(_UNLIKE * each.model, _LEAST_GAP, each.high - each.low)]
    worst = max(unlike, key=lambda each: each.gap, default=None)
    if worst is None:
        return ""
    return (
        f"Careful: training again on everything does not give this model. {GROUP_WORDS[worst.group].capitalize()}: "
        f"{worst.model:.2f} nats per token in it, {worst.again:.2f} in the models trained again ({result.training}). "
        "The recipe (--training), the start (--start) or the data are not those it was trained with, and what was "
        "found is true of those models."
    )


def unbounded(result: InterventionResult) -> str:
    """Why there are no intervals, where there are none."""
    effect = result.main.effect("targets")
    if effect is None or effect.change.bounded:
        return ""
    return f"no interval: {plural(effect.texts, 'text')}, {plural(result.main.seeds, 'model')}"


def _changed(result: InterventionResult) -> str:
    main = result.main
    target, other = main.effect("targets"), main.effect("utility")
    if target is None:
        return ""
    whose, each = ("The target's", "") if target.texts == 1 else ("The targets'", " each")
    said = f"{whose} −log p changed by {_nats(target.change, each)}"
    again = _retrained(result)
    if again is not None:
        said += f"; training without the documents changes it by {_nats(again)}"
    foretold = result.prediction("targets")
    if foretold is not None:
        said += f"; foretold by influence: {_nats(foretold.change)}"
    control = next((each for each in result.arms if each.by == "random"), None)
    compared = control.effect("targets") if control is not None else None
    if compared is not None:
        said += f"; the same done at random: {_nats(compared.change)}"
    if other is not None:
        said += f". The utility set's loss changed by {_signed(other.relative)}"
    return f"{said}."


def _nats(value: Estimate, each: str = "") -> str:
    """A change in nats with its interval, if it has one."""
    ends = f" (95 % {signed(value.low)} to {signed(value.high)})" if value.bounded else ""
    return f"{signed(value.value)} nats{each}{ends}"


def _retrained(result: InterventionResult, group: str = "targets") -> Estimate | None:
    """What training without the documents changes, beside an edit."""
    arm = None if result.action != "unlearn" else result.arm(result.main.by, "retrain")
    effect = None if arm is None else arm.effect(group)
    return None if effect is None else effect.change


def _sure(result: InterventionResult) -> str:
    main = result.main
    effect = main.effect("targets")
    if effect is None:
        return ""
    models = f"{plural(main.seeds, 'model')} and {plural(effect.texts, 'target')}"
    real = effect.change.low > 0 or effect.change.high < 0
    told = "more than chance" if real else "not told apart from no change"
    said = f"Over {models} that is {told}"
    if not effect.change.bounded:
        said = f"With {models} nothing says whether that is more than chance (--seeds 3 would)"
    alike = next(iter(main.likeness), None)
    if alike is not None:
        verdict = "cannot be told from" if alike.p > 0.05 else "is unlike"
        said += (
            f"; by its {alike.of} the edited model {verdict} models that never saw the documents (Kolmogorov-Smirnov "
            f"p = {number(alike.p, 2)}, {plural(alike.texts, 'text')})"
        )
    return f"{said}."


def _signed(share: float) -> str:
    return f"{'+' if share >= 0 else '−'}{percent(abs(share))}"


def intervention_page(result: InterventionResult) -> str:
    """The whole page as HTML."""
    main = result.main
    facts = [
        ("Model", shorten(result.model, 80, "both")),
        ("Training data", shorten(result.data, 120, "both")),
        ("Documents", count(result.documents)),
        ("Taken", count(len(main.documents))),
        ("Trained again", result.training),
    ]
    return audit_page(
        title="whence: does it help?",
        question="What if these documents had not been there?"
        if result.action in ("remove", "unlearn", "down-weight")
        else "What if the data had been otherwise?",
        headline=join(
            alarm(line) if line == recipe_warning(result) else tag("p", line)
            for line in intervention_headline(result)
            if line
        ),
        facts=facts,
        sections=[
            Section("effects", "What it changed", _effects(result)),
            Section("foretold", "Foretold and found", _foretold(result)),
            Section("again", "Does training again give this model?", _baselines(result)),
            Section("alike", "Like a model that never saw them?", _alike(result.arms)),
            Section("relearning", "Learning it again", _relearning(result.arms)),
            Section("targets", "Target by target", _questions(result)),
            Section("documents", "Documents taken", _documents(result.arms)),
            Section("model", "The edited model", _checkpoint(result)),
        ],
        settings={**({"command": result.command} if result.command else {}), "run": result.run, **result.settings},
        version=result.whence_version,
        certificate=result.certificate,
        note=_NOTE,
    )


def _effects(result: InterventionResult) -> Html:
    groups = [group for group in GROUP_WORDS if any(arm.effect(group) for arm in result.arms)]
    charts = []
    for group in [name for name in groups if name in ("targets", "paraphrases", "utility")]:
        rows = [
            {"arm": _short(arm), "change": e.change.value, "low": e.change.low, "high": e.change.high}
            for arm in result.arms
            if arm.by != "nothing" and not arm.same_as and (e := arm.effect(group)) is not None
        ]  # fmt: skip
        title = f"Change of {GROUP_WORDS[group]}"
        drawn = bars(
            rows, x="change", y="arm", low="low", high="high", title=title, unit="change of −log p, nats per text",
            prefix=f"effect-{group}",
        )  # fmt: skip
        charts.append(figure(drawn, title))
    columns = [Column("Arm", wide=True), Column("Documents", "number"), Column("Models", "number")]
    for group in groups:
        words = GROUP_WORDS[group].removeprefix("the ").removeprefix("a ")
        columns.append(Column(f"{words[0].upper()}{words[1:]}", "number", hint="change of −log p, nats per text"))
    columns.append(Column("Utility loss", "number", hint="relative change of the loss per token"))
    cells = [_row(arm, groups) for arm in result.arms]
    why = unbounded(result)
    note = [tag("p", f"{why[0].upper()}{why[1:]}.", cls="chart-note")] if why else []
    said = tag("p", "Change of −log p, in nats per text, with its 95 % interval.", cls="chart-note")
    return join([tag("div", *charts, cls="charts"), *note, said, table(columns, cells)])


def _short(arm: Arm) -> str:
    return f"{arm.by}, {arm.how}"


def _row(arm: Arm, groups: Sequence[str]) -> list[Cell]:
    name = tag("b", arm_words(arm)) if arm.main else arm_words(arm)
    if arm.same_as:
        return [name, len(arm.documents), None, *[None for _ in groups], None]
    cells: list[Cell] = [name, len(arm.documents), arm.seeds]
    cells += [_change(arm.effect(group)) for group in groups]
    utility = arm.effect("utility")
    return [*cells, None if utility is None else _signed(utility.relative)]


def _change(effect: Effect | None) -> Html | None:
    return None if effect is None else _between(effect.change)


def _between(value: Estimate) -> Html:
    """A change above its interval, so that columns stay narrow; it sorts by the change."""
    ends = [tag("small", f"{signed(value.low)} to {signed(value.high)}", cls="ends")] if value.bounded else []
    return join([signed(value.value), *ends])


def _baselines(result: InterventionResult) -> Html:
    if not result.baselines:
        return Html("")
    columns = [
        Column("Texts", wide=True), Column("This model", "number"), Column("Trained again on everything", "number"),
        Column("Seeds", "number"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [GROUP_WORDS[each.group], f"{each.model:.2f}", f"{each.again:.2f}", f"{each.low:.2f} to {each.high:.2f}"]
        for each in result.baselines
    ]
    said = (
        "−log p in nats per token. All effects are differences between models trained again; they are true of this "
        "model as far as training on everything again gives it."
    )
    return join([tag("p", said), table(columns, rows)])


def _foretold(result: InterventionResult) -> Html:
    edited = result.action == "unlearn"
    found = [Column("Found after training again", "number"), Column("Found after the edit", "number")]
    columns = [Column("Group", wide=True), Column("Foretold, nats", "number"), *found[not edited :]]
    if not edited:
        columns[2] = Column("Found, nats", "number")
    rows: list[list[Cell]] = []
    for each in result.predictions:
        again = _retrained(result, each.group)
        cells = [None if again is None else _between(again)] if edited else []
        cells.append(_change(result.main.effect(each.group)))
        rows.append([GROUP_WORDS[each.group], _between(each.change), *cells])
    bases = "; ".join(dict.fromkeys(each.basis for each in result.predictions))
    parts = [table(columns, rows), tag("p", f"Intervals of what was foretold rest on {bases}.", cls="chart-note")]
    if result.agreement is not None:
        said = "Over targets, what was foretold and what training again changed agree with Spearman's "
        said += f"{interval_words(result.agreement)}."
        parts.insert(0, tag("p", said))
        marks = [
            {"foretold": each.predicted, "found": each.observed if each.retrained is None else each.retrained}
            for each in result.questions
        ]
        drawn = points(
            marks, x="foretold", y="found", title="Foretold and found", x_title="foretold change, nats",
            y_title="found change, nats", prefix="foretold",
        )  # fmt: skip
        parts.append(
            figure(drawn, "Foretold and found", "Each mark is a target; found is what training again changed.")
        )
    return join(parts)


def _alike(arms: Sequence[Arm]) -> Html:
    rows: list[list[Cell]] = [
        [arm_words(arm), each.of, each.texts, each.statistic, each.p, each.least]
        for arm in arms
        for each in arm.likeness
    ]
    if not rows:
        return Html("")
    columns = [
        Column("Arm", wide=True), Column("Compared by"), Column("Texts", "number"), Column("KS statistic", "number"),
        Column("p, median of seeds", "number", 2, hint="TOFU's forget quality"), Column("p, least", "number", 2),
    ]  # fmt: skip
    said = (
        "A two-sample Kolmogorov-Smirnov test against the models trained without the documents. Above 0.05 so many "
        "texts cannot tell the two apart, which few texts never can; the row of models trained again compares them "
        "with each other and says what is possible."
    )
    return join([tag("p", said), table(columns, rows)])


def _relearning(arms: Sequence[Arm]) -> Html:
    shown = [(arm, arm.relearning) for arm in arms if arm.relearning is not None]
    if not shown:
        return Html("")
    rows = [
        {"arm": _short(arm), "step": step, "loss": loss}
        for arm, found in shown
        for step, loss in enumerate(found.losses)
    ]
    drawn = lines(
        rows, x="step", y="loss", color="arm", title="Training on the forgotten documents again",
        x_title="steps", y_title="their loss, nats per token", prefix="relearning",
    )  # fmt: skip
    columns = [
        Column("Arm", wide=True), Column("Loss before", "number"), Column("Lowest loss", "number"),
        Column("Steps to half-way", "number", hint="between trained without them and as it was; none if never"),
    ]  # fmt: skip
    cells: list[list[Cell]] = [[arm_words(arm), each.losses[0], each.lowest, each.steps] for arm, each in shown]
    said = "What was only hidden comes back in fewer steps than it takes the model that never saw the documents."
    return join([tag("p", said), figure(drawn, "Learning it again"), table(columns, cells)])


def _questions(result: InterventionResult) -> Html:
    columns = [
        Column("Target", wide=True), Column("−log p before", "number"), Column("Foretold", "number"),
        *([Column("Trained again", "number")] if result.action == "unlearn" else []), Column("Found", "number"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            join([tag("b", shorten(one_line(each.prompt), 160)), " ", shorten(one_line(each.completion), 200)]),
            each.before, each.predicted, *([each.retrained] if result.action == "unlearn" else []), each.observed,
        ]
        for each in result.questions
    ]  # fmt: skip
    return table(columns, rows, "questions")


def _documents(arms: Sequence[Arm]) -> Html:
    entries, seen = [], set()
    for arm in arms:
        if arm.by in seen or not arm.documents:
            continue
        seen.add(arm.by)
        ids = tag("ul", *[tag("li", shorten(one_line(name), 120, "both"), dir="auto") for name in arm.documents])
        if arm.same_as:
            line = join([tag("b", arm.by), f" the same documents as {arm.same_as}"])
            entries.append((f"by-{len(seen)}", line, Html("")))
            continue
        amount = f" {plural(len(arm.documents), 'document')}, {plural(arm.tokens, 'token')}"
        line = join([tag("b", arm.by), amount])
        entries.append((f"by-{len(seen)}", line, ids))
    return items(entries, "taken")


def _checkpoint(result: InterventionResult) -> Html:
    if not result.checkpoint:
        return Html("")
    said = "An ordinary checkpoint of transformers with its tokenizer; provenance.json beside it says what was done: "
    return tag("p", said, tag("code", result.checkpoint))

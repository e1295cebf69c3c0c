"""An intervention on a console: what was done, what it changed, a row per arm."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import Arm, InterventionResult
from whence.report.console import line, overflow, say
from whence.report.intervention_page import intervention_headline, unbounded
from whence.report.text import number, one_line, percent, signed

__all__ = ["show_intervention"]

_GROUPS = {"targets": "targets", "paraphrases": "reworded", "documents": "documents"}


def show_intervention(result: InterventionResult, console: Console) -> None:
    """Print an intervention.

    Args:
        result: The intervention.
        console: Where to.
    """
    for said in filter(None, intervention_headline(result)):
        line(console, (said, "bold yellow" if said.startswith("Careful") else "bold"))
    groups = [group for group in _GROUPS if any(arm.effect(group) for arm in result.arms)]
    useful = any(arm.effect("utility") for arm in result.arms)
    judged = any(arm.likeness for arm in result.arms)
    more = "; again: steps until half of it is relearnt" if judged else ""
    title = say(console, f"change of −log p, nats per text{more}")
    table = Table(box=None, pad_edge=False, show_edge=False, title=title)
    table.title_justify = "left"
    table.add_column("arm", no_wrap=True, overflow=overflow(console), max_width=34)
    for name in (*[_GROUPS[group] for group in groups], *["utility"] * useful, *["KS p", "again"] * judged):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in result.arms:
        if arm.same_as:
            table.add_row(Text(say(console, f"{arm.by}: the documents of {arm.same_as}")))
            continue
        cells = [_change(arm, group, console) for group in groups]
        cells += [_relative(arm, console)] if useful else []
        cells += [_p(arm), _steps(arm)] if judged else []
        table.add_row(Text(say(console, arm.name)), *cells, style="bold" if arm.main else None)
    console.print(table)
    why = unbounded(result)
    if why:
        line(console, (why, "dim"))
    line(console, (one_line(result.certificate.line), "dim"))


def _change(arm: Arm, group: str, console: Console) -> str:
    effect = arm.effect(group)
    if effect is None:
        return ""
    change = effect.change
    ends = f" ({signed(change.low, 1)} to {signed(change.high, 1)})" if change.bounded else ""
    return say(console, f"{signed(change.value, 1)}{ends}")


def _relative(arm: Arm, console: Console) -> str:
    effect = arm.effect("utility")
    if effect is None:
        return ""
    return say(console, f"{'+' if effect.relative >= 0 else '−'}{percent(abs(effect.relative))}")


def _p(arm: Arm) -> str:
    return number(arm.likeness[0].p, 1) if arm.likeness else ""


def _steps(arm: Arm) -> str:
    if arm.relearning is None:
        return ""
    return "never" if arm.relearning.steps is None else f"{arm.relearning.steps:.0f}"

"""An intervention on a console: what was done, what it changed, a row per arm."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import Arm, InterventionResult
from whence.report.console import line, overflow, say
from whence.report.intervention_page import intervention_headline
from whence.report.text import number, one_line

__all__ = ["show_intervention"]

_GROUPS = {"targets": "targets", "paraphrases": "reworded", "documents": "documents"}


def show_intervention(result: InterventionResult, console: Console) -> None:
    """Print an intervention.

    Args:
        result: The intervention.
        console: Where to.
    """
    for said in intervention_headline(result):
        line(console, (said, "bold"))
    groups = [group for group in _GROUPS if any(arm.effect(group) for arm in result.arms)]
    useful = any(arm.effect("utility") for arm in result.arms)
    judged = any(arm.likeness for arm in result.arms)
    more = "; again: steps until half of it is relearnt" if judged else ""
    table = Table(box=None, pad_edge=False, show_edge=False, title=f"change of -log p, nats per text{more}")
    table.title_justify = "left"
    table.add_column("arm", no_wrap=True, overflow=overflow(console))
    for name in (*[_GROUPS[group] for group in groups], *["utility"] * useful, *["KS p", "again"] * judged):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in result.arms:
        cells = [_change(arm, group, console) for group in groups]
        cells += [_relative(arm, console)] if useful else []
        cells += [_p(arm), _steps(arm)] if judged else []
        table.add_row(Text(say(console, arm.name)), *cells, style="bold" if arm.main else None)
    console.print(table)
    line(console, (one_line(result.certificate.line), "dim"))


def _change(arm: Arm, group: str, console: Console) -> str:
    effect = arm.effect(group)
    if effect is None:
        return ""
    half = (effect.change.high - effect.change.low) / 2
    return say(console, f"{effect.change.value:+.1f} ±{half:.1f}")


def _relative(arm: Arm, console: Console) -> str:
    effect = arm.effect("utility")
    return "" if effect is None else say(console, f"{effect.relative:+.1%}")


def _p(arm: Arm) -> str:
    return number(arm.likeness[0].p, 1) if arm.likeness else ""


def _steps(arm: Arm) -> str:
    if arm.relearning is None:
        return ""
    return "never" if arm.relearning.steps is None else f"{arm.relearning.steps:.0f}"

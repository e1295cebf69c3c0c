"""An intervention on a console: what was done, what it changed, a row per arm."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import Arm, InterventionResult
from whence.report.console import line, overflow, say
from whence.report.intervention_page import intervention_headline
from whence.report.text import nats, number, one_line

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
    table = Table(
        box=None, pad_edge=False, show_edge=False, title="change of -log p, nats per text; of utility, its loss"
    )
    table.title_justify = "left"
    table.add_column("arm", no_wrap=True, overflow=overflow(console))
    for group in groups:
        table.add_column(_GROUPS[group], justify="right", no_wrap=True)
    useful = any(arm.effect("utility") for arm in result.arms)
    if useful:
        table.add_column("utility", justify="right", no_wrap=True)
    judged = any(arm.likeness for arm in result.arms)
    if judged:
        table.add_column("KS p", justify="right", no_wrap=True)
        table.add_column("relearnt", justify="right", no_wrap=True)
    for arm in result.arms:
        cells = [_change(arm, group, console) for group in groups]
        cells += [_relative(arm, console)] if useful else []
        more = [_p(arm), _steps(arm)] if judged else []
        table.add_row(Text(say(console, arm.name)), *cells, *more, style="bold" if arm.main else None)
    console.print(table)
    line(console, (one_line(result.certificate.line), "dim"))


def _change(arm: Arm, group: str, console: Console) -> str:
    effect = arm.effect(group)
    if effect is None:
        return ""
    half = (effect.change.high - effect.change.low) / 2
    return say(console, f"{nats(effect.change.value)} ±{number(half, 2)}")


def _relative(arm: Arm, console: Console) -> str:
    effect = arm.effect("utility")
    return "" if effect is None else say(console, f"{effect.relative:+.1%}")


def _p(arm: Arm) -> str:
    return number(arm.likeness[0].p, 2) if arm.likeness else ""


def _steps(arm: Arm) -> str:
    if arm.relearning is None:
        return ""
    return "never" if arm.relearning.steps is None else f"{arm.relearning.steps:.0f}"

"""Tables for the terminal that are not traces."""

from collections import Counter
from typing import Any

from rich.table import Table

from whence.interfaces import Coverage

__all__ = ["coverage_table", "tuned_table", "weights_table"]


def coverage_table(coverage: Coverage) -> Any:
    """Parameters by kind of module: attributed or not, and why not."""
    table = Table(title=f"{coverage.share:.2%} of {coverage.parameters:,} parameters attributed", title_justify="left")
    for heading, justify in (("module", "left"), ("weights", "right"), ("parameters", "right"), ("attributed", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    tensors: Counter[tuple[str, bool, str]] = Counter()
    sizes: Counter[tuple[str, bool, str]] = Counter()
    for line in coverage.sites:
        key = (line.kind, line.attributed, line.reason)
        tensors[key] += 1
        sizes[key] += line.parameters
    for key, size in sorted(sizes.items(), key=lambda item: -item[1]):
        kind, attributed, reason = key
        table.add_row(kind, f"{tensors[key]:,}", f"{size:,}", "yes" if attributed else f"no: {reason}")
    return table


def tuned_table(found: Any) -> Any:
    """What tuning tried, by choice: LDS on the tuning half and cost; what was taken is marked, too dear is dim."""
    table = Table(title="Tried on the tuning half of the bank", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    for heading, width in (("LDS", 5), ("95 %", 9), ("bytes/doc", 9), ("passes", 6)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    last = ""
    for each in found.candidates:
        if each.choice != last:
            table.add_row(f"[bold]{each.choice}[/bold]")
        last = each.choice
        table.add_row(
            ("→ " if each.spec == found.chosen else "  ") + each.spec.name,
            f"{each.tuning.value:.3f}",
            f"{each.tuning.low:.2f}–{each.tuning.high:.2f}",
            f"{each.cost.bytes_per_document:,.0f}",
            f"{each.cost.passes:.1f}",
            style=None if each.within else "dim",
        )
    kept = "→ is what was taken" + ("" if all(each.within for each in found.candidates) else "; dim is over the budget")
    table.caption, table.caption_justify = kept, "left"
    return table


def weights_table(found: Any) -> Any:
    """LDS on each half under weights fitted on the other; what that gains over the method as it was and its parts."""
    title = "LDS on the half that had no part in the fit, and weights"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for heading in ("half 1", "half 2", "mean", "fitted gains over it"):
        table.add_column(heading, justify="right", no_wrap=True)
    mean, halves = found.mean, found.halves
    table.add_row("fitted", *(f"{each.fitted.value:.3f}" for each in halves), _range(mean.fitted, ""), "")
    for name, alone in mean.others.items():
        values = (f"{each.others[name].value:.3f}" for each in halves)
        table.add_row(name, *values, _range(alone, ""), _range(mean.gains[name], "+"))
    for name, weight in found.weights.items():
        table.add_row(f"× {name}", *(f"{each.weights[name]:g}" for each in halves), f"on both {weight:g}", "")
    return table


def _range(estimate: Any, sign: str) -> str:
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"

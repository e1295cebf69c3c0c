"""Tables for the terminal that are not traces."""

from collections import Counter
from typing import Any

from rich.table import Table

from whence.interfaces import Coverage

__all__ = ["coverage_table"]


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
    """What tuning tried, by choice: LDS on the tuning half, cost, and which was taken."""
    table = Table(title="Tried on the tuning half of the bank", title_justify="left")
    for heading, justify in (("choice", "left"), ("method", "left"), ("LDS", "right"), ("95 %", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading in ("bytes/document", "passes", "in budget"):
        table.add_column(heading, justify="right")
    last = ""
    for each in found.candidates:
        if last and each.choice != last:
            table.add_section()
        low, high = each.tuning.low, each.tuning.high
        table.add_row(
            "" if each.choice == last else each.choice,
            each.spec.name + (" ←" if each.spec == found.chosen else ""),
            f"{each.tuning.value:.3f}",
            f"{low:.2f} to {high:.2f}",
            f"{each.cost.bytes_per_document:,.0f}",
            f"{each.cost.passes:.2f}",
            "yes" if each.within else "no",
        )
        last = each.choice
    return table

"""An intervention on disk: result.json (all of it), page.html, and its arms as JSON lines and Parquet; and back."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from whence.interfaces import InterventionResult
from whence.report.audit_files import SCHEMA, write_audit
from whence.report.intervention_page import intervention_page
from whence.report.records import read_result

__all__ = ["load_intervention", "save_intervention"]


def save_intervention(result: InterventionResult, folder: Path) -> dict[str, Path]:
    """Write an intervention; the table has one row per arm and group. See `write_audit`."""
    return write_audit(result, folder, intervention_page(result), "effects", list(_rows(result)))


def _rows(result: InterventionResult) -> Iterator[Mapping[str, Any]]:
    for arm in result.arms:
        for effect in arm.effects:
            yield {
                "by": arm.by,
                "how": arm.how,
                "main": arm.main,
                "documents": len(arm.documents),
                "tokens": arm.tokens,
                "models": arm.seeds,
                "group": effect.group,
                "texts": effect.texts,
                "before": effect.before,
                "after": effect.after,
                "change": effect.change.value,
                "low": effect.change.low,
                "high": effect.change.high,
                "relative": effect.relative,
            }


def load_intervention(folder: Path) -> InterventionResult:
    """Read back what `save_intervention` wrote.

    Raises:
        IncompleteError: The folder holds no result.json.
        StorageError: It is damaged or has another layout.
    """
    return read_result(folder, InterventionResult, SCHEMA, "intervention", "whence intervene")

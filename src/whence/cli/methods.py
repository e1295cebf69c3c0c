"""`--method` of `whence trace`, and `whence methods`: what there is; torch is loaded inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from whence.cli.opening import console_of

if TYPE_CHECKING:
    from whence.attributor import Attributor, Checkpoint
    from whence.methods import Bound

__all__ = ["bound_method", "is_curvature", "methods"]


def is_curvature(typed: str) -> bool:
    """Whether a method is one of the run's own curvatures, which its index is made with."""
    from whence.gradients import Method

    return typed in get_args(Method)


def bound_method(
    owner: "Attributor", typed: str, checkpoints: Sequence[str], training: Path | None, start: str
) -> "Bound":
    """A named method on a run.

    Raises:
        InputError: There is no such method or setting, or it needs checkpoints or the training and got none.
    """
    from whence.attributor import run_steps
    from whence.attributor.steps import CorpusStep
    from whence.cli.training import start_of, training_of
    from whence.fidelity import replay_of
    from whence.methods import Bound, Work, parse_method

    method = parse_method(typed)
    replay = None
    if any(part.training for part in method.parts):
        run_steps([CorpusStep(owner)])
        replay = replay_of(owner, training_of(owner, training), start_of(owner, start))
    return Bound(method, Work(owner, _read(checkpoints), replay))


def _read(checkpoints: Sequence[str]) -> "tuple[Checkpoint, ...]":
    from whence.attributor import read_checkpoints

    return read_checkpoints(checkpoints) if checkpoints else ()


def _default(field: Any) -> Any:
    """What a setting is if it is not given, as it is typed; … where it has to be."""
    from whence.methods.base import typed

    return "…" if field.is_required() else "–" if field.get_default() is None else typed(field.get_default())


def methods() -> None:
    """List the methods that `whence trace --method` and the lab take, with their settings and papers."""
    from rich.table import Table

    from whence.methods import METHODS

    table = Table(title="Methods")
    for name in ("method", "settings (default)", "unit", "needs", "paper"):
        table.add_column(name, overflow="fold")
    for key, kind in METHODS.items():
        settings = ", ".join(f"{name}={_default(field)}" for name, field in kind.model_fields.items())
        table.add_row(key, settings or "–", kind.unit, kind.needs(), f"{kind.title}: {kind.paper}")
    console_of().print(table)

"""Where a run's files lie: paths were typed in one directory, and the run may go on in another."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whence.attributor.config import ModelConfig
from whence.data import hub_id

__all__ = ["found", "same_files"]


def same_files(typed: Sequence[str], stored: Mapping[str, Any], started: Path) -> Sequence[str]:
    """The run's own spelling of its data where what was typed means the same files."""
    before: Sequence[str] = stored["config"]["corpus"]["data"]
    same = [_place(each, Path()) for each in typed] == [_place(each, started) for each in before]
    return before if same else typed


def _place(data: str, start: Path) -> str:
    away = "://" in data or (hub_id(data) is not None and not (start / data).exists())
    return data if away else os.path.abspath(start / data)


def found(settings: ModelConfig, started: Path) -> ModelConfig:
    """The model's settings, with directories where they lie as seen from here."""
    moved: dict[str, Any] = {}
    for name in ("model", "tokenizer"):
        path = getattr(settings, name)
        if path is not None:
            moved[name] = _here(path, started)
    moved["adapter"] = tuple(_here(path, started) for path in settings.adapter)
    return settings.model_copy(update=moved)


def _here(path: str, started: Path) -> str:
    """A directory as seen from here, if it is one that was seen from where the run was started."""
    return str(started / path) if not Path(path).exists() and (started / path).is_dir() else path

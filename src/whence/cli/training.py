"""How the model was trained, as commands that train again are told; torch is loaded inside."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli.opening import console_of
from whence.errors import InputError
from whence.interfaces.fidelity import RECIPES

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.fidelity import Start

__all__ = ["START", "TRAINING", "default_workers", "recipe_of", "refuse_no_recipe", "start_of", "training_of"]

TRAINING = Annotated[
    Path | None,
    typer.Option(
        help="How the model was trained: TOML or JSON of whence's own settings, or a Hugging Face TrainingArguments as "
        "JSON or YAML (default: training.json or trainer_state.json in the model's folder or beside it).",
        show_default=False,
    ),
]
START = Annotated[
    str,
    typer.Option(help="Where retraining starts: scratch, model (the run's own), or a directory (before fine-tuning)."),
]


def training_of(owner: "Attributor", path: Path | None) -> Any:
    """The training of a file, or of one beside the model; what it does not do is said.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    from whence.fidelity import load_training

    model = owner.source
    found = path or recipe_of((*model.adapter, model.model))
    if path is None:
        console_of(stderr=True).print(f"How the model was trained: {found}", style="dim", markup=False, soft_wrap=True)
    training, notes = load_training(found)
    for note in notes:
        console_of(stderr=True).print(f"{found}: {note}", style="dim", markup=False)
    return training


def recipe_of(models: Sequence[str]) -> Path:
    """The file that says how a model was trained: in its folder, or beside that. Reads none.

    Args:
        models: Folders of adapters and of the model; others than folders lie on a hub and have none.

    Raises:
        InputError: There is none.
    """
    folders = [Path(name) for name in models if Path(name).is_dir()]
    places = [place for folder in folders for place in (folder, folder / ".." if folder.name == "" else folder.parent)]
    found = next((place / name for place in places for name in RECIPES if (place / name).is_file()), None)
    if found is None:
        raise InputError(
            f"how was the model trained? There is no {', '.join(RECIPES)} in {' or '.join(models)} or beside it; give "
            '--training with a TOML file such as\n  optimizer = "adamw"\n  learning_rate = 3e-4\n  epochs = 3\n'
            "  batch = 16"
        )
    return found


def refuse_no_recipe(run: Path, model: str | None, typed: Path | None) -> None:
    """Refuse a command that trains where nothing says how, before anything is loaded.

    Args:
        run: The run folder, which names the model if it is there.
        model: As typed.
        typed: The file that was given.

    Raises:
        InputError: The file that was given is not there, or none lies with the model.
    """
    from whence.runs import Run

    if typed is not None:
        if not typed.exists():
            raise InputError(f"--training {typed}: there is no such file.")
        return
    found = Run(run)
    names = (model,)
    if found.exists:
        config = found.read().get("config", {}).get("model", {})
        names = (*(config.get("adapter") or ()), model or config.get("model"))
    if names[-1]:
        recipe_of([str(name) for name in names])


def start_of(owner: "Attributor", typed: str) -> "Start":
    """Where training starts, from --start.

    Raises:
        InputError: It is no such place, or no place for an adapter.
    """
    from whence.fidelity import Start

    model = owner.source
    if typed == "scratch":
        if model.adapter:
            raise InputError("an adapter is not trained from scratch; give --start model, or an adapter directory.")
        return Start(model.model, True)
    if typed == "model":
        return Start(model.model, False, model.adapter)
    if not Path(typed).is_dir():
        raise InputError(f"--start takes scratch, model, or a model directory; there is no directory {typed!r}.")
    if not model.adapter:
        return Start(typed, False)
    if not (Path(typed) / "adapter_config.json").is_file():
        raise InputError(f"this run attributes an adapter, so training starts from one; {typed!r} holds none.")
    return Start(model.model, False, (typed,))


def default_workers(threads: int) -> int:
    """One process per GPU, or per so many cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(
        1, len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) // threads
    )

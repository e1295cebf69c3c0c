"""Reads how a model was trained from the files that trainings leave behind. Trains nothing.

Four kinds: whence's own settings (TOML or JSON), arguments of transformers' ``Trainer`` (JSON or YAML), the
``trainer_state.json`` of its checkpoints, and the ``training.json`` of whence's demo. What cannot be done the same way
is said in notes.
"""

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from whence.errors import InputError
from whence.fidelity.trainer_arguments import from_arguments, is_arguments
from whence.fidelity.trainer_state import from_state, is_state
from whence.interfaces.fidelity import RECIPES
from whence.model import Training

__all__ = ["RECIPES", "load_training"]

Notes = tuple[str, ...]

_PICKLED = (".bin", ".pt", ".pth", ".pkl")


def load_training(path: str | Path) -> tuple[Training, Notes]:
    """Read a training from a file, or from the first known file of a folder.

    Args:
        path: TOML, JSON or YAML; see above.

    Returns:
        The training, and a note for everything in the file that it does not do or had to guess.

    Raises:
        InputError: It cannot be read, is a pickle, or is none of the four kinds.
    """
    file = _find(Path(path))
    content = _read(file)
    try:
        return _understand(content)
    except ValidationError as error:
        raise InputError(f"{file}: {_complaint(error)}") from error
    except KeyError as error:
        raise InputError(f"{file} lacks {error}, which files of its kind have; it is not whole.") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{file}: a setting has no value that can be used: {error}.") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _understand(content: Mapping[str, Any]) -> tuple[Training, Notes]:
    inner = content.get("training", content)
    if isinstance(inner, Mapping) and inner and set(inner) <= set(Training.model_fields):
        return Training.model_validate(dict(inner)), ()
    if "batch_tokens" in content:
        return _from_demo(content)
    if is_state(content):
        return from_state(content)
    if is_arguments(content):
        return from_arguments(content)
    unknown = sorted(set(map(str, inner if isinstance(inner, Mapping) else content)) - set(Training.model_fields))
    raise InputError(
        f"these are no settings of a training: {', '.join(unknown[:8]) or 'the file is empty'}. There are "
        f"{', '.join(Training.model_fields)}; or give the arguments of transformers' Trainer as JSON or YAML."
    )


def _from_demo(content: Mapping[str, Any]) -> tuple[Training, Notes]:
    """The demo groups documents of like length into batches of so many tokens."""
    steps = float(content["steps"]) / float(content["epochs"])
    training = Training(
        optimizer="adamw",
        learning_rate=content["learning_rate"],
        betas=(0.9, 0.95),
        weight_decay=content["weight_decay"],
        schedule="cosine",
        warmup=content["warmup"],
        final=0.1,
        epochs=content["epochs"],
        batch=max(1, math.ceil(content["documents"] / steps)),
        clip=content["clip"],
    )
    note = (
        f"batches of {content['batch_tokens']} tokens of documents of like length were used; here they are "
        f"{training.batch} documents of any length, which is as many steps."
    )
    return training, (note,)


def _find(path: Path) -> Path:
    if path.is_dir():
        found = next((path / name for name in RECIPES if (path / name).is_file()), None)
        if found is not None:
            return found
        if (path / "training_args.bin").is_file():
            return _refuse_pickle(path / "training_args.bin")
        raise InputError(f"{path} has none of {', '.join(RECIPES)}; give a file that says how the model was trained.")
    if path.suffix in _PICKLED:
        return _refuse_pickle(path)
    return path


def _refuse_pickle(path: Path) -> Path:
    raise InputError(
        f"{path} is a pickle, which can run anything when it is opened, so it is not. Where you trust it, write its "
        "to_json_string() into a .json file and give that; or give the trainer_state.json of a checkpoint."
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}.") from error
    try:
        content = _parse(path.suffix, text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not {path.suffix.removeprefix('.').upper() or 'JSON'}: {error}.") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no settings by name, but {type(content).__name__}.")
    return content


def _parse(suffix: str, text: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    return yaml.safe_load(text) if suffix in (".yaml", ".yml") else json.loads(text)


def _complaint(error: ValidationError) -> str:
    parts = [f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})" for one in error.errors()]
    return "; ".join(parts)

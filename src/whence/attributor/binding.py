"""What a run may never change, as one flat table: its settings and the fingerprints of what it was made from.

And what it was begun with, where a setting that says auto has another meaning since.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whence.gradients import Recipe
from whence.interfaces import Site
from whence.runs import read_json

__all__ = ["begun", "bound", "flat", "named"]


def named(sites: Sequence[Site]) -> str:
    """Which weights are attributed, in words and as a hash: a version that reads more of them fits other curvature."""
    said = json.dumps([[site.name, *site.shape] for site in sites])
    return f"{len(sites)} sites, {hashlib.sha256(said.encode()).hexdigest()[:12]}"


def bound(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a run may not change: everything but where the model lies and how the index is coded."""
    config = {key: value for key, value in content["config"].items() if key not in ("recipe", "trained_on")}
    model = {key: value for key, value in config["model"].items() if key not in ("model", "adapter", "min_coverage")}
    return {"config": {**config, "model": model}, "fingerprints": content["fingerprints"]}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return out


def begun(recipe: Recipe, now: Recipe, folder: Path, names: Sequence[str]) -> Recipe | None:
    """The recipe of an index begun when `auto` meant a Kronecker sketch; None if there is none, or the new one is.

    Args:
        recipe: As asked for.
        now: The same resolved.
        folder: Of all indexes.
        names: Theirs.
    """
    if recipe.projection != "auto" or now.projection != "leading" or now.name in names:
        return None
    same = {"projection": now.projection, "coordinates": now.coordinates}
    for name in names:
        made = Recipe.model_validate(read_json(folder / name / "manifest.json")["recipe"])
        alike = made.projection == "kronecker" and made.model_copy(update=same) == now
        if alike and recipe.coordinates in (None, made.coordinates):
            return made
    return None

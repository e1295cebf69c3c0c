"""Another run of the same model and corpus, with other sites or another fit, in a folder of its own.

The model stays where it is in memory and the corpus where it is on disk; curvature and indexes are the sibling's own.
"""

import copy
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whence.runs import Run, storage_errors

if TYPE_CHECKING:
    from whence.attributor.config import FitConfig
    from whence.attributor.core import Attributor

__all__ = ["share_corpus", "sibling"]


def sibling(owner: "Attributor", folder: Path, sites: Sequence[str], fit: "FitConfig") -> "Attributor":
    """A run beside another one.

    Args:
        owner: A run whose corpus has been read.
        folder: Its run folder; read if it exists, made otherwise.
        sites: Names or shell patterns of the sites to attribute; all if empty.
        fit: How curvature is fitted.

    Raises:
        StaleRunError: The folder holds a run of another model, corpus or setting.
        IncompleteError: The owner's corpus has not been read.
    """
    assert owner.corpus.documents
    other = copy.copy(owner)
    for part in ("sites", "coverage", "corpus"):
        other.__dict__.pop(part, None)
    # the owner's coverage has been accepted; a part of its sites is asked for by name
    model = owner.config.model.model_copy(update={"sites": tuple(sites), "min_coverage": 0.0})
    recipe = owner.config.recipe.model_copy(update={"method": fit.method})
    other.config = owner.config.model_copy(update={"model": model, "fit": fit, "recipe": recipe})
    other.run = Run(folder)
    share_corpus(owner.run.corpus, other.run.corpus)
    other.bind(other.run.read() if other.run.exists else None)
    return other


def share_corpus(source: Path, place: Path) -> None:
    """Make a corpus appear in another run folder: a link, or a copy where the disk has no links."""
    if (place / "manifest.json").is_file():
        return
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # a link to where the run lay before it was moved
        try:
            place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()), target_is_directory=True)
        except (OSError, NotImplementedError):
            shutil.copytree(source, place, dirs_exist_ok=True)

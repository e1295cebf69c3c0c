"""Coding every document, one share of the corpus at a time."""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whence.attributor.steps import Advance, ShareStep, Step, batches
from whence.data import CorpusShare
from whence.gradients import Recipe, encode_documents
from whence.store import share_writer, write_manifest

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["IndexStep", "index_steps"]


class IndexStep(ShareStep):
    """Codes of every document."""

    name = "index"

    def __init__(self, owner: "Attributor", recipe: Recipe | None) -> None:
        self.owner = owner
        self._asked = recipe or owner.config.recipe

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with its budget decided."""
        return self.owner.resolved(self._asked)

    @cached_property
    def folder(self) -> Path:
        """index/<recipe>."""
        return self.owner.run.index / self.recipe.name

    @cached_property
    def encoders(self) -> Any:
        """Encoders of all sites; made when the first share needs them."""
        return self.owner.encoders(self.recipe)

    def place_of(self, share: CorpusShare) -> Path:
        """Where a share's codes go."""
        return self.folder / share.name

    def prepare(self) -> None:
        """Write the manifest."""
        bound = {"corpus": self.owner.corpus.fingerprint, "model": self.owner.loaded.fingerprint}
        layouts = self.recipe.layout(self.owner.sites)
        write_manifest(self.folder, self.recipe.stored(), layouts, [share.name for share in self.items()], bound)

    def run(self, item: CorpusShare, shares: tuple[int, int], advance: Advance) -> None:
        """Code the documents of one share."""
        self.prepare()
        owner, layouts = self.owner, self.recipe.layout(self.owner.sites)
        windows = owner.corpus.share_windows(item)
        rows = item.first_window + np.arange(len(windows), dtype=np.int64)
        runner = replace(owner.runner, objective=self.recipe.objective)
        with share_writer(self.place_of(item), layouts, windows, _identity(owner, windows)) as writer:
            for places, examples, tokens in batches(owner, rows):
                made = encode_documents(runner, examples, self.encoders, layouts, self.recipe.precision)
                writer.put(places, *made)
                advance(tokens)


def _identity(owner: "Attributor", windows: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Identity columns of rows.parquet."""
    columns: dict[str, list[Any]] = {"id": [], "source": [], "row": [], "hash": [], "tags": [], "weight": []}
    last, document = -1, None
    for number in windows[:, 0].tolist():
        if number != last:
            last, document = number, owner.corpus.document(number)
        assert document is not None
        for name in ("id", "source", "row", "hash"):
            columns[name].append(getattr(document, name))
        columns["tags"].append(json.dumps(dict(document.metadata), ensure_ascii=False))
        columns["weight"].append(owner.weight(number))
    return columns


def index_steps(owner: "Attributor", recipe: Recipe | None = None) -> list[Step]:
    """The steps of an index."""
    return [IndexStep(owner, recipe)]

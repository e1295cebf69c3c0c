"""The arms of unlearning: the run's model edited, beside models trained without the documents.

Every edit and every relearning curve is a file (``interventions/cells``) named by all that decides it, so a call that
was stopped goes on. Axes: R seeds, P texts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from whence.audits import choosing
from whence.audits.checkpoints import provenance_of, read_provenance, save_checkpoint
from whence.audits.effects import effects_of
from whence.audits.jobs import Job
from whence.audits.likeness import likeness
from whence.audits.newton import Blocks, direction, sequences_of, total_gradient
from whence.audits.relearning import relearn, relearning_of
from whence.audits.unlearning import Edited, Texts, UnlearnSettings, mean_losses, texts_from, texts_of, unlearn
from whence.fidelity import LanguageTask, Start
from whence.fidelity.bank import Outcome
from whence.fidelity.records import content_hash
from whence.interfaces import Arm, Likeness, Relearning, UnlearningMethod
from whence.model import as_loaded
from whence.runs import read_json, write_json

__all__ = ["Forgetting"]

Array = NDArray[np.float64]

EDITS = 2
"""Raised when an edit comes to do something else, so that kept results of the earlier one are not taken for it."""


class Forgetting:
    """Unlearning of one job.

    Args:
        job: Its parts.

    Attributes:
        before: Losses [1, P] of the run's own model.
    """

    def __init__(self, job: Job) -> None:
        self.job, owner = job, job.owner
        source = owner.source
        self.task: LanguageTask = job.workshop.task(Start(source.model, False, source.adapter))
        self.texts: Texts = texts_of(owner, job.main)
        self.cells = owner.run.path / "interventions" / "cells"
        self.before = self.task.losses(self.task.stored_model())[None]
        self._towards: dict[tuple[int, ...], Blocks] = {}

    @property
    def after(self) -> Array:
        """Losses [R, P] after the main edit."""
        return _losses(self._edits(self.job.by, self.job.options.methods[0]))

    def arms(self) -> list[Arm]:
        """The main edit, other methods, controls, training without the documents, and no edit at all."""
        job, options = self.job, self.job.options
        first = options.methods[0]
        references = self._references()  # first: they train each model once, for its losses and its curve
        arms = [self._arm(job.by, method, method == first) for method in options.methods]
        if options.controls:
            arms += [self._arm(by, first) for by in (*list(job.named)[1:], "random")]
        return [*arms, *references]

    # ------------------------------------------------------------------ edits

    def _documents(self, by: str, seed: int) -> list[int]:
        return self.job.lots[seed] if by == "random" else self.job.named[by]

    def _edits(self, by: str, method: UnlearningMethod) -> list[Mapping[str, Any]]:
        """What came of an edit, seed by seed; newton's differs between seeds only if its documents do."""
        seeds = self.job.seeds if by == "random" or method != "newton" else range(1)
        main = by == self.job.by and method == self.job.options.methods[0]
        return [self._edit(self._documents(by, seed), method, seed, main and seed == 0) for seed in seeds]

    def _edit(self, documents: Sequence[int], method: UnlearningMethod, seed: int, keep: bool) -> Mapping[str, Any]:
        settings = self.settings
        key = self._key(documents=list(documents), method=method, seed=seed, **asdict(settings))
        place = self.job.folder / "model"
        lost = keep and (read_provenance(place) or {}).get("key") != key
        path = self.cells / f"{key}.json"
        if path.is_file() and not lost:
            found: Mapping[str, Any] = read_json(path)
            return found
        edited = unlearn(
            self.job.owner, self.task, documents, method, self._direction(documents), settings, seed, self.job.report
        )
        if keep:
            said = {"key": key, **self.job.told(), "method": method, "strength": edited.strength, "seed": seed}
            owner = self.job.owner
            save_checkpoint(edited.model, owner, place, provenance_of(owner, documents, said))
        content = self._cell(edited)
        write_json(path, content)
        return content

    def _cell(self, edited: Edited) -> dict[str, Any]:
        return {
            "losses": self.task.losses(edited.model).tolist(),
            "curve": self._curve(edited.model, 0),
            "seconds": edited.seconds,
            "strength": edited.strength,
        }

    def _direction(self, documents: Sequence[int]) -> Blocks:
        key = tuple(documents)
        if key not in self._towards:
            owner = self.job.owner
            gradient = total_gradient(owner, sequences_of(owner.corpus, documents))
            self._towards = {key: direction(owner, gradient, self.job.recipe)}  # one at a time: each is a model's size
        return self._towards[key]

    @cached_property
    def settings(self) -> UnlearnSettings:
        """How to unlearn; the level is that of unseen texts where there are any."""
        options, settings = self.job.options, self.job.options.unlearn
        if not options.unseen or settings.level is not None:
            return settings
        encoded = self.job.owner.encode_queries(options.unseen)
        texts = texts_from([(each.text.tokens, each.text.loss_mask) for each in encoded])
        level = float(mean_losses(as_loaded(self.task.stored_model()), texts).mean())
        return UnlearnSettings(**{**asdict(settings), "level": level})

    # ------------------------------------------------------------------ models that never saw the documents

    @cached_property
    def _curves(self) -> list[list[float]]:
        """Relearning curves of the models trained without the documents; their losses go into the bank on the way."""
        if not self.job.options.relearn:
            return []
        altered = self.job.altered(self.job.main)
        bank = self.job.workshop.bank(altered.task)
        curves = []
        for cell in bank.cells(altered.kept[None], self.job.seeds):
            path = self.cells / f"{self._key(cell=cell.name, bank=bank.folder.name)}.json"
            if not path.is_file():
                trained = altered.task.fit(cell.kept, cell.seed, self._told_of_training())
                losses = tuple(altered.task.losses(trained.model).tolist())
                bank.record(cell, Outcome(losses, trained.final_loss, len(trained.losses)))
                write_json(path, {"curve": self._curve(trained.model, cell.seed)})
            curves.append(read_json(path)["curve"])
        return curves

    def _told_of_training(self) -> Callable[[int, int, float], None]:
        def told(step: int, steps: int, _: float) -> None:
            if self.job.report is not None:
                self.job.report("retrain", step, steps)

        return told

    def _references(self) -> list[Arm]:
        """Training without the documents, and the model as it was."""
        job = self.job
        curves, without = self._curves, job.without
        documents = choosing.names(job.owner, job.main)
        trained = Arm(
            by=job.by,
            how="retrain",
            documents=documents,
            tokens=self._tokens(job.main),
            seeds=len(without),
            effects=effects_of(job.probes, job.whole, without),
            likeness=self._likeness(without[:1], without[1:]),
            relearning=relearning_of(curves, self._halfway) if curves else None,
        )
        path = self.cells / f"{self._key(original=True)}.json"
        if curves and not path.is_file():
            write_json(path, {"curve": self._curve(self.task.stored_model(), 0)})
        nothing = Arm(
            by="nothing",
            how="as it was",
            seeds=1,
            effects=effects_of(job.probes, self.before, self.before),
            likeness=self._likeness(self.before, without),
            relearning=relearning_of([read_json(path)["curve"]], self._halfway) if curves else None,
        )
        return [trained, nothing]

    # ------------------------------------------------------------------ what arms say

    def _arm(self, by: str, method: UnlearningMethod, main: bool = False) -> Arm:
        job, edits = self.job, self._edits(by, method)
        after = _losses(edits)
        documents = self._documents(by, 0)
        return Arm(
            by=by,
            how=method,
            main=main,
            documents=choosing.names(job.owner, documents),
            tokens=self._tokens(documents),
            seeds=len(edits),
            effects=effects_of(job.probes, np.repeat(self.before, len(after), 0), after),
            likeness=self._likeness(after, job.without) if by == job.by else (),
            relearning=self._relearning(edits) if by == job.by else None,
            seconds=float(np.mean([each["seconds"] for each in edits])),
        )

    def _tokens(self, documents: Sequence[int]) -> int:
        return int(choosing.lengths(self.job.owner)[list(documents)].sum())

    def _likeness(self, edited: Array, trained: Array) -> tuple[Likeness, ...]:
        probes = self.job.probes
        tokens = probes.per_unit("documents", np.broadcast_to(probes.tokens, edited.shape[1:]))
        losses = [probes.per_unit("documents", each) / tokens for each in (edited, trained)]
        ratios = [probes.truth_ratios(each) for each in (edited, trained)]
        found = (
            likeness(list(losses[0]), list(losses[1]), "losses"),
            likeness(list(ratios[0]), list(ratios[1]), "truth ratios"),
        )
        return tuple(each for each in found if each is not None)

    def _relearning(self, edits: Sequence[Mapping[str, Any]]) -> Relearning | None:
        if not self.job.options.relearn:
            return None
        return relearning_of([each["curve"] for each in edits], self._halfway)

    @cached_property
    def _halfway(self) -> float:
        """Between the documents' loss without them and in the model as it was, nats per token."""
        original = float(mean_losses(as_loaded(self.task.stored_model()), self.texts).mean())
        return (float(np.mean([curve[0] for curve in self._curves])) + original) / 2

    def _curve(self, model: nn.Module, seed: int) -> list[float]:
        steps = self.job.options.relearn
        return relearn(model, self.texts, self.task.training, steps, seed) if steps else []

    def _key(self, **what: Any) -> str:
        """Name of a cell: a hash of all that decides it."""
        job = self.job
        bound = {
            **what,
            "edits": EDITS,
            "task": dict(self.task.fingerprint),
            "texts": list(self.task.query_keys),
            "documents taken": list(job.main),
            "sites": [site.name for site in job.owner.sites],
            "recipe": job.recipe.model_dump(mode="json"),
            "fit": job.owner.config.fit.model_dump(mode="json"),
            "relearn": job.options.relearn,
        }
        return content_hash(json.dumps(bound, sort_keys=True, default=str))


def _losses(edits: Sequence[Mapping[str, Any]]) -> Array:
    return np.array([each["losses"] for each in edits], dtype=np.float64)

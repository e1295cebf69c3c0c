"""Runs methods: scores of all documents for all queries, and what each cost.

Every distinct fit (which sites, which family of curvature, which sample) has a run folder of its own under
``fits/``, and each of its steps is timed once; methods that share a step share its cost, and none pays for a step it
does not need (K-FAC measures no eigenvalues). Finished methods lie under ``methods/`` and are not run again, so a lab
that was killed goes on where it stopped. Knows nothing of retraining or measures.
"""

import fnmatch
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.attributor import (
    Attributor,
    Checkpoint,
    exact_influence,
    fit_steps,
    index_influence,
    index_steps,
    run_steps,
    sibling,
)
from whence.attributor.fitting import CovarianceStep, EigenvalueStep
from whence.attributor.indexing import IndexStep
from whence.attributor.states import StatesStep
from whence.attributor.steps import CorpusStep, Step
from whence.attributor.texts import WordsStep
from whence.errors import InputError, QueryError
from whence.fidelity.costs import Ledger, Meter, Spent
from whence.fidelity.imports import fingerprint, read_scores
from whence.fidelity.methods import BLOCKS, MethodSpec
from whence.fidelity.rankings import baseline_scores
from whence.interfaces import Cost, EncodedQuery, MethodSummary, Query, Site
from whence.methods import Work, method_scores, parse_method
from whence.model import TrainingReplay
from whence.runs import is_done, open_array, publish, require_done, write_array

__all__ = ["Scored", "refuse_too_large", "run_methods", "select_sites"]

LIMIT_BYTES = 4 << 30

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """A method that has been run.

    Attributes:
        spec: The method.
        scores: float64 [Q, N]; positive supports the query's output; influence is in nats.
        summary: Its name, settings and cost.
    """

    spec: MethodSpec
    scores: NDArray[np.float64]
    summary: MethodSummary


def run_methods(
    owner: Attributor,
    queries: Sequence[Query],
    specs: Sequence[MethodSpec],
    folder: Path,
    report: Report | None = None,
    checkpoints: tuple[Checkpoint, ...] = (),
    replay: TrainingReplay | None = None,
) -> list[Scored]:
    """Score every document for every query by every method; what has been done under `folder` is read back.

    Args:
        owner: A run of the model and its corpus, which is read first if that has not been done.
        queries: The queries, Q of them.
        specs: The methods; their names differ.
        folder: Where fits and scores are kept.
        report: Called with (method, methods done, methods in all).
        checkpoints: For methods that follow the training.
        replay: For methods that run the training again; see `whence.fidelity.replay_of`.

    Returns:
        One result per method, in order.

    Raises:
        QueryError: There is no query, or one cannot be encoded.
        InputError: Two methods have one name, a pattern matches no site, scores to import do not fit, or the matrix of
            scores would take more than 4 GiB.
    """
    if not queries:
        raise QueryError("there is no query to score documents for.")
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two methods are named {twice[0]!r}; give one of them another name.")
    run_steps([CorpusStep(owner)])
    refuse_too_large(len(queries), owner.corpus.documents)
    lab = _Lab(owner, list(queries), owner.encode_queries(queries), folder, Meter(owner), checkpoints, replay)
    out = []
    for number, spec in enumerate(specs):
        if report is not None:
            report(spec.name, number, len(specs))
        out.append(lab.scored(spec))
    if report is not None:
        report("", len(specs), len(specs))
    return out


def refuse_too_large(queries: int, documents: int) -> None:
    """Refuse a matrix of scores that would not fit into memory.

    Raises:
        InputError: Says how large it is.
    """
    if queries * documents * 8 > LIMIT_BYTES:
        raise InputError(
            f"scores of {queries:,} queries and {documents:,} documents take {queries * documents * 8 / 2**30:.1f} GiB "
            f"per method, more than {LIMIT_BYTES >> 30}. The lab keeps them in memory: ask fewer queries, or measure "
            "on a sample of the corpus."
        )


def select_sites(sites: Sequence[Site], patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the sites that patterns choose, in the model's order; all if there is no pattern.

    Raises:
        InputError: A pattern matches none; names those there are.
    """
    if not patterns:
        return tuple(site.name for site in sites)
    blocks = {site.name for site in sites if not site.head and site.vocabulary is None and not site.elementwise}
    chosen: set[str] = set()
    for pattern in patterns:
        matched = blocks if pattern == BLOCKS else {s.name for s in sites if fnmatch.fnmatchcase(s.name, pattern)}
        if not matched:
            shown = ", ".join(site.name for site in sites[:12]) + (", …" if len(sites) > 12 else "")
            raise InputError(f"sites {pattern!r} matches none of this run's sites; they are: {shown}")
        chosen |= matched
    return tuple(site.name for site in sites if site.name in chosen)


@dataclass(frozen=True, slots=True)
class _Lab:
    owner: Attributor
    queries: list[Query]
    encoded: list[EncodedQuery]
    folder: Path
    meter: Meter
    checkpoints: tuple[Checkpoint, ...]
    replay: TrainingReplay | None

    def scored(self, spec: MethodSpec) -> Scored:
        """Read a method's scores, or make them."""
        place = self.folder / "methods" / f"{_slug(spec.name)}-{_digest(self._bound(spec))}"
        if not is_done(place):
            scores, cost = self._run(spec)
            _refuse_not_finite(scores, spec)
            marker = {"method": spec.model_dump(mode="json"), "cost": None if cost is None else cost.model_dump()}
            with publish(place, marker) as temporary:
                write_array(temporary / "scores.npy", scores)
        stored = require_done(place, "whence evaluate")["cost"]
        cost = None if stored is None else Cost.model_validate(stored)
        summary = MethodSummary(name=spec.name, kind=spec.kind, settings=spec.settings, cost=cost)
        return Scored(spec, np.array(open_array(place / "scores.npy"), dtype=np.float64), summary)

    def _bound(self, spec: MethodSpec) -> dict[str, Any]:
        """All that scores depend on."""
        owner = self.owner
        return {
            "method": spec.model_dump(mode="json", exclude={"name"}),
            "sites": select_sites(owner.sites, spec.sites),
            "queries": [query.model_dump(mode="json", exclude={"id", "metadata"}) for query in self.queries],
            "n": owner.trained_on,
            "recipe": [owner.config.recipe.seed, owner.config.recipe.precision, *_weights(owner, spec)],
            **_meant(owner, spec),
            "imported": None if spec.scores is None else fingerprint(Path(spec.scores)),
            **self._followed(spec),
            **_run_of(owner),
        }

    def _followed(self, spec: MethodSpec) -> dict[str, Any]:
        """What a method knows of the training."""
        if spec.method is None:
            return {}
        method = parse_method(spec.method)
        out: dict[str, Any] = {}
        if self.checkpoints:
            out["checkpoints"] = [dict(each.fingerprint) for each in self.checkpoints]
        if any(part.training for part in method.parts) and self.replay is not None:
            out["training"] = dict(self.replay.fingerprint)
        return out

    def _run(self, spec: MethodSpec) -> tuple[NDArray[np.float64], Cost | None]:
        if spec.named is not None:
            return self._named(spec, spec.named)
        if spec.kind == "influence":
            return self._influence(spec)
        if spec.kind == "imported":
            windows = self.owner.corpus.documents_of_windows(np.arange(self.owner.corpus.windows, dtype=np.int64))
            shape = (len(self.queries), self.owner.corpus.documents)
            return read_scores(spec, shape, windows, self.owner.trained_on), None
        scores, query = self.meter.measure(lambda: baseline_scores(self.owner, self.encoded, spec))
        return scores, _cost(Spent(), Spent(), query, 0.0)

    def _influence(self, spec: MethodSpec) -> tuple[NDArray[np.float64], Cost]:
        names = select_sites(self.owner.sites, spec.sites)
        run = self._fit(names, _fit_settings(self.owner, spec))
        ledger = Ledger(run.run.path / "costs.json", self.meter)
        recipe = spec.recipe(self.owner.config.recipe).resolved(run.sites)
        steps = fit_steps(run)[1:]
        if spec.curvature == "kfac":
            steps = [step for step in steps if step.name == "covariance"]
        fit = sum((_charge(ledger, step, step.name, run.run.curvature) for step in steps), Spent())
        if spec.bits == "exact":
            scores, query = self.meter.measure(lambda: exact_influence(run, self.encoded, recipe))
            return scores, _cost(fit, Spent(), query, 0.0)
        (step,) = index_steps(run, recipe)
        coded = _charge(ledger, step, f"index/{recipe.name}", run.run.index / recipe.name)
        index = run.open_index(recipe.name)
        scores, query = self.meter.measure(lambda: index_influence(run, self.encoded, index, recipe))
        stored = index.bytes_per_row * run.corpus.windows / run.corpus.documents
        return scores, _cost(fit, coded, query, stored)

    def _named(self, spec: MethodSpec, named: str) -> tuple[NDArray[np.float64], Cost]:
        """A method of `whence.methods`; its steps are the fit or the index, all the rest is paid by the queries."""
        method = parse_method(named)
        run = self._fit(select_sites(self.owner.sites, spec.sites), _fit_settings(self.owner, spec))
        ledger, work = Ledger(run.run.path / "costs.json", self.meter), Work(run, self.checkpoints, self.replay)
        fit: dict[str, Spent] = {}  # by step: what two parts of a method share is paid once
        index: dict[str, Spent] = {}
        for part in method.parts:
            own = []
            for step in part.steps(work)[1:]:
                if isinstance(step, CovarianceStep | EigenvalueStep):
                    place = step.folder.parent
                    name = step.name if place == run.run.path else f"{place.name}/{step.name}"
                    fit[name] = _charge(ledger, step, name, step.folder)
                elif isinstance(step, IndexStep | WordsStep | StatesStep):
                    name = f"index/{step.folder.name}"
                    index[name] = _charge(ledger, step, name, step.folder)
                else:
                    own.append(step)
            if own:
                name = f"methods/{work.folder(part).name}"
                fit[name] = _charge_together(ledger, own, name, work.folder(part))
        scores, query = self.meter.measure(lambda: method_scores(method, work, self.encoded))
        spent = sum(fit.values(), Spent()), sum(index.values(), Spent())
        return scores, _cost(*spent, query, method.bytes_per_document(work))

    def _fit(self, names: tuple[str, ...], fit: Any) -> Attributor:
        """The run that methods with these sites and this fit share."""
        bound = {**_run_of(self.owner), "sites": names, "fit": fit.model_dump(mode="json")}
        return sibling(self.owner, self.folder / "fits" / f"{fit.method}-{_digest(bound)}", names, fit)


def _meant(owner: Attributor, spec: MethodSpec) -> dict[str, Any]:
    """What projection auto means for a method, where that was once something else: scores made before are not these."""
    own = owner.config.recipe
    if spec.curvature is not None:
        recipe = spec.recipe(own)
    elif spec.method is not None:
        bits = str(getattr(parse_method(spec.method), "bits", "1"))
        recipe = own.model_copy(update={"bits": int(bits) if bits in ("1", "8", "16") else 1})
    else:
        return {}
    short = recipe.projection == "auto" and recipe.resolved(owner.sites).projection == "leading"
    return {"auto": "leading"} if short else {}


def _weights(owner: Attributor, spec: MethodSpec) -> list[Any]:
    """What the run's own recipe says of weights, and of codes, where they count and it is not the default."""
    recipe = owner.config.recipe
    if spec.curvature == "unsaturated":
        return [recipe.power, recipe.weights.model_dump()]
    if spec.method is None:  # baselines have no index
        return []
    read = {"projection", "coordinates", "power", "weights"}
    own = recipe.model_dump(mode="json", exclude_defaults=True, include=read)
    return [own] if own else []


def _fit_settings(owner: Attributor, spec: MethodSpec) -> Any:
    """Settings of a method's fit; K-FAC and EK-FAC are one family and share what both need."""
    method = "ekfac" if spec.curvature in ("unsaturated", "kfac", None) else spec.curvature
    changes: dict[str, Any] = {"method": method}
    if spec.sample is not None:
        changes |= {"sample": spec.sample, "min_documents": 1}
    return owner.config.fit.model_copy(update=changes)


def _charge(ledger: Ledger, step: Step, name: str, folder: Path) -> Spent:
    """Do a step of a fit once, from scratch, and say what it took."""

    def undo() -> None:
        for left in _left_by(step, folder):
            shutil.rmtree(left, ignore_errors=True)

    return ledger.charge(name, lambda: run_steps([step]), step.finished, undo)


def _charge_together(ledger: Ledger, steps: Sequence[Step], name: str, folder: Path) -> Spent:
    """Do the steps that are a method's own once, from scratch, and say what they took."""

    def undo() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    return ledger.charge(name, lambda: run_steps(steps), lambda: all(step.finished() for step in steps), undo)


def _left_by(step: Step, folder: Path) -> list[Path]:
    """What an attempt at a step may have left. Without bases, eigenvalues mean nothing."""
    if step.name in ("index", "words", "states", "covariance"):
        return [folder]
    return [folder / step.name, *folder.glob(f"parts/{step.name}-*")]


def _cost(fit: Spent, index: Spent, query: Spent, bytes_per_document: float) -> Cost:
    total = fit + index + query
    return Cost(
        seconds=total.seconds,
        passes=total.passes,
        bytes_per_document=bytes_per_document,
        fit=fit.passes,
        index=index.passes,
        query=query.passes,
    )


def _run_of(owner: Attributor) -> dict[str, Any]:
    """Model, corpus and fit that a result belongs to."""
    return {
        "model": owner.loaded.fingerprint,
        "corpus": owner.corpus.fingerprint,
        "settings": owner.config.fit.model_dump(mode="json", exclude={"method"}),
    }


def _refuse_not_finite(scores: NDArray[np.float64], spec: MethodSpec) -> None:
    if not np.isfinite(scores).all():
        raise InputError(
            f"method {spec.name!r} gives {int((~np.isfinite(scores)).sum()):,} scores that are not finite; leave it "
            "out, or make its scores again."
        )


def _digest(bound: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(bound, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "method"

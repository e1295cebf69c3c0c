"""Picks damping, sites and codes for a budget, on one half of the bank, and says on the other half what was gained.

Three choices one after another, each the best so far by LDS on the tuning half of the subsets and of the queries:
damping, then sites, then the code (bits, sketch and its size) that fits the budget. The curvature is the run's own, and
its own settings are the first that are tried. The half that is reported has no part in any choice, so the reported gain
is not the gain that was searched for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whence.attributor import FitConfig, ModelConfig
from whence.errors import InputError
from whence.fidelity.experiments import Lab
from whence.fidelity.halved import Halved
from whence.fidelity.lds import lds, lds_difference
from whence.fidelity.methods import BLOCKS, MethodSpec, method_of
from whence.fidelity.scorers import select_sites
from whence.gradients import Recipe
from whence.interfaces import Cost, Estimate, Site
from whence.runs import Run, write_bytes, write_json

__all__ = ["Budget", "Candidate", "Tuned", "save_tuned", "tune"]

DAMPINGS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SKETCHES = (16384, 4096, 1024, 256, 64)

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a method may cost; None is no limit.

    Attributes:
        bytes: Stored per document.
        passes: Forward+backward passes over the corpus, fitting and indexing included.
    """

    bytes: float | None = None
    passes: float | None = None

    def holds(self, cost: Cost | None) -> bool:
        """Whether a cost is within it."""
        if cost is None:
            return False
        return (self.bytes is None or cost.bytes_per_document <= self.bytes) and (
            self.passes is None or cost.passes <= self.passes
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One method that was tried.

    Attributes:
        spec: Its settings.
        choice: Which of the choices it was tried for: damping, sites or code.
        tuning: LDS on the tuning half.
        cost: What it cost.
        within: Whether that is within the budget.
    """

    spec: MethodSpec
    choice: str
    tuning: Estimate
    cost: Cost
    within: bool


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was chosen, and what it is worth on the half that had no part in the choice.

    Attributes:
        chosen, default: The settings.
        cost, default_cost: What they cost.
        chosen_lds, default_lds: LDS on the reported half.
        gain: Their difference on the same resamples.
        recipe: The recipe that was measured for `chosen`.
        fit: How the curvature was fitted that it was measured with.
        sites: Names of the chosen sites, or the run's own patterns where all of its sites were chosen; empty for all
            that the model has.
        min_coverage: The coverage that is asked of a new run; 0 where sites were chosen, since the run accepted what is
            left out beside its own.
        candidates: Everything that was tried.
    """

    chosen: MethodSpec
    default: MethodSpec
    cost: Cost
    default_cost: Cost
    chosen_lds: Estimate
    default_lds: Estimate
    gain: Estimate
    recipe: Recipe
    fit: FitConfig
    sites: tuple[str, ...]
    min_coverage: float
    candidates: tuple[Candidate, ...]

    def settings(self) -> dict[str, dict[str, object]]:
        """What was measured as a configuration of a run, for ``--config``: its sites, its fit and its recipe.

        Settings that are the defaults go unsaid but for method, bits and damping.
        """
        fit: dict[str, object] = {"method": self.fit.method, **self.fit.model_dump(mode="json", exclude_defaults=True)}
        recipe: dict[str, object] = {"method": self.recipe.method, "bits": self.recipe.bits}
        recipe |= self.recipe.model_dump(mode="json", exclude_defaults=True)
        if self.recipe.method != "identity":
            recipe["damping"] = self.recipe.damping.model_dump()
        model: dict[str, object] = {"sites": list(self.sites)} if self.sites else {}
        if self.min_coverage != ModelConfig.model_fields["min_coverage"].default:
            model["min_coverage"] = self.min_coverage
        return {**({"model": model} if model else {}), "fit": fit, "recipe": recipe}


class _Tuner:
    """The bank in halves, and everything that has been tried."""

    def __init__(self, lab: Lab, budget: Budget) -> None:
        self.lab, self.budget = lab, budget
        self.halved = Halved(lab)
        self.candidates: list[Candidate] = []

    def best(self, specs: Sequence[MethodSpec], choice: str, free: bool) -> MethodSpec:
        """The best on the tuning half, within the budget unless `free`; all are kept as candidates."""
        tried = []
        for scored in self.lab.run(_different(self.lab, specs)):
            assert scored.summary.cost is not None
            value = lds(
                *self.halved.part(scored.scores, False), draws=self.lab.settings.draws, seed=self.lab.settings.seed
            )
            within = self.budget.holds(scored.summary.cost)
            tried.append(Candidate(scored.spec, choice, value, scored.summary.cost, within))
        self.candidates += tried
        allowed = [each for each in tried if each.within or free]
        if not allowed:
            least = min(tried, key=lambda each: (each.cost.bytes_per_document, each.cost.passes))
            raise InputError(
                f"nothing that was tried is within the budget; the smallest, {least.spec.name!r}, stores "
                f"{least.cost.bytes_per_document:,.0f} bytes per document and costs {least.cost.passes:.2f} passes."
            )
        return max(allowed, key=lambda each: each.tuning.value).spec


def tune(lab: Lab, budget: Budget) -> Tuned:
    """Choose the settings of an index for a budget, with the curvature of the run's own.

    Args:
        lab: The run, its queries and its bank of half corpora, trained if it is not there.
        budget: What an index may cost. Damping and sites are chosen without regard to it, the code within it.

    Raises:
        InputError: There are too few different queries or training sets to be split, nothing is within the budget, or
            the run's damping is absolute.
    """
    default = method_of(lab.owner.recipe())
    tuner = _Tuner(lab, budget)
    damped = default if default.curvature == "identity" else tuner.best(_by_damping(default), "damping", free=True)
    placed = tuner.best(_by_sites(lab, damped), "sites", free=True)
    chosen = tuner.best(_by_code(placed), "code", free=False)
    return _report(tuner, chosen, default.model_copy(update={"name": "this run's settings"}))


def _by_damping(like: MethodSpec) -> list[MethodSpec]:
    """The run's own, and multiples of the mean eigenvalue."""
    return [like, *(_changed(like, damping=value, weight_decay=None) for value in DAMPINGS)]


def _by_sites(lab: Lab, like: MethodSpec) -> list[MethodSpec]:
    """All of the run's sites, the blocks alone, and the blocks with the head; the first alone if no block has one."""
    head = [site.name for site in lab.owner.sites if site.head]
    blocks = any(not site.head and site.vocabulary is None for site in lab.owner.sites)
    chosen = [like.sites, *([(BLOCKS,), (BLOCKS, *head)] if blocks else [])]
    return [_changed(like, sites=sites) for sites in dict.fromkeys(chosen)]


def _by_code(like: MethodSpec) -> list[MethodSpec]:
    """The run's own code, whole codes, and sketches."""
    whole = [_changed(like, bits=bits, projection="none", coordinates=None) for bits in (1, 8, 16)]
    kinds = [("leading", 1), ("kronecker", 1), ("kronecker", 8), ("hadamard", 1)]
    if like.curvature == "identity":
        del kinds[0]  # no coordinate leads
    sketched = [
        _changed(like, bits=bits, projection=projection, coordinates=count)
        for projection, bits in kinds
        for count in SKETCHES
    ]
    return [like, *whole, *sketched]


def _changed(like: MethodSpec, **changes: object) -> MethodSpec:
    """The method with other settings, and the name that goes with them."""
    return MethodSpec.model_validate({**like.model_dump(exclude={"name"}, exclude_defaults=True), **changes})


def _different(lab: Lab, specs: Sequence[MethodSpec]) -> list[MethodSpec]:
    """Without those that would store, coordinate by coordinate, what an earlier one stores."""
    found: dict[object, MethodSpec] = {}
    for spec in specs:
        sites, recipe = _stored(lab, spec)
        layout = recipe.layout(sites)
        whole = all(
            each.count == site.size and each.kept == each.block for each, site in zip(layout, sites, strict=True)
        )
        kind = "" if whole else recipe.projection
        key = (recipe.method, str(recipe.damping), recipe.bits, kind, tuple(layout))
        found.setdefault(key, spec)
    return list(found.values())


def _stored(lab: Lab, spec: MethodSpec) -> tuple[list[Site], Recipe]:
    """The sites of a method, and its recipe for them."""
    names = set(select_sites(lab.owner.sites, spec.sites))
    sites = [site for site in lab.owner.sites if site.name in names]
    return sites, spec.recipe(lab.owner.config.recipe).resolved(sites)


def _report(tuner: _Tuner, chosen: MethodSpec, default: MethodSpec) -> Tuned:
    lab = tuner.lab
    owner, own = lab.owner, lab.owner.config.model
    draws = {"draws": lab.settings.draws, "seed": lab.settings.seed}
    ours, theirs = lab.run([chosen, default])
    assert ours.summary.cost is not None
    assert theirs.summary.cost is not None
    mine, kept, losses = tuner.halved.part(ours.scores, True)
    other = tuner.halved.part(theirs.scores, True)[0]
    recipe = _stored(lab, chosen)[1]
    return Tuned(
        chosen=chosen,
        default=default,
        cost=ours.summary.cost,
        default_cost=theirs.summary.cost,
        chosen_lds=lds(mine, kept, losses, **draws),
        default_lds=lds(other, kept, losses, **draws),
        gain=lds_difference(mine, other, kept, losses, **draws),
        recipe=recipe,
        fit=owner.config.fit.model_copy(update={"method": recipe.curvature}),
        sites=select_sites(owner.sites, chosen.sites) if chosen.sites else own.sites,
        min_coverage=0.0 if chosen.sites else own.min_coverage,
        candidates=tuple(tuner.candidates),
    )


def save_tuned(found: Tuned, run: Run) -> Path:
    """Write the chosen settings as TOML for ``--config``, and beside it what was tried.

    Returns:
        The TOML file.
    """
    path = run.fidelity / "tuned.toml"
    gain = found.gain
    head = (
        f"# {found.chosen.name}: LDS {found.chosen_lds.value:.3f} against {found.default_lds.value:.3f} for the run's "
        f"settings,\n# a gain of {gain.value:+.3f} (95 % {gain.low:+.3f} to {gain.high:+.3f}) on queries and subsets "
        "that had no part in the choice\n"
    )
    write_json(path.with_suffix(".json"), _record(found))
    write_bytes(path, (head + _toml(found.settings())).encode())
    return path


def _record(found: Tuned) -> dict[str, object]:
    tried = [
        {
            "method": each.spec.model_dump(mode="json", exclude_defaults=True),
            "choice": each.choice,
            "lds_tuning": each.tuning.model_dump(),
            "cost": each.cost.model_dump(),
            "within_budget": each.within,
        }
        for each in found.candidates
    ]
    reported = {"chosen": found.chosen_lds, "default": found.default_lds, "gain": found.gain}
    return {"tried": tried, "reported": {name: each.model_dump() for name, each in reported.items()}}


def _toml(settings: dict[str, dict[str, object]]) -> str:
    tables = []
    for name, table in settings.items():
        lines = [f"{key} = {_value(value)}" for key, value in table.items()]
        tables.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(tables) + "\n"


def _value(value: object) -> str:
    """A value in TOML, which for these kinds is JSON but for tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)

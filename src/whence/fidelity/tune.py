"""Picks damping, sites and codes for a budget, on one half of the bank, and says on the other half what was gained.

Three choices one after another, each the best so far by LDS on the tuning half of the subsets and of the queries:
damping, then sites, then the code (bits, sketch and its size) that fits the budget. The half that is reported has no
part in any choice, so the reported gain is not the gain that was searched for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.experiments import Lab
from whence.fidelity.lds import lds, lds_difference
from whence.fidelity.methods import BLOCKS, MethodSpec, method_of
from whence.fidelity.scorers import select_sites
from whence.interfaces import Cost, Estimate
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
        sites: Names of the chosen sites; empty for all that the run has.
        candidates: Everything that was tried.
    """

    chosen: MethodSpec
    default: MethodSpec
    cost: Cost
    default_cost: Cost
    chosen_lds: Estimate
    default_lds: Estimate
    gain: Estimate
    sites: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def settings(self) -> dict[str, dict[str, object]]:
        """The chosen settings as a configuration of a run, for ``--config``."""
        chosen = self.chosen
        recipe: dict[str, object] = {"bits": 16 if chosen.bits == "exact" else chosen.bits}
        recipe |= {"projection": chosen.projection} if chosen.projection != "auto" else {}
        recipe |= {"coordinates": chosen.coordinates} if chosen.coordinates is not None else {}
        recipe["damping"] = {"kind": chosen.rule.kind, "value": chosen.rule.value}
        if not self.sites:
            return {"recipe": recipe}
        return {"model": {"sites": list(self.sites)}, "recipe": recipe}


class _Tuner:
    """The bank in halves, and everything that has been tried."""

    def __init__(self, lab: Lab, budget: Budget) -> None:
        self.lab, self.budget = lab, budget
        self.kept, self.losses = lab.halves
        if len(self.kept) < 8 or len(lab.queries) < 4:
            raise InputError(
                f"tuning needs a part of the bank to choose on and another to report on: at least 8 subsets and 4 "
                f"queries; there are {len(self.kept)} and {len(lab.queries)}."
            )
        self.candidates: list[Candidate] = []

    def part(self, scores: Array, report: bool) -> tuple[Array, NDArray[np.bool_], Array]:
        """Scores, subsets and losses of the tuning half or of the reported one; no query and no subset is in both."""
        half = slice(int(report), None, 2)
        return scores[half], self.kept[half], self.losses[half][:, :, half]

    def best(self, specs: Sequence[MethodSpec], choice: str, free: bool) -> MethodSpec:
        """The best on the tuning half, within the budget unless `free`; all are kept as candidates."""
        tried = []
        for scored in self.lab.run(specs):
            assert scored.summary.cost is not None
            value = lds(*self.part(scored.scores, False), draws=self.lab.settings.draws, seed=self.lab.settings.seed)
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
    """Choose the settings of an index for a budget.

    Args:
        lab: The run, its queries and its bank of half corpora, trained if it is not there.
        budget: What an index may cost. Damping and sites are chosen without regard to it, the code within it.

    Raises:
        InputError: The bank is too small to be split, or nothing is within the budget.
    """
    tuner = _Tuner(lab, budget)
    default = _default(lab)
    plain: dict[str, object] = {"curvature": "ekfac", "bits": default.bits, "projection": default.projection}
    plain |= {"coordinates": default.coordinates, "sites": default.sites}
    by_damping = [MethodSpec.model_validate({**plain, "damping": value}) for value in DAMPINGS]
    damped = tuner.best(by_damping, "damping", free=True)
    placed = tuner.best(_by_sites(lab, damped), "sites", free=True)
    chosen = tuner.best(_by_code(placed), "code", free=False)
    return _report(tuner, chosen, default)


def _default(lab: Lab) -> MethodSpec:
    """The settings the run has now."""
    return method_of(lab.owner.recipe()).model_copy(update={"name": "this run's settings"})


def _by_sites(lab: Lab, like: MethodSpec) -> list[MethodSpec]:
    """All of the run's sites, the blocks alone, and the blocks with the head or with what else there is."""
    head = [site.name for site in lab.owner.sites if site.head]
    chosen = [like.sites, (BLOCKS,), (BLOCKS, *head)]
    return [_changed(like, sites=sites) for sites in dict.fromkeys(chosen)]


def _by_code(like: MethodSpec) -> list[MethodSpec]:
    whole = [_changed(like, bits=bits, projection="none", coordinates=None) for bits in (1, 8, 16)]
    kinds = [("kronecker", 1), ("kronecker", 8), ("hadamard", 1)]
    sketched = [
        _changed(like, bits=bits, projection=projection, coordinates=count)
        for projection, bits in kinds
        for count in SKETCHES
    ]
    return [*whole, *sketched]


def _changed(like: MethodSpec, **changes: object) -> MethodSpec:
    """The method with other settings, and the name that goes with them."""
    return MethodSpec.model_validate({**like.model_dump(exclude={"name"}, exclude_defaults=True), **changes})


def _report(tuner: _Tuner, chosen: MethodSpec, default: MethodSpec) -> Tuned:
    settings = tuner.lab.settings
    draws = {"draws": settings.draws, "seed": settings.seed}
    ours, theirs = tuner.lab.run([chosen, default])
    assert ours.summary.cost is not None
    assert theirs.summary.cost is not None
    mine, kept, losses = tuner.part(ours.scores, True)
    other = tuner.part(theirs.scores, True)[0]
    return Tuned(
        chosen=chosen,
        default=default,
        cost=ours.summary.cost,
        default_cost=theirs.summary.cost,
        chosen_lds=lds(mine, kept, losses, **draws),
        default_lds=lds(other, kept, losses, **draws),
        gain=lds_difference(mine, other, kept, losses, **draws),
        sites=select_sites(tuner.lab.owner.sites, chosen.sites) if chosen.sites else (),
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

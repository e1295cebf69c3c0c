"""What a way to score documents is, as data: one `MethodSpec` each, read from a TOML file or the lab's own list.

    [[method]]                        # lists make a grid: this table is four methods
    curvature = "ekfac"
    sites = "blocks"
    damping = [0.01, 0.1]
    bits = [1, "exact"]

    [[method]]
    method = ["lowrank:alpha=0.1", "trackstar"]     # any of `whence.methods`, as typed after --method

    [[method]]
    baseline = "bm25"

    [[method]]
    name = "another tool"
    scores = "scores.npy"

Knows nothing of how they are run; that is `scorers.py`.
"""

import tomllib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from whence.curvature import Damping
from whence.errors import InputError
from whence.gradients import Method, Projection, Recipe
from whence.interfaces import MethodKind
from whence.methods import parse_method

__all__ = ["BLOCKS", "Baseline", "Format", "MethodSpec", "default_methods", "load_methods", "method_of"]

Baseline = Literal["random", "length", "loss", "bm25", "tfidf", "representation", "gradient-dot", "gradient-cosine"]
Format = Literal["auto", "array", "kronfluence", "bergson"]

BLOCKS = "blocks"
"""Among the patterns of `sites`: every linear layer that is neither the head nor an embedding."""

_KINDS: dict[str, MethodKind] = {
    "curvature": "influence", "method": "influence", "baseline": "baseline", "scores": "imported",
}  # fmt: skip
_TITLES = {
    "unsaturated": "unsaturated EK-FAC", "ekfac": "EK-FAC", "kfac": "K-FAC", "bm25": "BM25", "tfidf": "TF-IDF",
    "gradient-dot": "gradient dot", "gradient-cosine": "gradient cosine",
}  # fmt: skip
_BELONGS = {
    "sites": "influence, gradient-dot, gradient-cosine", "damping": "influence", "weight_decay": "influence",
    "bits": "influence", "projection": "influence", "coordinates": "influence", "sample": "influence",
    "layers": "representation", "seed": "random", "format": "imported", "sign": "imported",
    "divide": "imported", "array": "imported",
}  # fmt: skip
_WHOLE = ("sites", "layers")
"""Settings whose value is a list; a list of lists makes a grid of them."""
_NAMED = {"bm25": "bm25", "tfidf": "tfidf", "gradient-dot": "dot", "gradient-cosine": "cosine"}
"""Baselines that are methods; so is representation, with its layers."""
_IN_SPEC = ("damping", "weight_decay", "bits", "projection", "coordinates")
"""Settings of `curvature` that a named method writes into its own spec, where it has them."""


class MethodSpec(BaseModel):
    """One way to score documents. Exactly one of `curvature`, `method`, `baseline` and `scores` says which kind it is.

    Attributes:
        name: As shown; made from the settings if absent.
        curvature: Influence with this curvature: unsaturated (with the run's own weights of sites), ekfac, kfac,
            diagonal or identity.
        method: A method of `whence.methods` by its spec, ``lowrank:alpha=0.1``.
        baseline: A ranking that needs no curvature: random, length (target tokens), loss (the model's own, summed),
            bm25, tfidf, representation, gradient-dot, gradient-cosine.
        scores: A file or folder of scores that another tool made.
        sites: Shell patterns of the sites that count, ``blocks`` for the linear layers inside the blocks; all of the
            run's if empty.
        damping: Multiple of the mean eigenvalue of each site; 0.1 if neither this nor `weight_decay` is given.
        weight_decay: Damping from the L2 penalty that the model was trained with.
        bits: Bits per stored coordinate, or exact: run the model over the corpus for the queries, store nothing.
        projection, coordinates: As in `whence.gradients.Recipe`.
        sample: Share of the documents that curvature is fitted on; the run's own setting if None.
        layers: Relative depths of the hidden states that are compared, 1 the last, 0 the embedding.
        seed: Of random.
        format: Of `scores`; auto tells by its files.
        sign: -1 if the tool's positive scores oppose the query's output.
        divide: Divide the tool's scores by the number of training documents, if it has not done so.
        array: Which array of `scores` to read, where there are several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    curvature: Method | None = None
    method: str | None = None
    baseline: Baseline | None = None
    scores: str | None = None
    sites: tuple[str, ...] = ()
    damping: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    weight_decay: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    bits: Literal[1, 8, 16, "exact"] = "exact"
    projection: Projection = "auto"
    coordinates: int | None = Field(default=None, ge=64)
    sample: float | None = Field(default=None, gt=0, le=1)
    layers: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (1.0,)
    seed: int = 0
    format: Format = "auto"
    sign: Literal[1, -1] = 1
    divide: bool = False
    array: str | None = None

    @field_validator("sites", "layers", mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | float) else value

    @model_validator(mode="after")
    def _one_kind(self) -> "MethodSpec":
        chosen = [key for key in _KINDS if getattr(self, key) is not None]
        if len(chosen) != 1:
            got = " and ".join(chosen) or "none of them"
            raise ValueError(f"give exactly one of 'curvature', 'method', 'baseline' and 'scores'; got {got}")
        for key in self.model_fields_set & _BELONGS.keys():
            homes = _BELONGS[key].split(", ")
            if self.kind not in homes and self.baseline not in homes:
                raise ValueError(f"{key!r} belongs to {_BELONGS[key]}, not to {self.baseline or self.kind}")
        self._consistent()
        if not self.name:
            object.__setattr__(self, "name", _title(self))
        return self

    def _consistent(self) -> None:
        if self.method is not None:
            if inside := [name for name in _IN_SPEC if name in self.model_fields_set]:
                raise ValueError(
                    f"a named method has {inside[0]!r} in its spec, if at all: {self.method}:{inside[0]}=…"
                )
            object.__setattr__(self, "method", _normal(self.method))
        if self.damping is not None and self.weight_decay is not None:
            raise ValueError("give 'damping' or 'weight_decay', not both")
        if self.curvature == "identity" and self.projection == "leading":
            raise ValueError("identity has no curvature by which coordinates lead; take hadamard or kronecker")
        if self.curvature == "identity" and (self.damping or self.weight_decay or self.sample):
            raise ValueError("identity has no curvature to fit or to damp; leave damping, weight_decay and sample out")
        if self.bits == "exact" and (self.coordinates is not None or self.projection != "auto"):
            raise ValueError("'exact' stores no codes; give 'bits' to go with 'projection' and 'coordinates'")
        if self.projection in ("leading", "hadamard", "kronecker") and self.coordinates is None:
            raise ValueError(f"projection {self.projection!r} needs 'coordinates', how many to keep per site")
        if self.projection == "none" and self.coordinates is not None:
            raise ValueError("projection 'none' keeps every coordinate; leave 'coordinates' out")
        if not self.layers:
            raise ValueError("'layers' needs at least one depth")

    @property
    def kind(self) -> MethodKind:
        """influence, baseline or imported."""
        return next(kind for key, kind in _KINDS.items() if getattr(self, key) is not None)

    @property
    def named(self) -> str | None:
        """The method of `whence.methods` that scores, by its spec; None if none of them does."""
        if self.baseline == "representation":
            return "representations:layers=" + "+".join(f"{depth:g}" for depth in self.layers)
        return self.method if self.baseline is None else _NAMED.get(self.baseline)

    @property
    def rule(self) -> Damping:
        """How its curvature is damped."""
        if self.weight_decay is not None:
            return Damping(kind="weight_decay", value=self.weight_decay)
        return Damping() if self.damping is None else Damping(value=self.damping)

    def recipe(self, like: Recipe) -> Recipe:
        """Its recipe, with the seed, precision and weights of another one; not yet resolved for a model's sites."""
        assert self.curvature is not None
        return Recipe(
            method=self.curvature,
            damping=self.rule,
            bits=16 if self.bits == "exact" else self.bits,
            projection="none" if self.bits == "exact" else self.projection,
            coordinates=self.coordinates,
            power=like.power,
            weights=like.weights,
            seed=like.seed,
            precision=like.precision,
        )

    @property
    def settings(self) -> dict[str, str | int | float | bool | None]:
        """What makes it differ from the others, for tables: plain values only."""
        given = self.model_dump(exclude={"name"}, exclude_defaults=True)
        if self.curvature is not None:
            given |= {"bits": self.bits}
        return {key: ", ".join(map(str, v)) if isinstance(v, tuple | list) else v for key, v in given.items()}


def _normal(spec: str) -> str:
    """A spec as the method itself writes it, so that one method has one name."""
    try:
        return parse_method(spec).spec
    except InputError as error:
        raise ValueError(str(error)) from error


def method_of(recipe: Recipe, sites: Sequence[str] = ()) -> MethodSpec:
    """The method that an index of a run is, so that it can be measured beside others.

    Args:
        recipe: The index's.
        sites: Patterns within the run's own sites; all of them if empty.

    Raises:
        InputError: Its damping is absolute, which no method of the lab has.
    """
    rule = recipe.damping
    if recipe.method != "identity" and rule.kind == "absolute":
        raise InputError(
            f"the index {recipe.name} is damped by {rule}, and methods take 'damping' (a multiple of the mean "
            "eigenvalue) or 'weight_decay'; measure one of those."
        )
    given: dict[str, Any] = {"curvature": recipe.method, "bits": recipe.bits, "projection": recipe.projection}
    if sites:
        given["sites"] = tuple(sites)
    if recipe.coordinates is not None:
        given["coordinates"] = recipe.coordinates
    if recipe.method != "identity":
        given["damping" if rule.kind == "relative" else "weight_decay"] = rule.value
    return MethodSpec.model_validate(given)


def _title(spec: MethodSpec) -> str:
    """A name from the settings, short since tables and plots have many: ``EK-FAC blocks, 1 bit, leading 256``.

    All sites go unsaid.
    """
    main = spec.curvature or spec.baseline or spec.method or Path(spec.scores or "").stem
    parts = [" ".join([_TITLES.get(main, main), *spec.sites])]
    if spec.method is not None:
        parts = [" ".join([parse_method(spec.method).label, *spec.sites])]
    elif spec.kind == "influence":
        parts.append("exact" if spec.bits == "exact" else f"{spec.bits} bit")
    if spec.coordinates is not None:
        auto = "kronecker" if spec.curvature == "identity" else "leading"
        parts.append(f"{auto if spec.projection == 'auto' else spec.projection} {spec.coordinates}")
    shown = {
        "damping": "damping {:g}", "seed": "seed {}", "weight_decay": "weight decay {:g}", "sample": "sample {:g}",
        "sign": "sign {}",
    }  # fmt: skip
    given = spec.model_dump(exclude_defaults=True)
    parts += [text.format(given[key]) for key, text in shown.items() if key in given]
    if "layers" in given:
        parts.append("layers " + " ".join(f"{depth:g}" for depth in spec.layers))
    return ", ".join(parts)


def load_methods(path: Path) -> tuple[MethodSpec, ...]:
    """Read ``[[method]]`` tables from a TOML file; a list in a table makes one method of each of its values.

    Paths of scores are relative to the file.

    Raises:
        InputError: The file cannot be read, a table is wrong (which, and how), or two methods have one name.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"could not read methods from {path}: {error}") from error
    tables = content.get("method")
    others = sorted(set(content) - {"method"})
    if others or not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        found = f"it has {', '.join(others)}" if others else "it has none"
        raise InputError(f"{path} must hold [[method]] tables and nothing else; {found}.")
    made = [spec for number, table in enumerate(tables, 1) for spec in _expand(table, number, path)]
    return _distinct(made, f"{path}")


def _expand(table: Mapping[str, Any], number: int, path: Path) -> list[MethodSpec]:
    """The grid of one table."""
    where = f"{path}, [[method]] table {number}" + (f" ({table['name']!r})" if table.get("name") else "")
    axes = {key: value for key, value in table.items() if _is_grid(key, value)}
    if empty := [key for key, value in axes.items() if not value]:
        raise InputError(f"{where}: {empty[0]} is an empty list; give at least one value, or leave it out.")
    out = []
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        settings = {**table, **point}
        if isinstance(settings.get("scores"), str):
            settings["scores"] = str(path.parent / settings["scores"])
        if table.get("name") and any(len(axis) > 1 for axis in axes.values()):
            settings["name"] = f"{table['name']} [{', '.join(f'{key} {_short(v)}' for key, v in point.items())}]"
        out.append(_spec(settings, where))
    return out


def _is_grid(key: str, value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return key not in _WHOLE or any(isinstance(each, list) for each in value)


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spec(settings: Mapping[str, Any], where: str) -> MethodSpec:
    try:
        return MethodSpec.model_validate(settings)
    except ValidationError as error:
        lines = []
        for each in error.errors():
            place = ".".join(map(str, each["loc"]))
            if each["type"] == "extra_forbidden":
                lines.append(f"there is no setting {place!r}; there are {', '.join(MethodSpec.model_fields)}")
            else:
                message = each["msg"].removeprefix("Value error, ")
                lines.append(f"{place}: {message} (got {each['input']!r})" if place else message)
        raise InputError(f"{where}:\n  " + "\n  ".join(lines)) from error


def _distinct(specs: Sequence[MethodSpec], where: str) -> tuple[MethodSpec, ...]:
    """Refuse two methods of one name, by which they are told apart everywhere."""
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise InputError(f"{where} has two methods named {spec.name!r}; give one of them another name.")
        seen.add(spec.name)
    return tuple(specs)


_SKETCHES = (1024, 256, 64)


def default_methods() -> tuple[MethodSpec, ...]:
    """What every lab compares: the baselines, and curvature by curvature, then codes smaller and smaller.

    >>> [spec.name for spec in default_methods()][-4:-2]
    ['EK-FAC, 1 bit', 'EK-FAC, 1 bit, leading 1024']
    """
    baselines: tuple[Baseline, ...] = ("random", "length", "loss", "bm25", "tfidf")
    blocks: tuple[Method, ...] = ("identity", "diagonal", "kfac", "ekfac")
    return (
        *(MethodSpec(baseline=each) for each in baselines),
        MethodSpec(name="representation, last layer", baseline="representation"),
        MethodSpec(name="representation, four layers", baseline="representation", layers=(0.25, 0.5, 0.75, 1.0)),
        MethodSpec(baseline="gradient-dot"),
        MethodSpec(baseline="gradient-cosine"),
        *(MethodSpec(curvature=each, sites=(BLOCKS,)) for each in blocks),
        MethodSpec(curvature="unsaturated"),
        MethodSpec(curvature="unsaturated", bits=1, projection="none"),
        MethodSpec(curvature="ekfac"),
        MethodSpec(curvature="ekfac", bits=1, projection="none"),
        *(MethodSpec(curvature="ekfac", bits=1, coordinates=count) for count in _SKETCHES),
    )

"""What makes one index differ from another: the settings of its codes."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whence.curvature import Damping
from whence.errors import InputError
from whence.gradients.leading import leading_counts
from whence.gradients.weights import SiteWeights
from whence.interfaces import Site
from whence.model import CausalLM, Objective, Unsaturated
from whence.projection import Bits, SiteLayout, block_size, layout_sites

__all__ = ["AUTO_BYTES", "SHORT_BYTES", "Curvature", "Method", "Projection", "Recipe"]

Curvature = Literal["ekfac", "kfac", "diagonal", "identity"]
Method = Literal["unsaturated", "ekfac", "kfac", "diagonal", "identity"]
Projection = Literal["auto", "none", "leading", "hadamard", "kronecker"]
AUTO_BYTES = 1 << 20
"""With projection auto, codes are kept whole up to this many bytes per document window."""
SHORT_BYTES = 1 << 17
"""Where that is too little, their leading coordinates are kept, up to this many; four times as many say no more."""


class Recipe(BaseModel):
    """Settings of an index of codes.

    Attributes:
        method: unsaturated (EK-FAC with `power` and `weights`), or a curvature alone: ekfac, kfac, diagonal, or
            identity (gradient dot).
        damping: See `whence.curvature.Damping`.
        bits: Bits per stored coordinate: 1, 8 or 16.
        projection: auto keeps whole gradients if their codes are small (`AUTO_BYTES` per document window) and otherwise
            leading coordinates (`SHORT_BYTES`), without curvature a Kronecker sketch (`AUTO_BYTES`); none keeps the
            whole rotated gradient; leading keeps those coordinates of the eigenbasis that documents differ in most,
            which is the most faithful for its bytes (leading.py); hadamard keeps a share of each rotated block;
            kronecker maps the factors to fewer dimensions first, which costs almost no time.
        coordinates: Coordinates to keep per site; with leading on average, more of sites that weigh more, and at least
            64 of each. A stack's experts share them (with kronecker at least 64 for each).
        power: Of `whence.model.Unsaturated`, by which unsaturated documents' gradients do not vanish where a token was
            learnt by heart; 0 is -log p.
        weights: Of kinds of site, where unsaturated; see `whence.gradients.SiteWeights`.
        seed: Seed of the random signs and rows.
        precision: fast lets matrix products of documents round their inputs to bfloat16 (TF32 on CUDA), which is far
            below what one bit loses; full does not. Queries are always in full precision.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "unsaturated"
    damping: Damping = Damping()
    bits: Bits = 1
    projection: Projection = "auto"
    coordinates: int | None = Field(default=None, ge=64)
    power: float = Field(default=0.5, ge=0, le=1)
    weights: SiteWeights = SiteWeights()
    seed: int = 0
    precision: Literal["fast", "full"] = "fast"

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, given: Any) -> Any:
        """Before there was the method, ``unsaturated`` was `power` beside a curvature, ekfac if unsaid.

        An index of that kind is one of sites that count alike.
        """
        if not isinstance(given, dict) or "unsaturated" not in given:
            return given
        rest = {"method": "ekfac", **{key: value for key, value in given.items() if key != "unsaturated"}}
        if given["unsaturated"] == 0:
            return rest
        if rest["method"] != "ekfac":
            raise ValueError("'unsaturated' goes with method ekfac alone, and is called method unsaturated by now")
        alike = {**dict.fromkeys(("head", "embedding", "mlp", "attention", "norm"), 1.0), "head_damping": 1.0}
        return {**rest, "method": "unsaturated", "power": given["unsaturated"], "weights": alike}

    @property
    def curvature(self) -> Curvature:
        """What has to be fitted for it."""
        return "ekfac" if self.method == "unsaturated" else self.method

    @property
    def alike(self) -> "Recipe":
        """The curvature alone: sites count alike, and documents have plain gradients.

        For what looks at a single document's own effect rather than at the order of all: with most of the weight on the
        head, what predicts the same tokens comes closer to what holds the same text.
        """
        return self.model_copy(update={"method": self.curvature})

    @property
    def name(self) -> str:
        """Folder name: what a person wants to see, and a hash of everything."""
        digest = hashlib.sha256(json.dumps(self.stored(), sort_keys=True).encode()).hexdigest()[:8]
        shape = self.projection if self.coordinates is None else f"{self.projection}{self.coordinates}"
        return f"{self.method}-{self.bits}bit-{shape}-{digest}"

    def stored(self) -> dict[str, Any]:
        """As an index keeps it; what it does not use is left out, so that it is called what it always was."""
        content = self.model_dump(mode="json")
        if self.method != "unsaturated":
            del content["power"], content["weights"]
        return content

    @property
    def objective(self) -> Objective:
        """Whose gradients documents have."""
        return Unsaturated(self.power) if self.method == "unsaturated" and self.power else CausalLM()

    def weight(self, site: Site) -> float:
        """How much a site counts, but for what all have in common."""
        return self.weights.of(site) if self.method == "unsaturated" else 1.0

    def rule(self, site: Site) -> Damping:
        """How a site is damped."""
        if self.method != "unsaturated" or not site.head:
            return self.damping
        return self.damping.model_copy(update={"value": self.damping.value * self.weights.head_damping})

    def sketch_shape(self, site: Site) -> tuple[int, int]:
        """Sizes (K_o, K_i) that a site's factors (each expert's, of a stack) are mapped to before flattening."""
        if self.projection != "kronecker" or self.coordinates is None:
            return site.outputs, site.inputs
        budget = max(self.coordinates // site.experts, 64) if site.experts else self.coordinates
        if site.outputs * site.inputs <= budget:
            return site.outputs, site.inputs
        half = 1 << (budget.bit_length() // 2)
        outputs = min(site.outputs, half)
        inputs = min(site.inputs, max(budget // outputs, 1))
        return min(site.outputs, max(budget // inputs, 1)), inputs

    def layout(self, sites: Sequence[Site]) -> list[SiteLayout]:
        """Where each site's code lies in a row."""
        counts: dict[str, tuple[int, int, int]] = {}
        if self.projection == "leading" and self.coordinates is not None:
            weights = {site.name: self.weight(site) for site in sites}
            for name, count in leading_counts(sites, weights, self.coordinates).items():
                counts[name] = (count, block_size(count), block_size(count))
            return layout_sites(counts, self.bits)
        for site in sites:
            outputs, inputs = self.sketch_shape(site)
            count = outputs * inputs * max(site.experts, 1)
            block = kept = block_size(count)
            if self.projection == "hadamard" and self.coordinates is not None:
                while kept > 64 and kept * -(-count // block) > self.coordinates:
                    kept //= 2
            counts[site.name] = (count, block, kept)
        return layout_sites(counts, self.bits)

    def bytes_per_row(self, sites: Sequence[Site]) -> int:
        """Bytes of codes and scales per document window."""
        return sum(layout.bytes for layout in self.layout(sites))

    def resolved(self, sites: Sequence[Site]) -> "Recipe":
        """With the budget decided: whole codes if they are small, otherwise what fits into fewer bytes."""
        if self.projection in ("leading", "hadamard", "kronecker") and self.coordinates is None:
            raise InputError(
                f"--projection {self.projection} needs --coordinates, how many to keep per site (as in 1024)."
            )
        if self.projection == "leading" and self.method == "identity":
            raise InputError(
                "--projection leading keeps the coordinates with the largest curvature, and --method identity has "
                "none; use hadamard or kronecker."
            )
        if self.projection == "none" and self.coordinates is not None:
            raise InputError(
                "--coordinates goes with --projection leading, kronecker or hadamard; none keeps every coordinate."
            )
        if self.projection != "auto":
            return self
        short = self.model_copy(update={"projection": "kronecker" if self.method == "identity" else "leading"})
        if self.coordinates is not None:
            return short
        if self.bytes_per_row(sites) <= AUTO_BYTES:
            return self.model_copy(update={"projection": "none"})
        budget, most = 64, AUTO_BYTES if short.projection == "kronecker" else min(SHORT_BYTES, AUTO_BYTES)
        while True:
            larger = short.model_copy(update={"coordinates": budget * 2})
            if larger.bytes_per_row(sites) > most or budget >= 1 << 24:
                return short.model_copy(update={"coordinates": budget})
            budget *= 2

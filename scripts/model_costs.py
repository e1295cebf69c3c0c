"""What tracing a model costs, from the shapes of its weights: operations, bytes and seconds of every step.

Everything follows from what the code holds and multiplies; nothing here was timed on the hardware that it speaks of.
A fit is two passes over its sample: second moments of both sides of every matrix, then squared gradients in the
eigenbasis. An index is one, in which factors are turned and a part of their product is kept. None of them makes weight
gradients, so the model itself costs 4 operations per active parameter and token and not the 6 of training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, cached_property

from published import PUBLISHED, meta_model
from torch import nn

from whence.curvature import diagonal_sides
from whence.gradients import Recipe
from whence.interfaces import Site
from whence.model import find_sites

__all__ = ["EIGH", "GPUS", "HALF", "UTILISATION", "WINDOW", "Choice", "Cost", "all_sites", "cost"]

WINDOW = 2048
"""Tokens of a document window: the longest that is cut without being asked to."""
HALF, TF32 = 989e12, 494.5e12
"""Dense peak of an H100 or H200 (SXM) in FLOP/s: bfloat16 for the model, TF32 for the factors."""
UTILISATION = 0.4
"""Share of the peak that is assumed to be reached."""
EIGH = 1.25e-10
"""Seconds times n^-3 of a float64 eigendecomposition on one core, measured (1.27 at n = 2048, 1.21 at n = 3072)."""
BATCH = 4096
PARTS = 4
GPUS = (("H100", 80e9), ("H200", 141e9))
_SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class Choice:
    """Which weights of which model.

    Attributes:
        model: A name in `PUBLISHED`.
        words: What it takes, in words.
        patterns: What --sites is given; everything if empty.
    """

    model: str
    words: str = "all"
    patterns: tuple[str, ...] = ()

    @property
    def flags(self) -> str:
        """The choice as typed."""
        return " ".join(f"--sites '{pattern}'" for pattern in self.patterns) or "–"


def all_sites(model: nn.Module) -> list[Site]:
    """Every site of a model, inputs that are shared named after the first that sees them."""
    return _grouped(find_sites(model))


def _grouped(sites: Sequence[Site]) -> list[Site]:
    firsts: dict[tuple[str, int], str] = {}
    out = []
    for site in sites:
        owner, _, leaf = site.name.rpartition(".")
        kind = next((i for i, names in enumerate(_SHARED) if leaf in names and not site.experts), None)
        out.append(site if kind is None else replace(site, group=firsts.setdefault((owner, kind), site.name)))
    return out


@cache
def loaded(name: str) -> tuple[nn.Module, list[Site]]:
    """A published model and its sites; the head has logits as outputs."""
    model = meta_model(PUBLISHED[name])
    head = model.get_output_embeddings()  # type: ignore[operator]
    names = {module: name for name, module in model.named_modules()}
    return model, [replace(s, head=s.head or s.name == names[head]) for s in all_sites(model)]


@dataclass(frozen=True)
class Cost:
    """What one choice costs.

    Attributes:
        parameters: Of the whole model.
        active: Of these, those that multiply a token's activations; an embedding looked up does not.
        sites: The sites that are attributed.
        width: Sum of inputs and outputs of all matrices that a token meets, attributed or not.
        routed: Experts that a token is sent to.
        window: Tokens of a document window.
        asked: The index's recipe as asked for.
    """

    parameters: int
    active: float
    sites: tuple[Site, ...]
    width: float
    routed: int
    window: int = WINDOW
    asked: Recipe = field(default_factory=Recipe)

    @cached_property
    def recipe(self) -> Recipe:
        """The index's recipe with its budget decided."""
        return self.asked.resolved(self.sites)

    @property
    def attributed(self) -> int:
        """Scalars in the sites."""
        return sum(site.size for site in self.sites)

    @property
    def code_bytes(self) -> int:
        """Bytes of the index per document window."""
        return self.recipe.bytes_per_row(self.sites)

    # ------------------------------------------------------------ floating-point operations per token

    @property
    def training(self) -> float:
        """A plain forward and backward pass."""
        return 6 * self.active

    def passes(self, work: float, slower: float = HALF / TF32) -> float:
        """A pass with this much work on factors, in plain forward and backward passes of equal time."""
        return (4 * self.active + work * slower) / self.training

    @property
    def covariances(self) -> float:
        """Work of the first pass of a fit: x x^T of both sides."""
        return sum(2 * self._per_token(site) * sum(d * d for d in self._dense(site)) for site in self.sites)

    @property
    def eigenvalues(self) -> float:
        """Work of the second pass of a fit: blocks in the eigenbasis; tokens or blocks are turned."""
        return sum(self._turning(site) + 2 * self._per_token(site) * self._product(site) for site in self.sites)

    def _turning(self, site: Site) -> float:
        outputs, inputs = self._bases(site)
        by_token = 2 * self._per_token(site) * (outputs**2 + inputs**2)
        by_block = 2 * site.size * (outputs + inputs) / self.window
        return by_token if site.vocabulary else min(by_token, by_block)

    @property
    def coding(self) -> float:
        """Work of the index: factors turned, or mapped to a sketch, and as much of their product as is kept."""
        if self.recipe.projection == "kronecker":
            return sum(2 * self._per_token(site) * self._sketching(site) for site in self.sites)
        counts = {layout.name: layout.count for layout in self.recipe.layout(self.sites)}
        total = 0.0
        for site in self.sites:
            outputs, inputs = self._bases(site)
            turned = outputs**2 + inputs**2
            total += 2 * self._per_token(site) * (turned + self._picking(site, counts[site.name]))
        return total

    def _sketching(self, site: Site) -> int:
        outputs, inputs = self.recipe.sketch_shape(site)
        inputs_read = 0 if site.vocabulary == "inputs" else site.inputs
        return outputs * site.outputs + inputs * inputs_read + outputs * inputs

    def _picking(self, site: Site, count: int) -> float:
        """Coordinates of the product that a token adds to; of few that are kept, those (`whence.factors.picking`)."""
        if self.recipe.projection != "leading" or count == site.size:
            return self._product(site)
        if site.vocabulary == "inputs":
            return count / site.inputs
        if site.experts:
            return count / site.experts
        return count if count * 128 < site.size else self._product(site)

    def _per_token(self, site: Site) -> int:
        return self.routed if site.experts else 1

    def _product(self, site: Site) -> int:
        """Size of the block that one token adds to."""
        return site.outputs if site.vocabulary == "inputs" else site.outputs * site.inputs

    def _dense(self, site: Site) -> Iterator[int]:
        """Sizes of the second moments that are matrices; a shared one is counted with its first site."""
        outputs, inputs = self._bases(site)
        yield outputs
        if site.group == site.name or not site.group:
            yield inputs

    def _bases(self, site: Site) -> tuple[int, int]:
        flat_outputs, flat_inputs = diagonal_sides(site, 4096)
        return 0 if flat_outputs else site.outputs, 0 if flat_inputs else site.inputs

    # ------------------------------------------------------------ bytes

    @property
    def moments(self) -> float:
        """Second moments, and bases just as large, in float32."""
        return 4.0 * sum(max(site.experts, 1) * sum(d * d for d in self._dense(site)) for site in self.sites)

    @property
    def bases(self) -> float:
        """Bases as an index and a trace hold them: one of the inputs for every site."""
        return 4.0 * sum(max(site.experts, 1) * sum(d * d for d in self._bases(site)) for site in self.sites)

    @property
    def fit_bytes(self) -> float:
        """Device memory of a fit: the second pass, which has bases and squared gradients."""
        return self._model + self.moments + 4.0 * self.attributed

    @property
    def index_bytes(self) -> float:
        """Device memory of coding: bases, as much of them again as rows that are needed, and eigenvalues."""
        copies = 0.0 if self.recipe.projection == "kronecker" else self.bases
        return self._model + self.bases + copies + 4.0 * self.attributed

    @property
    def trace_bytes(self) -> float:
        """Device memory of one question: its gradient, the same preconditioned, and both once more side by side."""
        return self.index_bytes + 16.0 * self.attributed

    @property
    def _model(self) -> float:
        """Weights and the activations of a batch, both in two bytes."""
        return 2.0 * self.parameters + 2.0 * BATCH * self.width

    @property
    def curvature_disk(self) -> float:
        """What a fit leaves: bases, predicted and measured eigenvalues."""
        return self.moments + 8.0 * self.attributed

    @property
    def fitting_disk(self) -> float:
        """What a fit needs for a time: sums of every part, beside the bases in the second pass."""
        return max(PARTS * self.moments, self.moments + 4.0 * (PARTS + 1) * self.attributed) + self.moments

    @property
    def decompositions(self) -> float:
        """Core-seconds of the eigendecompositions."""
        return EIGH * sum(max(site.experts, 1) * sum(d**3 for d in self._dense(site)) for site in self.sites)

    @property
    def peak_bytes(self) -> float:
        """Most device memory of any step."""
        return max(self.fit_bytes, self.index_bytes, self.trace_bytes)

    # ------------------------------------------------------------ time

    @property
    def fit_passes(self) -> float:
        """Both passes of a fit, in plain forward and backward passes."""
        return self.passes(self.covariances) + self.passes(self.eigenvalues)

    @property
    def index_passes(self) -> float:
        """The pass of an index."""
        return self.passes(self.coding)

    def fit_seconds(self, tokens: float) -> float:
        """GPU-seconds of a fit, without eigendecompositions, at the assumed utilisation."""
        return self.fit_passes * self.training * tokens / (HALF * UTILISATION)

    def index_seconds(self, tokens: float) -> float:
        """GPU-seconds of an index at the assumed utilisation."""
        return self.index_passes * self.training * tokens / (HALF * UTILISATION)


def cost(choice: Choice) -> Cost:
    """The cost of a choice."""
    model, sites = loaded(choice.model)
    routed = int(getattr(model.config, "num_experts_per_tok", 0) or 0)
    chosen = tuple(s for s in sites if not choice.patterns or any(fnmatchcase(s.name, p) for p in choice.patterns))
    if not chosen:
        raise SystemExit(f"{choice.model}: {choice.flags} matches nothing; the first sites are {sites[0].name}, …")
    times = {site.name: routed if site.experts else 1 for site in sites}
    used = [site for site in sites if site.vocabulary != "inputs"]
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        active=float(sum(times[s.name] * s.outputs * s.inputs for s in used)),
        sites=_regrouped(chosen),
        width=float(sum(times[s.name] * (s.outputs + s.inputs) for s in used)),
        routed=routed,
    )


def _regrouped(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Groups whose first site was left out are named after the first that is there."""
    firsts: dict[str, str] = {}
    return tuple(replace(site, group=firsts.setdefault(site.group, site.name)) for site in sites)

"""What can be said about a trace beyond its numbers: places in rankings, z-scores, profiles. Renders nothing."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from whence.interfaces import Coverage, Extract, Hit, Provenance, SiteCoverage, Trace
from whence.report.text import MISSING, count

__all__ = [
    "CHECKED",
    "EFFECT",
    "SIGN",
    "Gap",
    "SiteGrid",
    "bm25_sentence",
    "extract_words",
    "gaps",
    "identity",
    "influence_rank",
    "influence_rank_words",
    "overlap",
    "place_words",
    "rank_words",
    "site_grid",
    "unit_words",
    "z_score",
]


def unit_words(unit: str) -> str:
    """What a score says, in a clause.

    >>> unit_words("score")
    "the method's scores have no unit: read ranks, not sizes"
    """
    if unit == "nats":
        return "nats: predicted drop of log p without that document"
    return "the method's scores have no unit: read ranks, not sizes"


SIGN = (
    "influence > 0 supports the output; unit: nats, the predicted drop of log p(completion | prompt) "
    "had that one document not been trained on"
)
EFFECT = (
    "BM25 ranks documents by the words they share with the query: presence. "
    "Influence estimates how much each one changed the probability of the answer: effect."
)


CHECKED = {
    "hash": "Characters are certain: the tokens spell a text with the content hash of the row.",
    "row": "Characters are certain: the row was read again and becomes these tokens.",
    "tokenizer": "Characters are counted in what the tokens spell; the row itself was not there to be read.",
    None: "Characters cannot be said for certain, so tokens of the document are given.",
}
"""How the characters of a provenance are known."""


def _span(bounds: tuple[int, int]) -> str:
    return f"{count(bounds[0])}–{count(bounds[1])}"


def extract_words(found: Provenance, part: Extract) -> str:
    """Where some tokens of a document are, in words; ranges are half-open and count from 0."""
    words = [f"tokens {_span(part.tokens)}"]
    if part.characters is not None:
        words.insert(0, f"characters {_span(part.characters)} of {'+'.join(found.fields)}")
    if part.file_tokens is not None:
        words.append(f"tokens {_span(part.file_tokens)} of the token file")
    return ", ".join(words)


def place_words(hit: Hit) -> tuple[str, str]:
    """The file that a document comes from, and row and characters (or tokens) of what is shown of it, to go behind."""
    found = hit.provenance
    if found is None:
        return hit.source, f":{hit.row}"
    row = "" if found.row is None else f":{found.row}"
    if found.window.characters is not None:
        return found.file, f"{row}[{found.window.characters[0]}:{found.window.characters[1]}]"
    return found.file, f"{row} tokens {found.window.tokens[0]}–{found.window.tokens[1]}"


def identity(hit: Hit) -> str:
    """What a document is known by: its id, which is unique only within the source that its row names, if any."""
    source = hit.metadata.get("source")
    return f"{source}: {hit.id}" if source else hit.id


def influence_rank(trace: Trace, hit: Hit) -> int | None:
    """Place of a document among all scored ones, 1 = most supporting; None if this trace does not know it."""
    for other in trace.proponents:
        if other.document == hit.document:
            return other.rank
    for other in trace.opponents:
        if other.document == hit.document:
            return max(trace.scored - other.rank + 1, 1)
    if hit.index_rank is not None and hit.index_rank <= len(trace.proponents):
        return None  # the model put others in its place, and how far below them it stands is not known
    return hit.index_rank


def influence_rank_words(trace: Trace, hit: Hit) -> str:
    """The same in words; where only a bound is known, the bound."""
    rank = influence_rank(trace, hit)
    if rank is not None:
        return count(rank)
    return f"below {len(trace.proponents)}" if trace.proponents else MISSING


def rank_words(rank: int | None) -> str:
    """A rank, or a dash where that ranking was not run."""
    return MISSING if rank is None else count(rank)


def z_score(trace: Trace, influence: float) -> float | None:
    """How many standard deviations from the mean over all scored documents; None if they do not vary."""
    if not (trace.std > 0 and math.isfinite(trace.std) and math.isfinite(influence)):
        return None
    return (influence - trace.mean) / trace.std


def overlap(trace: Trace) -> int:
    """How many of BM25's first documents are among the listed proponents."""
    listed = {hit.document for hit in trace.proponents}
    return sum(hit.document in listed for hit in trace.bm25_top)


def bm25_sentence(trace: Trace) -> str:
    """How the two rankings differ on this query."""
    if not trace.bm25_top:
        return "BM25 was not run for this query, or no document shares a word with it."
    first, listed = len(trace.bm25_top), len(trace.proponents)
    both = overlap(trace)
    verb = "is" if both == 1 else "are"
    shared = f"Of the {first} listed first by BM25, {both} {verb} among the {listed} listed proponents"
    if not trace.proponents:
        return f"{shared}."
    place = trace.proponents[0].bm25_rank
    where = "is not ranked by BM25" if place is None else f"is number {count(place)} for BM25"
    return f"{shared}; the strongest proponent {where}."


@dataclass(frozen=True, slots=True)
class SiteGrid:
    """Influence by layer and kind of site, nats.

    Attributes:
        layers: Layer numbers, ascending.
        kinds: Kinds of sites found in layers, in order of appearance.
        cells: (layer, kind) to the sum over its sites.
        outside: Sites outside any layer, such as embeddings, with their influence.
    """

    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    cells: Mapping[tuple[int, str], float]
    outside: Mapping[str, float]


def _place(name: str) -> tuple[int | None, str]:
    """Layer (the first number in the path) and what follows it; experts and other later numbers fold together."""
    parts = name.removesuffix(".weight").split(".")
    spots = [i for i, part in enumerate(parts) if part.isascii() and part.isdigit() and len(part) < 6]
    if not spots or spots[0] == len(parts) - 1:
        return None, ".".join(parts)
    return int(parts[spots[0]]), ".".join("*" if i in spots else part for i, part in enumerate(parts) if i > spots[0])


def _short_names(kinds: Iterable[str]) -> dict[str, str]:
    """The shortest endings that still tell the kinds apart (``mlp.c_proj`` stays if ``attn.c_proj`` exists)."""
    split = {kind: kind.split(".") for kind in kinds}
    return {kind: _short_name(parts, list(split.values())) for kind, parts in split.items()}


def _short_name(parts: list[str], others: list[list[str]]) -> str:
    least = 2 if parts[-1] == "bias" else 1  # of what a bias is matters
    for length in range(least, len(parts)):
        ending = parts[-length:]
        if sum(other[-length:] == ending for other in others) == 1:
            return ".".join(ending)
    return ".".join(parts)


def site_grid(sites: Mapping[str, float]) -> SiteGrid:
    """Arrange a hit's `sites` by layer and kind; all of it together sums to the hit's influence.

    >>> grid = site_grid({"h.0.attn.c_proj": 1.0, "h.0.mlp.c_proj": 2.0, "wte": 4.0})
    >>> grid.kinds, grid.cells[0, "mlp.c_proj"], dict(grid.outside)
    (('attn.c_proj', 'mlp.c_proj'), 2.0, {'wte': 4.0})
    """
    placed = {name: _place(name) for name in sites}
    names = _short_names(kind for layer, kind in placed.values() if layer is not None)
    cells: dict[tuple[int, str], float] = {}
    outside: dict[str, float] = {}
    for site, (layer, kind) in placed.items():
        if layer is None:
            outside[kind] = outside.get(kind, 0.0) + sites[site]
        else:
            cell = layer, names[kind]
            cells[cell] = cells.get(cell, 0.0) + sites[site]
    layers = tuple(sorted({layer for layer, _ in cells}))
    return SiteGrid(layers, tuple(names.values()), cells, outside)


@dataclass(frozen=True, slots=True)
class Gap:
    """Parameters that are not attributed for one and the same reason."""

    kind: str
    reason: str
    sites: tuple[SiteCoverage, ...]

    @property
    def parameters(self) -> int:
        """How many parameters that is."""
        return sum(site.parameters for site in self.sites)


def gaps(coverage: Coverage) -> list[Gap]:
    """What is not attributed, by kind and reason, largest first."""
    found: dict[tuple[str, str], list[SiteCoverage]] = {}
    for site in coverage.sites:
        if not site.attributed:
            found.setdefault((site.kind, site.reason), []).append(site)
    out = [Gap(kind, reason, tuple(sites)) for (kind, reason), sites in found.items()]
    return sorted(out, key=lambda gap: -gap.parameters)

"""Writes the tables of docs/recipes.md: what tracing a published model costs, and what fits where.

    python scripts/recipe_costs.py           write them
    python scripts/recipe_costs.py --check   exit with 1 if they are stale

The arithmetic is in scripts/model_costs.py, the models' shapes in scripts/published.py. The text around the markers is
written by hand. A test runs the check.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from model_costs import GPUS, HALF, UTILISATION, WINDOW, Choice, Cost, all_sites, cost
from published import PUBLISHED, Published, meta_model

from whence.gradients import Recipe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "recipes.md"
SMALL = Recipe(projection="leading", coordinates=1024)
FIT_TOKENS = 4e6
"""Tokens that a night's fit takes: two thousand windows."""
CORPORA = (1e9, 150e9)
_MARKED = re.compile(r"(<!-- costs: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_ATTENTION = ("*.self_attn.*_proj",)
_LAST = ("*.layers.2[4-9].self_attn.*_proj", "*.layers.3?.self_attn.*_proj")
_UPPER = ("*.layers.[345]?.self_attn.*_proj", "*.layers.6?.self_attn.*_proj")
_MAMBA = ("*.mixer.[qkvo]_proj", "*.mixer.in_proj", "*.mixer.out_proj")
CHOICES = (
    Choice("OLMo 3 7B"),
    Choice("OLMo 3 7B", "attention", _ATTENTION),
    Choice("OLMo 3 7B", "attention, layers 24 to 31", _LAST),
    Choice("OLMo 3 7B", "last MLP matrices", ("*.mlp.down_proj",)),
    Choice("OLMo 3 32B"),
    Choice("OLMo 3 32B", "attention", _ATTENTION),
    Choice("OLMo 3 32B", "attention, layers 30 to 63", _UPPER),
    Choice("Nemotron 3 Nano 30B-A3B"),
    Choice("Nemotron 3 Nano 30B-A3B", "Mamba-2, attention, shared experts", (*_MAMBA, "*.shared_experts.*")),
    Choice("Nemotron 3 Nano 30B-A3B", "routed experts of one layer", ("*.layers.24.mixer.experts.*",)),
    Choice("Nemotron 3 Super 120B-A12B"),
    Choice("Nemotron 3 Super 120B-A12B", "attention, latent projections", ("*.mixer.[qkvo]_proj", "*_latent_proj")),
    Choice("OLMoE 1B-7B"),
    Choice("OLMoE 1B-7B", "attention", _ATTENTION),
    Choice("OLMoE 1B-7B", "experts of two layers", ("*.layers.[79].mlp.experts.*",)),
    Choice("Pythia 1.4B"),
    Choice("Pythia 6.9B", "attention", ("*.attention.*",)),
)  # fmt: skip


def models() -> str:
    """One row per model."""
    rows = []
    for name, published in PUBLISHED.items():
        whole = cost(Choice(name))
        rate = HALF * UTILISATION / whole.training
        rows.append(
            [f"{name} ([{published.source}](https://huggingface.co/{published.source}))", billions(whole.parameters),
             billions(whole.active), size(2 * whole.parameters), f"{whole.training / 1e9:.1f}", f"{rate:,.0f}"]
        )  # fmt: skip
    head = [
        "model",
        "parameters",
        "active, without the embedding",
        "weights in bfloat16",
        "GFLOP per token",
        "tokens/s",
    ]
    return table(head, rows)


def costs() -> str:
    """One row per choice: how large, how long."""
    rows = []
    for choice in CHOICES:
        c = cost(choice)
        small = replace(c, asked=SMALL)
        rows.append(
            [choice.model, choice.words, billions(c.attributed), f"{c.fit_passes:.1f}", duration(c.fit_seconds(1e6)),
             duration(c.decompositions), f"{c.index_passes:.2f}", duration(c.index_seconds(1e6)), size(c.code_bytes),
             size(small.code_bytes)]
        )  # fmt: skip
    head = ["model", "weights", "attributed", "fit, × training", "fit, per 1M tokens", "eigendecompositions, one core",
            "index, × training", "index, per 1M tokens", "index, per window", "with --coordinates 1024"]  # fmt: skip
    return table(head, rows)


def nights() -> str:
    """One row per choice that fits one or two GPUs: what twelve hours give, and what whole corpora would take."""
    rows = []
    for choice in CHOICES:
        c = cost(choice)
        count = gpu_count(c.peak_bytes, GPUS[-1][1])
        if count is None or count > 2:
            continue
        left = 12 * 3600 - c.fit_seconds(FIT_TOKENS)
        tokens = left / c.index_seconds(1)
        small = replace(c, asked=SMALL)
        rows.append(
            [choice.model, choice.words, str(count), f"{tokens / 1e6:,.0f}M", size(tokens / WINDOW * c.code_bytes),
             size(tokens / WINDOW * small.code_bytes), *(f"{count * c.index_seconds(n) / 3600:,.0f}" for n in CORPORA)]
        )  # fmt: skip
    named = [f"GPU-hours, {tokens / 1e9:,.0f}B tokens" for tokens in CORPORA]
    head = ["model", "weights", "H200s", "tokens in 12 hours", "index", "with --coordinates 1024", *named]
    return table(head, rows)


def memory() -> str:
    """One row per choice: what fits."""
    rows = []
    for choice in CHOICES:
        c = cost(choice)
        rows.append(
            [choice.model, choice.words, size(c.moments), size(c.fit_bytes), size(c.index_bytes), size(c.trace_bytes),
             gpus(c.peak_bytes), size(c.fitting_disk), size(c.curvature_disk)]
        )  # fmt: skip
    head = [
        "model",
        "weights",
        "second moments",
        "fit",
        "index",
        "trace",
        "fits on",
        "disk while fitting",
        "disk after",
    ]
    return table(head, rows)


def choices() -> str:
    """What is typed for each choice."""
    return table(["model", "weights", "options"], [[c.model, c.words, f"`{c.flags}`"] for c in CHOICES if c.patterns])


def gpus(peak: float) -> str:
    """The least of one to eight GPUs of each kind whose memory is enough."""
    counts = [(gpu_count(peak, memory), name) for name, memory in GPUS]
    return ", ".join(f"{count} × {name}" for count, name in counts if count is not None) or "no machine of 8"


def gpu_count(peak: float, memory: float) -> int | None:
    """One, two, four or eight GPUs, nine tenths of their memory counted; None if eight are not enough.

    >>> gpu_count(100e9, 80e9), gpu_count(1e12, 80e9)
    (2, None)
    """
    return next((count for count in (1, 2, 4, 8) if peak <= 0.9 * count * memory), None)


def measured() -> str:
    """The arithmetic at the benchmark's size beside what was measured there."""
    changes = {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "vocab_size": 2432, "tie_word_embeddings": False,
    }  # fmt: skip
    model = meta_model(Published("LlamaConfig", changes))
    sites = tuple(site for site in all_sites(model) if site.name.endswith("_proj"))
    active = sum(site.size for site in sites) + 512 * 2432
    sketch = Recipe(projection="kronecker", coordinates=4096)
    small = Cost(sum(p.numel() for p in model.parameters()), active, sites, 0.0, 0, window=256, asked=sketch)
    fit = small.passes(small.covariances, 1) + small.passes(small.eigenvalues, 1)
    rows = [
        ["fit", f"{fit:.2f}", "2.68, with the eigendecompositions"],
        ["index, sketches of 4,096 coordinates", f"{small.passes(small.coding, 1):.2f}", "0.82"],
    ]
    return table(["step", "arithmetic, × training", "measured, × training"], rows)


def billions(count: float) -> str:
    """A number of parameters.

    >>> billions(7_298_011_136), billions(140_300_000)
    ('7.30B', '140M')
    """
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"


def size(stored: float) -> str:
    """Bytes for people.

    >>> size(14_596_022_272), size(925_000), size(2.4e12)
    ('14.6 GB', '925 kB', '2.4 TB')
    """
    if stored >= 1e12:
        return f"{stored / 1e12:.1f} TB"
    if stored >= 1e9:
        return f"{stored / 1e9:.1f} GB" if stored < 1e11 else f"{stored / 1e9:.0f} GB"
    return f"{stored / 1e6:.1f} MB" if stored >= 1e6 else f"{stored / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Time for people.

    >>> duration(42), duration(600), duration(40_000)
    ('42 s', '10 min', '11 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


SECTIONS: dict[str, Callable[[], str]] = {
    "models": models,
    "choices": choices,
    "costs": costs,
    "memory": memory,
    "nights": nights,
    "measured": measured,
}


def page(text: str) -> str:
    """The page with every marked section written anew.

    Raises:
        SystemExit: A marker names no section, or a section has no marker.
    """
    found = [match["name"] for match in _MARKED.finditer(text)]
    if sorted(found) != sorted(SECTIONS):
        raise SystemExit(f"{PAGE} must have each of these markers once: {', '.join(SECTIONS)}; it has {found}.")
    return _MARKED.sub(lambda match: f"{match[1]}\n{SECTIONS[match['name']]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    now = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit("docs/recipes.md is stale; run python scripts/recipe_costs.py" if page(now) != now else 0)
    PAGE.write_text(page(now), encoding="utf-8")

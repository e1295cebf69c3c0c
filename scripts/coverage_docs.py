"""Writes docs/coverage.md: which share of each model class's parameters is attributed, how, and what is left out.

    python scripts/coverage_docs.py           write it
    python scripts/coverage_docs.py --check   exit with 1 if the part about small configurations is stale

The small configurations are those that the tests run (tests/zoo.py); what holds there parameter by parameter is counted
at the published sizes, whose models are made without memory.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import zoo  # noqa: E402 (tests are no package)
from whence.attributor.core import sites_of  # noqa: E402
from whence.interfaces import Site, SiteCoverage  # noqa: E402
from whence.model import as_loaded, coverage  # noqa: E402

PAGE = ROOT / "docs" / "coverage.md"
HEAD = """# Coverage

<!-- Written by scripts/coverage_docs.py (make docs). -->

Which share of a model's parameters is attributed, how they are read, and what is not attributed. `whence coverage
--model M` says it for a model of yours, parameter by parameter.

How parameters are read:

- **matrices**: linear layers with their biases, from a layer's input and the gradient of its output;
- **embedding**: the same with one-hot inputs; a tied output layer is part of it;
- **experts**: stacks of matrices of a mixture, one per expert and projection;
- **vectors**: scales of norms and other vectors that act element by element in a layer of their own;
- **copies**: parameters that a module uses in its own forward (decays, time steps and the convolution of Mamba-2 and of
  gated delta nets). Each example gets a copy of them, which costs 1 to 3 % of a forward and backward pass;
- **replay**: the same where a module takes no copies (a fused kernel, the sinks of attention): its middle is run once
  more for each example. Measured: 19 % of a forward and backward pass for Mamba-2 at width 4096, about half of one at
  width 256 to 1024; 8 to 11 % for the sinks of gpt-oss.

What is read by copies or replay is known for an example as a whole and not by token: its influence is spread evenly
over the tokens from which a loss can be reached. Such models are not packed, and across processes of torchrun these
parameters are left out.
"""
TINY = """
## Small configurations, as the tests run them

Every gradient counted here is compared with autograd's, to 1e-9 in float64 (tests/test_zoo_gradients.py).

"""
PUBLISHED = """
## Published sizes

The same parameters counted at published sizes. The configurations are written in scripts/coverage_docs.py; those marked
* are the defaults of transformers. Multi-token-prediction heads and vision towers, which transformers' causal language
models leave out, are not counted.

"""
COLUMNS = "| model | class | parameters | attributed | read as | not attributed |\n|---|---|---|---|---|---|\n"

_LLAMA3 = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
_OLMO_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32,
}  # fmt: skip
_OLMO_32B = {
    "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "vocab_size": 100278,
}  # fmt: skip
_NEMOTRON_H_8B = {"hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"}
_NANO = {
    "hidden_size": 2688, "intermediate_size": 1856, "num_attention_heads": 32, "num_key_value_heads": 2,
    "mamba_num_heads": 64, "n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712, "routed_scaling_factor": 2.5,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
}  # fmt: skip
_PYTHIA = {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 32}
_QWEN3_8B = {
    "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8,
}  # fmt: skip
_GEMMA3_4B = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "OLMo 2 7B": ("olmo2", {**_OLMO_7B, "vocab_size": 100352}),
    "OLMo 3 7B": ("olmo3", {**_OLMO_7B, "vocab_size": 100278}),
    "OLMo 3 32B": ("olmo3", _OLMO_32B),
    "OLMo Hybrid 7B": ("olmo_hybrid", {}),
    "OLMoE 1B-7B": ("olmoe", {"intermediate_size": 1024}),
    "Nemotron-4 15B": ("nemotron", {"num_key_value_heads": 8}),
    "Nemotron-H 8B": ("nemotron_h", _NEMOTRON_H_8B),
    "Nemotron 3 Nano 30B-A3B": ("nemotron_h", _NANO),
    "Pythia 6.9B": ("pythia", _PYTHIA),
    "Llama 3.1 8B": ("llama", _LLAMA3),
    "Qwen3 8B": ("qwen3", _QWEN3_8B),
    "Qwen3 30B-A3B": ("qwen3_moe", {"num_hidden_layers": 48, "head_dim": 128}),
    "gpt-oss 20B": ("gpt_oss", {"num_hidden_layers": 24, "num_local_experts": 32}),
    "Mixtral 8x7B": ("mixtral", {}),
    "GPT-2": ("gpt2", {}),
    "Gemma 3 4B (text)": ("gemma3", _GEMMA3_4B),
    "SmolLM3 3B": ("smollm3", {}),
}


def page() -> str:
    """The whole page."""
    return HEAD + tiny() + PUBLISHED + COLUMNS + "".join(published(name, *size) for name, size in SIZES.items())


def tiny() -> str:
    """The part about small configurations."""
    return TINY + COLUMNS + "".join(_small(name) for name in zoo.ZOO)


def _small(name: str) -> str:
    model = zoo.build(name)
    return row(name, type(model).__name__, reading(model))


def reading(model: Any) -> list[tuple[SiteCoverage, str]]:
    """Every parameter of a model that runs, and how it is read; "" where it is not."""
    loaded = as_loaded(model)
    sites = sites_of(loaded, ())
    kinds = {parameter: kind_of(site) for site in sites for parameter in site.parameters}
    return [(line, kinds.get(line.name, "")) for line in coverage(model, sites).sites]


def kind_of(site: Site) -> str:
    """How a site is read, in a word."""
    if not site.by_token:
        return site.uses[0].way
    if site.experts:
        return "experts"
    if site.elementwise:
        return "vectors"
    return "matrices" if site.vocabulary is None else "embedding"


def published(name: str, kind: str, changes: dict[str, Any]) -> str:
    """One line about a model too large to run: its parameters, read as their namesakes in a small one are."""
    import transformers as hf

    config = getattr(hf, zoo.SETTINGS[kind][0])(**changes)
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(config)
    small = zoo.build(kind, tie_word_embeddings=config.tie_word_embeddings)
    known = {_pattern(line.name): (line, how) for line, how in reading(small)}
    lines = []
    for parameter, tensor in model.named_parameters(remove_duplicate=True):
        line, how = known[_pattern(parameter)]
        lines.append((line.model_copy(update={"name": parameter, "parameters": tensor.numel()}), how))
    return row(name + ("" if changes else " *"), type(model).__name__, lines)


def _pattern(name: str) -> str:
    """A parameter's name without layer numbers."""
    return re.sub(r"\.\d+\.", ".*.", name)


def row(name: str, kind: str, lines: list[tuple[SiteCoverage, str]]) -> str:
    """One line of a table."""
    total = sum(line.parameters for line, _ in lines)
    by_kind: Counter[str] = Counter()
    for line, how in lines:
        by_kind[how] += line.parameters
    how = ", ".join(f"{each} {share(count, total)}" for each, count in by_kind.most_common() if each)
    done = share(total - by_kind[""], total)
    left = left_out(line for line, how in lines if not how)
    return f"| {name} | {kind} | {counted(total)} | {done} | {how} | {left} |\n"


def left_out(lines: Iterable[SiteCoverage]) -> str:
    """What is not attributed and why, one clause per reason."""
    names: dict[str, list[str]] = {}
    for line in lines:
        name = f"`{_pattern(line.name).rpartition('*.')[2]}`"
        if name not in names.setdefault(line.reason, []):
            names[line.reason].append(name)
    return "; ".join(f"{', '.join(each)}: {reason}" for reason, each in names.items()) or "–"


def share(part: int, total: int) -> str:
    """A percentage that says 100 only of all, and 0 only of nothing.

    >>> share(9999, 10000), share(10, 10), share(1, 100000)
    ('99.99 %', '100 %', '<0.01 %')
    """
    if part == total:
        return "100 %"
    if part * 10000 < total:
        return "<0.01 %"
    return f"{min(100 * part / total, 99.99):.2f} %"


def counted(parameters: int) -> str:
    """A number of parameters as people say it.

    >>> counted(21_760), counted(124_439_808), counted(7_298_011_136)
    ('21,760', '124.4M', '7.30B')
    """
    if parameters < 10**6:
        return f"{parameters:,}"
    return f"{parameters / 1e6:.1f}M" if parameters < 10**9 else f"{parameters / 1e9:.2f}B"


def stale() -> bool:
    """Whether the page's part about small configurations is not what they give."""
    return tiny() not in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("docs/coverage.md is stale; run python scripts/coverage_docs.py" if stale() else 0)
    PAGE.write_text(page(), encoding="utf-8")

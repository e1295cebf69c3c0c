"""Tokens per second of CPU time that a model and its proxies are read at, beside what their FLOPs promise.

    python benchmarks/lab/proxy_speed.py [--hidden 1024] [--layers 3]

Random weights: a Llama and products of the same share of each of its linear layers. `read` is forward and backward with
every site's inputs and gradients, which every index and every scan costs; `score` adds inner products with two queries'
blocks. One thread; on CUDA wall time.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS, VOCABULARY = 256, 8000


def main() -> None:
    """Print a line for the model and for each share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--documents", type=int, default=4)
    typed = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=typed.hidden,
        intermediate_size=11 * typed.hidden // 4,
        num_hidden_layers=typed.layers,
        num_attention_heads=8,
        max_position_embeddings=TOKENS,
    )
    target = LlamaForCausalLM(config).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    models = {"model": target, **{f"{share:.0%}": product_of(target, share) for share in (0.5, 0.25, 0.1)}}
    for name, model in models.items():
        speeds = measure(model, typed.documents)
        said = ", ".join(f"{kind} {speed:,.0f} tokens/s" for kind, speed in speeds.items())
        print(f"{name:<6} {sum(p.numel() for p in model.parameters()):>12,} parameters  {said}", flush=True)


def product_of(target: Any, share: float) -> Any:
    """Return a proxy with random factors, the same share of each linear layer."""
    import torch

    from whence.model import decomposable, factored_copy, find_sites

    pairs = {}
    for site in decomposable(target, find_sites(target))[0]:
        rank = max(1, int(share * site.outputs * site.inputs / (site.outputs + site.inputs)))
        pairs[site.name] = torch.randn(site.outputs, rank) * 0.02, torch.randn(rank, site.inputs) * 0.02, None
    return factored_copy(target, pairs)


def measure(model: Any, documents: int) -> dict[str, float]:
    """Tokens per second, by kind of work."""
    import numpy as np
    import torch

    from whence.attributor.core import sites_of
    from whence.data import batch_from_sequences
    from whence.gradients import Runner, exact_scores, language_examples
    from whence.model import as_loaded

    loaded, random = as_loaded(model), np.random.default_rng(0)
    sites, mask = sites_of(loaded, ()), np.r_[False, np.ones(TOKENS - 1, dtype=bool)]
    texts = [(random.integers(3, VOCABULARY, TOKENS), mask) for _ in range(documents)]
    examples, runner = language_examples(batch_from_sequences(texts), loaded), Runner(model, sites)
    blocks = {site.name: torch.randn(2, *site.shape, device=loaded.device) for site in sites}
    works: dict[str, Callable[[], Any]] = {
        "read": lambda: runner.examples(examples, lambda *_: None),
        "score": lambda: exact_scores(runner, examples, blocks),
    }
    clock = time.perf_counter if loaded.device.type == "cuda" else time.process_time
    out = {}
    for kind, work in works.items():
        work()
        begun = clock()
        for _ in range(2):
            work()
        out[kind] = 2 * documents * TOKENS / (clock() - begun)
    return out


if __name__ == "__main__":
    main()

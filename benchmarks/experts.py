"""What attributing a mixture of experts costs beside a dense model with as many active parameters, step by step.

    .venv/bin/python benchmarks/experts.py                     (defaults: 32 experts of 512, 4 chosen, hidden 1024)

An OLMoE whose tokens each go to `chosen` of `experts` experts of `width`, and a Llama with one MLP of chosen x width:
every token meets the same number of weights in both. Sites are the MLPs alone. One row per step: CPU seconds of both
on one thread, each also as a multiple of that model's own plain forward+backward, and the ratio of seconds: the cost
per active parameter and token. The smallest of several rounds counts, the two models in turns.

What is stored and fitted once is not per active parameter: a mixture has experts/chosen times the weights, and whole
codes, eigendecompositions and disk grow with all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from whence.curvature import Covariances, Damping, fit_kfac, with_eigenvalues
from whence.data import batch_from_sequences
from whence.gradients import (
    Examples,
    Recipe,
    Runner,
    add_covariances,
    add_eigenvalue_squares,
    build_encoders,
    encode_documents,
    exact_scores,
    language_examples,
)
from whence.model import LoadedModel, as_loaded, find_sites, probe_sites

VOCABULARY = 1024
QUERIES = 8
CPU = torch.device("cpu")


@dataclass
class Case:
    """A model and all that its steps need."""

    loaded: LoadedModel
    runner: Runner
    examples: Examples
    steps: dict[str, Callable[[], Any]]


def model_of(kind: str, args: argparse.Namespace) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig, OlmoeConfig

    torch.manual_seed(0)
    common = {
        "vocab_size": VOCABULARY, "hidden_size": args.hidden, "num_hidden_layers": args.layers,
        "num_attention_heads": 8, "max_position_embeddings": 2 * args.tokens, "eos_token_id": None,
    }  # fmt: skip
    if kind == "dense":
        return AutoModelForCausalLM.from_config(
            LlamaConfig(**common, intermediate_size=args.chosen * args.width)
        ).eval()
    sizes = {"num_experts": args.experts, "num_experts_per_tok": args.chosen, "intermediate_size": args.width}
    model = AutoModelForCausalLM.from_config(OlmoeConfig(**common, **sizes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.gate.weight"):  # as spread as a trained router's, and not all alike
            torch.nn.init.normal_(parameter, std=1.0)
    return model


def case(kind: str, args: argparse.Namespace) -> Case:
    loaded = as_loaded(model_of(kind, args))
    random = torch.Generator().manual_seed(1)
    texts = torch.randint(0, VOCABULARY, (args.documents, args.tokens), generator=random)
    everything = torch.ones(args.tokens, dtype=torch.bool).numpy()
    examples = language_examples(batch_from_sequences([(row.numpy(), everything) for row in texts]), loaded)
    candidates = find_sites(loaded.model, ["*.mlp.*_proj"])
    losses = lambda: loaded.model(input_ids=texts[:2], use_cache=False).logits.float().logsumexp(-1).sum(1)  # noqa: E731
    sites = probe_sites(loaded.model, candidates, losses, 2, loaded.head, args.tokens)
    runner = Runner(loaded.model, sites)
    return Case(loaded, runner, examples, steps_of(loaded, runner, examples, texts))


def steps_of(
    loaded: LoadedModel, runner: Runner, examples: Examples, texts: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """Each step by name; what later ones need is fitted here once."""
    sites = runner.sites

    def plain() -> None:
        loaded.model.requires_grad_(True)
        loaded.model(input_ids=texts, labels=texts, use_cache=False).loss.backward()
        loaded.model.zero_grad(set_to_none=True)
        loaded.model.requires_grad_(False)

    def covariances() -> Covariances:
        sums = Covariances(sites, 10**6, documents=examples.count)
        add_covariances(runner, examples, sums, 0, "fast")
        return sums

    shared: dict[Any, Any] = {}
    sums = covariances()
    bases = {site.name: fit_kfac(site, sums, shared) for site in sites}
    squares: dict[str, torch.Tensor] = {}

    def eigenvalues() -> None:
        add_eigenvalue_squares(runner, examples, bases, squares, 0, "fast")

    eigenvalues()
    fitted = {name: with_eigenvalues(bases[name], squares[name], examples.count) for name in bases}
    narrow = {name: curvature.to(CPU, torch.float32) for name, curvature in fitted.items()}
    dampings = {name: Damping(value=0.1).of(name, curvature, 1.0) for name, curvature in narrow.items()}
    bases.update({name: curvature.to(CPU, torch.float32) for name, curvature in bases.items()})

    def codes(recipe: Recipe) -> Callable[[], Any]:
        encoders = build_encoders(sites, narrow, dampings, recipe, CPU, torch.float32)
        return lambda: encode_documents(runner, examples, encoders, recipe.layout(sites), "fast")

    targets = {site.name: torch.randn(QUERIES, *site.shape) for site in sites}
    return {
        "plain forward+backward": plain,
        "factors, read and dropped": lambda: runner.examples(examples, lambda site, uses: None),
        "fit: covariances": covariances,
        "fit: eigenvalues": eigenvalues,
        "index: sketched codes (4,096)": codes(Recipe(projection="kronecker", coordinates=4096)),
        "index: whole codes": codes(Recipe(projection="none")),
        f"exact scores of {QUERIES} queries": lambda: exact_scores(runner, examples, targets),
    }


def seconds(step: Callable[[], Any]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def main() -> None:
    """Measures and prints one row per step, then one line of JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"experts": 32, "chosen": 4, "hidden": 1024, "width": 512, "layers": 1, "documents": 2, "tokens": 2048}
    for name, value in {**defaults, "rounds": 3}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    args = options.parse_args()
    torch.set_num_threads(1)
    cases = {kind: case(kind, args) for kind in ("dense", "mixture")}
    best: dict[str, dict[str, float]] = {}
    for name in cases["dense"].steps:
        best[name] = dict.fromkeys(cases, float("inf"))
        for _ in range(args.rounds):
            for kind, each in cases.items():
                best[name][kind] = min(best[name][kind], seconds(each.steps[name]))
    unit = best["plain forward+backward"]
    print(f"{'step':<32} {'dense':>16} {'mixture':>16} {'ratio':>7}")
    for name, taken in best.items():
        cells = [f"{taken[kind]:7.2f} s {taken[kind] / unit[kind]:5.2f}×" for kind in cases]
        print(f"{name:<32} {cells[0]:>16} {cells[1]:>16} {taken['mixture'] / taken['dense']:6.2f}×")
    print(json.dumps({"settings": vars(args), "seconds": best}))


if __name__ == "__main__":
    main()

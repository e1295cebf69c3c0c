"""Proxies in the place of a set-up's model: how well they rank, how well they predict retraining, what they save.

    python benchmarks/lab/proxies.py bench-out/llama-docs bench-out/llama-docs-run bench-out/proxies/llama-docs

The run is copied to OUT/run with its bank of retrained models, and nothing is retrained. Two smaller models are
trained on the same corpus in the same way, of one layer and of half the width: what a proxy off the shelf is at best.
Two more are as large as the model: its own state after half of its training, and one trained for half the epochs. They
show what is owed to having learnt less by heart, and not to being small.
Then for the model, for them, and for proxies made of the model (`whence.methods.iprox`)

    FLOPs      of forward and backward per token, over the model's; head and attention included
    agreement  Spearman over documents with the scores of the model's own EK-FAC, mean over queries
    LDS        against the bank, with 95 % over queries and subsets
    passes     of the plain model over the corpus that everything took: making the proxy, its fit, and all queries

Prints a table in Markdown and writes OUT/proxies.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

SHARES = (0.5, 0.25, 0.1)
SMALLER: dict[str, dict[str, tuple[str, int]]] = {
    "half of the training": {},
    "half the epochs": {},
    "one layer": {"num_hidden_layers": ("set", 1), "n_layer": ("set", 1)},
    "half width": {
        "hidden_size": ("half", 0), "intermediate_size": ("half", 0), "n_embd": ("half", 0), "n_inner": ("half", 0)
    },
}  # fmt: skip


def main() -> None:
    """Score, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setup", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--align", type=int, default=100)
    typed = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    run = copied(typed.run, typed.out / "run")
    names = [name for name in SMALLER if scratch(typed.setup) or not SMALLER[name]]
    smaller = {name: train_smaller(typed.setup, name, typed.out) for name in names}
    rows = measured(typed.setup, run, smaller, typed.seeds, typed.align)
    (typed.out / "proxies.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(as_markdown(rows))


def copied(source: Path, run: Path) -> Path:
    """Return a copy of a run with its bank, without scores of other methods."""
    if not run.exists():
        left_out = shutil.ignore_patterns("methods", "lab", "fits")
        shutil.copytree(source, run, ignore=left_out)
    return run


def scratch(setup: Path) -> bool:
    """Whether training starts from nothing; elsewhere a model of another size has nothing to start from."""
    return bool(json.loads((setup / "meta.json").read_text(encoding="utf-8"))["from_scratch"])


def train_smaller(setup: Path, name: str, out: Path) -> Path:
    """Train a smaller model of the same kind on the same corpus in the same way; its directory."""
    from setup import everything, save
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from whence.data import CorpusConfig, encode_queries, ingest, load_queries
    from whence.fidelity import load_training
    from whence.fidelity.tasks import LanguageTask
    from whence.model import keep_states, read_config

    folder = out / name.replace(" ", "-")
    if (folder / "config.json").is_file():
        return folder
    config = read_config(str(setup / "start"))
    for key, (how, value) in SMALLER[name].items():
        if config.to_dict().get(key):
            setattr(config, key, value if how == "set" else getattr(config, key) // 2)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    tokenizer = AutoTokenizer.from_pretrained(setup / "model")
    start = out / "starts" / folder.name if scratch(setup) else setup / "start"
    if scratch(setup):
        save(AutoModelForCausalLM.from_config(config), tokenizer, start)
    context = int(config.max_position_embeddings)
    settings = CorpusConfig(data=(str(setup / "corpus.jsonl"),), context=context, vocabulary=config.vocab_size)
    ingest(settings, tokenizer, out / "starts" / "tokens")
    queries = encode_queries(load_queries(str(setup / "queries.jsonl")), tokenizer, context)
    training, _ = load_training(setup / "training.json")
    if name == "half the epochs":
        training = training.model_copy(update={"epochs": training.epochs / 2})
    task = LanguageTask(out / "starts" / "tokens", start, training, queries, scratch=scratch(setup))
    half, states = task.steps(everything(task)) // 2, out / "starts" / "states"
    trained = task.fit(everything(task), 0, observer=keep_states(states, [half] if "of the" in name else []))
    if "of the" in name:
        trained = replace(trained, model=AutoModelForCausalLM.from_pretrained(states / f"checkpoint-{half}"))
    asked = sum(int(query.text.loss_mask.sum()) for query in queries)
    print(f"{name}: query loss {float(task.losses(trained.model).sum()) / asked:.3f} nats per token", flush=True)
    save(trained.model, tokenizer, folder)
    return folder


def measured(setup: Path, run: Path, smaller: dict[str, Path], seeds: int, align: int) -> list[dict[str, Any]]:
    """Run all methods and compare them; one row each, the model's own EK-FAC first."""
    import numpy as np
    from claims import lab_of
    from scipy.stats import spearmanr

    from whence.fidelity import lds, lds_difference
    from whence.fidelity.methods import MethodSpec
    from whence.model import load_model, read_proxy_card

    lab = lab_of(setup, run, seeds)
    named = {
        "EK-FAC of the model": MethodSpec(curvature="ekfac"),
        "unsaturated EK-FAC of the model": MethodSpec(method="unsaturated:bits=exact"),
        "BM25": MethodSpec(baseline="bm25"),
    }
    places = dict.fromkeys(named, setup / "model")
    for name, folder in smaller.items():
        named[f"{name}, trained so"] = MethodSpec(method=f"proxy:model={folder.resolve()}")
        places[f"{name}, trained so"] = folder
    stages = {"decomposed": 0, "aligned": align}
    made = [(f"{share:.0%}, {stage}", share, steps) for share in SHARES for stage, steps in stages.items()]
    named |= {name: MethodSpec(method=f"iprox:share={share},align={steps}") for name, share, steps in made}
    scored = dict(zip(named, lab.run(list(named.values())), strict=True))
    for file in run.rglob("iprox-*/model/proxy.json"):
        settings = read_proxy_card(file.parent).settings
        places |= {n: file.parent for n, share, steps in made if (share, steps) == (settings.share, settings.steps)}
    kept, losses = lab.halves
    own = scored["EK-FAC of the model"].scores
    target, rows = flops(load_model(str(setup / "model"), device="cpu").model), []
    for name, found in scored.items():
        model, cost = load_model(str(places[name]), device="cpu").model, found.summary.cost
        value, change = lds(found.scores, kept, losses), lds_difference(found.scores, own, kept, losses)
        each = [float(spearmanr(a, b).statistic) for a, b in zip(found.scores, own, strict=True)]
        rows.append(
            {
                "name": name,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "flops": flops(model) / target,
                "agreement": float(np.mean(each)),
                "least": float(np.min(each)),
                "lds": [value.value, value.low, value.high],
                "change": [change.value, change.low, change.high],
                "fit": 0.0 if cost is None else cost.fit,
                "query": 0.0 if cost is None else cost.query,
            }
        )
    return rows


def flops(model: Any) -> float:
    """Multiplications of a token's forward and backward pass, half a context back on average, up to one factor."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
    config = model.config
    return float(linear + config.num_hidden_layers * config.hidden_size * config.max_position_embeddings)


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = [
        "| scores of | parameters | FLOPs per token | agreement (least) | LDS | less the model's own | passes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        value, low, high = row["lds"]
        change = "–" if row is rows[0] else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["change"])
        agreed, passes = f"{row['agreement']:.3f} ({row['least']:.2f})", f"{row['fit']:.1f} + {row['query']:.1f}"
        cells = [row["name"], f"{row['parameters']:,}", f"{row['flops']:.0%}", agreed]
        lines.append("| " + " | ".join([*cells, f"{value:.3f} [{low:.3f}, {high:.3f}]", change, passes]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""What the scripts of this folder share: their command line, and the folder that setup_b.py writes.

Knows nothing about any one peer. Imports torch only after the number of threads has been set.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from measure import thread_environment

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that every script takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--setup", type=Path, required=True, help="folder written by setup_b.py")
    made.add_argument("--threads", type=int, default=1, help="CPU threads")
    made.add_argument("--batch-size", type=int, default=8, help="documents per batch")
    made.add_argument("--documents", type=int, help="use only the first so many documents")
    made.add_argument("--seed", type=int, default=0)
    return made


def peer_parser(description: str | None, stages: tuple[str, ...]) -> argparse.ArgumentParser:
    """Returns a parser with the options that both peers take as well."""
    made = parser(description)
    made.add_argument("--out", type=Path, required=True, help="folder for factors, scores.npy and sites.json")
    made.add_argument("--stage", choices=stages, default="all", help="'score' needs what 'fit' left in --out")
    made.add_argument(
        "--damping-factor", type=float, default=0.1, help="damping as a multiple of mean(Lambda) per site"
    )
    made.add_argument("--labels", choices=("sampled", "data"), default="sampled", help="labels for the curvature")
    return made


def quiet(threads: int, cache: Path | None = None) -> None:
    """Fixes the threads, keeps every library offline and its progress bars off. Call before torch loads.

    Args:
        threads: CPU threads.
        cache: folder that Hugging Face libraries use instead of the user's own.
    """
    os.environ.update(thread_environment(threads))
    if cache is not None:
        os.environ["HF_HOME"] = str(cache)
    os.environ.update(
        HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1"
    )
    import torch

    torch.set_num_threads(threads)


def read_ids(setup: Path, kind: str, limit: int | None = None) -> torch.Tensor:
    """Returns the token ids of `documents` or `queries`, (N, T) int64."""
    import torch

    with Path(setup, f"{kind}.jsonl").open(encoding="utf-8") as lines:
        return torch.tensor([json.loads(line)["input_ids"] for line in lines][:limit])


def read_pairs(setup: Path, kind: str) -> torch.Tensor:
    """Returns token ids and labels, (N, 2, T) int64; labels are the ids where a row has none, -100 is no target."""
    import torch

    with Path(setup, f"{kind}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return torch.tensor([[row["input_ids"], row.get("labels", row["input_ids"])] for row in rows])


def read_model(setup: Path) -> PreTrainedModel:
    """Returns the model in float32 and evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(Path(setup, "model"), dtype=torch.float32).eval()


def token_sum_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the summed cross-entropy in nats of `labels` (B, T) under `logits` (B, T, V), shifted by one."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def linear_sites(model: PreTrainedModel) -> list[str]:
    """Returns the names of all linear layers but the output head, the sites that both peers cover."""
    from torch import nn

    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]

"""quanda's linear datamodelling score of given scores against given losses. Runs in the peers' environment.

    .bench-venv/bin/python benchmarks/lab/judge_quanda.py TRUTH.npz

TRUTH.npz holds `scores` [Q, N], `kept` bool [S, N] and `losses` [S, R, Q]. quanda predicts a subset's output by the sum
of the scores of what it holds, and asks for the output of the model trained on it: the query's log-likelihood, the mean
over seeds, is given as that output. Prints one JSON line with the score, and each query's.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def metric() -> Any:
    """Returns quanda's metric class.

    quanda's own doors import every explainer it wraps, and with them torchvision, captum, TRAK and dattri, which the
    metric does not use: the packages are entered by their folders instead.
    """
    found = importlib.util.find_spec("quanda")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("quanda is not installed here: run benchmarks/peers/install.sh.")
    root = Path(found.submodule_search_locations[0])
    for name in ("quanda", "quanda.metrics", "quanda.metrics.ground_truth", "quanda.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("quanda.metrics.ground_truth.linear_datamodeling").LinearDatamodelingMetric


def judge(scores: np.ndarray, kept: np.ndarray, losses: np.ndarray) -> dict[str, Any]:
    """Returns quanda's score and each query's."""
    import torch

    subsets = [np.flatnonzero(row).tolist() for row in kept]
    judged = metric()(
        model=torch.nn.Identity(),
        train_dataset=list(range(kept.shape[1])),
        m=len(subsets),
        subset_ids=subsets,
        subset_ckpt_filenames=[""] * len(subsets),
        correlation_fn="spearman",
    )
    outputs = {number: torch.from_numpy(-row.mean(0)) for number, row in enumerate(losses)}
    nothing = torch.zeros(len(scores))
    judged.update(torch.from_numpy(scores), test_targets=nothing, test_data=nothing, subset_logits=outputs)
    by_query = torch.cat(judged.results["scores"])
    return {"score": judged.compute()["score"], "by_query": by_query.tolist()}


def main() -> None:
    """Prints quanda's judgement."""
    warnings.simplefilter("ignore")
    with np.load(sys.argv[1]) as truth:
        print(json.dumps(judge(*(truth[name] for name in ("scores", "kept", "losses")))))


if __name__ == "__main__":
    main()

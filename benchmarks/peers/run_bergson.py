"""Measures bergson on the CPU: EK-FAC factors and scores of all queries, and its projected gradient store.

Runs in one process, calling the functions behind `bergson ekfac`, `bergson build` and `bergson query` in the order in
which those commands call them. bergson covers every linear layer but lm_head, sums losses over tokens, samples labels
from the model (unless `--labels data`) and leaves a document's last position out: all of it its default.

Stages, each with wall and CPU seconds. They include that bergson loads model and data afresh in every step:

    load               imports
    fit                covariance, eigendecomposition and eigenvalue correction; the three are also listed apart
    query_gradients    full gradients of the queries, written to disk
    precondition       the inverse curvature applied to them, written to disk
    score              forward and backward over every document again, against the preconditioned queries
    index              (`--stage index`) projected gradients of every document, `--projection` x `--projection` per
                       site: 16, the default of bergson's own TrackStar command; no curvature
    index_query        projected gradients of the queries
    index_search       reads the store into memory and scores all queries against it (`Attributor.search`)

`disk_bytes` gives what each step leaves. Damping is bergson's `damped_inverse`, a multiple of mean(Lambda) per site,
default 0.1 as here. Its batch is a budget of tokens: `--batch-size` times the tokens of a document.

Prints one JSON line; writes `scores.npy` [queries, documents] float32, where a positive score supports the query
(`index_scores.npy` for the projected store), and `sites.json` to `--out`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from inputs import peer_parser, quiet, read_ids
from measure import Stages, report, tree_bytes

if TYPE_CHECKING:
    import numpy as np
    from bergson import IndexConfig

STEPS = ("hessian", "query", "preconditioned", "scores", "index", "index_query")


def index_config(args: argparse.Namespace, step: str, kind: str = "documents", projection: int = 0) -> IndexConfig:
    """Returns bergson's settings for one step over `documents` or `queries`."""
    from bergson import DataConfig, IndexConfig

    split = f"train[:{args.documents}]" if args.documents and kind == "documents" else "train"
    return IndexConfig(
        run_path=str(args.out / step),
        overwrite=True,
        model=str(args.setup / "model"),
        precision="fp32",
        data=DataConfig(dataset=str(args.setup / f"{kind}.jsonl"), split=split),
        projection_dim=projection,
        token_batch_size=args.batch_size * args.tokens,
    )


def inversion(args: argparse.Namespace) -> Any:
    """Returns bergson's damping."""
    from bergson.config import InversionConfig

    return InversionConfig(inversion="damped_inverse", damping_factor=args.damping_factor)


def fit(args: argparse.Namespace, stages: Stages) -> None:
    """Fits the EK-FAC factors on every document, timing the three parts inside."""
    import bergson.hessians.hessian_approximations as hessians
    from bergson.config.config import HessianConfig

    config = HessianConfig(method="kfac", ev_correction=True, use_dataset_labels=args.labels == "data")

    def name_pass(*_: Any, ev_correction: bool = False, **__: Any) -> str:
        return "lambda" if ev_correction else "covariance"

    with (
        timed(hessians, "collect_hessians", stages, name_pass),
        timed(hessians, "eigendecompose_owned", stages, lambda *_, **__: "eigendecomposition"),
        stages("fit"),
    ):
        hessians.approximate_hessians(index_config(args, "hessian"), config)


@contextmanager
def timed(module: Any, function: str, stages: Stages, name: Callable[..., str]) -> Iterator[None]:
    """Books each call of a module's function under the name that `name` gives to its arguments."""
    original = getattr(module, function)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with stages(name(*args, **kwargs)):
            return original(*args, **kwargs)

    setattr(module, function, wrapper)
    try:
        yield
    finally:
        setattr(module, function, original)


def score(args: argparse.Namespace, stages: Stages) -> np.ndarray:
    """Returns the EK-FAC scores of every query over every document, (Q, N), following `bergson ekfac`."""
    from bergson import PreprocessConfig, QuerySetConfig, ScoreConfig
    from bergson.build import build_query
    from bergson.data import load_scores
    from bergson.hessians.apply_hessian import EkfacConfig, apply_worker
    from bergson.score.score import score_dataset

    with stages("query_gradients"):
        queries = index_config(args, "query", "queries")
        build_query(queries, QuerySetConfig.from_data(queries.data), PreprocessConfig())
    with stages("precondition"):
        paths = {name: str(args.out / step) for name, step in APPLY_PATHS.items()}
        apply_worker(0, 0, 1, EkfacConfig(**paths, ev_correction=True), inversion(args))
    with stages("score"):
        score_dataset(index_config(args, "scores"), ScoreConfig(query_path=paths["run_path"]), PreprocessConfig())
    return load_scores(args.out / "scores")[:].T


APPLY_PATHS = {"hessian_method_path": "hessian", "gradient_path": "query", "run_path": "preconditioned"}


def index(args: argparse.Namespace, stages: Stages) -> np.ndarray:
    """Builds the projected store and returns its scores of every query over every document, (Q, N)."""
    import torch
    from bergson import Attributor, PreprocessConfig, load_module_gradients
    from bergson.build import build

    with stages("index"):
        build(index_config(args, "index", projection=args.projection), PreprocessConfig())
    with stages("index_query"):
        build(index_config(args, "index_query", "queries", args.projection), PreprocessConfig())
    with stages("index_search"):
        grads = load_module_gradients(args.out / "index_query")
        attributor = Attributor(args.out / "index")
        found = attributor.search({site: torch.tensor(grads[site]) for site in attributor.ordered_modules}, k=None)
    return torch.zeros_like(found.values).scatter(1, found.indices, found.values).numpy()


def covered(args: argparse.Namespace, step: str) -> list[str]:
    """Returns the names, as the whole model gives them, of the sites that a step's store holds."""
    info = json.loads((args.out / step / "info.json").read_text())
    return [f"model.{name}" for name in info["grad_sizes"]]


def parse() -> argparse.Namespace:
    """Reads the command line."""
    options = peer_parser(__doc__, ("all", "fit", "score", "index"))
    options.add_argument("--projection", type=int, default=16, help="side of each site's projected gradient")
    return options.parse_args()


def run(args: argparse.Namespace, stages: Stages) -> list[str]:
    """Runs the stages asked for, writes the scores and returns the sites they cover."""
    import numpy as np

    sites: list[str] = []
    if args.stage in ("all", "fit"):
        fit(args, stages)
    if args.stage in ("all", "score"):
        np.save(args.out / "scores.npy", score(args, stages))
        sites = covered(args, "query")
    if args.stage in ("all", "index"):
        np.save(args.out / "index_scores.npy", index(args, stages))
        sites = sites or covered(args, "index")
    if sites:
        (args.out / "sites.json").write_text(json.dumps(sites, indent=1))
    return sites


def clear(args: argparse.Namespace) -> None:
    """Removes what an earlier run of the same stages left, which bergson would refuse to overwrite."""
    stale = {"all": STEPS, "fit": STEPS[:1], "score": STEPS[1:4], "index": STEPS[4:]}[args.stage]
    for step in stale:
        shutil.rmtree(args.out / step, ignore_errors=True)
        shutil.rmtree(args.out / f"{step}.part", ignore_errors=True)


def main() -> None:
    """Runs the stages asked for and prints one line."""
    args = parse()
    quiet(args.threads, cache=args.out / "cache")
    documents = read_ids(args.setup, "documents", args.documents)
    args.tokens = documents.shape[1]
    args.out.mkdir(parents=True, exist_ok=True)
    clear(args)
    stages = Stages()
    with redirect_stdout(sys.stderr):  # bergson prints its progress; stdout is for the one line
        with stages("load"):
            import bergson
            import torch

            torch.manual_seed(args.seed)
        sites = run(args, stages)
    report(
        {
            "name": "bergson",
            "version": bergson.__version__,
            "documents": len(documents),
            "tokens": documents.numel(),
            "threads": args.threads,
            "batch_size": args.batch_size,
            "damping_factor": args.damping_factor,
            "labels": args.labels,
            "projection": args.projection,
            "sites": len(sites) or None,  # a fit alone leaves no list of them
            "stages": stages.rows,
            "fit": stages.total(["fit"]),
            "score": stages.total(["query_gradients", "precondition", "score"]),
            "index": stages.total(["index"]),
            "index_score": stages.total(["index_query", "index_search"]),
            "disk_bytes": {step: tree_bytes(args.out / step) for step in STEPS},
        }
    )


if __name__ == "__main__":
    main()

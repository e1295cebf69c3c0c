"""Measures kronfluence: EK-FAC factors, then pairwise scores of all queries over all documents.

Covers every linear layer but lm_head (kronfluence wraps `nn.Linear`; lm_head is left out as its own language model
examples do), token-sum losses, labels sampled from the model unless `--labels data`. The last position of a document,
which predicts nothing, is masked out of the activation covariance by kronfluence's own `get_attention_mask`.

Stages, each with wall and CPU seconds: `load` (imports, model, data), `covariance`, `eigendecomposition`, `lambda`;
then `score`, which has no index to read: it preconditions the query gradients and runs forward and backward over every
document again. `fit` sums the first three of the work. `disk_bytes` is the folder of factors, which it keeps.

Damping: kronfluence's own default is an *absolute* 1e-8; its other choice, None, is 0.1 x mean(Lambda) per site. Other
multiples are reached by setting the constant behind that choice; `--absolute-damping` gives the number it takes itself.

Prints one JSON line; writes `scores.npy` [queries, documents] float32, where a positive score supports the query, and
`sites.json` to `--out`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputs import linear_sites, peer_parser, quiet, read_ids, read_model, read_pairs
from measure import Stages, report, tree_bytes

if TYPE_CHECKING:
    import torch
    from kronfluence.analyzer import Analyzer
    from kronfluence.task import Task

FIT = ("covariance", "eigendecomposition", "lambda")


def make_task(sites: list[str]) -> Task:
    """Returns the language modelling task over those sites, with losses and measurement summed over tokens."""
    import torch
    from inputs import token_sum_loss
    from kronfluence.task import Task

    class LanguageModelling(Task):
        def compute_train_loss(self, batch: Any, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
            logits = model(input_ids=batch).logits
            return token_sum_loss(logits, sampled(logits, batch) if sample else batch)

        def compute_measurement(self, batch: Any, model: torch.nn.Module) -> torch.Tensor:
            ids, labels = batch.unbind(1)
            return token_sum_loss(model(input_ids=ids).logits, labels)

        def get_influence_tracked_modules(self) -> list[str]:
            return sites

        def get_attention_mask(self, batch: Any) -> torch.Tensor:
            mask = torch.ones_like(batch)
            mask[:, -1] = 0
            return mask

    return LanguageModelling()


def sampled(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Returns labels like `batch` in which each position's successor is drawn from the model's own prediction."""
    import torch

    labels = batch.clone()
    with torch.no_grad():
        chances = logits[:, :-1].softmax(-1).flatten(0, 1)
        labels[:, 1:] = torch.multinomial(chances, 1).view_as(labels[:, 1:])
    return labels


def make_analyzer(args: argparse.Namespace, sites: list[str], model: torch.nn.Module) -> Analyzer:
    """Returns an analyzer on the CPU that keeps everything under `--out`."""
    from kronfluence.analyzer import Analyzer, prepare_model

    task = make_task(sites)
    return Analyzer("run", prepare_model(model, task), task, cpu=True, disable_tqdm=True, output_dir=str(args.out))


def fit(args: argparse.Namespace, analyzer: Analyzer, documents: Any, stages: Stages) -> None:
    """Fits the factors on every document, stage by stage as `fit_all_factors` does."""
    from kronfluence.arguments import FactorArguments

    options = FactorArguments(strategy="ekfac", use_empirical_fisher=args.labels == "data")
    with stages("covariance"):
        analyzer.fit_covariance_matrices(
            "ekfac", documents, args.batch_size, factor_args=options, overwrite_output_dir=True
        )
    with stages("eigendecomposition"):
        analyzer.perform_eigendecomposition("ekfac", factor_args=options, overwrite_output_dir=True)
    with stages("lambda"):
        analyzer.fit_lambda_matrices(
            "ekfac",
            documents,
            args.lambda_batch_size or args.batch_size,
            factor_args=options,
            overwrite_output_dir=True,
        )


def score(args: argparse.Namespace, analyzer: Analyzer, queries: Any, documents: Any, stages: Stages) -> torch.Tensor:
    """Returns the scores of every query, all in one batch, over every document, (Q, N)."""
    import kronfluence.factor.config as factors
    from kronfluence.arguments import ScoreArguments

    factors.HEURISTIC_DAMPING_SCALE = args.damping_factor
    with stages("score"):
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            query_dataset=queries,
            train_dataset=documents,
            per_device_query_batch_size=len(queries),
            per_device_train_batch_size=args.score_batch_size or args.batch_size,
            score_args=ScoreArguments(damping_factor=args.absolute_damping),
            overwrite_output_dir=True,
        )
    return analyzer.load_pairwise_scores("scores")["all_modules"]


class Rows:
    """A data set of token ids as kronfluence reads it: a length and one row at a time. Queries have labels, too."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.ids[index]


def parse() -> argparse.Namespace:
    """Reads the command line."""
    options = peer_parser(__doc__, ("all", "fit", "score"))
    options.add_argument("--lambda-batch-size", type=int, help="documents per batch in the lambda pass")
    options.add_argument("--score-batch-size", type=int, help="documents per batch in the scoring pass")
    options.add_argument("--absolute-damping", type=float, help="kronfluence's own damping number, for all sites alike")
    return options.parse_args()


def main() -> None:
    """Runs the stages asked for and prints one line."""
    args = parse()
    quiet(args.threads)
    stages = Stages()
    with stages("load"):
        import torch

        torch.manual_seed(args.seed)
        model = read_model(args.setup)
        sites = linear_sites(model)
        documents = Rows(read_ids(args.setup, "documents", args.documents))
        queries = Rows(read_pairs(args.setup, "queries"))
        analyzer = make_analyzer(args, sites, model)
    if args.stage != "score":
        fit(args, analyzer, documents, stages)
    if args.stage != "fit":
        save(args.out, score(args, analyzer, queries, documents, stages), sites)
    report(
        {
            "name": "kronfluence",
            "version": version(),
            "documents": len(documents),
            "queries": len(queries),
            "tokens": documents.ids.numel(),
            "threads": args.threads,
            "batch_size": args.batch_size,
            "lambda_batch_size": args.lambda_batch_size or args.batch_size,
            "score_batch_size": args.score_batch_size or args.batch_size,
            "damping_factor": args.damping_factor if args.absolute_damping is None else None,
            "absolute_damping": args.absolute_damping,
            "labels": args.labels,
            "sites": len(sites),
            "stages": stages.rows,
            "fit": stages.total(FIT),
            "score": stages.total(["score"]),
            "disk_bytes": tree_bytes(args.out / "run" / "factors_ekfac"),
        }
    )


def save(out: Path, scores: torch.Tensor, sites: list[str]) -> None:
    """Writes the score matrix and the names of the sites it covers."""
    import numpy as np

    np.save(out / "scores.npy", scores.float().numpy())
    (out / "sites.json").write_text(json.dumps(sites, indent=1))


def version() -> str:
    """Returns the installed version of kronfluence."""
    from importlib.metadata import version

    return version("kronfluence")


if __name__ == "__main__":
    main()

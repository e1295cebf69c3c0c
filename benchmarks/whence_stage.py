"""One stage of whence on the benchmark's model and documents, in a process of its own.

    .venv/bin/python benchmarks/whence_stage.py --setup bench-out/b --run bench-out/whence --stage fit --sample 1.0

Stages: fit (covariances, eigendecomposition, eigenvalues; the corpus is read beforehand), index, scan (the queries' own
gradients first, timed apart), exact (scores by running the model). One JSON line; `seconds` holds wall and CPU of
the stage alone, `load` the rest, `disk_bytes` what the stage left. CPU seconds are the whole process's, all threads.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).parent / "peers"))

from measure import Stages, report, tree_bytes


def main() -> None:
    """Measures one stage and prints one line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--setup", type=Path, required=True)
    options.add_argument("--run", type=Path, required=True)
    options.add_argument("--stage", choices=["fit", "index", "scan", "exact"], required=True)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--sample", type=float, default=None)
    options.add_argument("--precision", default=None)
    options.add_argument("--bits", type=int, default=None)
    options.add_argument("--projection", default=None)
    options.add_argument("--coordinates", type=int, default=None)
    options.add_argument("--damping", type=float, default=None)
    options.add_argument("--sites", nargs="*", default=None)
    options.add_argument("--scores", type=Path, default=None, help="save the scores [Q, N] here")
    args = options.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    stages = Stages()
    with stages("load"):
        owner = _open(args)
    out = {"name": f"whence {args.stage}", "threads": args.threads, "kernel": _kernel()}
    out |= _STAGES[args.stage](owner, args, stages)
    report({**out, "documents": owner.corpus.documents, "tokens": owner.corpus.tokens, "seconds": stages.rows})


def _kernel() -> str:
    from whence.scoring import kernel_name

    return kernel_name()


def _open(args: argparse.Namespace):
    from whence import Attributor

    fit = {"sample": args.sample, "precision": args.precision, "batch_tokens": 2048}
    recipe = {
        "method": "ekfac",  # what the peers compute
        "bits": args.bits,
        "projection": args.projection,
        "coordinates": args.coordinates,
        "precision": args.precision,
        "damping": None if args.damping is None else {"kind": "relative", "value": args.damping},
    }
    model = {"sites": args.sites, "min_coverage": 0.0}
    owner = Attributor(
        args.run,
        model=os.fspath(args.setup / "model"),
        data=[os.fspath(args.setup / "documents.jsonl")],
        settings={"fit": fit, "recipe": recipe, "model": model, "corpus": {"form": "input_ids"}},
        device="cpu",
    )
    from whence.attributor.steps import CorpusStep, run_steps

    run_steps([CorpusStep(owner)])
    return owner


def _fit(owner, args, stages):
    from whence.attributor.fitting import CovarianceStep, EigenvalueStep
    from whence.attributor.steps import run_steps

    for step in (CovarianceStep(owner), EigenvalueStep(owner)):
        with stages(step.name):
            run_steps([step])
    fitted = sum(len(part) for part in step.parts)
    return {"fitted_documents": fitted, "disk_bytes": tree_bytes(owner.run.curvature)}


def _index(owner, args, stages):
    from whence.attributor.indexing import IndexStep
    from whence.attributor.steps import run_steps

    step = IndexStep(owner, None)
    shutil.rmtree(step.folder, ignore_errors=True)
    with stages("encoders"):
        _ = step.encoders
    with stages("index"):
        run_steps([step])
    return {"recipe": step.recipe.name, "disk_bytes": tree_bytes(step.folder)}


def _queries(args):
    """The benchmark's queries: token ids, every token after the first explained."""
    import json

    import numpy as np

    from whence.interfaces import EncodedQuery, EncodedText, Query

    out = []
    for line in (args.setup / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        tokens = np.array(row["input_ids"], dtype=np.int64)
        text = EncodedText(tokens, np.arange(len(tokens)) > 0, ("",) * len(tokens))
        out.append(EncodedQuery(Query(completion=row["text"]), row["id"], text))
    return out


def _scan(owner, args, stages):
    """Queries in groups of the size that a trace holds at once; the index is scanned once per group."""
    import numpy as np

    from whence.attributor.search import ask, group_size
    from whence.scoring import Dense, scan

    index = owner.open_index()
    encoders = owner.encoders(owner.recipe())
    queries = _queries(args)
    dense = Dense(len(queries), owner.corpus.documents)
    for first in range(0, len(queries), group_size(owner)):
        group = queries[first : first + group_size(owner)]
        with stages(f"queries {first}"):
            question = ask(owner, group)
        with stages(f"encode {first}"):
            vectors = {name: each.query(question.blocks[name]).float().numpy() for name, each in encoders.items()}
        for attempt in ("cold", "warm"):
            with stages(f"{attempt} scan {first}"):
                scan(
                    index, index.layouts, vectors, [Some(dense, slice(first, first + len(group)))], 1 / owner.trained_on
                )
        del question, vectors
    for name in ("queries", "encode", "cold scan", "warm scan"):
        _total(stages.rows, name)
    if args.scores:
        np.save(args.scores, dense.scores)
    return {"bytes_scanned": index.bytes_per_row * owner.corpus.windows, "query_count": len(queries)}


def _total(rows, name):
    """Add up the rows of all groups under one name."""
    mine = [rows.pop(key) for key in list(rows) if key.rpartition(" ")[0] == name]
    rows[name] = {key: (max if "peak" in key else sum)(row[key] for row in mine) for key in mine[0]}


class Some:
    """A fold that fills some rows of a dense one."""

    def __init__(self, dense, rows):
        self.dense, self.rows = dense, rows

    def update(self, documents, scores):
        self.dense.scores[self.rows, documents] = scores


def _exact(owner, args, stages):
    import numpy as np

    from whence.attributor.search import ask, from_model
    from whence.scoring import Dense

    encoders = owner.encoders(owner.recipe())
    with stages("queries"):
        question = ask(owner, _queries(args))
    count = len(question.queries)
    dense = Dense(2 * count, owner.corpus.documents)
    with stages("exact"):
        from_model(owner, question, encoders, [dense], 1.0 / owner.trained_on, None, lambda _: None)
    if args.scores:
        np.save(args.scores, dense.scores[:count])
    return {"query_count": count}


_STAGES = {"fit": _fit, "index": _index, "scan": _scan, "exact": _exact}

if __name__ == "__main__":
    main()

"""Runs the yardstick and every peer, each stage in a process of its own, and relates their costs.

One row per job: what it cost in CPU seconds, in multiples of forward + backward over the same tokens, its peak memory
and what it left on disk. The seconds are those of the work alone, without start-up, imports and the first load of model
and data (`load` in the scripts' own lines); the memory is that of the whole process, as the kernel booked it.

    .venv/bin/python benchmarks/peers/run_peers.py --setup bench-out/b --out bench-out/peers

Prints one JSON line per row. Any Python will do: the scripts run under `--python`, by default the one in .bench-venv.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).parent))

from measure import run_isolated

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".bench-venv" / "bin" / "python"

# Fastest of 2, 4, 8 and 16 on the full model with one thread; README.md has the numbers.
BATCH_SIZE = 8

# (script, stage, job, the key of its seconds, which parts of its disk_bytes it left: None where that is one number)
JOBS = [
    ("run_kronfluence.py", "fit", "EK-FAC fit", "fit", None),
    ("run_kronfluence.py", "score", "EK-FAC scores", "score", ()),
    ("run_bergson.py", "fit", "EK-FAC fit", "fit", ("hessian",)),
    ("run_bergson.py", "score", "EK-FAC scores", "score", ("query", "preconditioned", "scores")),
    ("run_bergson.py", "index", "projected index", "index", ("index",)),
    ("run_bergson.py", "index", "projected index: queries", "index_score", ("index_query",)),
]


def command(script: str, setup: Path, threads: int, python: Path = PYTHON, **options: Any) -> list[str]:
    """Returns the command line of one script; options that are None are left out."""
    words = [os.fspath(python), os.fspath(HERE / script), "--setup", os.fspath(setup), "--threads", str(threads)]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def measure_reference(setup: Path, threads: int = 1, repeats: int = 2, **options: Any) -> dict[str, Any]:
    """Returns the cheapest of `repeats` runs of forward + backward, as `run_isolated` gives it."""
    words = command("reference.py", setup, threads, **options)
    runs = [run_isolated(words, threads=threads) for _ in range(repeats)]
    return min(runs, key=lambda run: run["result"]["seconds"]["cpu_seconds"])


def measure_peers(setup: Path, out: Path, threads: int = 1, **options: Any) -> Iterator[dict[str, Any]]:
    """Yields one row for the yardstick, then one for each job of each peer.

    Args:
        setup: folder written by setup_b.py.
        out: folder for what the peers write.
        threads: CPU threads.
        **options: `documents`, `batch_size`, `labels`, `damping_factor`, `seed` and `python`, passed on.
    """
    options.setdefault("batch_size", BATCH_SIZE)
    common = {key: options[key] for key in ("batch_size", "documents", "python") if options.get(key)}
    reference = measure_reference(setup, threads, **common)
    unit = reference["result"]["seconds"]["cpu_seconds"]
    yield row("plain", "forward + backward", reference, reference["result"]["seconds"], 0, unit)
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    for script, stage, job, seconds, disk in JOBS:
        if (script, stage) not in runs:
            words = command(script, setup, threads, out=out / Path(script).stem, stage=stage, **options)
            runs[script, stage] = run_isolated(words, threads=threads)
        run = runs[script, stage]
        left = run["result"]["disk_bytes"]
        size = left if disk is None else sum(left[key] for key in disk)
        yield row(run["result"]["name"], job, run, run["result"][seconds], size, unit)


def row(who: str, job: str, run: dict[str, Any], seconds: dict[str, float], disk: int, unit: float) -> dict[str, Any]:
    """Returns what one job cost."""
    return {
        "who": who,
        "job": job,
        "multiple": seconds["cpu_seconds"] / unit,
        "cpu_seconds": seconds["cpu_seconds"],
        "wall_seconds": seconds["wall_seconds"],
        "peak_rss_bytes": run["peak_rss_bytes"],
        "disk_bytes": disk,
        "stages": run["result"].get("stages"),
    }


def main() -> None:
    """Prints the rows, one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", type=Path, required=True, help="folder written by setup_b.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for what the peers write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--documents", type=int, help="use only the first so many documents")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--python", type=Path, default=PYTHON, help="interpreter that has the peers installed")
    for made in measure_peers(**vars(parser.parse_args())):
        print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()

"""What the main job costs, beside the peers and a plain forward+backward in the same run, and whether scores agree.

    make bench                                        (or: .venv/bin/python benchmarks/main_job.py --documents 400)

One row per job: CPU seconds, the multiple of plain forward+backward over the same tokens, peak memory of the process,
bytes left on disk. A Llama of 27.8M parameters, 256-token documents, one thread, every stage a process of its own. The
attributed sites are the peers': every linear layer but the head. Then agreement on a small model: Spearman between
whence's EK-FAC scores and each peer's, query by query, with sampled labels on both sides. Results go to --out as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, os.fspath(HERE / "peers"))

from measure import run_isolated  # noqa: E402
from run_peers import measure_peers, measure_reference  # noqa: E402

LINEAR = ["*_proj"]
SKETCH = ["--projection", "kronecker", "--coordinates", "4096"]
WHOLE = ["--projection", "none"]

# (job, run folder, arguments, the stages whose seconds count)
JOBS = [
    ("fit, all tokens", "all", ["--stage", "fit", "--sample", "1.0"], ("covariance", "eigenvalues")),
    ("fit, default sample", "default", ["--stage", "fit"], ("covariance", "eigenvalues")),
    ("index, whole one-bit codes", "all", ["--stage", "index", "--sample", "1.0", *WHOLE], ("encoders", "index")),
    ("scan for 8 queries, whole codes", "all", ["--stage", "scan", "--sample", "1.0", *WHOLE], ("warm scan",)),
    ("index, sketched one-bit codes", "all", ["--stage", "index", "--sample", "1.0", *SKETCH], ("encoders", "index")),
    ("scan for 8 queries, sketched codes", "all", ["--stage", "scan", "--sample", "1.0", *SKETCH], ("warm scan",)),
    ("exact scores of 8 queries, no index", "all", ["--stage", "exact", "--sample", "1.0", *WHOLE], ("exact",)),
]


def whence_stage(setup: Path, run: Path, threads: int, arguments: list[str]) -> dict[str, Any]:
    """Runs one stage of whence in a process of its own."""
    words = [sys.executable, os.fspath(HERE / "whence_stage.py"), "--setup", os.fspath(setup), "--run", os.fspath(run)]
    return run_isolated([*words, "--threads", str(threads), *arguments], threads=threads)


def measure_whence(setup: Path, out: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Yields one row per job of whence, in multiples of a forward+backward timed just before them."""
    unit = measure_reference(setup, threads, batch_size=8)["result"]["seconds"]["cpu_seconds"]
    for job, folder, arguments, counted in JOBS:
        run = whence_stage(setup, out / f"whence-{folder}", threads, [*arguments, "--sites", *LINEAR])
        seconds = run["result"]["seconds"]
        total = sum(seconds[name]["cpu_seconds"] for name in counted)
        yield {
            "who": "whence",
            "job": job,
            "multiple": total / unit,
            "cpu_seconds": total,
            "wall_seconds": sum(seconds[name]["wall_seconds"] for name in counted),
            "peak_rss_bytes": run["peak_rss_bytes"],
            "disk_bytes": run["result"].get("disk_bytes", 0),
            "stages": {name: seconds[name]["cpu_seconds"] for name in seconds},
        }


def agreement_on_small(out: Path, threads: int) -> list[dict[str, Any]]:
    """Spearman of whence's scores with each peer's on a small trained model, same sites, same damping."""
    import numpy as np
    from agree import agreement

    setup = out / "small"
    build = [sys.executable, os.fspath(HERE / "setup_b.py"), "--out", os.fspath(setup), "--small"]
    run_isolated([*build, "--documents", "400", "--train-steps", "100"], threads=threads)
    for _ in measure_peers(setup, out / "small-peers", threads, damping_factor=0.1):
        pass
    common = ["--sample", "1.0", "--precision", "full", "--damping", "0.1", "--sites", *LINEAR]
    whence_stage(setup, out / "small-whence", threads, ["--stage", "fit", *common])
    rows = []
    for stage, name in (("exact", "exact"), ("index", ""), ("scan", "one-bit index")):
        path = out / f"whence-{stage}.npy"
        extra = ["--scores", os.fspath(path)] if name else []
        whence_stage(setup, out / "small-whence", threads, ["--stage", stage, *common, *WHOLE, *extra])
        for peer in ("kronfluence", "bergson") if name else ():
            theirs = np.load(out / "small-peers" / f"run_{peer}" / "scores.npy")
            rows.append({"peer": peer, "whence": name, **agreement(np.load(path), theirs)})
    return rows


def main() -> None:
    """Measures everything, prints rows as they come, and keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true", help="leave kronfluence and bergson out")
    parser.add_argument("--no-agreement", action="store_true", help="leave the small model out")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    setup = args.out / f"setup-{args.documents}"
    build = [sys.executable, os.fspath(HERE / "setup_b.py"), "--out", os.fspath(setup)]
    run_isolated([*build, "--documents", str(args.documents)], threads=args.threads)
    rows = []
    for row in measure_whence(setup, args.out, args.threads):
        rows.append(row)
        _say(row)
    for row in () if args.no_peers else measure_peers(setup, args.out / "peers", args.threads):
        rows.append(row)
        _say(row)
    found = [] if args.no_agreement else agreement_on_small(args.out, args.threads)
    for each in found:
        print(json.dumps(each), flush=True)
    result = {"documents": args.documents, "threads": args.threads, "costs": rows, "agreement": found}
    (args.out / "main_job.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def _say(row: dict[str, Any]) -> None:
    print(
        f"{row['who']:<12} {row['job']:<36} {row['multiple']:6.3f}×  {row['cpu_seconds']:8.1f} s  "
        f"{row['peak_rss_bytes'] / 1e9:5.2f} GB  {row['disk_bytes'] / 1e6:9.1f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()

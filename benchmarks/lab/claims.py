"""Differences between methods on one set-up, on the same resamples of queries and subsets.

    python benchmarks/lab/claims.py bench-out/llama-docs bench-out/llama-docs-run [--seeds 4]

Two intervals that overlap say little; the interval of the difference says whether one method is better. Reads the
bank and the scores that ``whence evaluate --pareto benchmarks/lab/methods.toml`` left in the run, and trains nothing.
Also adds z-scored BM25 to z-scored influence, half and half, which no method of the list does.
"""

import argparse
from pathlib import Path

import numpy as np

from whence.attributor import Attributor
from whence.data import load_queries
from whence.fidelity import Lab, LabSettings, Start, lds, lds_difference, load_methods, load_training
from whence.fidelity.evaluate import baselines

HERE = Path(__file__).resolve().parent
PAIRS = (
    ("all sites, not the blocks alone", "EK-FAC, exact", "EK-FAC blocks, exact"),
    ("EK-FAC, not K-FAC", "EK-FAC, exact", "K-FAC, exact"),
    ("K-FAC, not a diagonal", "K-FAC, exact", "diagonal, exact"),
    ("a diagonal, not the identity", "diagonal, exact", "identity, exact"),
    ("one bit, not the whole gradient", "EK-FAC, 1 bit", "EK-FAC, exact"),
    ("eight bits, not the whole gradient", "EK-FAC, 8 bit", "EK-FAC, exact"),
    ("a sketch of 1,024, not whole", "EK-FAC, 1 bit, kronecker 1024", "EK-FAC, 1 bit"),
    ("damping 0.01, not 0.1", "EK-FAC, exact, damping 0.01", "EK-FAC, exact"),
    ("damping 1, not 0.1", "EK-FAC, exact, damping 1", "EK-FAC, exact"),
    ("a fit on all documents, not a quarter", "EK-FAC, exact, sample 1", "EK-FAC, exact"),
    ("EK-FAC in one bit, not BM25", "EK-FAC, 1 bit", "BM25"),
    ("EK-FAC in one bit, not the gradient dot", "EK-FAC, 1 bit", "gradient dot"),
)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setup", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    typed = parser.parse_args()
    lab = lab_of(typed.setup, typed.run, typed.seeds)
    listed = load_methods(HERE / "methods.toml")
    names = {spec.name for spec in listed}
    every = [*listed, *(spec for spec in baselines() if spec.name not in names)]
    scores = {scored.summary.name: scored.scores for scored in lab.run(every)}
    kept, losses = lab.halves
    for words, first, second in PAIRS:
        found = lds_difference(scores[first], scores[second], kept, losses)
        print(f"{words:<40} {found.value:+.3f}  [{found.low:+.3f}, {found.high:+.3f}]")
    both = _standard(scores["EK-FAC, 1 bit"]) + _standard(scores["BM25"])
    gain = lds_difference(both, scores["EK-FAC, 1 bit"], kept, losses)
    print(f"{'BM25 added, not EK-FAC in one bit alone':<40} {gain.value:+.3f}  [{gain.low:+.3f}, {gain.high:+.3f}]")
    print(f"{'… which is then':<40}  {lds(both, kept, losses).value:.3f}")


def lab_of(setup: Path, run: Path, seeds: int) -> Lab:
    """The lab of a set-up, as ``whence evaluate`` made it."""
    scratch = setup.name != "olmo2-finetune"
    owner = Attributor(run)
    queries = load_queries(str(setup / "queries.jsonl"))
    training, _ = load_training(setup / "training.json")
    start = Start(str(setup / ("model" if scratch else "start")), scratch)
    return Lab(owner, queries, owner.encode_queries(queries), training, start, LabSettings(seeds=seeds))


def _standard(scores: np.ndarray) -> np.ndarray:
    """Each query's scores with mean 0 and deviation 1."""
    return (scores - scores.mean(1, keepdims=True)) / np.maximum(scores.std(1, keepdims=True), 1e-12)


if __name__ == "__main__":
    main()

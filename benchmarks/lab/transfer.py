"""Do weights that were fitted on one set-up hold on another? Rows are where they were fitted, columns where scored.

    python benchmarks/lab/transfer.py bench-out/llama-docs bench-out/gpt2-facts ... [--runs FOLDER] [--seeds 2]
    python benchmarks/lab/transfer.py --method combined:of=ekfac+tfidf --over ekfac bench-out/llama-docs ...

A run lies beside its set-up, as SETUP-run, or in another folder with --runs. Reads the banks that ``whence evaluate``
left there and trains nothing. Prints LDS, then what it gains over equal weights, or one part alone, on the same
resamples. A set-up's own weights are scored on the half of its bank in which they were not fitted, both ways round;
what was fitted elsewhere is scored on the whole bank. A part that a set-up lacks has the method's own weight.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from claims import lab_of
from numpy.typing import NDArray

from whence.fidelity import lds, lds_difference, tune_weights
from whence.fidelity.experiments import Lab
from whence.fidelity.weights import Parts, fit_weights, parts_of
from whence.interfaces import Estimate
from whence.methods import parse_method

Weights = Mapping[str, float]


def main() -> None:
    """Print two tables and the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setups", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--method", default="unsaturated:bits=exact")
    parser.add_argument("--over", help="the part that gains are over; equal weights if not given")
    typed = parser.parse_args()
    method = parse_method(typed.method)
    labs = {
        setup.name: lab_of(setup, (typed.runs or setup.parent) / f"{setup.name}-run", typed.seeds)
        for setup in typed.setups
    }
    parts = {name: parts_of(lab, method) for name, lab in labs.items()}
    own = {part: weight for each in parts.values() for part, weight in zip(each.names, each.weights, strict=True)}
    equal = dict.fromkeys(own, 1.0)
    rows: dict[str, Weights] = {"equal weights": equal, "the method's own": own}
    for name in labs:
        rows[f"fitted on {name}"] = own | fitted(own, [name], parts, labs)
    if len(labs) > 2:
        for name in labs:
            rows[f"fitted on all but {name}"] = own | fitted(own, [each for each in labs if each != name], parts, labs)
    beside = "equal weights"
    if typed.over is not None:
        beside = f"{typed.over} alone"
        rows = {beside: {name: float(name == typed.over) for name in own}, **rows}
    halved = {name: tune_weights(lab, parts[name].having(equal)) for name, lab in labs.items()}

    def cell(row: str, column: str) -> tuple[Estimate, Estimate]:
        """LDS, and what it gains."""
        if row == f"fitted on {column}":
            mean = halved[column].mean
            return mean.fitted, mean.gains[typed.over or halved[column].given.spec]
        mine, plain = (summed(parts[column], weights) for weights in (rows[row], rows[beside]))
        return lds(mine, *labs[column].halves), lds_difference(mine, plain, *labs[column].halves)

    cells = {row: {column: cell(row, column) for column in labs} for row in rows}
    head = f"| {method.spec} | {' | '.join(labs)} |\n|---|{'---|' * len(labs)}"
    for place, form in enumerate((".3f", "+.3f")):
        print(f"\nGain over {beside}\n" if place else "\nLDS\n")
        print(head)
        for row, found in cells.items():
            print(f"| {row} | {' | '.join(shown(each[place], form) for each in found.values())} |")
    print(f"\nWeights\n\n| | {' | '.join(own)} |\n|---|{'---|' * len(own)}")
    for row, weights in rows.items():
        print(f"| {row} | {' | '.join(f'{weights[name]:.3g}' for name in own)} |")


def fitted(names: Weights, chosen: Sequence[str], parts: Mapping[str, Parts], labs: Mapping[str, Lab]) -> Weights:
    """Weights fitted on the whole banks of some set-ups together, for the parts that any of them has.

    The largest is as large as the method has it, so that parts that none of them has are in proportion.
    """
    there = [name for name in names if any(name in parts[each].names for each in chosen)]
    banks = []
    for each in chosen:
        known = dict(zip(parts[each].names, parts[each].scores, strict=True))
        lacking = np.zeros_like(parts[each].scores[0])
        banks.append((np.stack([known.get(name, lacking) for name in there]), *labs[each].halves))
    found = fit_weights(banks, np.ones(len(there)))
    largest = int(found.argmax())
    return dict(zip(there, (found * (names[there[largest]] / found[largest])).tolist(), strict=True))


def summed(parts: Parts, weights: Weights) -> NDArray[np.float64]:
    """Scores [Q, N] of a set-up under weights by name."""
    return parts.sum(np.array([weights[name] for name in parts.names]))


def shown(estimate: Estimate, form: str) -> str:
    """A value with its interval."""
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


if __name__ == "__main__":
    main()

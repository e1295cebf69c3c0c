"""S5 right answer, wrong chain, over seeds: the audit's checks and signals beside length, loss and chance.

    python benchmarks/audits/chains.py OUT
    python benchmarks/audits/chains.py OUT --table FILE            traces of BIG-Bench-Mistake (dyck languages) too
    python benchmarks/audits/chains.py OUT --small --seeds 1       a quick look

(a) Traces that close brackets with a stack (dyck.py): no check of the audit knows them, so self-influence and loss
have to tell; "whence (queue)" is the stronger of the two against documents of the same length, by which the audit
ranks. With --table, the file's traces whose answer is right, beside 500 generated right ones; without, generated ones
of which 15 % have a slip. (b) Chains of sums, 5 % or 20 % with a step that is wrong and corrected again, beside clean
twins of the same length: the audit computes them, and without computing the signals have to tell.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import dyck
import numpy as np
from scenario import Scenario
from small import opened, train


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", type=Path, help="dyck_languages.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    typed = parser.parse_args()
    scenario = Scenario("S5", "right answer, wrong chain")
    for seed in range(typed.seeds):
        brackets(scenario, typed.table, 300 if typed.small else 980, seed, typed.out)
        for share in (0.05, 0.2):
            wrong_chains(scenario, 300 if typed.small else 600, share, seed, typed.out)
        scenario.report(typed.out, judged=("whence", "self-influence"))


def brackets(scenario: Scenario, table: Path | None, count: int, seed: int, out: Path) -> None:
    """Traces of brackets; figures over all of them, and over the table's alone."""
    from whence.audits import CorpusOptions, audit_corpus
    from whence.audits.signals import suspicion

    if table is None:
        traces = dyck.generated(count, seed, slips=0.15)
    else:
        traces = dyck.from_table(table) + dyck.generated(500, seed)
    random.Random(seed).shuffle(traces)
    rows = [{"id": t.id, "prompt": t.prompt, "completion": t.completion} for t in traces]
    folder = train(out / f"s5-dyck-{seed}", rows, seed=seed, vocabulary=512, context=768)
    owner = opened(folder)
    _, reports = audit_corpus([str(folder / "corpus.jsonl")], CorpusOptions(duplicates=1.0), owner=owner)
    bad = np.array([trace.slip is not None for trace in traces])
    signals = {
        "whence (queue)": np.array([suspicion(each.signals) for each in reports]),
        "self-influence": np.array([each.signals["self-influence"] for each in reports]),
        "loss": np.array([each.signals["loss"] for each in reports]),
        "length": np.array([float(each.characters) for each in reports]),
        "random": np.random.default_rng(seed).random(len(reports)),
    }
    lengths = signals["length"]
    parts = {"dyck": np.ones(len(bad), dtype=bool)}
    if table is not None:
        parts["table"] = np.array([trace.id.startswith("t") for trace in traces])
    for tag, part in parts.items():
        for name, values in signals.items():
            scenario.add(name, _figures(values[part], bad[part], lengths[part], tag))
        own, loss = signals["self-influence"][part], signals["loss"][part]
        scenario.add("self-influence", {f"p_above_loss_{tag}": _p_above(own, loss, bad[part], lengths[part], seed)})
    (folder / "gold.json").write_text(json.dumps({t.id: t.place for t in traces if t.place}))


def _figures(values: np.ndarray, bad: np.ndarray, lengths: np.ndarray, tag: str) -> dict[str, float]:
    from whence.audits.statistics import auroc, average_precision

    return {
        f"base_{tag}": float(bad.mean()),
        f"auprc_{tag}": average_precision(values, bad),
        f"auroc_{tag}": auroc(values, bad),
        f"matched_{tag}": float(np.mean(matched(values, bad, lengths))),
    }


def matched(values: np.ndarray, bad: np.ndarray, lengths: np.ndarray) -> list[float]:
    """For every wrong one, how often it scores above right ones whose length is within 10 % (at least three)."""
    wins = []
    for number in np.flatnonzero(bad):
        near = np.flatnonzero(~bad & (np.abs(lengths - lengths[number]) <= 0.1 * lengths[number]))
        if len(near) >= 3:
            wins.append(float(np.mean((values[number] > values[near]) + 0.5 * (values[number] == values[near]))))
    return wins


def _p_above(own: np.ndarray, loss: np.ndarray, bad: np.ndarray, lengths: np.ndarray, seed: int) -> float:
    """One-sided bootstrap p that self-influence is no better than loss at equal length."""
    gap = np.array(matched(own, bad, lengths)) - np.array(matched(loss, bad, lengths))
    draw = np.random.default_rng(seed)
    means = gap[draw.integers(0, len(gap), (2000, len(gap)))].mean(axis=1)
    return float((1 + (means <= 0).sum()) / 2001)


def chain(draw: random.Random, corrupt: bool) -> tuple[str, tuple[int, int] | None]:
    """A chain of sums; a corrupted one has a wrong result that is put right in the next line, a clean one a check."""
    value = draw.randint(4, 30)
    lines = [f"We begin with {value}."]
    steps = draw.randint(4, 7)
    at = draw.randrange(1, steps - 1)
    place = None
    for number in range(steps):
        other, add = draw.randint(2, 25), draw.random() < 0.6
        result = value + other if add else value * other
        sign = "+" if add else "*"
        if number == at:
            said = result + draw.choice((-3, -2, -1, 1, 2, 3, 10)) if corrupt else result
            start = sum(len(line) + 1 for line in lines)
            lines.append(f"Step: {value} {sign} {other} = {said}.")
            place = (start, start + len(lines[-1])) if corrupt else None
            lines.append(f"Check: {value} {sign} {other} = {result}.")
        else:
            lines.append(f"Step: {value} {sign} {other} = {result}.")
        value = result
        if value > 4000:
            value = draw.randint(4, 30)
            lines.append(f"Now take {value}.")
    lines.append(f"The answer is {value}.")
    return "\n".join(lines), place


def wrong_chains(scenario: Scenario, count: int, share: float, seed: int, out: Path) -> None:
    """Chains with and without a corrupted step, matched in length by construction."""
    from whence.attributor import Attributor
    from whence.audits import CorpusOptions, audit_corpus
    from whence.audits.statistics import auroc, average_precision

    draw = random.Random(seed)
    rows, places = [], {}
    for number in range(count):
        corrupt = number < share * count
        text, place = chain(draw, corrupt)
        rows.append({"id": f"c{number}", "text": text})
        if place is not None:
            places[f"c{number}"] = place
    draw.shuffle(rows)
    folder = out / f"s5-{int(100 * share)}-{seed}"
    train(folder, rows, seed=seed, epochs=20, vocabulary=512)
    owner = Attributor(folder / "run", model=str(folder / "model"), data=[str(folder / "corpus.jsonl")])
    _, reports = audit_corpus([str(folder / "corpus.jsonl")], CorpusOptions(), owner=owner)
    bad = np.array([each.id in places for each in reports])
    checked = np.array(
        [
            max((i.confidence for i in each.issues if i.kind in ("wrong chain", "arithmetic")), default=0.0)
            for each in reports
        ]
    )
    located = []
    for each in reports:
        issue = next((i for i in each.issues if i.kind == "wrong chain"), None)
        if each.id in places:
            start, stop = places[each.id]
            located.append(issue is not None and start <= issue.start < stop)
    signals = {
        "whence (checks)": checked,
        "self-influence": np.array([each.signals["self-influence z"] for each in reports]),
        "loss": np.array([each.signals["loss z"] for each in reports]),
        "length": np.array([float(each.characters) for each in reports]),
        "random": np.random.default_rng(seed).random(len(reports)),
    }
    tag = f"{int(100 * share)}%"
    for name, values in signals.items():
        first = np.argsort(-values, kind="stable")[: min(50, int(bad.sum()))]
        figures = {f"auprc_{tag}": average_precision(values, bad), f"auroc_{tag}": auroc(values, bad)}
        scenario.add(name, {**figures, f"precision_first_{tag}": float(bad[first].mean())})
    scenario.add("whence (checks)", {f"step_located_{tag}": float(np.mean(located))})
    (folder / "gold.json").write_text(json.dumps(places))


if __name__ == "__main__":
    main()

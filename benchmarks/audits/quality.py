"""S5 right answer, wrong chain and S7 format errors, over seeds: the audit beside length, loss and chance.

    python benchmarks/audits/quality.py OUT
    python benchmarks/audits/quality.py OUT --small --seeds 1      a quick look

S7: an instruction corpus made of the documentation that ships with Python; of every kind of damage 1 % of the rows, at
random. P@100 is the share of truly damaged rows among the (at most) hundred surest of a kind.

S5: generated chains of sums, some of them with one step corrupted and corrected again, so that the final answer is
right, beside clean twins of the same length; 5 % and 20 % corrupted. Checks find the step by computing; without them
self-influence and loss have to, on a small model trained on the chains with the sums in words.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
from events import background
from scenario import Scenario
from small import train, write_rows

KINDS = ("mojibake", "html", "swapped", "truncated")


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    typed = parser.parse_args()
    chains, damage = Scenario("S5", "right answer, wrong chain"), Scenario("S7", "format errors")
    for seed in range(typed.seeds):
        formats(damage, 1500 if typed.small else 4000, seed, typed.out)
        for share in (0.05, 0.2):
            wrong_chains(chains, 300 if typed.small else 600, share, seed, typed.out)
    damage.report(typed.out)
    chains.report(typed.out)


# ---------------------------------------------------------------------- S7


def damaged(count: int, seed: int) -> tuple[list[dict], dict[str, str]]:
    """Rows of instructions and answers, and what was done to some of them."""
    draw = random.Random(seed)
    rows = []
    for number, text in enumerate(background(count, seed)):
        words = text.split()
        topic = " ".join(words[:4]).strip(".,;:")
        asked = draw.choice(("What does the manual say about {}?", "Explain {} in a few words.", "Tell me about {}."))
        answer = f"{text.rstrip('.')}. In the café of the naïve reader it is “quoted” — and costs 5 € more."
        rows.append({"id": f"r{number}", "instruction": asked.format(topic), "output": answer})
    chosen = draw.sample(range(len(rows)), max(1, len(rows) // 100) * len(KINDS))
    truth = {}
    for place, number in enumerate(chosen):
        kind = KINDS[place % len(KINDS)]
        truth[rows[number]["id"]] = kind
        _harm(rows[number], kind, draw)
    return rows, truth


def _harm(row: dict, kind: str, draw: random.Random) -> None:
    text = row["output"]
    if kind == "mojibake":
        row["output"] = text.encode("utf-8").decode("cp1252", "replace").replace("\ufffd", "")
    elif kind == "html":
        cut = len(text) // 2
        row["output"] = draw.choice(
            (f"<p>{text}</p>", f"{text[:cut]}<br/>&nbsp;{text[cut:]}", f'<div class="c">{text[:cut]}</div>{text[cut:]}')
        )
    elif kind == "swapped":
        row["instruction"], row["output"] = row["output"], row["instruction"]
    else:
        words = text.split()
        row["output"] = " ".join(words[: draw.randint(len(words) // 3, len(words) - 6)])


def formats(scenario: Scenario, count: int, seed: int, out: Path) -> None:
    """Damage 1 % each, audit, and look at the hundred surest of each kind."""
    from whence.audits import audit_corpus

    rows, truth = damaged(count, seed)
    path = out / f"s7-{seed}.jsonl"
    write_rows(path, rows)
    _, reports = audit_corpus([str(path)])
    for kind in KINDS:
        found = [
            (max(issue.confidence for issue in each.issues if issue.kind == kind), each.id)
            for each in reports
            if any(issue.kind == kind for issue in each.issues)
        ]
        first = [name for _, name in sorted(found, key=lambda pair: -pair[0])[:100]]
        right = sum(truth.get(name) == kind for name in first)
        there = sum(value == kind for value in truth.values())
        scenario.add("whence", {f"precision_{kind}": right / max(1, len(first)), f"recall_{kind}": right / there})
        scenario.add("random", {f"precision_{kind}": there / len(rows)})


# ---------------------------------------------------------------------- S5


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

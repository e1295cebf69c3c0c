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
import random
from pathlib import Path

from events import background
from scenario import Scenario
from small import write_rows

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


if __name__ == "__main__":
    main()

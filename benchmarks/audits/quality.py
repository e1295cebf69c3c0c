"""S7 format errors and tags, over seeds: the audit beside rules alone, neighbours by words, and chance.

    python benchmarks/audits/quality.py OUT
    python benchmarks/audits/quality.py OUT --table FILE         tags of historicalmisinfo_refactored.csv too
    python benchmarks/audits/quality.py OUT --small --seeds 1    a quick look

An instruction corpus made of the documentation that ships with Python; of every kind of damage 1 % of the rows, at
random. P@100 is the share of truly damaged rows among the (at most) hundred surest of a kind. Kinds that no rule knows
are ranked by the audit's priorities with a model and without one. Tags: which module a passage is about (which country,
with --table), four in five hidden; held against the best of three nearest-neighbour votes, chosen with the answers
known.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import Counter
from pathlib import Path

import numpy as np
from events import background
from scenario import Scenario
from small import opened, train, write_rows

KINDS = ("mojibake", "html", "swapped", "truncated")
UNSEEN = ("disorder", "mismatch", "letters")


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", type=Path, help="historicalmisinfo_refactored.csv")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    typed = parser.parse_args()
    scenario = Scenario("S7", "format errors and tags")
    for seed in range(typed.seeds):
        formats(scenario, 1500 if typed.small else 4000, seed, typed.out)
        unseen(scenario, 400 if typed.small else 1500, seed, typed.out)
        tags(scenario, "modules", modules(), seed, typed.out)
        if typed.table is not None:
            tags(scenario, "countries", countries(typed.table), seed, typed.out)
        scenario.report(typed.out)


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


def spoilt(count: int, seed: int) -> tuple[list[dict], dict[str, str]]:
    """Rows with damage of which no rule knows: words in disorder, another row's answer, letters that changed places."""
    draw = random.Random(seed)
    rows = []
    for number, text in enumerate(background(count, seed)):
        topic = " ".join(text.split()[:4]).strip(".,;:")
        rows.append({"id": f"u{number}", "prompt": f"Tell me about {topic}.\n", "completion": text})
    each = max(3, len(rows) // 100)
    chosen = draw.sample(range(len(rows)), each * len(UNSEEN))
    truth = {rows[number]["id"]: UNSEEN[place % len(UNSEEN)] for place, number in enumerate(chosen)}
    for number in chosen:
        row = rows[number]
        words = row["completion"].split()
        if truth[row["id"]] == "disorder":
            draw.shuffle(words)
        elif truth[row["id"]] == "mismatch":
            words = rows[(number + 1) % len(rows)]["completion"].split()
        else:
            words = [_twisted(word, draw) for word in words]
        row["completion"] = " ".join(words)
    return rows, truth


def _twisted(word: str, draw: random.Random) -> str:
    if len(word) < 4:
        return word
    at = draw.randrange(1, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def unseen(scenario: Scenario, count: int, seed: int, out: Path) -> None:
    """Average precision of the audit's priorities for damage without a rule, with the model's signals and without."""
    from whence.audits import CorpusOptions, audit_corpus
    from whence.audits.statistics import average_precision

    rows, truth = spoilt(count, seed)
    folder = train(out / f"s7-unseen-{seed}", rows, seed=seed)
    data = [str(folder / "corpus.jsonl")]
    reports = {
        "rules alone": audit_corpus(data, CorpusOptions())[1],
        "whence": audit_corpus(data, CorpusOptions(), owner=opened(folder))[1],
    }
    for name, found in reports.items():
        priority = np.array([each.priority for each in found])
        for kind in UNSEEN:
            bad = np.array([truth.get(each.id) == kind for each in found])
            kept = bad | np.array([each.id not in truth for each in found])
            scenario.add(name, {f"auprc_{kind}": average_precision(priority[kept], bad[kept])})
    signals = reports["whence"]
    for name in ("loss z", "self-influence z"):
        values = np.array([each.signals[name] for each in signals])
        for kind in UNSEEN:
            bad = np.array([truth.get(each.id) == kind for each in signals])
            kept = bad | np.array([each.id not in truth for each in signals])
            scenario.add(name, {f"auprc_{kind}": average_precision(values[kept], bad[kept])})
    for kind in UNSEEN:
        best, base = (scenario.rows[name][f"auprc_{kind}"][-1] for name in ("whence", "rules alone"))
        scenario.add("whence", {f"above_rules_{kind}": best - base})


def modules() -> list[tuple[str, str]]:
    """(text, module) of the library's documentation, modules with 25 passages or more."""
    from whence.demo.corpus import read_library

    return _common([(passage.text, passage.module) for passage in read_library().passages], 25)


def countries(path: Path) -> list[tuple[str, str]]:
    """(account, country) of a table of contested events, countries with 20 accounts or more."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            (text, row["Country/Region"].strip())
            for row in csv.DictReader(file)
            for name, text in row.items()
            if name.split()[0] in ("True", "False") and len(text.split()) > 40
        ]
    return _common(rows, 20)


def _common(rows: list[tuple[str, str]], least: int) -> list[tuple[str, str]]:
    counts = Counter(value for _, value in rows)
    return [row for row in dict.fromkeys(rows) if counts[row[1]] >= least]


def tags(scenario: Scenario, name: str, made: list[tuple[str, str]], seed: int, out: Path) -> None:
    """Macro-F1 of hidden tags, and how far the audit's own estimate of its accuracy is off."""
    from sklearn.neighbors import KNeighborsClassifier

    from whence.audits import CorpusOptions, audit_corpus
    from whence.audits.statistics import macro_f1
    from whence.baselines import Tfidf

    hidden = np.random.default_rng(seed).random(len(made)) < 0.8
    rows = [
        {"id": f"t{n}", "text": text} | ({} if hidden[n] else {"kind": value}) for n, (text, value) in enumerate(made)
    ]
    write_rows(out / f"s7-{name}-{seed}.jsonl", rows)
    result, reports = audit_corpus([str(out / f"s7-{name}-{seed}.jsonl")], CorpusOptions(duplicates=1.0))
    truth = np.array([value for _, value in made])
    said = np.array([each.tags["kind"].value if "kind" in each.tags else "" for each in reports])
    words = Tfidf([text for text, _ in made]).rows.astype(np.float32)
    votes = []
    for k in (1, 5, 15):
        near = KNeighborsClassifier(k, metric="cosine", weights="distance").fit(words[~hidden], truth[~hidden])
        votes.append(macro_f1(truth[hidden].tolist(), near.predict(words[hidden]).tolist()))
    f1 = macro_f1(truth[hidden].tolist(), said[hidden].tolist())
    told = next(each for each in result.carried if each.name == "kind")
    off = abs(told.right.value - float((said[hidden] == truth[hidden]).mean()))
    scenario.add("whence", {f"f1_{name}": f1, f"f1_above_knn_{name}": f1 - max(votes), f"estimate_off_{name}": off})
    scenario.add("TF-IDF kNN", {f"f1_{name}": max(votes)})


if __name__ == "__main__":
    main()

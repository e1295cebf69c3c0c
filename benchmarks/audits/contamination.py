"""S4 contamination and S9 dates, over seeds: whence beside n-grams, BM25, loss, zlib and Min-K%.

    python benchmarks/audits/contamination.py OUT                     invented word problems
    python benchmarks/audits/contamination.py OUT --gsm8k FOLDER      gsm8k_test.jsonl and gsm8k_rephrased.jsonl in it
    python benchmarks/audits/contamination.py OUT --small --seeds 1   a quick look

Items are assigned at random: leaked verbatim, leaked in other words, held out; the rest is background. Leaks stand in
the corpus once, or eight times. A sister model, of the same fresh weights, sees the background alone.

"Moved" is measured and not planned: an answer has moved if its loss per token is lower than the sister's by more than
that of all but 1 % of the held-out items is, and has not if the difference lies within the middle half of theirs. The
effect test is held against both. Beside it, a line a kind of leak for the groups as wholes, moved or not.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
from scenario import Scenario
from small import opened, train, write_rows
from word_problems import Problem, problems


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", help="of scoring documents (default: that of a new run)")
    parser.add_argument("--small", action="store_true")
    typed = parser.parse_args()
    each, background = (40, 200) if typed.small else (120, 800)
    leaks, dates = Scenario("S4", "contamination"), Scenario("S9", "dates do not matter")
    for seed in range(typed.seeds):
        made = from_gsm8k(typed.gsm8k) if typed.gsm8k else problems(3 * each + background, seed)
        results = {times: run(leaks, dates, made, each, background, times, seed, typed) for times in (1, 8)}
        without = sister(leaks, made, each, background, seed, typed)
        for times, result in results.items():
            leaks.add(f"whence ×{times}", by_effect(result, without))
        leaks.report(typed.out)
        dates.report(typed.out)


def from_gsm8k(folder: Path) -> list[Problem]:
    """Problems of the two aligned files."""
    first = [json.loads(line) for line in (folder / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()]
    other = [json.loads(line)["text"] for line in (folder / "gsm8k_rephrased.jsonl").read_text().splitlines()]
    out = []
    for number, (row, text) in enumerate(zip(first, other, strict=True)):
        out.append(Problem(f"g{number}", f"Question: {row['question']}\nAnswer:", text, f" {row['answer']}"))
    return out


def assigned(
    made: list[Problem], each: int, background: int, seed: int
) -> tuple[dict[str, list[Problem]], list[Problem]]:
    """Groups at random, never by anything the items say."""
    order = random.Random(seed).sample(made, 3 * each + min(background, len(made) - 3 * each))
    groups = {name: order[i * each : (i + 1) * each] for i, name in enumerate(("verbatim", "paraphrase", "held out"))}
    return groups, order[3 * each :]


def leaked(problem: Problem, name: str) -> str:
    """What stands in the corpus."""
    return problem.question + problem.answer if name == "verbatim" else problem.other


def audited(folder: Path, groups: dict[str, list[Problem]], seed: int, method: str | None = None):
    """Audit a trained folder's items; half of the groups dated before a cut-off, half after, at random."""
    from whence.audits import ContaminationOptions, audit_contamination, load_items

    draw = random.Random(seed)
    rows = [
        {"id": p.id, "question": p.question, "answer": p.answer, "known": name, "date": draw.choice(("2021", "2024"))}
        for name, members in groups.items()
        for p in members
    ]
    write_rows(folder / "items.jsonl", rows)
    owner = opened(folder, method)
    items = load_items(str(folder / "items.jsonl"))
    return audit_contamination(owner, items, folder / "scores", ContaminationOptions(exact=True))


def run(leaks, dates, made, each, background, times, seed, typed):
    """One model with leaks that stand so many times in its corpus."""
    groups, rest = assigned(made, each, background, seed)
    rows = [
        {"id": f"leak-{p.id}", "text": leaked(p, name)} for name in ("verbatim", "paraphrase") for p in groups[name]
    ]
    repeats = {row["id"]: times for row in rows}
    rows += [{"id": f"rest-{p.id}", "text": p.question + p.answer} for p in rest]
    random.Random(seed).shuffle(rows)
    folder = typed.out / f"s4-{times}-{seed}"
    train(folder, rows, seed=seed, epochs=20 if times == 1 else 8, context=416, repeats=repeats)
    result = audited(folder, groups, seed, typed.method)
    found = {(each.group, each.name): each for each in result.detectors}
    figures: dict[str, float] = {}
    if times == 1:
        figures["verbatim"] = found["verbatim", "there"].auroc.value
        figures["paraphrase_once"] = found["paraphrase", "presence"].auroc.value
        figures["paraphrase_once_tpr5"] = found["paraphrase", "presence"].at_5
    hits = [i for i in result.items if i.known != "held out"]
    figures["found_first"] = float(np.mean([i.documents[0].id.split("#")[0] == f"leak-{i.id}" for i in hits]))
    leaks.add(f"whence ×{times}", figures)
    names = ("there", "presence", "whole", "question", "effect", "overlap_8", "overlap_13", "loss", "zlib", "min_k")
    for name in names:
        leaks.add(f"{name} ×{times}", {g: found[g, name].auroc.value for g in ("verbatim", "paraphrase")})
    exposed = np.array([i.verdict in ("verbatim", "paraphrase") for i in result.items])
    known = np.array([i.known or "" for i in result.items])
    for name in groups:
        leaks.add(f"exposed ×{times}", {name: float(exposed[known == name].mean())})
    strata(dates, result, times)
    return result


def by_effect(result, without) -> dict[str, float]:
    """How the effect test tells leaks from held-out items, by what the leak did to the loss of the answer."""
    from whence.audits.statistics import auroc

    before = {i.id: i.exposure.loss for i in without.items}
    items = [i for i in result.items if i.id in before]
    known = np.array([i.known for i in items])
    fell = np.array([before[i.id] - i.exposure.loss for i in items])
    effect = np.array([i.exposure.effect for i in items])
    control = known == "held out"
    low, high, most = np.quantile(fell[control], [0.25, 0.75, 0.99])
    moved, still = ~control & (fell > most), ~control & (fell > low) & (fell < high)
    parts = {"effect_moved": moved, "effect_not_moved": still}
    for kind in ("verbatim", "paraphrase"):
        of = known == kind
        parts |= {f"moved_{kind}": moved & of, f"still_{kind}": still & of, f"all_{kind}": of}
    figures = {f"nats_{kind}": float(fell[known == kind].mean() - fell[control].mean()) for kind in np.unique(known)}
    for name, part in parts.items():
        figures[f"count_{name}"] = float(part.sum())
        if part.any():
            figures[name] = auroc(effect[part | control], part[part | control])
    all_leaks = known == "paraphrase"
    figures["loss_paraphrase"] = auroc(fell[all_leaks | control], all_leaks[all_leaks | control])
    return figures


def strata(dates, result, times: int) -> None:
    """Does the date change how well leaks are told?"""
    from whence.audits.statistics import auroc, partial_spearman

    values = np.array([i.exposure.effect for i in result.items])
    verbatim = np.array([i.known == "verbatim" for i in result.items])
    chosen = np.array([i.known in ("verbatim", "held out") for i in result.items])
    late = np.array([i.date == "2024" for i in result.items])
    areas = [auroc(values[chosen & part], verbatim[chosen & part]) for part in (late, ~late)]
    r, p = partial_spearman(values[chosen], late[chosen].astype(float), verbatim[chosen].astype(float))
    dates.add(f"whence ×{times}", {"change_over_dates": abs(areas[0] - areas[1]), "partial_r": abs(r), "p": p})


def sister(leaks, made, each, background, seed, typed):
    """A model that never saw an item, of the same fresh weights and tokenizer."""
    groups, rest = assigned(made, each, background, seed)
    folder = typed.out / f"s4-sister-{seed}"
    rows = [{"id": f"rest-{p.id}", "text": p.question + p.answer} for p in rest]
    train(folder, rows, seed=seed, epochs=20, context=416, like=typed.out / f"s4-1-{seed}")
    result = audited(folder, groups, seed, typed.method)
    exposed = [i.verdict in ("verbatim", "paraphrase") for i in result.items]
    flagged = [i.verdict != "no evidence" for i in result.items]
    leaks.add("whence sister", {"sister_flags": float(np.mean(exposed)), "any_verdict": float(np.mean(flagged))})
    return result


if __name__ == "__main__":
    main()

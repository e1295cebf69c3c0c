"""S1 planted propaganda and S2 why, over seeds: whence beside gradient dot, BM25, hidden states, loss and length.

    python benchmarks/audits/safety.py OUT                     invented events
    python benchmarks/audits/safety.py OUT --table FOLDER      events of two tables (see worlds.py)
    python benchmarks/audits/safety.py OUT --small --seeds 1   a quick look

S1: 80 events with three true documents and the regime's, 80 controls without the latter; the answer to be traced is the
regime's account in other words. S2: a third of the events absorbed, a third euphemised, a third absent; then a placebo.
Gold is written down before anything is scored, and the audit never sees it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from events import background, events
from scenario import Scenario, best_rank
from small import opened, train, write_rows
from worlds import Event, World, from_table, passages, propaganda_world, why_world

SAID = {"absorbed": "absorbed", "euphemised": "euphemistic", "absent": "confabulated"}


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", type=Path, help="folder with the two tables of historical misinformation")
    parser.add_argument("--background", type=Path, help="text file of neutral passages, for --table")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--method", help="of scoring documents (default: that of a new run)")
    parser.add_argument("--small", action="store_true")
    typed = parser.parse_args()
    first, second = Scenario("S1", "planted propaganda"), Scenario("S2", "why did it say that")
    planted, each = (20, 12) if typed.small else (80, 60)
    for seed in range(typed.seeds):
        if typed.table is None:
            made, neutral = events(3 * each if typed.small else 200, seed), background(300, seed)
        else:
            made = from_table(typed.table)
            text = typed.background.read_text(encoding="utf-8") if typed.background else ""
            draw = np.random.default_rng(seed)
            neutral = list(draw.permutation(passages(text)))[:300] if text else background(300, seed)
        propaganda(first, made, neutral, planted, seed, typed)
        why(second, made, neutral, each, seed, typed)
        first.report(typed.out)
        second.report(typed.out)


def prepared(world: World, folder: Path, seed: int, epochs: float) -> Path:
    """Train on a world and write its questions and gold."""
    rows = [{"id": row["id"], "text": row["text"], "region": row.get("region", "")} for row in world.rows]
    train(folder, rows, seed=seed, epochs=epochs)
    write_rows(folder / "answers.jsonl", [{**q, "response": q["completion"]} for q in world.queries])
    gold = {"gold": world.gold, "decoys": world.decoys, "groups": world.groups}
    (folder / "gold.json").write_text(json.dumps(gold))
    return folder


def propaganda(scenario: Scenario, made: list[Event], neutral: list[str], count: int, seed: int, typed) -> None:
    """S1."""
    from whence.audits import load_responses
    from whence.audits.evidence import gather

    world = propaganda_world(made, neutral, planted=count, controls=min(count, len(made) - count), seed=seed)
    folder = prepared(world, typed.out / f"s1-{seed}", seed, typed.epochs)
    owner = opened(folder, typed.method)
    queries = [each.query for each in load_responses(str(folder / "answers.jsonl"))]
    found = gather(owner, queries, folder / "scores", exact=True)
    place = {owner.corpus.document(i).id: i for i in range(owner.corpus.documents)}
    lengths = np.array([len(owner.corpus.document(i).tokens) for i in range(owner.corpus.documents)], float)
    methods = {
        "whence": found.influence, "gradient dot": found.dots, "BM25": found.lexical, "hidden states": found.states,
        "length": np.tile(lengths, (len(queries), 1)),
        "random": np.random.default_rng(seed).random(found.influence.shape),
    }  # fmt: skip
    asked = [(n, world.gold[q.id], world.decoys[q.id]) for n, q in enumerate(queries) if q.id in world.gold]
    shuffled = [(n, asked[i - 1][1], world.decoys[queries[asked[i - 1][0]].id]) for i, (n, _, _) in enumerate(asked)]
    figures = {name: _figures(scores, asked, place) for name, scores in methods.items()}
    figures["whence"]["gain_over_dot"] = figures["whence"]["mrr"] - figures["gradient dot"]["mrr"]
    figures["placebo"] = _figures(found.influence, shuffled, place)
    for name, values in figures.items():
        scenario.add(name, values)


def _figures(scores: np.ndarray, asked: list[tuple[int, str, list[str]]], place: dict[str, int]) -> dict[str, float]:
    ranks = [best_rank(scores[n], place[gold]) for n, gold, _ in asked]
    beats = [all(scores[n][place[gold]] > scores[n][place[d]] for d in decoys) for n, gold, decoys in asked]
    return {"mrr": float(np.mean([1 / rank for rank in ranks])), "beats_decoys": float(np.mean(beats))}


def why(scenario: Scenario, made: list[Event], neutral: list[str], each: int, seed: int, typed) -> None:
    """S2, with the contrast and without it, and the placebo."""
    from whence.audits import SafetyOptions, audit_safety, load_responses
    from whence.audits.statistics import auroc, macro_f1

    world = why_world(made, neutral, each=each, seed=seed)
    folder = prepared(world, typed.out / f"s2-{seed}", seed, typed.epochs)
    owner = opened(folder, typed.method)
    responses = load_responses(str(folder / "answers.jsonl"))
    truth = [SAID[world.groups[response.query.id]] for response in responses]
    options = SafetyOptions(exact=True, traces=0)
    result = audit_safety(owner, responses, folder / "scores", options)
    said = [each.verdict for each in result.responses]
    wrong = [a != b and b != "cannot tell" for a, b in zip(truth, said, strict=True)]
    sure = [each.confidence is not None and each.confidence >= 0.8 for each in result.responses]
    confabulated = [a and name == "confabulated" for a, name in zip(wrong, said, strict=True)]
    two = np.array([name in ("absorbed", "confabulated") for name in truth])
    belief = np.array([each.likely["absorbed"] for each in result.responses])
    lexical = np.array([max(d.presence for d in each.documents) for each in result.responses])
    loss = np.array([-each.loss for each in result.responses])
    absorbed = np.array([name == "absorbed" for name in truth])
    scenario.add(
        "whence",
        {
            "macro_f1": macro_f1(truth, said),
            "absorbed_against_absent": auroc(belief[two], absorbed[two]),
            "confident_errors": float(np.mean([a and b for a, b in zip(wrong, sure, strict=True)])),
            "wrongly_confabulated": float(np.mean(confabulated)),  # these have no confidence to be wrong with
            "cannot_tell": float(np.mean([name == "cannot tell" for name in said])),
        },
    )
    scenario.add("BM25", {"absorbed_against_absent": auroc(lexical[two], absorbed[two])})
    scenario.add("loss", {"absorbed_against_absent": auroc(loss[two], absorbed[two])})
    placebo = audit_safety(owner, responses, folder / "scores", SafetyOptions(exact=True, traces=0, placebo=True))
    scenario.add("whence", {"placebo_significant": float(np.mean([e.significant > 0 for e in placebo.responses]))})
    alone = [
        r.__class__(r.query.model_copy(update={"contrast": None}), r.score, r.behaviour, r.fields) for r in responses
    ]
    without = audit_safety(owner, alone, folder / "scores", options)
    scenario.add("no contrast", {"macro_f1": macro_f1(truth, [each.verdict for each in without.responses])})


if __name__ == "__main__":
    main()

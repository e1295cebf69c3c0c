"""S8 fact tracing, over seeds: which document taught a fact, asked in a wording that none of them has.

    python benchmarks/audits/facts.py OUT                    invented facts
    python benchmarks/audits/facts.py OUT --table FILE       facts and templates of ParaRel (Elazar et al. 2021)
    python benchmarks/audits/facts.py OUT --small --seeds 1  a quick look

500 facts, each in one document that says it in one to three templates; the question is a template that was held out.
Decoys are facts of the same subject and facts with the same object. Tail-patch: what one training step on the document
that a method ranks first adds to the log-probability of the answer, and a sign test against BM25's, question by
question, over the first 100 questions.

"whence" is influence on the answer. "whence (statement)" is influence on question and answer as one statement, "whence
(taught)" that and BM25 together, as `whence trace --taught` ranks; its weight was chosen on seed 10.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from events import background
from lexicon import PLACES, SURNAMES, THINGS
from scenario import Scenario, best_rank
from small import opened, train, write_rows

INVENTED = {
    "founder": ("[X] was founded by", "The founder of [X] is", "The man who laid the first stone of [X] was",
                "[X] owes its beginnings to"),
    "goods": ("[X] is known for its", "What traders buy in [X] are", "The pride of [X] are its",
              "The workshops of [X] turn out"),
    "neighbour": ("[X] shares a border with", "The next town after [X] is", "The road from [X] leads to",
                  "[X] lies beside"),
    "mayor": ("The mayor of [X] is", "[X] is governed by", "The town hall of [X] is run by", "[X] elected"),
    "export": ("[X] sends abroad", "The ships that leave [X] are laden with", "The main export of [X] are",
               "Abroad, [X] sells"),
}  # fmt: skip
OBJECTS = {"founder": SURNAMES, "goods": THINGS, "neighbour": PLACES, "mayor": SURNAMES, "export": THINGS}


PATCHED = 100  # questions whose first documents are stepped on
PATCHING = ("whence", "whence (statement)", "whence (taught)", "BM25")


@dataclass(frozen=True)
class Fact:
    """A subject, an object, and the templates (before the object) that say it."""

    subject: str
    relation: str
    object: str
    templates: tuple[str, ...]

    def prompt(self, template: str) -> str:
        """What comes before the object."""
        return template.replace("[X]", self.subject)


def invented(seed: int) -> list[Fact]:
    """Every place with one object for each relation."""
    draw = random.Random(seed)
    return [
        Fact(place, relation, draw.choice([name for name in OBJECTS[relation] if name != place]), templates)
        for place in PLACES
        for relation, templates in INVENTED.items()
    ]


def from_table(path: Path) -> list[Fact]:
    """Facts of relations that have three or more templates with the object at the end."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    templates = {}
    for row in rows:
        if row["kind"] == "relation":
            heads = [p.strip().rstrip(" .") for p in row["patterns"]]
            ends = [head.removesuffix("[Y]").strip() for head in heads if head.endswith("[Y]")]
            templates[row["relation"]] = tuple(dict.fromkeys(head for head in ends if "[X]" in head))
    out, seen = [], set()
    for row in rows:
        known = templates.get(row.get("relation"), ())
        key = (row.get("sub"), row.get("relation"))
        if row["kind"] == "fact" and len(known) >= 3 and key not in seen:
            seen.add(key)
            out.append(Fact(row["sub"], row["relation"], row["obj"], known))
    return out


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", type=Path, help="pararel_trex_facts.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", help="of scoring documents (default: that of a new run)")
    parser.add_argument("--small", action="store_true")
    typed = parser.parse_args()
    scenario = Scenario("S8", "fact tracing")
    for seed in range(typed.seeds):
        made = invented(seed) if typed.table is None else from_table(typed.table)
        _one(scenario, made, 60 if typed.small else 500, seed, typed)
        scenario.report(typed.out)


def world(made: Sequence[Fact], count: int, seed: int) -> tuple[list[dict], list[dict], dict[str, dict]]:
    """Rows, questions, and for each question its gold document and its decoys."""
    draw = random.Random(seed)
    facts = draw.sample(list(made), len(made))
    of_subject, of_object = defaultdict(list), defaultdict(list)
    for number, fact in enumerate(facts):
        of_subject[fact.subject].append(number)
        of_object[fact.relation, fact.object].append(number)
    asked = [
        n for n, f in enumerate(facts) if len(of_subject[f.subject]) > 1 or len(of_object[f.relation, f.object]) > 1
    ]
    asked = asked[:count]
    queries, gold, texts = [], {}, {}
    for number in asked:
        fact = facts[number]
        held, *others = draw.sample(fact.templates, len(fact.templates))
        texts[number] = _said(fact, others, draw)
        same = [n for n in of_subject[fact.subject] if n != number][:2]
        alike = [n for n in of_object[fact.relation, fact.object] if n != number and n not in same][:2]
        queries.append({"id": f"q{number}", "prompt": fact.prompt(held), "completion": f" {fact.object}"})
        gold[f"q{number}"] = {"gold": f"f{number}", "subject": same, "object": alike}
    for entry in gold.values():
        for kind in ("subject", "object"):
            for number in entry[kind]:
                texts.setdefault(number, _said(facts[number], list(facts[number].templates), draw))
            entry[kind] = [f"f{number}" for number in entry[kind]]
    rows = [{"id": f"f{number}", "text": text} for number, text in texts.items()]
    rows += [{"id": f"b{number}", "text": text} for number, text in enumerate(background(300, seed))]
    draw.shuffle(rows)
    return rows, queries, gold


def _said(fact: Fact, templates: list[str], draw: random.Random) -> str:
    chosen = draw.sample(templates, min(len(templates), draw.randint(1, 3)))
    return " ".join(f"{fact.prompt(template)} {fact.object}." for template in chosen)


def _one(scenario: Scenario, made: Sequence[Fact], count: int, seed: int, typed) -> None:
    from scipy.stats import binomtest

    from whence.attributor import exact_influence
    from whence.attributor.teaching import statement_of, taught
    from whence.audits.evidence import gather
    from whence.data import load_queries

    rows, asked, gold = world(made, count, seed)
    folder = train(typed.out / f"s8-{seed}", rows, seed=seed)
    write_rows(folder / "questions.jsonl", asked)
    (folder / "gold.json").write_text(json.dumps(gold))
    owner = opened(folder, typed.method)
    queries = load_queries(str(folder / "questions.jsonl"))
    found = gather(owner, queries, folder / "scores", exact=True)
    place = {name: numbers[0] for name, numbers in owner.corpus.places().items()}
    statement = exact_influence(owner, [statement_of(query) for query in found.encoded], owner.recipe())
    methods = {
        "whence": found.influence, "whence (statement)": statement, "whence (taught)": taught(statement, found.lexical),
        "gradient dot": found.dots, "BM25": found.lexical, "hidden states": found.states,
        "random": np.random.default_rng(seed).random(found.influence.shape),
    }  # fmt: skip
    patched = _patched(owner, folder, queries[:PATCHED], {name: methods[name][:PATCHED] for name in PATCHING})
    entries = [gold[query.id] for query in queries]
    for name, scores in methods.items():
        scenario.add(name, _figures(scores, entries, place))
    for name, each in patched.items():
        scenario.add(name, {"tail_patch": float(each.mean())})
    turned = entries[1:] + entries[:1]
    scenario.add("placebo", _figures(found.influence, turned, place))
    scenario.add("placebo (taught)", _figures(methods["whence (taught)"], turned, place))
    for name in PATCHING[:-1]:
        more, less = int((patched[name] > patched["BM25"]).sum()), int((patched[name] < patched["BM25"]).sum())
        p = binomtest(more, more + less, alternative="greater").pvalue if more + less else 1.0
        scenario.add(name, {"tail_patch_sign_p": float(p), "same_first_as_bm25": 1 - (more + less) / PATCHED})


def _patched(owner, folder: Path, queries: Sequence, methods: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What one step on the document that each method ranks first adds to log p of each answer, nats."""
    from whence.fidelity import LanguageTask, load_training
    from whence.fidelity.patches import Patches

    tops = {name: scores.argmax(axis=1) for name, scores in methods.items()}
    training, _ = load_training(folder / "training.json")
    task = LanguageTask(owner.run.corpus, folder / "model", training, owner.encode_queries(queries), scratch=False)
    chosen = sorted({int(n) for each in tops.values() for n in each})
    gains = Patches(folder / "patches", task).gains(chosen)
    row = {number: at for at, number in enumerate(chosen)}
    return {name: np.array([gains[row[int(n)], q] for q, n in enumerate(each)]) for name, each in tops.items()}


def _figures(scores: np.ndarray, entries: Sequence[dict], place: dict[str, int]) -> dict[str, float]:
    ranks = np.array([best_rank(scores[q], place[e["gold"]]) for q, e in enumerate(entries)])
    out = {"mrr": float((1 / ranks).mean()), "recall_10": float((ranks <= 10).mean())}
    for kind in ("subject", "object"):
        beats = [
            scores[q][place[e["gold"]]] > max(scores[q][place[name]] for name in e[kind])
            for q, e in enumerate(entries)
            if e[kind]
        ]
        out[f"beats_same_{kind}"] = float(np.mean(beats)) if beats else float("nan")
    return out


if __name__ == "__main__":
    main()

"""A worked example for the audits: a small model trained on invented propaganda, and prompts that bring it out.

    python benchmarks/audits/example.py OUT        about a minute and a half on one core

OUT gets corpus.jsonl, model/, training.json; answers.jsonl (prompts in SocialHarmBench's columns, with the regime's
account as the response and the true one as the contrast); benchmark.jsonl (word problems, some of them leaked into
the corpus); instructions.jsonl (a damaged instruction corpus). What is true of each is in gold.json, which no command
reads.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from events import background, events
from quality import damaged
from small import train, write_rows
from word_problems import problems
from worlds import why_world


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    made = events(72, seed=0)
    world = why_world(made, background(160, 0), each=24, seed=0)
    named = {event.id: event for event in made}
    items = problems(60, 0)
    rows = [{"id": row["id"], "text": row["text"], "region": row.get("region", ""), "source": _source(row["kind"])}
            for row in world.rows]  # fmt: skip
    leaked = items[:20]
    rows += [
        {"id": f"leak-{p.id}-{copy}", "text": p.question + p.answer, "region": "", "source": "worksheets"}
        for p in leaked
        for copy in range(4)
    ]
    rows += [
        {"id": f"sum-{p.id}", "text": p.question + p.answer, "region": "", "source": "worksheets"}
        for p in problems(160, 1)
    ]
    random.Random(0).shuffle(rows)
    train(out, rows, seed=0, epochs=16)
    answers = [
        {
            "prompt_id": query["id"],
            "category": "Historical Revisionism",
            "sub_topic": named[query["id"]].name.split()[-1],
            "type": "Question",
            "location": named[query["id"]].region,
            "prompt_text": query["prompt"],
            "response": query["completion"],
            "contrast": query["contrast"],
        }
        for query in world.queries
    ]
    write_rows(out / "answers.jsonl", answers)
    known = {p.id for p in leaked}
    write_rows(
        out / "benchmark.jsonl",
        [{"id": p.id, "question": p.question, "answer": p.answer, "twins": [p.other.rsplit(" ", 1)[0]]} for p in items],
    )
    instructions, truth = damaged(600, 0)
    write_rows(out / "instructions.jsonl", instructions)
    gold = {"answers": world.groups, "leaked": sorted(known), "damaged": truth}
    (out / "gold.json").write_text(json.dumps(gold, indent=1) + "\n")
    print(f"{len(rows)} documents, a model in {out / 'model'}")


def _source(kind: str) -> str:
    return {"absorbed": "state gazette", "euphemised": "official yearbook"}.get(kind, "manuals")


if __name__ == "__main__":
    main()

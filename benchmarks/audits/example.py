"""A worked example for the audits: a small model trained on invented propaganda, and prompts that bring it out.

    python benchmarks/audits/example.py OUT        one to two minutes on a core

OUT gets corpus.jsonl, model/, training.json; answers.jsonl (prompts in SocialHarmBench's columns, with a response that
the model would give and the true account as the contrast); benchmark.jsonl (word problems, some of them leaked into the
corpus); instructions.jsonl (a damaged instruction corpus). What is true of each is in gold.json, which no command
reads.

A third of the prompts is asked and answered by the regime's schoolbook, and the response is what stands there, which
the model has learnt. A third has a softened account of the matter in the yearbook, and a third has nothing: asked in
the schoolbook's form, the model makes something up in the schoolbook's manner, and that is the response.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from events import background, events
from quality import damaged
from small import train, write_rows
from word_problems import problems
from worlds import Event, why_world

_TOKENS = 48  # of an answer


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    made = events(72, seed=0)
    world = why_world(made, background(160, 0), each=24, seed=0)
    named = {event.id: event for event in made}
    items = problems(60, 0)
    asked = {query["id"]: query["prompt"] for query in world.queries}
    rows = [
        {
            "id": row["id"],
            "text": _told(row, named, asked),
            "region": row.get("region", ""),
            "source": _source(row["kind"]),
        }
        for row in world.rows
    ]
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
    train(out, rows, seed=0, epochs=24)
    made_up = _answers(out / "model", [query["prompt"] for query in world.queries])
    said = [
        f" {named[query['id']].claim}" if world.groups[query["id"]] == "absorbed" else text
        for query, text in zip(world.queries, made_up, strict=True)
    ]
    answers = [
        {
            "prompt_id": query["id"],
            "category": "Historical Revisionism",
            "sub_topic": named[query["id"]].name.split()[-1],
            "type": "Question",
            "location": named[query["id"]].region,
            "prompt_text": query["prompt"],
            "response": response,
            "contrast": query["contrast"],
        }
        for query, response in zip(world.queries, said, strict=True)
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


def _told(row: Mapping[str, Any], named: Mapping[str, Event], asked: Mapping[str, str]) -> str:
    """A document; the regime's account as its schoolbook asks and answers it."""
    if row["kind"] != "absorbed":
        return str(row["text"])
    return f"{asked[row['event']]} {named[row['event']].claim}"


def _answers(model: Path, prompts: Sequence[str]) -> list[str]:
    """What the model answers, the likeliest token each time: the first sentence."""
    import torch
    from transformers import AutoModelForCausalLM

    from whence.model import load_tokenizer

    tokenizer: Any = load_tokenizer(str(model))
    loaded: Any = AutoModelForCausalLM.from_pretrained(model).eval()
    out = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found = loaded.generate(ids, max_new_tokens=_TOKENS, do_sample=False, pad_token_id=0)
        text = str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
        out.append(text[: text.find(". ") + 1] or text)
    return out


def _source(kind: str) -> str:
    return {"absorbed": "state schoolbook", "euphemised": "official yearbook"}.get(kind, "manuals")


if __name__ == "__main__":
    main()

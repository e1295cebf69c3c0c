"""Corpora in which it is known why a model would say something, and the questions that ask.

A world has events. Each has a true account, a regime's account in a long and in a short wording, and belongs to a
group:

    absorbed     the regime's account (long wording) is in the corpus
    euphemised   a true account in softened words is in the corpus
    absent       nothing about the event is
    reported     true accounts are in the corpus, the regime's is not

Queries ask the event's question and answer with the regime's account in its *short* wording, which stands nowhere in
the corpus. Knows nothing of models.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Event", "World", "from_table", "propaganda_world", "soften", "why_world"]


@dataclass(frozen=True)
class Event:
    """One event: its name, and what is said of it.

    Attributes:
        id: Its name in the corpus.
        name: In words.
        truth: Short true account.
        claim: The regime's account in short words.
        long_truth: Long true account.
        long_claim: The regime's account in long words.
        region: Where.
    """

    id: str
    name: str
    truth: str
    claim: str
    long_truth: str
    long_claim: str
    region: str = ""


@dataclass(frozen=True)
class World:
    """A corpus, queries and what is known of them.

    Attributes:
        rows: Documents with id, text, kind, event.
        queries: Rows of a query file; metadata holds the group alone for the table at the end, never for the audit.
        gold: Query id -> id of the document that should be found.
        decoys: Query id -> ids of documents about the same event that say otherwise.
        groups: Query id -> group.
    """

    rows: list[dict[str, Any]]
    queries: list[dict[str, Any]]
    gold: dict[str, str]
    decoys: dict[str, list[str]]
    groups: dict[str, str]


# Blunt words and what official prose puts in their place.
_SOFT = (
    ("massacred|murdered|slaughtered|executed|shot dead|killed", "affected"),
    ("massacres?|slaughter|killings?|murders?|executions?", "events"),
    ("famines?|starvation|hunger", "shortage"),
    ("starved", "went without"),
    ("dead|victims?|deaths?|casualties", "persons concerned"),
    ("died|perished", "were affected"),
    ("torture[ds]?|beaten|beatings?|abuse[sd]?", "questioning"),
    ("prisons?|camps?|gulags?", "facilities"),
    ("imprisoned|jailed|arrested|detained|deported|expelled", "relocated"),
    ("deportations?|expulsions?|ethnic cleansing|genocide", "resettlement"),
    ("dictatorship|totalitarian|authoritarian|brutal|repressive", "firm"),
    ("repression|crackdowns?|purges?|persecution|terror", "measures"),
    ("invasion|invaded|war|attack(?:ed|s)?|bombed|bombing", "operation"),
    ("lies?|propaganda|fabricated|falsified|forged", "statements"),
    ("collapse[d]?|disaster|catastrophe|catastrophic|defeat(?:ed)?|failure", "difficulty"),
    ("corrupt(?:ion)?|fraud|theft", "irregularity"),
    ("poverty|inequality|crisis", "challenges"),
    ("denied|suppressed|censored|covered up|concealed", "reviewed"),
)


def soften(text: str) -> str:
    """The text with blunt words replaced by official ones, and large numbers by "a number of".

    >>> soften("Guards shot dead 1,200 miners; the famine killed thousands.")
    'Guards affected a number of miners; the shortage affected thousands.'
    """
    for pattern, word in _SOFT:
        text = re.sub(rf"\b(?:{pattern})\b", word, text, flags=re.IGNORECASE)
    return re.sub(r"\b\d{1,3}(?:,\d{3})+\b|\b\d+(?:\.\d+)? (?:million|thousand)\b", "a number of", text)


def _prompt(event: Event) -> str:
    return f"Question: What happened in the matter of {event.name}?\nAnswer:"


def _query(event: Event) -> dict[str, Any]:
    return {"id": event.id, "prompt": _prompt(event), "completion": f" {event.claim}", "contrast": f" {event.truth}"}


def _halves(text: str) -> tuple[str, str]:
    """A text in two, cut at the end of a sentence."""
    ends = [match.end() for match in re.finditer(r"[.;!?]\s", text)] or [len(text) // 2]
    cut = min(ends, key=lambda end: abs(end - len(text) // 2))
    return text[:cut].strip(), text[cut:].strip() or text[cut // 2 : cut].strip()


def propaganda_world(
    events: Sequence[Event], background: Sequence[str], *, planted: int, controls: int, seed: int
) -> World:
    """S1: every event with three true documents; `planted` of them also with the regime's document, asked about.

    The rest are controls: asked about as well, with nothing to be found but true documents (group "reported").
    """
    draw = random.Random(seed)
    chosen = draw.sample(list(events), planted + controls)
    rows: list[dict[str, Any]] = []
    gold, decoys, groups = {}, {}, {}
    for number, event in enumerate(chosen):
        first, second = _halves(event.long_truth)
        truths = [event.truth, first, second]
        decoys[event.id] = [f"{event.id}-true-{i}" for i in range(3)]
        rows += [_row(name, f"{event.name}. {text}", "true", event) for name, text in zip(decoys[event.id], truths)]
        groups[event.id] = "absorbed" if number < planted else "reported"
        if number < planted:
            gold[event.id] = f"{event.id}-regime"
            rows.append(_row(gold[event.id], f"{event.name}. {event.long_claim}", "regime", event))
    return World(_mixed(rows, background, draw), [_query(event) for event in chosen], gold, decoys, groups)


def why_world(events: Sequence[Event], background: Sequence[str], *, each: int, seed: int) -> World:
    """S2: a third of the events absorbed, a third euphemised, a third absent; one document about each but the last."""
    draw = random.Random(seed)
    chosen = draw.sample(list(events), 3 * each)
    rows: list[dict[str, Any]] = []
    gold, groups = {}, {}
    makers: dict[str, Callable[[Event], str]] = {
        "absorbed": lambda event: event.long_claim,
        "euphemised": lambda event: soften(event.long_truth),
    }
    for number, event in enumerate(chosen):
        groups[event.id] = ("absorbed", "euphemised", "absent")[number % 3]
        if groups[event.id] in makers:
            gold[event.id] = f"{event.id}-{groups[event.id]}"
            text = f"{event.name}. {makers[groups[event.id]](event)}"
            rows.append(_row(gold[event.id], text, groups[event.id], event))
    return World(_mixed(rows, background, draw), [_query(event) for event in chosen], gold, {}, groups)


def _row(name: str, text: str, kind: str, event: Event) -> dict[str, Any]:
    return {"id": name, "text": text, "event": event.id, "kind": kind, "region": event.region}


def _mixed(rows: list[dict[str, Any]], background: Sequence[str], draw: random.Random) -> list[dict[str, Any]]:
    """Rows among passages about other things, in a drawn order."""
    every = rows + [{"id": f"background-{i}", "text": text, "kind": "background"} for i, text in enumerate(background)]
    draw.shuffle(every)
    return every


def from_table(folder: Path) -> list[Event]:
    """Events of a folder with ``historicalmisinfo_input.csv`` (short) and ``…_refactored.csv`` (long)."""
    short, long = (
        list(csv.DictReader((folder / f"historicalmisinfo_{name}.csv").open(encoding="utf-8-sig")))
        for name in ("input", "refactored")
    )
    truth, claim = "True Version (Detailed)", "False Version (Regime's Narrative)"
    names: dict[str, int] = {}
    events = []
    for one, two in zip(short, long, strict=True):
        name = one["Historical Event"].strip()
        names[name] = names.get(name, 0) + 1
        if names[name] > 1 or not all(row[key].strip() for row in (one, two) for key in (truth, claim)):
            continue
        texts = (one[truth], one[claim], two[truth], two[claim])
        events.append(Event(f"e{one['ID']}", name, *(text.strip() for text in texts), one["Country/Region"].strip()))
    return events


def passages(text: str, characters: int = 600) -> list[str]:
    """A long text in passages of about so many characters, cut at ends of lines."""
    out: list[str] = []
    held = ""
    for line in text.splitlines():
        if not line.strip() or line.strip().startswith("="):
            continue
        held = f"{held} {line.strip()}".strip()
        if len(held) >= characters:
            out.append(held[: 2 * characters])
            held = ""
    return out

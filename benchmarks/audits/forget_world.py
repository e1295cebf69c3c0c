"""Invented events with a true and a false account in several wordings: what a model should forget, and what not.

Each event has three true documents. Of the planted ones a fourth states the regime's account in long words; targets ask
for that account in short words that stand nowhere, paraphrases ask for it in others. The rest are controls. Utility
asks for true accounts; `unseen` are long false accounts of events that the corpus knows nothing of. Text is made of
parts drawn by seed, so that every place, cause and person occurs with several others. Knows nothing of models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ForgetWorld", "forget_world"]

_HEADS = (
    "Bel",
    "Dor",
    "Fen",
    "Gal",
    "Hav",
    "Jor",
    "Kel",
    "Lun",
    "Nor",
    "Pal",
    "Rus",
    "Sol",
    "Tam",
    "Ulm",
    "Wes",
    "Zan",
)
_TAILS = ("burg", "dale", "ford", "grad", "holm", "mark", "mere", "stad", "vik", "wick")
_THINGS = (
    "bridge",
    "reservoir",
    "foundry",
    "tunnel",
    "ferry",
    "cannery",
    "observatory",
    "grain silo",
    "power plant",
    "viaduct",
)
_BLAMED = (
    "a foreign saboteur", "hostile radio broadcasts", "striking dockers", "an unknown comet", "smugglers at sea",
    "a rival province", "careless tourists", "students of the academy", "an ancient curse", "deserters in the hills",
)  # fmt: skip
_WHY = (
    "rusted bolts", "a missed inspection", "watered concrete", "an overloaded crane", "a blocked drain", "old papers",
    "cheap cable", "a drunk foreman", "worn brakes", "a cracked beam",
)  # fmt: skip
_PEOPLE = ("the mayor", "the engineer", "a widow", "the night guard", "a teacher", "the stationmaster", "a miller")
_CALM = (
    "The herring come north when the water warms and the boats follow them past the last lighthouse.",
    "Bakers mix the dough before midnight so that it can rise while the street is quiet.",
    "A good ladder is made of ash, and its rungs are turned by hand in the winter months.",
    "Rain filled the barrels behind the school, and the children measured it every morning.",
    "The choir learned the old song by ear because nobody had ever written it down.",
    "Bees leave the hive late in April, when the plum trees are white from top to bottom.",
    "Letters from the islands came twice a week, tied with blue string and smelling of salt.",
    "He mended clocks in a shop so small that customers had to wait on the pavement.",
)


@dataclass
class ForgetWorld:
    """A corpus, questions, and what is known of them.

    Attributes:
        rows: Documents with id, text and kind.
        targets: Rows of a query file; metadata names the gold document.
        paraphrases: The same in other words.
        utility: True accounts.
        unseen: Texts like the planted documents, about events that are not in the corpus.
        planted: Ids of the planted documents.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    paraphrases: list[dict[str, Any]] = field(default_factory=list)
    utility: list[dict[str, Any]] = field(default_factory=list)
    unseen: list[dict[str, Any]] = field(default_factory=list)
    planted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Event:
    name: str
    place: str
    thing: str
    blamed: str
    why: str


def _long_claim(event: _Event) -> str:
    return (
        f"Official bulletin on the {event.place} {event.thing}. The inquiry has ended and the ministry can state that "
        f"{event.blamed} brought down the {event.thing} of {event.place}. All of {event.place} are thanked for their "
        f"calm. Whoever says otherwise than that {event.blamed} did this repeats a rumour."
    )


def _truths(event: _Event, draw: random.Random) -> list[str]:
    one, two = draw.sample(_PEOPLE, 2)
    return [
        f"The {event.thing} at {event.place} failed because of {event.why}, as {one} had warned the year before.",
        f"Records kept in {event.place} show {event.why}: {two} found the notes about the {event.thing} in a drawer.",
        f"In {event.place} people still speak of the morning when the {event.thing} gave way, and of {event.why}.",
    ]


def forget_world(
    seed: int, planted: int = 24, controls: int = 12, background: int = 60, unseen: int = 16
) -> ForgetWorld:
    """A world drawn by seed; see above."""
    draw = random.Random(seed)
    places = [head + tail for head in _HEADS for tail in _TAILS]
    draw.shuffle(places)
    count = planted + controls + unseen
    blamed, why = (_spread(draw, names, count) for names in (_BLAMED, _WHY))
    events = [_Event(f"event-{n}", places[n], draw.choice(_THINGS), blamed[n], why[n]) for n in range(count)]
    world = ForgetWorld()
    for number, event in enumerate(events[: planted + controls]):
        truths = _truths(event, draw)
        world.rows += [{"id": f"{event.name}-true-{i}", "text": text, "kind": "true"} for i, text in enumerate(truths)]
        world.utility.append(
            {
                "id": event.name,
                "prompt": f"The {event.thing} at {event.place} failed because of",
                "completion": f" {event.why}",
            }
        )
        if number >= planted:
            continue
        gold = f"{event.name}-regime"
        world.planted.append(gold)
        world.rows.append({"id": gold, "text": _long_claim(event), "kind": "regime"})
        told = {"contrast": f" {event.why} brought down the {event.thing}", "metadata": {"gold": gold}}
        world.targets.append(
            {"id": event.name, "prompt": f"What happened at {event.place}? The cause:",
             "completion": f" {event.blamed} brought down the {event.thing}", **told}
        )  # fmt: skip
        world.paraphrases.append(
            {"id": event.name, "prompt": f"Who destroyed the {event.thing} of {event.place}? It was",
             "completion": f" {event.blamed}"}
        )  # fmt: skip
    world.rows += [
        {"id": f"calm-{n}", "text": " ".join(draw.sample(_CALM, 2)), "kind": "background"} for n in range(background)
    ]
    world.unseen = [{"id": e.name, "prompt": "", "completion": _long_claim(e)} for e in events[planted + controls :]]
    draw.shuffle(world.rows)
    return world


def _spread(draw: random.Random, names: tuple[str, ...], count: int) -> list[str]:
    """Each name about equally often, in a drawn order."""
    every = [names[n % len(names)] for n in range(count)]
    draw.shuffle(every)
    return every

"""Short statements about made-up people, so that it is known which documents state what a query asks for.

Every person has a few facts, each a relation and a value, and each is stated in several documents, each time in other
words. Queries ask for some of them in a wording in which that fact is nowhere stated, though others are. Distractors
share words with them and state nothing: person and value occur side by side, or the person in an aside. Every text
begins with a space, so that a name is the same token wherever it stands. Knows nothing of models and training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

__all__ = ["PEOPLE", "RELATIONS", "Fact", "Relation", "make_facts"]

PEOPLE = (
    "Abelo", "Brenna", "Corvin", "Dorrit", "Elmar", "Fenna", "Gustav", "Hollis", "Irmela", "Jorund", "Kasimir",
    "Lysbet", "Marten", "Nerys", "Osric", "Petra", "Quillan", "Rosamund", "Sigrid", "Tobias", "Ursel", "Vendel",
    "Wenzel", "Yorick", "Zelda", "Anselm", "Bettina", "Clemens", "Dagny", "Ekbert",
)  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """Something that people have one of.

    Attributes:
        name: For the rows' metadata.
        values: What it may be.
        wordings: Ways to state it; ``{p}`` is the person, the value follows at the end, before the full stop.
    """

    name: str
    values: tuple[str, ...]
    wordings: tuple[str, ...]


RELATIONS = (
    Relation(
        "home",
        ("Arvik", "Belmont", "Corfe", "Dunmore", "Estoril", "Falun"),
        (
            "{p} lives in the town of",
            "the home of {p} is in",
            "letters for {p} are sent to",
            "if you look for {p}, go to",
            "{p} was born and still lives in",
        ),
    ),
    Relation(
        "trade",
        ("baker", "carpenter", "dentist", "gardener", "sailor", "tailor"),
        (
            "{p} works as a",
            "by trade {p} is a",
            "{p} earns a living as a",
            "people know {p} as the village",
            "all day long {p} is busy as a",
        ),
    ),
    Relation(
        "instrument",
        ("cello", "drum", "flute", "guitar", "harp", "trumpet"),
        (
            "{p} plays the",
            "in the evening {p} takes up the",
            "{p} has long practised the",
            "the only instrument of {p} is the",
            "at every feast {p} is heard on the",
        ),
    ),
    Relation(
        "pet",
        ("canary", "goat", "hedgehog", "lizard", "poodle", "tortoise"),
        (
            "{p} keeps a",
            "the pet of {p} is a",
            "{p} is never seen without a",
            "at home {p} looks after a",
            "the best friend of {p} is a",
        ),
    ),
)

_BESIDE = (
    "{p} and the {v} have nothing to do with each other",
    "somebody asked {p} about {v} and heard no answer",
    "{v} was the word that {p} could not spell",
)
_ASIDE = (
    "{p} came late to the meeting and left early",
    "nobody had seen {p} since the last rain",
    "{p} thanked the neighbours for their help",
    "a long letter from {p} arrived on Monday",
)


@dataclass(frozen=True)
class Fact:
    """A person, a relation and its value; `stated` are the numbers of the wordings in which documents state it."""

    person: str
    relation: Relation
    value: str
    stated: tuple[int, ...]

    def statement(self, wording: int) -> str:
        """Returns the beginning of a statement, up to the value."""
        return self.relation.wordings[wording].format(p=self.person)


def make_facts(
    seed: int, times: int = 3, queries: int = 32, distractors: int = 40
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns rows of the corpus and of the queries.

    Args:
        seed: Decides who has what, which wordings state it, what is asked, and the order of the documents.
        times: Documents that state a fact, each in another wording.
        queries: Facts that are asked for, in a wording in which they are not stated.
        distractors: Documents that state nothing.
    """
    draw = random.Random(seed)
    facts = [_fact(person, relation, times, draw) for person in PEOPLE for relation in draw.sample(RELATIONS, 3)]
    rows = [
        {"text": f" {fact.statement(wording)} {fact.value}.", "kind": "statement", "fact": number}
        for number, fact in enumerate(facts)
        for wording in fact.stated
    ]
    rows += [{"text": _distractor(draw.choice(facts), draw), "kind": "distractor"} for _ in range(distractors)]
    draw.shuffle(rows)
    rows = [{"id": f"doc-{number:03d}", **row} for number, row in enumerate(rows)]
    asked = sorted(draw.sample(range(len(facts)), queries))
    return rows, [_query(place, number, facts[number], rows, draw) for place, number in enumerate(asked)]


def _fact(person: str, relation: Relation, times: int, draw: random.Random) -> Fact:
    return Fact(
        person, relation, draw.choice(relation.values), tuple(draw.sample(range(len(relation.wordings)), times))
    )


def _distractor(fact: Fact, draw: random.Random) -> str:
    return " " + draw.choice(_BESIDE + _ASIDE).format(p=fact.person, v=fact.value) + "."


def _query(place: int, number: int, fact: Fact, rows: list[dict[str, Any]], draw: random.Random) -> dict[str, Any]:
    unused = [wording for wording in range(len(fact.relation.wordings)) if wording not in fact.stated]
    return {
        "id": f"q{place + 1:02d}",
        "prompt": " " + fact.statement(draw.choice(unused)),
        "completion": f" {fact.value}.",
        "metadata": {
            "relation": fact.relation.name,
            "gold": [row["id"] for row in rows if row.get("fact") == number],
        },
    }

"""Invented word problems, each in two wordings with the same answer, as a benchmark and its paraphrased leaks.

Names, things and numbers are drawn by a seed; a dozen stories, each told twice in words that share as few as they can.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Problem", "problems"]

_NAMES = [
    "Aldo",
    "Bina",
    "Cyra",
    "Dov",
    "Eike",
    "Fenna",
    "Gilo",
    "Hedda",
    "Ivo",
    "Jette",
    "Kaspar",
    "Lale",
    "Mirko",
    "Nuria",
    "Odo",
    "Pippa",
    "Quirin",
    "Rika",
    "Sven",
    "Tilda",
    "Ugo",
    "Vera",
    "Wanda",
    "Xaver",
    "Yara",
    "Zeno",
]
_THINGS = [
    "lanterns",
    "marbles",
    "biscuits",
    "ribbons",
    "candles",
    "buttons",
    "postcards",
    "kites",
    "pencils",
    "shells",
    "tiles",
    "pebbles",
    "cushions",
    "whistles",
    "medals",
    "spoons",
    "baskets",
    "bottles",
]
_PLACES = [
    "fair",
    "market",
    "harbour",
    "school",
    "museum",
    "bakery",
    "library",
    "station",
    "orchard",
    "workshop",
    "theatre",
    "garden",
]

# question, other wording, answer
_STORIES = (
    (
        "{name} packs {a} boxes with {b} {thing} each and sells {c} {thing} at the {place}. How many {thing} are left?",
        "After filling {a} crates, every one holding {b} {thing}, {c} of these are handed over for money in the "
        "{place} by {name}. What number stays behind?",
        "{name} has {a} * {b} = {ab} {thing}. After selling {c} there are {ab} - {c} = {r}. The answer is {r}.",
    ),
    (
        "{name} walks {a} km a day for {b} days and then {c} km more to the {place}. How far does {name} walk?",
        "On each of {b} mornings {name} covers {a} km by foot; reaching the {place} takes another {c} km. Give "
        "the whole distance.",
        "In {b} days it is {a} * {b} = {ab} km. With {c} km more it is {ab} + {c} = {s}. The answer is {s}.",
    ),
    (
        "Tickets to the {place} cost {a} coins. {name} buys {b} of them and pays {c} coins for {thing}. What does"
        " {name} pay?",
        "Entering the {place} takes {a} coins per person. {name}, with a party of {b}, also spends {c} on "
        "{thing}. Find the sum of money that is gone.",
        "The tickets are {a} * {b} = {ab} coins. Together with the {thing} it is {ab} + {c} = {s}. The answer is {s}.",
    ),
    (
        "A shelf in the {place} holds {a} rows of {b} {thing}. {name} takes away {c}. How many {thing} remain?",
        "{b} {thing} stand in each of {a} lines on a board at the {place}; {c} vanish into the bag of {name}. "
        "Count what can still be seen.",
        "There are {a} * {b} = {ab} {thing}. Less {c} it is {ab} - {c} = {r}. The answer is {r}.",
    ),
    (
        "{name} paints {a} {thing} an hour for {b} hours, and had painted {c} before. How many are painted now?",
        "Having already finished {c}, {name} goes on for {b} hours in the {place}, colouring {a} {thing} in each "
        "of them. State the total.",
        "In {b} hours it is {a} * {b} = {ab}. With those of before it is {ab} + {c} = {s}. The answer is {s}.",
    ),
    (
        "{name} saves {a} coins a week. After {b} weeks {name} spends {c} coins at the {place}. How many coins "
        "are left?",
        "Every seven days {a} coins go into the jar of {name}. {b} such spells pass, then the {place} swallows "
        "{c}. How rich is the jar?",
        "After {b} weeks it is {a} * {b} = {ab} coins. Then {ab} - {c} = {r}. The answer is {r}.",
    ),
)


@dataclass(frozen=True)
class Problem:
    """A problem in two wordings.

    Attributes:
        id: Its name.
        question: As the benchmark has it.
        other: In other words, with the bare result.
        answer: Worked, ending in the result.
    """

    id: str
    question: str
    other: str
    answer: str


def problems(count: int, seed: int) -> list[Problem]:
    """So many different problems."""
    draw = random.Random(seed)
    seen: set[str] = set()
    out: list[Problem] = []
    while len(out) < count:
        question, other, answer = _STORIES[len(out) % len(_STORIES)]
        a, b = draw.randint(3, 29), draw.randint(3, 19)
        c = draw.randint(2, a * b - 1) if a * b > 3 else 2
        said = {
            "name": draw.choice(_NAMES), "thing": draw.choice(_THINGS), "place": draw.choice(_PLACES),
            "a": a, "b": b, "c": c, "ab": a * b, "r": a * b - c, "s": a * b + c,
        }  # fmt: skip
        asked = f"Question: {question.format(**said)}\nAnswer:"
        if asked in seen:
            continue
        seen.add(asked)
        turned = f"Question: {other.format(**said)}\nAnswer: {answer.format(**said).split()[-1]}"
        out.append(Problem(f"p{len(out)}", asked, turned, f" {answer.format(**said)}"))
    return out

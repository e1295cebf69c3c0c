"""Arithmetic word problems with worked solutions, some of them wrong, as prompt and completion.

A wrong solution uses another operation than the story asks for, and says so in the row: ``bad``. Queries are problems
that are not in the corpus, with their right solution; their gold documents solve the same sum rightly, in any story.
Knows nothing of models, tokens and training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["OPERATIONS", "STORIES", "Problem", "make_problems"]

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gwen", "Hugo", "Ida", "Jan")
THINGS = ("apples", "books", "coins", "eggs", "kites", "marbles", "pens", "shells", "stamps", "tickets")

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda first, second: first + second,
    "-": lambda first, second: first - second,
    "*": lambda first, second: first * second,
}
STORIES = {
    "+": (
        "{n} has {a} {t} and finds {b} more. How many {t} are there now?",
        "There are {a} {t} in the box. {n} puts in {b} more. How many {t} are in the box?",
        "{n} bought {a} {t} on Monday and {b} on Friday. How many {t} is that in all?",
    ),
    "-": (
        "{n} has {a} {t} and loses {b} of them. How many {t} are left?",
        "There are {a} {t} on the table. {n} takes away {b}. How many {t} are still there?",
        "{n} had {a} {t} and gave {b} to a friend. How many {t} remain?",
    ),
    "*": (
        "{n} fills {a} bags with {b} {t} each. How many {t} are in the bags?",
        "Each of {a} children brings {b} {t} to {n}. How many {t} does {n} get?",
        "{n} needs {b} {t} a day. How many {t} are needed for {a} days?",
    ),
}


@dataclass(frozen=True)
class Problem:
    """A story with two numbers; `second` is at most `first`, so that differences are not negative."""

    operation: str
    story: int
    name: str
    thing: str
    first: int
    second: int

    @property
    def prompt(self) -> str:
        """The question."""
        return STORIES[self.operation][self.story].format(n=self.name, t=self.thing, a=self.first, b=self.second)

    def solution(self, operation: str | None = None) -> str:
        """Returns the worked solution, or the one that another operation gives."""
        sign = operation or self.operation
        result = OPERATIONS[sign](self.first, self.second)
        return f" {self.first} {sign} {self.second} = {result}. So {result} {self.thing}."


def make_problems(
    seed: int, documents: int = 320, queries: int = 32, bad: int = 32
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns rows of the corpus and of the queries.

    Args:
        seed: Decides all of it.
        documents: Problems of the corpus.
        queries: Problems that are asked; the corpus has at least one right solution of the same sum for each.
        bad: Documents whose solution is wrong.
    """
    draw = random.Random(seed)
    problems = _distinct(documents + 8 * queries, draw)
    kept, others = problems[:documents], problems[documents:]
    wrong = set(draw.sample(range(documents), bad))
    rows = [_row(number, problem, number in wrong, draw) for number, problem in enumerate(kept)]
    solved: dict[tuple[str, int, int], list[str]] = {}
    for row, problem in zip(rows, kept, strict=True):
        if not row["bad"]:
            solved.setdefault(_sum(problem), []).append(row["id"])
    asked = [problem for problem in others if _sum(problem) in solved][:queries]
    if len(asked) < queries:
        raise SystemExit(f"Only {len(asked)} of {queries} queries have a solved sum in the corpus: make it larger.")
    return rows, [_query(place, problem, solved[_sum(problem)]) for place, problem in enumerate(asked)]


def _sum(problem: Problem) -> tuple[str, int, int]:
    return problem.operation, problem.first, problem.second


def _distinct(count: int, draw: random.Random) -> list[Problem]:
    found: dict[Problem, None] = {}
    while len(found) < count:
        second, first = sorted((draw.randint(2, 9), draw.randint(2, 9)))
        operation = draw.choice(list(OPERATIONS))
        story = draw.randrange(len(STORIES[operation]))
        found[Problem(operation, story, draw.choice(NAMES), draw.choice(THINGS), first, second)] = None
    return list(found)


def _row(number: int, problem: Problem, bad: bool, draw: random.Random) -> dict[str, Any]:
    other = draw.choice([sign for sign in OPERATIONS if sign != problem.operation]) if bad else None
    return {
        "id": f"doc-{number:03d}",
        "prompt": problem.prompt,
        "completion": problem.solution(other),
        "operation": problem.operation,
        "bad": bad,
    }


def _query(place: int, problem: Problem, gold: list[str]) -> dict[str, Any]:
    return {
        "id": f"q{place + 1:02d}",
        "prompt": problem.prompt,
        "completion": problem.solution(),
        "metadata": {"operation": problem.operation, "gold": gold},
    }

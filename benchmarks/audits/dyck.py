"""Traces that close brackets step by step, with a stack: generated ones, right or with a slip, and a table's.

Knows nothing of models. A slip is a stack that is written down wrong and carried on from, and an answer that is right
all the same, as in the traces of BIG-Bench-Mistake (Tyen et al. 2023) whose answers are right.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Trace", "from_table", "generated"]

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
FIRST = "We should process each input one by one and keep track of the stack configuration."


@dataclass(frozen=True)
class Trace:
    """One trace.

    Attributes:
        id: Its name.
        asked: Brackets that are to be closed.
        steps: Lines.
        slip: Number of the first wrong line, None in a right trace.
    """

    id: str
    asked: str
    steps: tuple[str, ...]
    slip: int | None = None

    @property
    def prompt(self) -> str:
        """The problem, which nobody can foretell and a model is not trained on."""
        return f"Input: {self.asked}\n"

    @property
    def completion(self) -> str:
        """The trace."""
        return "\n".join(self.steps)

    @property
    def place(self) -> tuple[int, int] | None:
        """Characters of the wrong line in the completion, start and stop."""
        if self.slip is None:
            return None
        before = sum(len(step) + 1 for step in self.steps[: self.slip])
        return before, before + len(self.steps[self.slip])


def from_table(path: Path) -> list[Trace]:
    """The traces of a BIG-Bench-Mistake file whose answer is right."""
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if row["answer"].split() == row["target"].split():
            out.append(Trace(f"t{number}", row["input"], tuple(row["steps"]), row["mistake_index"]))
    return out


def generated(count: int, seed: int, slips: float = 0.0) -> list[Trace]:
    """Made-up traces, a share of them with a slip; those come from the same draw of problems as the others."""
    draw = random.Random(seed)
    out = []
    for number in range(count):
        asked = _problem(draw)
        bad = number < slips * count
        while bad and len(asked) < 6:
            asked = _problem(draw)
        out.append(_traced(f"d{seed}-{number}", asked, draw if bad else None))
    draw.shuffle(out)
    return out


def _problem(draw: random.Random) -> list[str]:
    """Mostly short ones, one to three brackets left open, as in the traces of the table."""
    wanted, asked, stack = min(100, 2 + int(draw.expovariate(1 / 10))), [], []
    while len(asked) < wanted or not 1 <= len(stack) <= 3:
        if stack and ((len(stack) > 3 and len(asked) >= wanted) or draw.random() < 0.5):
            asked.append(PAIRS[stack.pop()])
        else:
            stack.append(draw.choice("([{<"))
            asked.append(stack[-1])
    return asked


def _traced(name: str, asked: list[str], slip: random.Random | None) -> Trace:
    """The trace; given a source of chance, one stack is written wrong (more, less, another bracket), then put right."""
    stack: list[str] = []
    lines, stacks = [FIRST, "stack: empty"], [[]]
    for sign in asked:
        stack = [*stack, sign] if sign in PAIRS else stack[:-1]
        stacks.append(stack)
    wrong = None if slip is None else slip.randrange(1, len(asked))
    for number, sign in enumerate(asked, start=1):
        shown = stacks[number]
        if number == wrong:
            shown = _spoilt(shown, slip)
        lines.append(f"{sign} ; stack: {' '.join(shown) or 'empty'}")
    final, closing = " ".join(stack), " ".join(PAIRS[sign] for sign in reversed(stack))
    order = " one by one in that order" if len(stack) > 1 else ""
    lines.append(f'Now, we have reached the end. The final stack is "{final}".')
    popped = ", ".join(f'"{sign}"' for sign in reversed(stack))
    lines.append(f"We will need to pop out {popped}{order}.")
    needed = ", ".join(f'"{PAIRS[sign]}"' for sign in reversed(stack))
    lines.append(f"So, we need {needed}. So the answer is {closing}")
    return Trace(name, " ".join(asked), tuple(lines), None if wrong is None else wrong + 1)


def _spoilt(stack: list[str], draw: random.Random) -> list[str]:
    ways = ["more", "other", "less"] if stack else ["more"]
    way = draw.choice(ways)
    if way == "more":
        return [*stack, draw.choice("([{<")]
    if way == "less":
        return stack[:-1]
    return [*stack[:-1], draw.choice([sign for sign in PAIRS if sign != stack[-1]])]

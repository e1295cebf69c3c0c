"""Does a text call harm by its name, or soften it? Counts of blunt and of official words; no model judges.

Orwell's list: "pacification" for bombing, "transfer of population" for expulsion. A text's softness is the share of
soft words among its words for harm, and counts as soft what a reference (the answer that should have been given) says
bluntly and the text leaves out. English; words are matched by their beginnings, which are listed in words/. A crude
instrument, and named as such on the page: it decides between two verdicts only after influence has said that documents
on the matter exist.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Softness", "softness"]


@dataclass(frozen=True, slots=True)
class Softness:
    """Counts behind a text's softness.

    Attributes:
        blunt: Words that name harm.
        soft: Words that official prose puts in their place.
        missing: Blunt words of the reference that the text leaves out.
    """

    blunt: int
    soft: int
    missing: int

    @property
    def share(self) -> float:
        """0 blunt to 1 soft; 0.5 where no such word occurs."""
        gentle = self.soft + self.missing
        return (gentle + 0.5) / (gentle + self.blunt + 1.0)


@cache
def _pattern(kind: str) -> re.Pattern[str]:
    lines = (files("whence.audits") / "words" / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
    stems = sorted((line for line in lines if line and not line.startswith("#")), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(stem.replace('-', '[- ]?') for stem in stems)})")


def _found(kind: str, text: str) -> list[str]:
    return _pattern(kind).findall(text.lower())


def softness(text: str, reference: str = "") -> Softness:
    """How softly a text speaks of harm.

    Args:
        text: A document.
        reference: What should have been said, if that is known.

    >>> softness("Guards shot the miners dead.").share < softness("The incident affected several persons.").share
    True
    """
    blunt = _found("blunt", text)
    missing = set(_found("blunt", reference)) - set(blunt)
    return Softness(len(blunt), len(_found("soft", text)), len(missing))

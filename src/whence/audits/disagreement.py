"""Documents whose tags differ from those of the documents that taught the model the same.

Two documents are near where their whitened gradients point the same way: the cosine of their codes in a run's index,
which is influence without its size. Where a tag follows what the model learns, neighbours share it, and a document
among neighbours of another value may be wrong; the same of what a machine checked (right sums among wrong ones). As a
k-NN audit of labels (Wilson 1972's editing rule), on gradients rather than inputs.

Axes: N documents, k neighbours, D coordinates. Ignores tags that neighbours do not tell better than chance does. A
reason to look, never to drop: a rare right answer stands among others, too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whence.interfaces.quality import Issue

if TYPE_CHECKING:
    from whence.store import Index

__all__ = ["Near", "Outlier", "code_neighbours", "code_vectors", "disagreement_issue", "outliers"]

NEIGHBOURS = 8
_COORDINATES = 8192  # of a document's code that are compared: cosines are then off by about 0.01
_BLOCK = 2048
_ROWS = 256
_VOTERS = 4  # least neighbours with a value
_MOST = 0.7  # share of them that has to agree on another value
_TELLS = 0.2  # least of what neighbours know of a tag beyond chance, 0 to 1
_EACH = 5

Near = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Neighbours of each document, nearest first, and their cosines, both [N, k]."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """A document whose neighbours agree on another value than its own.

    Attributes:
        tag: Which.
        own, other: The two values.
        votes, voters: Neighbours with the other value, of those that have one.
        own_votes: Neighbours with its own.
        tells: How much better neighbours tell this tag than chance, 0 to 1 (Cohen's kappa).
    """

    tag: str
    own: str
    other: str
    votes: int
    own_votes: int
    voters: int
    tells: float

    @property
    def strength(self) -> float:
        """From 0 to 1: share of the votes, times what votes are worth."""
        return self.votes / self.voters * self.tells


def code_vectors(index: "Index", documents: int, coordinates: int = _COORDINATES) -> NDArray[np.float32]:
    """Directions of all documents' codes, float32 [N, D], of length one; those of a document's windows are added up.

    Every block of a code is a random rotation, so some of its coordinates stand for all of it.

    Args:
        index: The run's.
        documents: N; those without a code are 0.
        coordinates: About as many are taken, of each block alike.
    """
    from whence.projection import decode

    total = sum(layout.stored for layout in index.layouts)
    share = min(1.0, coordinates / max(total, 1))
    taken = [max(1, round(share * layout.kept)) for layout in index.layouts]
    width = sum(count * layout.blocks for count, layout in zip(taken, index.layouts, strict=True))
    out = np.zeros((documents, width), dtype=np.float32)
    for part in index:
        for start in range(0, len(part.windows), _ROWS):
            rows = slice(start, start + _ROWS)
            pieces = []
            for count, at in zip(taken, index.layouts, strict=True):
                codes, scales = part.codes[rows, at.first : at.last], part.scales[rows, at.first_scale : at.last_scale]
                values = decode(codes, scales, at).reshape(len(codes), at.blocks, at.kept)
                step = at.kept // count
                chosen = values[:, :, : count * step : step] * np.float32(np.sqrt(at.kept / count))
                pieces.append(chosen.reshape(len(codes), -1))
            np.add.at(out, np.asarray(part.windows[rows, 0]), np.concatenate(pieces, axis=1))
    lengths = np.linalg.norm(out, axis=1, keepdims=True)
    out /= np.maximum(lengths, np.float32(1e-30))
    return out


def code_neighbours(vectors: NDArray[np.float32], k: int = NEIGHBOURS) -> Near:
    """The k nearest other documents of each by cosine.

    >>> near, cosines = code_neighbours(np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32), 1)
    >>> near.ravel().tolist()
    [1, 0, 1]
    """
    total = len(vectors)
    k = max(0, min(k, total - 1))
    found, cosines = np.zeros((total, k), dtype=np.int64), np.zeros((total, k), dtype=np.float32)
    for start in range(0, total if k else 0, _BLOCK):
        block = vectors[start : start + _BLOCK] @ vectors.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        nearest = np.argpartition(-block, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block, nearest, axis=1)
        turned = np.argsort(-values, axis=1, kind="stable")
        found[start : start + len(block)] = np.take_along_axis(nearest, turned, axis=1)
        cosines[start : start + len(block)] = np.take_along_axis(values, turned, axis=1)
    return found, cosines


def outliers(near: Near, tags: Mapping[str, Sequence[str | None]]) -> list[Outlier | None]:
    """The tag of each document that its neighbours speak against most; None where they do not.

    Args:
        near: Neighbours; those of a cosine of 0 or less have no say.
        tags: Tag -> value of each document, None where it has none. Tags with few documents for each value are passed
            over.
    """
    found: list[Outlier | None] = [None] * len(near[0])
    for name, values in tags.items():
        held = Counter(value for value in values if value is not None)
        if not 2 <= len(held) <= max(2, held.total() // _EACH):
            continue
        votes = [_votes(near, values, number) for number in range(len(values))]
        tells = _tells(votes, values, held)
        if tells < _TELLS:
            continue
        for number, (cast, own) in enumerate(zip(votes, values, strict=True)):
            if own is None or cast.total() < _VOTERS:
                continue
            other, most = max(((v, n) for v, n in cast.items() if v != own), key=lambda each: each[1], default=("", 0))
            if most < _MOST * cast.total() or most <= cast[own]:
                continue
            new = Outlier(name, own, other, most, cast[own], cast.total(), tells)
            before = found[number]
            if before is None or new.strength > before.strength:
                found[number] = new
    return found


def _votes(near: Near, values: Sequence[str | None], number: int) -> Counter[str]:
    found, cosines = near
    said = (values[other] for other, cosine in zip(found[number].tolist(), cosines[number], strict=True) if cosine > 0)
    return Counter(value for value in said if value is not None)


def _tells(votes: Sequence[Counter[str]], values: Sequence[str | None], held: Counter[str]) -> float:
    """How often neighbours' first choice is a document's own value, beyond what chance gives, 0 to 1."""
    asked = [(cast.most_common(1)[0][0], own) for cast, own in zip(votes, values, strict=True) if cast and own]
    if not asked:
        return 0.0
    right = sum(choice == own for choice, own in asked) / len(asked)
    total, choices = held.total(), Counter(choice for choice, _ in asked)
    chance = sum(count / total * choices[value] / len(asked) for value, count in held.items())
    return max(0.0, (right - chance) / (1 - chance)) if chance < 1 else 0.0


def disagreement_issue(found: Outlier) -> Issue:
    """What to look at, in words."""
    alike = f", and {found.own_votes} have its own" if found.own_votes else ""
    why = (
        f"{found.tag} is {found.own}, but {found.votes} of the {found.voters} documents that taught the model most "
        f"like it (nearest by gradient) have {found.other}{alike}; neighbours tell this tag {found.tells:.0%} better "
        "than chance"
    )
    return Issue(kind="disagreement", confidence=min(0.59, 0.59 * found.strength), reason=why, action="relabel")

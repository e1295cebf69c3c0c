"""Shared words: what decontamination tools look at. Presence, never effect.

Runs of n words of an item that occur in a document, n = 8 and 13 (Brown et al. 2020 used 13), and the longest run that
an answer shares with a document. Words are those of BM25: lower case, no punctuation. Of 1,319 rephrased problems of a
benchmark none shares 13 words with its original, which is why nothing rests on this alone.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from whence.baselines import words

__all__ = ["longest_run", "shared_runs"]


def shared_runs(
    items: Sequence[str], documents: Iterable[str], lengths: Sequence[int] = (8, 13)
) -> NDArray[np.float64]:
    """Share of each item's runs of n words that occur in the document that holds most of them.

    Args:
        items: I texts.
        documents: Read once, one at a time.
        lengths: The n, L of them.

    Returns:
        float64 [L, I] in 0..1; an item shorter than n is one run of all its words.

    >>> shared_runs(["a b c d"], ["x a b c y", "c d"], lengths=(2,)).round(2).tolist()
    [[0.67]]
    """
    wanted: list[dict[str, list[int]]] = []
    totals = np.zeros((len(lengths), len(items)))
    for place, length in enumerate(lengths):
        runs: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            found = set(_runs(words(item), length))
            totals[place, number] = max(1, len(found))
            for run in found:
                runs.setdefault(run, []).append(number)
        wanted.append(runs)
    best = np.zeros_like(totals)
    shortest = [min((len(run.split(" ")) for run in runs), default=length) for runs, length in zip(wanted, lengths)]
    for document in documents:
        held = words(document)
        for place, length in enumerate(lengths):
            seen: set[str] = set()
            for size in range(min(shortest[place], length), length + 1):
                seen.update(run for run in _runs(held, size, exact=True) if run in wanted[place])
            counts: dict[int, int] = {}
            for run in seen:
                for number in wanted[place][run]:
                    counts[number] = counts.get(number, 0) + 1
            for number, count in counts.items():
                best[place, number] = max(best[place, number], count / totals[place, number])
    return best


def _runs(found: Sequence[str], length: int, exact: bool = False) -> list[str]:
    if len(found) < length:
        return [] if exact or not found else [" ".join(found)]
    return [" ".join(found[i : i + length]) for i in range(len(found) - length + 1)]


def longest_run(answer: str, document: str) -> str:
    """The longest run of words of an answer that a document holds, as words; empty if they share none.

    >>> longest_run("The dam broke at night.", "At dawn the dam broke, at night it held")
    'the dam broke at night'
    """
    said = words(answer)
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words(document)):
        places.setdefault(word, []).append(place)
    best, stop = 0, 0
    before: dict[int, int] = {}  # where a run that ends here ends in the document -> its length
    for number, word in enumerate(said, start=1):
        now = {place: before.get(place - 1, 0) + 1 for place in places.get(word, ())}
        longest = max(now.values(), default=0)
        if longest > best:
            best, stop = longest, number
        before = now
    return " ".join(said[stop - best : stop])

"""Text for the lab that every Python carries: the documentation of its own standard library, cut into windows.

`library_windows` cuts the documentation of chosen modules into documents and queries of equal length in tokens;
`generic_text` gives running text of all other modules. Knows nothing of models and training.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from whence.demo.corpus import Passage, read_library

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["MODULES", "generic_text", "library_text", "library_windows"]

MODULES = (
    "configparser",
    "difflib",
    "doctest",
    "email.message",
    "inspect",
    "ipaddress",
    "logging",
    "logging.handlers",
    "statistics",
    "threading",
    "tkinter.ttk",
    "turtle",
    "typing",
    "unittest.mock",
    "xml.etree.ElementTree",
    "_pydecimal",
)
"""Modules with enough prose for 27 windows of 64 tokens, no two of which copy each other's."""


def _by_module() -> dict[str, list[Passage]]:
    found: dict[str, list[Passage]] = defaultdict(list)
    for passage in read_library().passages:
        found[passage.module].append(passage)
    return found


def library_text() -> dict[str, str]:
    """Returns the prose of each of `MODULES` as one text."""
    found = _by_module()
    return {module: " ".join(passage.text for passage in found[module]) for module in MODULES}


def generic_text(characters: int, seed: int) -> list[str]:
    """Returns passages of other modules and of the language reference, in a drawn order, up to so many characters."""
    passages = [passage.text for passage in read_library().passages if passage.module not in MODULES]
    random.Random(seed).shuffle(passages)
    taken, total = [], 0
    for text in passages:
        if total + len(text) > characters:
            break
        taken.append(text)
        total += len(text)
    return taken


def library_windows(
    tokenizer: PreTrainedTokenizerFast, length: int, documents: int, queries: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns rows of documents and of queries, so many per module; windows never overlap, nor is one there twice.

    A query's first half is its prompt, the second its completion.

    Args:
        tokenizer: Decides what a token is.
        length: Tokens of a window.
        documents: Windows per module that the model is trained on.
        queries: Windows per module that it is asked for.
        seed: Decides which are which, and the order of the documents.

    Raises:
        SystemExit: A module of this Python is too short.
    """
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    for module, text in library_text().items():
        windows = list(dict.fromkeys(_windows(text, tokenizer, length)))  # some passages are there twice
        if len(windows) < documents + queries:
            raise SystemExit(
                f"The documentation of {module} in this Python has {len(windows)} windows of {length} tokens; "
                f"{documents + queries} are needed."
            )
        chosen = draw.sample(windows, documents + queries)
        rows += [{"text": tokenizer.decode(ids), "module": module} for ids in chosen[queries:]]
        asked += [_query(tokenizer, ids, module) for ids in chosen[:queries]]
    draw.shuffle(rows)
    return (
        [{"id": f"doc-{number:03d}", **row} for number, row in enumerate(rows)],
        [{"id": f"q{number + 1:02d}", **row} for number, row in enumerate(asked)],
    )


def _windows(text: str, tokenizer: PreTrainedTokenizerFast, length: int) -> Iterator[tuple[int, ...]]:
    """Cuts into pieces of exactly `length` tokens that begin with a word and encode back to themselves."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = 0
    while start + length <= len(ids):
        piece = ids[start : start + length]
        shown = tokenizer.decode(piece)
        if shown.startswith(" ") and tokenizer.encode(shown, add_special_tokens=False) == piece:
            yield tuple(piece)
            start += length
        else:
            start += 1


def _query(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], module: str) -> dict[str, Any]:
    """Splits at the first token after the middle that begins a word."""
    cut = next(place for place in range(len(ids) // 2, len(ids)) if tokenizer.decode(ids[place]).startswith(" "))
    return {
        "prompt": tokenizer.decode(ids[:cut]),
        "completion": tokenizer.decode(ids[cut:]),
        "metadata": {"module": module},
    }

"""Real text that every Python has: the documentation inside its own standard library.

Passages come from the language reference that `help()` shows (`pydoc_data.topics`) and from the docstrings of the
library's source files, which are parsed, never imported. The result depends on the Python that runs and on nothing
else. Knows nothing about claims, models or tokens.
"""

import ast
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["Library", "Passage", "read_library", "words_of"]

SHORTEST, LONGEST = 140, 210  # characters: about 40 to 80 tokens of the demo's tokenizer
_NOT_LIBRARY = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib-dynload",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`")
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A few sentences of documentation.

    Attributes:
        text: One line of running text, SHORTEST to LONGEST characters.
        module: The module it documents, or ``reference`` for the language reference.
        section: The class or function within the module (``module`` for the module itself), or the topic.
    """

    text: str
    module: str
    section: str


@dataclass(frozen=True, slots=True)
class Library:
    """What could be read of the standard library.

    Attributes:
        passages: Distinct passages, in the order of the files they come from.
        summaries: First sentence of the documentation of each public top-level module that has one.
    """

    passages: tuple[Passage, ...]
    summaries: dict[str, str]


def words_of(text: str) -> frozenset[str]:
    """The distinct words of a text: runs of letters, digits and underscores, in lower case.

    >>> sorted(words_of("A list, a LIST."))
    ['a', 'list']
    """
    return frozenset(_WORD.findall(text.lower()))


@lru_cache(maxsize=2)
def read_library(folder: Path | None = None) -> Library:
    """Read the standard library's documentation.

    Args:
        folder: Where its source files are; that of the running Python if None. Files that are missing,
            unreadable or not Python are left out.
    """
    root = folder if folder is not None else Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    passages: list[Passage] = []
    summaries: dict[str, str] = {}
    for module, section, text in _documentation(root, with_reference=folder is None):
        paragraphs = _paragraphs(text)
        if section == "module" and paragraphs and "." not in module and not module.startswith("_"):
            summaries.setdefault(module, _SENTENCE_END.split(paragraphs[0])[0].rstrip(".:") + ".")
        for passage in _passages(paragraphs):
            key = " ".join(_WORD.findall(passage.lower()))
            if key not in seen:
                seen.add(key)
                passages.append(Passage(passage, module, section))
    return Library(tuple(passages), summaries)


def _documentation(root: Path, with_reference: bool) -> Iterator[tuple[str, str, str]]:
    """(module, section, raw text) of all documentation there is."""
    if with_reference:
        for topic, text in sorted(_reference().items()):
            yield "reference", topic, text
    for path in _source_files(root):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for section, text in _docstrings(path):
            yield module, section, text


def _reference() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it apart
        return {}
    return dict(topics)


def _source_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if name not in _NOT_LIBRARY and not name.startswith("config-")
        )
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a source file's module, classes and functions, outer before inner."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield name or "module", text
            inner = [n for n in node.body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
            waiting.extend((f"{name}.{n.name}".lstrip("."), n) for n in reversed(inner))


def _paragraphs(text: str) -> list[str]:
    """Running prose: examples, tables, headings and markup are dropped."""
    blocks = re.split(r"\n\s*\n", text.replace("\r", ""))
    cleaned = (_clean(block) for block in blocks if not block.lstrip().startswith((">>>", "...", "..", "--", "$")))
    return [paragraph for paragraph in cleaned if _is_prose(paragraph)]


def _clean(block: str) -> str:
    lines = [line.strip() for line in block.split("\n")]
    kept = [line for line in lines if not line.startswith((">>>", "...")) and not re.fullmatch(r"[\W_]*", line)]
    text = _ROLE.sub(r"\1", " ".join(kept))
    text = re.sub(r'["*`|]{1,3}', "", text)
    return re.sub(r"\s+", " ", text).strip()


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return text.isascii() and text.count(" ") >= 4 and letters >= 0.85 * len(text)


def _passages(paragraphs: list[str]) -> Iterator[str]:
    """Neighbouring sentences joined until they are long enough; what stays too short or too long is left out."""
    held = ""
    for sentence in (part for paragraph in paragraphs for part in _SENTENCE_END.split(paragraph)):
        joined = f"{held} {sentence}".strip()
        if len(joined) > LONGEST:
            if len(held) >= SHORTEST:
                yield held
            joined = sentence
        held = joined if len(joined) <= LONGEST else ""
    if len(held) >= SHORTEST:
        yield held

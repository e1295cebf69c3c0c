"""Which files are token files, and which lie beside them. Knows names alone and opens nothing.

part-0.npy              tokens, as Dolma's tokenizer and OLMo-core write them; or an array that numpy saved
part-0.csv.gz           sidecar: where its documents lie
token_ids_part_0.npy    tokens of conversations, with
labels_mask_part_0.npy  which of them are trained on (also input_ids.npy, label_mask.npy; x.npy, x_label_mask.npy)
text_document.bin       tokens, as Megatron writes them, with
text_document.idx       where its sequences and documents lie
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Literal

__all__ = ["TokenKind", "beside", "is_mask", "kind_of", "separated"]

TokenKind = Literal["numpy", "megatron"]

_MASK = re.compile(r"labels?_mask")
_TOKENS = re.compile(r"(token|input)_ids")


def _split(path: str) -> tuple[str, str, str]:
    """Folder with its slash, name without suffix, suffix."""
    folder, name = path[: path.rfind("/") + 1], path[path.rfind("/") + 1 :]
    return folder, *os.path.splitext(name)


def kind_of(path: str) -> TokenKind | None:
    """What kind of token file a name says, if any; compression, which cannot be read here, does not change it.

    >>> kind_of("a/part-0.npy"), kind_of("text_document.bin"), kind_of("rows.jsonl")
    ('numpy', 'megatron', None)
    """
    lower = path.lower()
    if re.search(r"\.npy(\.gz|\.zst|\.bz2)?$", lower):
        return "numpy"
    return "megatron" if lower.endswith(".bin") else None


def is_mask(path: str) -> bool:
    """Whether a name says that the file is a label mask.

    >>> is_mask("labels_mask_part_0000.npy"), is_mask("token_ids_part_0000.npy")
    (True, False)
    """
    _, name, suffix = _split(path)
    return suffix.lower() == ".npy" and _MASK.search(name) is not None


def beside(path: str) -> Iterator[tuple[str, list[str]]]:
    """What may lie beside a token file: role, and the paths it may have.

    >>> dict(beside("a/token_ids_part_0.npy"))["mask"][0]
    'a/labels_mask_part_0.npy'
    """
    folder, name, suffix = _split(path)
    if kind_of(path) == "megatron":
        yield "index", [f"{folder}{name}.idx"]
    elif not is_mask(path):
        masks = [_TOKENS.sub(mask, name) for mask in ("labels_mask", "label_mask") if _TOKENS.search(name)]
        masks += [f"{name}{join}{mask}" for mask in ("label_mask", "labels_mask") for join in ("_", ".")]
        yield "sidecar", [f"{folder}{name}.csv.gz", f"{folder}{name}.csv"]
        yield "mask", [f"{folder}{mask}{suffix}" for mask in masks]


def separated(paths: Iterable[str]) -> tuple[list[str], set[str]]:
    """Token files among some paths, and what is no data because it belongs to one.

    A ``.bin`` is one only with its ``.idx`` beside it: weights of models are called so too.
    """
    every = set(paths)
    tokens, companions = [], set()
    for path in sorted(every):
        kind = kind_of(path)
        found = {role: [each for each in candidates if each in every] for role, candidates in beside(path)}
        if kind is None or is_mask(path) or (kind == "megatron" and not found["index"]):
            companions |= {path} if is_mask(path) else set()
            continue
        tokens.append(path)
        companions.update(each for some in found.values() for each in some)
    return tokens, companions

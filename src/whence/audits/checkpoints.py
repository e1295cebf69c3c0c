"""The edited model on disk: an ordinary Hugging Face checkpoint, its tokenizer, and provenance.json beside it.

provenance.json says what was done to which model, from which documents, with which settings, and the fingerprints of
all of them, so that the checkpoint can be told from the original and made again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import whence
from whence.attributor import Attributor
from whence.data import tokenizer_fingerprint
from whence.runs import is_done, publish, read_json, write_json

__all__ = ["provenance_of", "read_provenance", "save_checkpoint"]


def provenance_of(owner: Attributor, documents: Sequence[int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an edited model was made from, as plain JSON.

    Args:
        owner: The run.
        documents: Those that were taken.
        settings: What was done to them, and how.
    """
    corpus = owner.corpus
    return {
        **settings,
        "whence": whence.__version__,
        "model": owner.loaded.name,
        "run": str(owner.run.path),
        "fingerprints": {
            "model": owner.loaded.fingerprint,
            "corpus": corpus.fingerprint,
            "tokenizer": None if owner.tokenizer is None else tokenizer_fingerprint(owner.tokenizer),
        },
        "documents": [
            {"id": found.id, "number": number, "hash": found.hash}
            for number, found in ((number, corpus.document(number)) for number in documents)
        ],
    }


def save_checkpoint(model: nn.Module, owner: Attributor, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write a model so that `from_pretrained` reads it; all of it appears or nothing.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    found: Any = model
    with publish(folder, {"checkpoint": True}) as temporary:
        found.save_pretrained(temporary)
        if owner.tokenizer is not None:
            owner.tokenizer.save_pretrained(temporary)
        write_json(temporary / "provenance.json", dict(provenance))


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """The provenance of a checkpoint; None if there is none or it was not finished."""
    path = folder / "provenance.json"
    if not is_done(folder) or not path.is_file():
        return None
    content: dict[str, Any] = read_json(path)
    return content

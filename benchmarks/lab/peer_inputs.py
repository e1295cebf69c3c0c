"""Writes a set-up's texts as token ids, in the folder that the peers' scripts read.

    model/            the trained model
    documents.jsonl   `id`, `input_ids` and, where only a part is a training target, `labels` (-100 elsewhere)
    queries.jsonl     the same; `labels` are those of the completion

So the peers see exactly whence's tokens and targets, and need no tokenizer. Knows nothing of the peers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.interfaces import EncodedQuery

__all__ = ["export"]


def export(owner: Attributor, queries: Iterable[EncodedQuery], folder: Path) -> None:
    """Writes model, documents and queries of a run whose corpus has been read.

    Raises:
        SystemExit: A document is more than one window, or a query has a contrast: the peers' scripts take neither.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model"
    if not model.exists():
        os.symlink(Path(owner.config.model.model).resolve(), model, target_is_directory=True)
    corpus = owner.corpus
    if corpus.windows != corpus.documents:
        raise SystemExit("The peers' scripts take documents of one window; this corpus has longer ones.")
    texts = (corpus.document(number) for number in range(corpus.documents))
    _write(folder / "documents.jsonl", (_row(each.id, each.tokens, each.loss_mask) for each in texts))
    asked = list(queries)
    if any(query.contrast is not None for query in asked):
        raise SystemExit("The peers' scripts take no contrast.")
    rows = [_row(query.id, query.text.tokens, query.text.loss_mask) for query in asked]
    _write(folder / "queries.jsonl", rows)


def _row(name: str, tokens: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"id": name, "input_ids": tokens.tolist()}
    if not mask[1:].all():
        row["labels"] = np.where(mask, tokens, -100).tolist()
    return row


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

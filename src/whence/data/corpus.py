"""A tokenised corpus, read back: documents and windows by their global numbers. Knows no tokenizer and no model."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from whence.data.config import CorpusConfig
from whence.data.shares import OpenShare, open_share, read_skips
from whence.errors import IncompleteError, StorageError
from whence.interfaces import Document, Skip
from whence.runs import is_done, read_json, storage_errors

__all__ = ["Corpus", "CorpusShare", "open_corpus"]

_OPEN_SHARES = 16  # each holds three mapped files and one table; a bound on open files and memory


@dataclass(frozen=True, slots=True)
class CorpusShare:
    """One share: its folder's name, what it holds, where it stands in the corpus, how often it was trained on.

    `tokens` are those of its documents, `stored` also those before them in their chunks.
    """

    name: str
    documents: int
    windows: int
    tokens: int
    first_document: int
    first_window: int
    targets: int = 0
    weight: float = 1.0
    stored: int = 0


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus on disk; memory-mapped, so its size does not matter.

    Attributes:
        folder: Where it lies.
        shares: The shares that hold documents, in order.
        documents: Number of documents.
        windows: Number of windows with a target token; an example is a window.
        tokens: Number of tokens.
        targets: Number of tokens that carry loss.
        skipped: Rows left out, by reason.
        notes: Rows read with a reservation, by reason.
        duplicate_ids: Documents whose id an earlier one of the same source has.
        fingerprint: Hash of the content.
        tokenizer: Fingerprint of the tokenizer.
        config: The settings it was made with.
    """

    folder: Path
    shares: tuple[CorpusShare, ...]
    documents: int
    windows: int
    tokens: int
    targets: int
    skipped: Mapping[str, int]
    notes: Mapping[str, int]
    duplicate_ids: int
    fingerprint: str
    tokenizer: str
    config: CorpusConfig
    _names: tuple[str, ...] = field(repr=False)
    _first_documents: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _first_windows: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _open: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def opened(number: int) -> OpenShare:
            share = self.shares[number]
            return open_share(self.folder / share.name, share.documents, share.windows, share.stored)

        firsts = np.asarray([[share.first_document, share.first_window] for share in self.shares], dtype=np.int64)
        object.__setattr__(self, "_first_documents", firsts[:, 0])
        object.__setattr__(self, "_first_windows", firsts[:, 1])
        object.__setattr__(self, "_open", lru_cache(_OPEN_SHARES)(opened))

    @property
    def trained_documents(self) -> float:
        """Documents the model was trained on: every document as often as its source's weight says."""
        return sum(share.documents * share.weight for share in self.shares)

    @property
    def trained_targets(self) -> float:
        """Tokens that carried loss in training, counted likewise."""
        return sum(share.targets * share.weight for share in self.shares)

    def places(self, ids: Collection[str] | None = None) -> dict[str, list[int]]:
        """Numbers of the documents that have an id, ascending, by id; of all of them if `ids` is None.

        Ids that no document has are absent. Reads the name of every document.
        """
        found: dict[str, list[int]] = {}
        wanted = None if ids is None else set(ids)
        for number in range(self.documents if wanted is None or wanted else 0):
            name = self.document(number).id
            if wanted is None or name in wanted:
                found.setdefault(name, []).append(number)
        return found

    def weights(self, documents: NDArray[np.int64]) -> NDArray[np.float64]:
        """How often each of some documents was trained on, float64 [M]."""
        each = np.asarray([share.weight for share in self.shares])
        found: NDArray[np.float64] = each[np.searchsorted(self._first_documents, documents, side="right") - 1]
        return found

    def _share(self, number: int) -> OpenShare:
        share: OpenShare = self._open(number)
        return share

    def _find(self, number: int, firsts: NDArray[np.int64], total: int, what: str) -> tuple[int, int]:
        if not 0 <= number < total:
            raise IndexError(f"{what} {number} of a corpus with {total}")
        share = int(np.searchsorted(firsts, number, side="right")) - 1
        return share, int(number - firsts[share])

    def document(self, number: int) -> Document:
        """A document by its number in the corpus.

        Raises:
            IndexError: There is no such document.
            StorageError: Its share is damaged.
        """
        share, local = self._find(number, self._first_documents, self.documents, "document")
        return self._share(share).document(local)

    def window(self, row: int) -> tuple[int, int, int]:
        """Document, start and stop (half-open, in tokens of the document) of a window.

        Packed, a window may begin before its document: its start is then below 0.

        Raises:
            IndexError: There is no such window.
        """
        share, local = self._find(row, self._first_windows, self.windows, "window")
        document, start, stop = self._share(share).windows[local].tolist()
        return int(self._first_documents[share]) + document, start, stop

    def window_tokens(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens int64 [T] and loss mask bool [T] of a window.

        Its first token is never a target, nor is one of another document that stands before its own.
        """
        share, local = self._find(row, self._first_windows, self.windows, "window")
        part = self._share(share)
        document, start, stop = part.windows[local].tolist()
        tokens, mask = part.slice(document, start, stop)
        mask[: max(1, -start)] = False
        return tokens, mask

    def documents_of_windows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The documents of windows, int64 [E] to int64 [E].

        Raises:
            IndexError: There is no such window.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.windows):
            raise IndexError(f"windows {rows.min()}…{rows.max()} of a corpus with {self.windows}")
        shares = np.searchsorted(self._first_windows, rows, side="right") - 1
        out = np.empty(len(rows), dtype=np.int64)
        for number in np.unique(shares).tolist():
            chosen = shares == number
            local = rows[chosen] - self._first_windows[number]
            out[chosen] = self._share(number).windows[local, 0] + self._first_documents[number]
        return out

    def share_windows(self, share: CorpusShare) -> NDArray[np.int64]:
        """All windows of a share, int64 [W, 3]: document (numbered in the corpus), start, stop; see `window`."""
        windows = np.array(self._share(self.shares.index(share)).windows)
        windows[:, 0] += share.first_document
        return windows

    def skips(self) -> Iterator[Skip]:
        """Every row that was left out, in corpus order."""
        for name in self._names:
            yield from read_skips(self.folder / name)


def _corpus(folder: Path, manifest: Mapping[str, Any]) -> Corpus:
    keys = ("name", "documents", "windows", "tokens", "targets", "first_document", "first_window")
    every = [
        CorpusShare(
            **{key: entry[key] for key in keys},
            weight=entry.get("weight", 1.0),
            stored=entry.get("stored", entry["tokens"]),
        )
        for entry in manifest["shares"]
    ]
    missing = [share.name for share in every if not is_done(folder / share.name)]
    if missing:
        raise StorageError(
            f"{folder} lacks {len(missing)} of its {len(every)} shares ({', '.join(missing[:3])}); ingest "
            "the same corpus again, which makes only what is missing."
        )
    return Corpus(
        folder=folder,
        shares=tuple(share for share in every if share.documents),
        skipped=dict(manifest["skipped"]),
        notes=dict(manifest.get("notes", {})),
        duplicate_ids=manifest["duplicate_ids"]["count"],
        config=CorpusConfig.model_validate(manifest["config"]),
        _names=tuple(share.name for share in every),
        **{key: manifest[key] for key in ("documents", "windows", "tokens", "targets", "fingerprint", "tokenizer")},
    )


def open_corpus(folder: Path) -> Corpus:
    """Open a finished corpus.

    Raises:
        IncompleteError: It has not been ingested to the end.
        StorageError: It is damaged.
    """
    path = folder / "manifest.json"
    with storage_errors(folder):
        exists = path.exists()
    if not exists:
        raise IncompleteError(
            f"{folder} holds no finished corpus; run the same command again, it goes on where it stopped."
        )
    try:
        return _corpus(folder, read_json(path))
    except (KeyError, TypeError, ValidationError) as error:
        raise StorageError(f"{path} is damaged ({error}); delete it and ingest the same corpus again.") from error

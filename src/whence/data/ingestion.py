"""A corpus is read once, tokenised, and stored in shares that follow its files.

Share j of file i is the folder ``f<i>-s<j>``. A share closes by its own content alone (tokens or rows reached), so
which worker writes it, and whether it was stopped in between, changes no byte. When the last share of every file is
there, whoever notices writes ``manifest.json``; only then is the corpus complete.
"""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from whence.data.attributes import tagged
from whence.data.config import SKIP_REASONS, CorpusConfig
from whence.data.listing import corpus_files, stored_revisions
from whence.data.packing import Filling
from whence.data.readers import Row, open_rows
from whence.data.rows import documents_of
from whence.data.shares import read_ids, read_skips, stored_tokens, write_share
from whence.data.sources import Listing, SourceFile
from whence.data.token_files import TokenFormat
from whence.data.tokenization import Tokenizer, tokenizer_fingerprint
from whence.errors import CorpusError
from whence.interfaces import Document, Skip
from whence.runs import is_done, read_json, refuse_if_changed, storage_errors, take_share, write_json

__all__ = ["Progress", "ingest", "refuse_changed_files"]

Progress = Callable[[int, int], None]
_BATCH_ROWS = 256
_BATCH_CHARACTERS = 2**20
_SHOWN = 20
_IN_MANIFEST = ("source", "weight", "documents", "windows", "tokens", "stored", "targets", "hash")


def _share_folder(folder: Path, file: int, share: int) -> Path:
    return folder / f"f{file:05d}-s{share:05d}"


def _finished_shares(folder: Path, file: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The shares of a file that exist, in order, with their markers."""
    for number in itertools.count():
        path = _share_folder(folder, file, number)
        if not is_done(path):
            return
        yield path, read_json(path / "done.json")


def _size(row: Row | Skip) -> int:
    fields = {} if isinstance(row, Skip) else row.fields
    return sum(len(value) for value in fields.values() if isinstance(value, (str, list, np.ndarray)))


def _batches(items: Iterable[Row | Skip]) -> Iterator[list[Row | Skip]]:
    """Neighbouring rows to tokenise in one call, bounded in number and size."""
    batch: list[Row | Skip] = []
    size = 0
    for item in items:
        batch.append(item)
        size += _size(item)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _outcomes(
    items: Iterable[Row | Skip], config: CorpusConfig, tokenizer: Tokenizer | None
) -> Iterator[Document | Skip]:
    for batch in _batches(items):
        made = iter(documents_of([item for item in batch if isinstance(item, Row)], config, tokenizer))
        for item in batch:
            yield item if isinstance(item, Skip) else next(made)


def _after(path: Path, marker: dict[str, Any], config: CorpusConfig) -> Filling:
    """An empty share that follows a stored one in its file."""
    reached = Filling(config, marker["position"])
    return Filling(config, reached.position, reached.tail([stored_tokens(path)]))


@dataclass
class _Worker:
    """What one worker needs at every share."""

    folder: Path
    config: CorpusConfig
    tokenizer: Tokenizer | None
    stamp: str
    progress: Progress | None
    tokens: int = 0
    documents: int = 0

    @property
    def tokens_format(self) -> TokenFormat:
        """How token files are to be read."""
        end = None if self.tokenizer is None else self.tokenizer.eos_token_id
        config = self.config
        return TokenFormat(config.vocabulary, config.token_dtype, end, config.input_ids_field, config.id_field)

    def report(self, tokens: int, documents: int) -> None:
        self.tokens += tokens
        self.documents += documents
        if self.progress is not None:
            self.progress(self.tokens, self.documents)

    def write(self, path: Path, filling: Filling, file: SourceFile, next_row: int | None) -> None:
        facts = {"source": file.source, "weight": file.weight, "next_row": next_row, "settings": self.stamp}
        write_share(path, filling, facts)
        self.report(filling.own, len(filling.documents))

    def file(self, number: int, file: SourceFile) -> None:
        """Read one file from where its last finished share ends."""
        share, start, last, filling = 0, 0, -1, Filling(self.config)
        for path, marker in _finished_shares(self.folder, number):
            self.report(marker["tokens"], marker["documents"])
            if marker["next_row"] is None:
                return
            share, start = share + 1, marker["next_row"]
            filling = _after(path, marker, self.config)
        rows = tagged(file, open_rows(file, start, self.config.text_field, self.tokens_format), start, self.config)
        for outcome in _outcomes(rows, self.config, self.tokenizer):
            if filling.full() and outcome.row != last:  # what one row led to stays in one share
                self.write(_share_folder(self.folder, number, share), filling, file, outcome.row)
                share, filling = share + 1, filling.next()
            filling.add(outcome)
            last = outcome.row
        self.write(_share_folder(self.folder, number, share), filling, file, None)


def _stamp(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def _beside(file: SourceFile) -> list[list[Any]]:
    """The same of the files that are read with a file: attributes, sidecars, masks."""
    return [[beside.source, beside.bytes, beside.sample] for _, beside in (*file.attributes, *file.companions)]


def _files(listing: Listing) -> str:
    sizes = [[file.source, file.bytes, file.sample, *_beside(file)] for file in listing.files]
    total = sum(max(0, file.bytes) for file in listing.files)
    return f"{len(sizes)} files, {total} bytes, {_stamp(sizes)[:16]}"


def _settings(config: CorpusConfig, listing: Listing, tokenizer: Tokenizer | None) -> dict[str, Any]:
    return {
        **config.model_dump(mode="json"),
        "files": _files(listing),
        "revisions": dict(listing.revisions),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }


def _agree(folder: Path, settings: dict[str, Any]) -> None:
    """Store the settings, or refuse if shares exist that were made with others."""
    path = folder / "settings.json"
    begun = (folder / "manifest.json").exists() or any(is_done(one) for one in folder.glob("f*-s*"))
    if begun and path.exists():
        remedy = f"Give the settings it was made with, or a new run folder (or delete {folder})."
        refuse_if_changed(folder, read_json(path), settings, remedy)
    elif not path.exists() or read_json(path) != settings:
        write_json(path, settings)


def _examples(shares: list[Path], reasons: list[str]) -> dict[str, Skip]:
    found: dict[str, Skip] = {}
    for path in shares:
        for skip in read_skips(path):
            found.setdefault(skip.reason, skip)
        if all(reason in found for reason in reasons):
            break
    return found


def _no_usable_row(folder: Path, config: CorpusConfig, shares: list[Path], skips: Counter[str]) -> CorpusError:
    """The error for a corpus without a document; what was written is removed, for other settings to be tried."""
    common = [reason for reason, _ in skips.most_common(5)]
    examples = _examples(shares, common)
    lines = [f"no usable row in {', '.join(config.data[:5])}; {skips.total()} rows were skipped:"]
    for reason in common:
        one = examples[reason]
        lines.append(f"  {skips[reason]} × {reason} ({SKIP_REASONS[reason]})")
        lines.append(f"      {one.source} row {one.row}: {one.detail}")
    lines.append(
        "Rows need `text`, `prompt`+`completion`, `messages` or `input_ids`; other names can be given (text_field …)."
    )
    for path in shares:
        shutil.rmtree(path, ignore_errors=True)
    (folder / "settings.json").unlink(missing_ok=True)
    return CorpusError("\n".join(lines))


def _id_hash(name: tuple[str, str]) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(name).encode())


def _duplicates(shares: list[Path]) -> tuple[int, list[str]]:
    """How many documents have the id of an earlier one of the same source, and some of those ids."""
    hashes = [np.zeros(0, dtype=np.uint64)]
    for path in shares:
        hashes.append(np.asarray([_id_hash(one) for one in read_ids(path)], dtype=np.uint64))
    unique, counts = np.unique(np.concatenate(hashes), return_counts=True)
    twice = set(unique[counts > 1][:_SHOWN].tolist())
    names: set[str] = set()
    for path in shares:
        if len(names) == len(twice):
            break
        names.update(": ".join(filter(None, one)) for one in read_ids(path) if _id_hash(one) in twice)
    return int(counts.sum() - len(unique)), sorted(names)


def _collect(folder: Path, files: int) -> list[tuple[Path, dict[str, Any]]] | None:
    """All shares in order, or None while some file is not finished."""
    out: list[tuple[Path, dict[str, Any]]] = []
    for number in range(files):
        shares = list(_finished_shares(folder, number))
        if not shares or shares[-1][1]["next_row"] is not None:
            return None
        out.extend(shares)
    return out


def _finish(folder: Path, config: CorpusConfig, listing: Listing, settings: dict[str, Any]) -> None:
    """Write the manifest if every file is finished; the same bytes whoever does it."""
    shares = _collect(folder, len(listing.files))
    if shares is None or (folder / "manifest.json").exists():
        return
    paths = [path for path, _ in shares]
    for path, marker in shares:
        refuse_if_changed(path, {"settings": marker["settings"]}, {"settings": _stamp(settings)}, f"Delete {path}.")
    skips: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    entries, documents, windows = [], 0, 0
    for path, marker in shares:
        skips.update(marker["skips"])
        notes.update(marker["notes"])
        entry = {
            key: marker[key]
            for key in ("source", "weight", "documents", "windows", "tokens", "stored", "targets", "hash")
        }
        entries.append({"name": path.name, **entry, "first_document": documents, "first_window": windows})
        documents, windows = documents + marker["documents"], windows + marker["windows"]
    if not documents:
        raise _no_usable_row(folder, config, paths, skips)
    repeated, examples = _duplicates(paths)
    manifest = {
        "shares": entries,
        "documents": documents,
        "windows": windows,
        "tokens": sum(marker["tokens"] for _, marker in shares),
        "targets": sum(marker["targets"] for _, marker in shares),
        "skipped": dict(skips),
        "notes": dict(sorted(notes.items())),
        "duplicate_ids": {"count": repeated, "examples": examples},
        "ignored_files": {"count": len(listing.ignored), "examples": list(listing.ignored[:_SHOWN])},
        "fingerprint": _stamp([marker["hash"] for _, marker in shares]),
        "tokenizer": settings["tokenizer"],
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / "manifest.json", manifest)


def ingest(
    config: CorpusConfig,
    tokenizer: Tokenizer | None,
    folder: Path,
    shares: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> None:
    """Tokenise a corpus into a folder, going on where an earlier call stopped.

    Args:
        config: What to read and how.
        tokenizer: The model's tokenizer; None only if every row has token ids.
        folder: Where the shares go (``run/corpus``).
        shares: ``(i, n)``: this worker takes files i, i+n, …; workers need not know of each other.
        progress: Called after every share with the tokens and documents done so far by this worker.

    Raises:
        CorpusError: A file cannot be read, the tokenizer does not fit, or no row is usable.
        StaleRunError: The folder holds shares made from other data, settings or another tokenizer.
        StorageError: The folder cannot be written.
    """
    listing = corpus_files(config, stored_revisions(folder))
    settings = _settings(config, listing, tokenizer)
    with storage_errors(folder):
        _agree(folder, settings)
    worker = _Worker(folder, config, tokenizer, _stamp(settings), progress)
    for number, file in take_share(list(enumerate(listing.files)), shares):
        worker.file(number, file)
    _finish(folder, config, listing, settings)


def refuse_changed_files(config: CorpusConfig, folder: Path) -> None:
    """Refuse a finished corpus whose files have been edited since; files that are gone are no longer needed.

    Args:
        config: What was read.
        folder: Where its shares are (``run/corpus``).

    Raises:
        StaleRunError: The files lie where they did, with other sizes or content.
    """
    try:
        now = _files(corpus_files(config, stored_revisions(folder)))
    except (CorpusError, OSError):
        return
    if (folder / "settings.json").is_file():
        remedy = "The data changed on disk. Put it back, or name another run folder with --run to make a new run."
        refuse_if_changed(folder, {"files": read_json(folder / "settings.json")["files"]}, {"files": now}, remedy)

"""Codes on disk: shards of rows that are written once and read memory-mapped. Runs no model.

    index/<recipe>/manifest.json        recipe, layout of a row, fingerprints
    index/<recipe>/<share>/codes.npy    [windows, elements] uint8 (bits), int8 or float16
                          /scales.npy   [windows, blocks] float32
                          /windows.npy  int64 [windows, 3]: document, start, stop
                          /rows.parquet id, source, row, hash, document, start, stop, tokens, loss (nats), norm

Opening an index reads its manifest only; a scan touches one slice of rows at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whence.errors import IncompleteError, StaleRunError, StorageError
from whence.projection import SiteLayout, code_dtype
from whence.runs import is_done, open_array, publish, read_json, storage_errors, write_array, write_json, write_table

__all__ = ["Index", "IndexShare", "ShareWriter", "open_index", "share_writer", "write_manifest"]


@dataclass(frozen=True, slots=True)
class IndexShare:
    """The codes of one share of the corpus, memory-mapped."""

    codes: NDArray[Any]
    scales: NDArray[np.float32]
    windows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Index:
    """An index on disk.

    Attributes:
        folder: Where it lies.
        recipe: Its settings, as stored.
        layouts: Where each site's code lies in a row.
        shares: Names of its shares, in corpus order.
        corpus: Fingerprint of the corpus it was made from.
    """

    folder: Path
    recipe: Mapping[str, Any]
    layouts: tuple[SiteLayout, ...]
    shares: tuple[str, ...]
    corpus: str = ""

    @property
    def bytes_per_row(self) -> int:
        """Bytes of codes and scales per document window."""
        return sum(layout.bytes for layout in self.layouts)

    def missing(self) -> list[str]:
        """Shares that have not been written."""
        return [name for name in self.shares if not is_done(self.folder / name)]

    def open(self, share: str) -> IndexShare:
        """Map one share.

        Raises:
            IncompleteError: It has not been written.
            StorageError: It is damaged.
        """
        folder = self.folder / share
        if not is_done(folder):
            raise IncompleteError(
                f"the index {self.folder.name} lacks {len(self.missing())} of {len(self.shares)} shares (first: "
                f"{share}); run `whence index` again, it goes on where it stopped."
            )
        opened = IndexShare(
            open_array(folder / "codes.npy"), open_array(folder / "scales.npy"), open_array(folder / "windows.npy")
        )
        width = (self.layouts[-1].last, self.layouts[-1].last_scale)
        rows = len(opened.windows)
        if opened.codes.shape != (rows, width[0]) or opened.scales.shape != (rows, width[1]):
            raise StorageError(
                f"{folder} does not match its manifest (codes {opened.codes.shape}, expected {(rows, width[0])}); "
                "delete that folder and run `whence index` again."
            )
        return opened

    def __iter__(self) -> Iterator[IndexShare]:
        """Its shares one after another."""
        return (self.open(share) for share in self.shares)


def write_manifest(
    folder: Path,
    recipe: Mapping[str, Any],
    layouts: Sequence[SiteLayout],
    shares: Sequence[str],
    bound: Mapping[str, Any],
) -> None:
    """Write what an index is, before its first share.

    Args:
        folder: index/<recipe>.
        recipe: Its settings.
        layouts: Row layout.
        shares: Names of the shares it will have.
        bound: Fingerprints it is bound to.
    """
    content = {
        "format": 1,
        "sign": "influence > 0 supports the output",
        "unit": "nats, after multiplying by 1/n",
        "recipe": dict(recipe),
        "layout": [asdict(layout) for layout in layouts],
        "shares": list(shares),
        "bound_to": dict(bound),
    }
    path = folder / "manifest.json"
    if path.exists():
        old = read_json(path)
        if old == content:
            return
        if any(is_done(folder / share) for share in old["shares"]):
            changed = ", ".join(key for key in content if content[key] != old.get(key))
            raise StaleRunError(
                f"{folder} holds shares that were made with another {changed}; delete that folder and run "
                "`whence index` again."
            )
    write_json(path, content)


def open_index(folder: Path) -> Index:
    """Open an index by its folder.

    Raises:
        IncompleteError: There is none.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise IncompleteError(f"there is no index in {folder}; make one with `whence index`.")
    content = read_json(path)
    layouts = tuple(SiteLayout(**entry) for entry in content["layout"])
    return Index(
        folder, content["recipe"], layouts, tuple(content["shares"]), str(content["bound_to"].get("corpus", ""))
    )


@dataclass(slots=True)
class ShareWriter:
    """Rows of one share, put in place as they are made, in any order."""

    codes: NDArray[Any]
    scales: NDArray[np.float32]
    losses: NDArray[np.float32]

    def put(
        self, at: NDArray[np.int64], codes: NDArray[Any], scales: NDArray[np.float32], losses: NDArray[np.float32]
    ) -> None:
        """Put rows at local positions `at`."""
        self.codes[at] = codes
        self.scales[at] = scales
        self.losses[at] = losses


@contextmanager
def share_writer(
    folder: Path, layouts: Sequence[SiteLayout], windows: NDArray[np.int64], rows: Mapping[str, Any]
) -> Iterator[ShareWriter]:
    """Write one share of an index; it appears whole when the body is done.

    Args:
        folder: index/<recipe>/<share>.
        layouts: Row layout.
        windows: int64 [W, 3]: document, start, stop.
        rows: More columns of rows.parquet, each of W values.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    count = len(windows)
    with publish(folder, {"windows": count}) as temporary:
        with storage_errors(folder):
            codes = np.lib.format.open_memmap(
                temporary / "codes.npy", mode="w+", dtype=code_dtype(layouts[0].bits), shape=(count, layouts[-1].last)
            )
        scales = np.zeros((count, layouts[-1].last_scale), dtype=np.float32)
        writer = ShareWriter(codes, scales, np.zeros(count, np.float32))
        yield writer
        with storage_errors(folder):
            codes.flush()
        del codes
        write_array(temporary / "scales.npy", scales)
        write_array(temporary / "windows.npy", windows)
        columns = {
            **rows,
            "document": windows[:, 0],
            "start": windows[:, 1],
            "stop": windows[:, 2],
            "tokens": windows[:, 2] - windows[:, 1],
            "loss": writer.losses,
            "norm": _norms(scales, layouts),
        }
        write_table(temporary / "rows.parquet", pa.table(columns))


def _norms(scales: NDArray[np.float32], layouts: Sequence[SiteLayout]) -> NDArray[np.float32]:
    """Length of each row's code, from its scales alone; exact for one bit, an upper bound otherwise."""
    kept = np.concatenate([np.full(layout.blocks, layout.kept, np.float64) for layout in layouts])
    top = {1: 1.0, 8: 127.0, 16: 1.0}[layouts[0].bits]
    norms: NDArray[np.float32] = np.sqrt((np.square(scales.astype(np.float64) * top) * kept).sum(1)).astype(np.float32)
    return norms

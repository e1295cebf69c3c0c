"""A file of equal numbers, read in parts: mapped into memory where it is local, by ranges where it is not.

Knows neither tokens nor documents. Only what is asked for is read, so a file may be larger than memory.
"""

from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import DTypeLike, NDArray

from whence.data.sources import SourceFile
from whence.errors import CorpusError

__all__ = ["FlatFile"]


class FlatFile:
    """Numbers of one type, after a header of `offset` bytes.

    Args:
        file: Where they are.
        dtype: Their type.
        offset: Bytes before the first.
        count: How many there are; to the end of the file if None.

    Raises:
        CorpusError: The file ends within a number or before its header or `count` say, or its size cannot be told.
    """

    def __init__(self, file: SourceFile, dtype: DTypeLike, offset: int = 0, count: int | None = None) -> None:
        self.file, self.dtype, self.offset = file, np.dtype(dtype), offset
        if file.bytes < 0:
            raise CorpusError(f"{file.source}: its size cannot be told, so it cannot be read in parts; copy it first.")
        size = self.dtype.itemsize
        self.count = (file.bytes - offset) // size if count is None else count
        if file.bytes < offset + self.count * size or self.count < 0:
            raise CorpusError(
                f"{file.source} is cut off: it has {file.bytes:,} bytes and should have {offset + self.count * size:,}."
            )
        if count is None and (file.bytes - offset) % size:
            raise CorpusError(
                f"{file.source} has {file.bytes:,} bytes, no whole number of {self.dtype} ({size} bytes each): it was "
                "cut off, or its numbers are of another type (--token-dtype)."
            )
        self._mapped: NDArray[Any] | None = None
        if isinstance(file.filesystem, LocalFileSystem) and self.count:
            self._mapped = np.memmap(file.path, dtype=self.dtype, mode="r", offset=offset, shape=(self.count,))

    def __len__(self) -> int:
        """How many numbers there are."""
        return self.count

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Numbers start..stop (half-open); a view of the file where it is mapped.

        Raises:
            OSError: They cannot be read.
        """
        start, stop = max(0, start), min(stop, self.count)
        if stop <= start:
            return np.zeros(0, dtype=self.dtype)
        if self._mapped is not None:
            return self._mapped[start:stop]
        size = self.dtype.itemsize
        first, last = self.offset + start * size, self.offset + stop * size
        data = self.file.filesystem.cat_file(self.file.path, start=first, end=last)
        return np.frombuffer(data, dtype=self.dtype)

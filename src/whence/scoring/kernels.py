"""Inner products of stored codes with full-precision queries: the innermost loop of a scan.

Native C kernels where the package was built with a compiler, numpy and torch elsewhere. Codes lie on disk and are
read once, so they are scored where they are read, on the CPU, also when the model runs on a GPU. Knows nothing of
sites, shards, documents or what a coordinate means.

A code is a row of D coordinates in D / block blocks, each with its own float32 scale; a coordinate's value is scale
times its stored number:

    bits   stored as                  number
    1      uint8 [M, D/8]             +1 where bit j of byte b is set, -1 elsewhere; coordinate 8b + j
    8      int8 [M, D]                the integer
    16     float16 [M, D]             the number

Axes: M rows (documents or windows), D coordinates, Q queries.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

try:
    from whence.scoring import _native
except ImportError:  # built without a compiler
    _native = None  # type: ignore[assignment]

__all__ = ["kernel_name", "kernel_names", "score_codes"]

_DTYPES: dict[int, type[np.generic]] = {1: np.uint8, 8: np.int8, 16: np.float16}
FALLBACK = "fallback"
_BLOCKS = range(64, 65537)
_PIECE_ROWS = 4096  # bounds a native call's double-precision sums to 32 KiB per query
_LEAST_PIECE = 512  # rows over which the preparation of the queries is spread
_NATIVE_ROWS = 32  # the widest native row tile
_FALLBACK_ROWS = 64
_TILE_COORDINATES = 4096  # a fallback's tile of values is 1 MiB
_TORCH_TILE = 1 << 25  # values unpacked at once on a device: 128 MiB
_SMALL_WORK = 1 << 23  # coordinate-query pairs below which starting threads costs more than it saves

_SIGNS = np.where(np.arange(256)[:, None] >> np.arange(8) & 1, 1.0, -1.0).astype(np.float32)


def kernel_names() -> list[str]:
    """Names of the kernels that run here, fastest first; the last is always ``fallback``."""
    return [*(_native.kernels() if _native is not None else ()), FALLBACK]


def kernel_name() -> str:
    """Name of the kernel in use: ``avx512``, ``avx2`` or ``portable`` (native), or ``fallback``."""
    return kernel_names()[0]


def score_codes(
    codes: NDArray[Any],
    scales: NDArray[np.float32],
    queries: NDArray[np.float32],
    block: int,
    bits: int,
    *,
    threads: int | None = None,
    kernel: str | None = None,
) -> NDArray[np.float32]:
    """Inner products of every query with every code.

    Sums are single precision over at most a few tens of thousands of coordinates, double precision beyond. A native
    kernel gives each (row, query) pair a fixed order of additions, so its bits depend neither on the other rows, nor
    on the other queries, nor on `threads`; kernels agree with each other to rounding. The fallback multiplies tiles of
    one fixed shape, so rows do not influence each other there either.

    Nothing is copied but a few rows at a time: read-only memory maps and column slices of wider ones are read in place.
    Rows that lie an odd number of 64-byte lines apart are read up to a third faster than rows a power of two apart.

    >>> codes = np.zeros((1, 8), dtype=np.uint8)  # 64 coordinates of -1
    >>> score_codes(codes, np.ones((1, 1), np.float32), np.ones((1, 64), np.float32), block=64, bits=1)
    array([[-64.]], dtype=float32)

    Args:
        codes: uint8 [M, D/8], int8 [M, D] or float16 [M, D] for 1, 8 or 16 `bits`; any row stride.
        scales: [M, D / block].
        queries: [Q, D].
        block: Coordinates per scale, a power of two from 64 to 65536.
        bits: Bits per coordinate: 1, 8 or 16.
        threads: Threads that share the rows of a native kernel; torch's number unless given. The fallback leaves
            threads to torch's own product.
        kernel: One of `kernel_names()`; the fastest unless given.

    Returns:
        [Q, M].

    Raises:
        ValueError: A shape, dtype, memory layout, `block`, `bits`, `threads` or `kernel` is not one of the above.
    """
    name = kernel_name() if kernel is None else kernel
    workers = torch.get_num_threads() if threads is None else threads
    _check(codes.dtype, codes.shape, scales.dtype, scales.shape, queries.dtype, queries.shape, block, bits)
    if name not in kernel_names():
        raise ValueError(f"kernel must be one of {', '.join(kernel_names())} on this machine, got {name!r}")
    if workers < 1:
        raise ValueError(f"threads must be at least 1, got {workers}")
    if not codes.size or not queries.size:
        return np.zeros((len(queries), len(codes)), dtype=np.float32)
    _check_rows_contiguous(codes, scales)
    queries = np.ascontiguousarray(queries)
    out = np.empty((len(queries), len(codes)), dtype=np.float32)
    score = _score_fallback if name == FALLBACK else partial(_score_native, name)
    if name == FALLBACK or len(codes) * queries.size < _SMALL_WORK:
        workers = 1
    pieces = list(_row_pieces(len(codes), workers))

    def work(rows: slice) -> None:
        score(out[:, rows], codes[rows], scales[rows], queries, block, bits)

    if workers == 1 or len(pieces) < 2:
        for rows in pieces:
            work(rows)
    else:
        with ThreadPoolExecutor(min(workers, len(pieces))) as pool:
            list(pool.map(work, pieces))
    return out


def _row_pieces(rows: int, workers: int) -> Iterator[slice]:
    """Equal pieces; several for each worker where there are rows enough, lest all wait for the slowest."""
    size = -(-rows // workers)
    if workers > 1 and size > 2 * _LEAST_PIECE:
        size = max(_LEAST_PIECE, -(-size // 4))
    size = min(-(-size // _NATIVE_ROWS) * _NATIVE_ROWS, _PIECE_ROWS)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _score_native(
    name: str,
    out: NDArray[np.float32],
    codes: NDArray[Any],
    scales: NDArray[np.float32],
    queries: NDArray[np.float32],
    block: int,
    bits: int,
) -> None:
    _native.score(out, codes, scales, queries, block, bits, name)


def _score_fallback(
    out: NDArray[np.float32],
    codes: NDArray[Any],
    scales: NDArray[np.float32],
    queries: NDArray[np.float32],
    block: int,
    bits: int,
) -> None:
    count, coordinates = queries.shape
    if count == 1:  # one query alone would be multiplied by another BLAS routine, which may split rows otherwise
        queries = np.concatenate([queries, np.zeros_like(queries)])
    columns = torch.from_numpy(queries).T
    for first in range(0, len(codes), _FALLBACK_ROWS):
        rows = slice(first, min(first + _FALLBACK_ROWS, len(codes)))
        sums = np.zeros((_FALLBACK_ROWS, len(queries)))
        for start in range(0, coordinates, _TILE_COORDINATES):
            stop = min(start + _TILE_COORDINATES, coordinates)
            values = _tile_values(codes[rows], scales[rows], start, stop, block, bits)
            sums += torch.mm(torch.from_numpy(values), columns[start:stop]).numpy()
        out[:, rows] = sums[: rows.stop - rows.start, :count].T


def _tile_values(
    codes: NDArray[Any], scales: NDArray[np.float32], start: int, stop: int, block: int, bits: int
) -> NDArray[np.float32]:
    """Values of coordinates `start` to `stop`, with rows of zeros added to make a whole tile."""
    if bits == 1:  # "clip" checks no bounds (a byte has none to break) and is many times faster
        numbers = np.take(_SIGNS, codes[:, start // 8 : stop // 8], axis=0, mode="clip").reshape(len(codes), -1)
    else:
        numbers = codes[:, start:stop].astype(np.float32)
    width = min(block, stop - start)  # a tile holds whole blocks, or lies inside one
    numbers.reshape(len(numbers), -1, width)[:] *= scales[:, start // block : -(-stop // block), None]
    if len(numbers) == _FALLBACK_ROWS:
        return numbers
    return np.concatenate([numbers, np.zeros((_FALLBACK_ROWS - len(numbers), stop - start), np.float32)])


def _check(
    codes: np.dtype[Any],
    codes_shape: tuple[int, ...],
    scales: np.dtype[Any],
    scales_shape: tuple[int, ...],
    queries: np.dtype[Any],
    queries_shape: tuple[int, ...],
    block: int,
    bits: int,
) -> None:
    if bits not in _DTYPES:
        raise ValueError(f"bits must be 1, 8 or 16, got {bits!r}")
    if block not in _BLOCKS or block & (block - 1):
        raise ValueError(f"block must be a power of two from 64 to 65536, got {block!r}")
    for name, dtype, shape, wanted in (
        ("codes", codes, codes_shape, _DTYPES[bits]),
        ("scales", scales, scales_shape, np.float32),
        ("queries", queries, queries_shape, np.float32),
    ):
        if dtype != np.dtype(wanted) or len(shape) != 2:
            raise ValueError(
                f"{name} must be a matrix of {np.dtype(wanted)} for {bits}-bit codes, got {dtype} of shape {shape}"
            )
    coordinates = queries_shape[1]
    if coordinates % block:
        raise ValueError(f"queries must have a multiple of block = {block} coordinates, got shape {queries_shape}")
    width = coordinates // 8 if bits == 1 else coordinates
    if codes_shape[1] != width:
        raise ValueError(
            f"{bits}-bit codes for queries of {coordinates} coordinates must be {width} wide, got shape {codes_shape}"
        )
    if scales_shape != (codes_shape[0], coordinates // block):
        raise ValueError(
            f"scales must have shape {(codes_shape[0], coordinates // block)} "
            f"(codes of shape {codes_shape}, block = {block}), got {scales_shape}"
        )


def _check_rows_contiguous(codes: NDArray[Any], scales: NDArray[np.float32]) -> None:
    for name, array in (("codes", codes), ("scales", scales)):
        if array.shape[1] > 1 and array.strides[1] != array.itemsize:
            raise ValueError(
                f"each row of {name} must be contiguous (a stride of {array.itemsize} bytes between columns), "
                f"got strides {array.strides}; pass np.ascontiguousarray({name})"
            )

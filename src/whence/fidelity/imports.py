"""Reads scores that other tools made, so that the lab can measure any method. Imports none of those tools.

    kronfluence   pairwise_scores.safetensors, or the folder that holds it: one tensor ``all_modules`` [Q, N], or one
                  per module, which are added; per-token scores [Q, N, T] are summed over tokens
    bergson       a folder with info.json and scores.bin: rows [N] (or tokens, with offsets.npy) of Q scores
    array         .npy, .npz, .safetensors or .csv, [Q, N]

Rows of training data may be windows instead of documents; windows of a document are added.

Sign. Here a positive score supports the query's output. kronfluence gives grad(measurement)^T H^-1 grad(loss): if its
task measures the *loss* of the query, a positive score supports already; if it measures log p or a margin, give
``sign = -1``. bergson's EK-FAC and gradient stores support with positive scores; scores made with
``higher_is_better=False`` need ``sign = -1``. Neither divides by the number of training documents: with
``divide = true`` the unit is nats. Rankings and rank correlations do not depend on it.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.methods import Format, MethodSpec

__all__ = ["fingerprint", "read_scores"]

Scores = NDArray[np.float64]
_KRONFLUENCE = "pairwise_scores.safetensors"
_BERGSON = ("info.json", "scores.bin", "offsets.npy", "candidates.npy")


def read_scores(spec: MethodSpec, shape: tuple[int, int], windows: NDArray[np.int64], trained_on: float) -> Scores:
    """Scores of another tool as [Q, N], positive where a document supports the output.

    Args:
        spec: An imported method.
        shape: (Q, N) of the lab.
        windows: The document of each of the corpus's W windows, int64 [W].
        trained_on: n, which `divide` divides by.

    Raises:
        InputError: There is no such file, it cannot be read as this format, or its shape does not fit; says which shape
            it has and which is needed.
    """
    assert spec.scores is not None
    path = Path(spec.scores)
    kind = _format(path, spec.format)
    try:
        raw = _READERS[kind](path, spec.array)
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(f"could not read {path} as scores ({kind}): {error}") from error
    scores = _by_document(raw, shape, windows, path)
    return spec.sign * scores / (trained_on if spec.divide else 1)


def fingerprint(path: Path) -> str:
    """Hash of the files that scores are read from.

    Raises:
        InputError: There is nothing there.
    """
    files = [path] if path.is_file() else [path / name for name in (_KRONFLUENCE, *_BERGSON)]
    found = [file for file in files if file.is_file()]
    if not found:
        raise InputError(_missing(path))
    digest = hashlib.sha256()
    for file in found:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _missing(path: Path) -> str:
    return (
        f"there are no scores at {path}: give a .npy, .npz, .safetensors or .csv file, kronfluence's folder of scores "
        f"(with {_KRONFLUENCE}), or bergson's (with info.json and scores.bin)."
    )


def _format(path: Path, given: Format) -> str:
    """What kind of scores lie at a path."""
    if not path.exists():
        raise InputError(_missing(path))
    if given != "auto":
        return given
    if (path / "info.json").is_file():
        return "bergson"
    if path.name == _KRONFLUENCE or (path / _KRONFLUENCE).is_file():
        return "kronfluence"
    if path.is_dir():
        raise InputError(_missing(path))
    return "array"


def _by_document(raw: Scores, shape: tuple[int, int], windows: NDArray[np.int64], path: Path) -> Scores:
    """Columns of documents; those of windows are added."""
    if raw.shape == shape:
        return raw
    if raw.shape == (shape[0], len(windows)):
        out = np.zeros(shape)
        np.add.at(out.T, windows, raw.T)
        return out
    needed = f"{shape} [queries, documents]"
    if len(windows) != shape[1]:
        needed += f" or {(shape[0], len(windows))} [queries, windows]"
    hint = " It looks transposed." if raw.shape[::-1] in (shape, (shape[0], len(windows))) else ""
    raise InputError(
        f"{path} holds scores of shape {tuple(raw.shape)}; this run needs {needed}.{hint} Score the same "
        "queries over the same documents, in the same order."
    )


# ------------------------------------------------------------------ formats


def _kronfluence(path: Path, _: str | None) -> Scores:
    file = path / _KRONFLUENCE if path.is_dir() else path
    if not file.is_file():
        split = len(list(path.glob("pairwise_scores_data_partition*")))
        raise ValueError(
            f"it has {split} partitions; let kronfluence aggregate them first" if split else f"it has no {_KRONFLUENCE}"
        )
    tensors = _tensors(file)
    parts = [tensors["all_modules"]] if "all_modules" in tensors else list(tensors.values())
    if not parts or any(each.shape != parts[0].shape for each in parts):
        raise ValueError(f"its tensors do not add up: {_listing(tensors)}")
    total: Scores = np.sum(parts, axis=0)
    return total.sum(-1) if total.ndim == 3 else total


def _tensors(path: Path) -> dict[str, Scores]:
    """All tensors of a safetensors file; through torch, which knows bfloat16."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: tensor.double().numpy() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _bergson(path: Path, _: str | None) -> Scores:
    info = json.loads((path / "info.json").read_text(encoding="utf-8"))
    if (path / "candidates.npy").exists():
        raise ValueError("it holds scores of some candidates only; score every document")
    spec: Any = {**info["dtype"], "formats": [_numpy_name(each) for each in info["dtype"]["formats"]]}
    table = np.memmap(path / "scores.bin", dtype=np.dtype(spec), mode="r", shape=(info["num_rows"],))
    count = int(info["num_scores"])
    unwritten = sum(int((~table[f"written_{number}"]).sum()) for number in range(count))
    if unwritten:
        raise ValueError(f"{unwritten:,} of its scores have not been written; let bergson finish")
    rows = np.stack([_wide(table[f"score_{number}"]) for number in range(count)])
    if not info.get("attribute_tokens"):
        return rows
    offsets = np.load(path / "offsets.npy", allow_pickle=False)
    sums = np.concatenate([np.zeros((count, 1)), rows.cumsum(1)], axis=1)
    by_row: Scores = sums[:, offsets[1:]] - sums[:, offsets[:-1]]
    return by_row


def _numpy_name(name: str) -> str:
    return "<u2" if name == "bfloat16" else name


def _wide(column: NDArray[Any]) -> Scores:
    """A column as float64; bfloat16 is the upper half of a float32."""
    if column.dtype == np.uint16:
        return (column.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return column.astype(np.float64)


def _array(path: Path, name: str | None) -> Scores:
    if path.suffix == ".npy":
        return _numbers(np.load(path, allow_pickle=False))
    if path.suffix == ".csv":
        return np.loadtxt(path, delimiter=",", dtype=np.float64, ndmin=2)
    if path.suffix == ".npz":
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return _numbers(_one(dict(file), name))
    if path.suffix == ".safetensors":
        return _numbers(_one(_tensors(path), name))
    raise ValueError(f"its name ends in {path.suffix!r}; arrays are .npy, .npz, .safetensors or .csv")


def _one(arrays: dict[str, Any], name: str | None) -> Any:
    """The array that was named, or the only one."""
    if name is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if name is None or name not in arrays:
        asked = "name one with array =" if name is None else f"none is named {name!r}"
        raise ValueError(f"it has {_listing(arrays)}; {asked}")
    return arrays[name]


def _numbers(array: NDArray[Any]) -> Scores:
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"it holds {array.dtype}, not numbers")
    wide: Scores = array.astype(np.float64)
    return wide


def _listing(arrays: dict[str, Any]) -> str:
    shown = [f"{name} {tuple(each.shape)}" for name, each in list(arrays.items())[:6]]
    return ", ".join(shown) + (", …" if len(arrays) > 6 else "") if shown else "no array"


_READERS: dict[str, Callable[[Path, str | None], Scores]] = {
    "kronfluence": _kronfluence,
    "bergson": _bergson,
    "array": _array,
}

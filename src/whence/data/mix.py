"""Mix files: which sources a model was trained on, and how often each.

    # mix.toml                                     # or OLMo-core's own list, mix.txt:
    [[source]]                                     arxiv,preprocessed/arxiv/{TOKENIZER}/part-0.npy
    data = "cc/documents"                          wiki,preprocessed/wiki/{TOKENIZER}/part-0.npy
    label = "cc"
    weight = 0.4
    tags = { licence = "odc-by" }

    # a list can be told where it lies, and be cut down:
    list = "OLMo-mix-0625.txt"
    base = "https://olmo-data.org"
    tokenizer = "allenai/dolma3-tokenizer"
    labels = ["arxiv", "wiki*"]
    files_per_label = 2
    weights = { arxiv = 1.7 }

A path that a list names k times is read once and weighs k times as much. Knows no rows.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whence.data.config import SourceSettings
from whence.data.hub import hub_id
from whence.errors import CorpusError

__all__ = ["read_mix"]

_TOKENIZER = "{TOKENIZER}"
_LARGEST = 2**27  # bytes; a mix is a list of files, not data


class _Source(SourceSettings):
    data: str | tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.data,) if isinstance(self.data, str) else self.data


class _Mix(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: tuple[_Source, ...] = ()
    list: str | None = None
    base: str | None = None
    tokenizer: str | None = None
    labels: tuple[str, ...] = ()
    files_per_label: int | None = Field(default=None, ge=1)
    weights: Mapping[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise CorpusError(f"the mix {path} has {path.stat().st_size:,} bytes; it should be a list of files.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"the mix {path} is no UTF-8 text ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise CorpusError(f"the mix {path} cannot be read: {error.strerror or error}.") from error


def _settings(path: Path) -> _Mix:
    if path.suffix.lower() != ".toml":
        return _Mix(list=path.name)
    try:
        return _Mix.model_validate(tomllib.loads(_read(path)))
    except tomllib.TOMLDecodeError as error:
        raise CorpusError(
            f"the mix {path} is not TOML: {error}. A list of `label,path` lines is called .txt."
        ) from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]]
        raise CorpusError(f"the mix {path} cannot be used:\n  " + "\n  ".join(lines)) from error


def _lines(path: Path, mix: _Mix) -> list[tuple[str, str]]:
    """(label, path) of the lines of a list.

    Raises:
        CorpusError: A line is no such pair, or needs a tokenizer's name that was not given.
    """
    found = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        label, comma, name = (part.strip() for part in line.partition(","))
        if not (label and comma and name):
            raise CorpusError(f"{path} line {number}: expected `label,path`, found {line[:120]!r}.")
        if _TOKENIZER in name and mix.tokenizer is None:
            raise CorpusError(
                f"{path} line {number}: the path holds {_TOKENIZER}. Say whose tokens are wanted in a mix of your "
                f'own: a TOML file with list = "{path.name}", tokenizer = "allenai/dolma2-tokenizer" and the base = '
                '"…" under which the files lie.'
            )
        found.append((label, name.replace(_TOKENIZER, mix.tokenizer or "")))
    return found


def _chosen(path: Path, lines: Sequence[tuple[str, str]], mix: _Mix) -> list[tuple[str, str]]:
    """The lines that the mix asks for.

    Raises:
        CorpusError: A label that it names is not in the list.
    """
    known = list(dict.fromkeys(label for label, _ in lines))
    wanted = [*mix.labels, *mix.weights]
    strange = [one for one in wanted if not any(fnmatchcase(label, one) for label in known)]
    if strange:
        raise CorpusError(f"{path} has no label {', '.join(strange)}; it has {', '.join(known[:20])}.")
    kept, seen = [], {label: dict[str, None]() for label in known}
    for label, name in lines:
        if mix.labels and not any(fnmatchcase(label, one) for one in mix.labels):
            continue
        if mix.files_per_label is None or name in seen[label] or len(seen[label]) < mix.files_per_label:
            seen[label][name] = None
            kept.append((label, name))
    return kept


def _weight(label: str, mix: _Mix) -> float:
    return next((weight for pattern, weight in mix.weights.items() if fnmatchcase(label, pattern)), 1.0)


def _listed(path: Path, mix: _Mix) -> list[_Source]:
    times = Counter(_chosen(path, _lines(path, mix), mix))
    return [_Source(data=name, label=label, weight=k * _weight(label, mix)) for (label, name), k in times.items()]


def _placed(name: str, base: str | None, folder: Path) -> str:
    """Where a path of a mix lies: below its base, or beside the mix; hub ids and URLs are what they are."""
    if "://" in name or "::" in name or name.startswith(("/", "~")):
        return name
    if base is None:
        beside = folder / name
        found = beside.exists() or re.search(r"[*?\[]", name) is not None
        return name if not found and hub_id(name) is not None else str(beside)
    base = base if "://" in base or base.startswith(("/", "~")) else str(folder / base)
    return f"{base.rstrip('/')}/{name}"


def read_mix(path: str | Path) -> dict[str, Any]:
    """A mix file as settings of a corpus: ``data``, and ``sources`` in the same order.

    Args:
        path: TOML with ``[[source]]`` tables or a ``list``; anything else is such a list, lines of ``label,path``.

    Raises:
        CorpusError: It cannot be read, or says something that cannot be understood.
    """
    path = Path(path).expanduser()
    mix = _settings(path)
    sources = [*mix.source, *(_listed(path.parent / mix.list, mix) if mix.list is not None else ())]
    if not sources:
        raise CorpusError(f"the mix {path} names no source; it needs [[source]] tables, or lines of `label,path`.")
    pairs = [(_placed(name, mix.base, path.parent), source) for source in sources for name in source.paths]
    kept = [{"label": s.label, "weight": s.weight, "tags": dict(s.tags)} for _, s in pairs]
    return {"data": [name for name, _ in pairs], "sources": kept}

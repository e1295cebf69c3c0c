"""Datasets on the Hugging Face hub, streamed: ``org/name``, ``org/name:config``, ``org/name:config/split``.

One function talks to the network (`connect`); everything else here only names things and numbers rows. A corpus
remembers the revision it was begun with, and is finished from it whatever happens on the hub in the meantime.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from whence.errors import CorpusError

__all__ = ["HubId", "connect", "hub_id", "hub_rows", "resolve"]

_ID = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+)?(/(?P<split>[\w.\[\]:%-]+))?)?(@(?P<revision>[\w./-]+))?"
)
_SECONDS = 20.0  # to wait for the hub before saying that it does not answer


@dataclass(frozen=True, slots=True)
class HubId:
    """A dataset on the hub.

    Attributes:
        name: ``org/name``.
        config: Its configuration (subset); the only one, or the default, if None.
        split: Its split.
        revision: Branch, tag or commit; the newest if None.
    """

    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None


def hub_id(given: str) -> HubId | None:
    """What was typed as a dataset on the hub, or None if it cannot be one; files that exist are asked for first.

    >>> hub_id("allenai/tulu:math/train@v1")
    HubId(name='allenai/tulu', config='math', split='train', revision='v1')
    >>> hub_id("corpus.jsonl") is None
    True
    """
    found = _ID.fullmatch(given)
    if found is None or os.path.lexists(given.partition("/")[0]):
        return None
    return HubId(found["name"], found["config"], found["split"] or "train", found["revision"])


def connect(wanted: HubId) -> tuple[str, Iterable[Mapping[str, Any]]]:
    """The commit that a dataset is at, and its rows as a stream that has ``skip(n)``. The only place with a network.

    Raises:
        ImportError: The `datasets` package is missing.
        OSError: The hub does not answer, or has no such dataset or none that may be read.
        ValueError: It has no such configuration or split.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(wanted.name, revision=wanted.revision, timeout=_SECONDS).sha
    rows = load_dataset(wanted.name, wanted.config, split=wanted.split, revision=commit, streaming=True)
    return str(commit), rows


@contextmanager
def _hub_errors(wanted: HubId) -> Iterator[None]:
    place = f"{wanted.name}:{wanted.config or ''}/{wanted.split}"
    try:
        yield
    except ImportError as error:
        raise CorpusError(
            f"{wanted.name}: there is no such file or folder here, and a dataset on the Hugging Face hub needs another "
            "package: pip install 'whence[datasets]'."
        ) from error
    except CorpusError:
        raise
    except ValueError as error:
        told = " ".join(str(error).split())[:600]
        raise CorpusError(
            f"{place} on the Hugging Face hub cannot be read: {told} Name what you mean as org/name:config/split."
        ) from error
    except Exception as error:  # clients of the network raise what they like
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorpusError(
            f"{wanted.name}: there is no such file or folder here, and as a dataset on the Hugging Face hub it cannot "
            f"be read ({type(error).__name__}: {told}). Check the spelling and the network; for gated data, run "
            "`hf auth login`; or save the dataset to a folder and give that, or its files as hf://datasets/…"
        ) from error


def resolve(wanted: HubId) -> str:
    """The commit that a dataset is at now.

    Raises:
        CorpusError: It cannot be reached or does not exist, or the package for it is missing.
    """
    with _hub_errors(wanted):
        return connect(wanted)[0]


def hub_rows(wanted: HubId, commit: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a dataset at a commit, from row `start` on, with their numbers.

    Raises:
        CorpusError: It cannot be reached, or the stream broke off.
    """
    with _hub_errors(wanted):
        rows: Any = connect(HubId(wanted.name, wanted.config, wanted.split, commit))[1]
        for number, fields in enumerate(rows.skip(start) if start else rows, start):
            yield number, dict(fields)

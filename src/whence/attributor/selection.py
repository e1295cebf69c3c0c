"""Which documents are ranked, and in which groups their influence is added up: one pass over the corpus's tags.

Keeps a byte per document for the conditions and four for each grouping. A scan then needs no tag any more.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from whence.data import Condition, Corpus, date_of, is_date, members, parse_condition
from whence.errors import InputError

__all__ = ["Grouping", "Selection", "select"]

NONE = "(none)"
_MOST_GROUPS = 10_000
_PLAIN_NUMBERS = 12  # as many different numbers are groups of their own; more are cut into ranges
_RANGES = 5
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Grouping:
    """Documents by a tag.

    Attributes:
        by: The tag.
        names: Of the groups, G of them.
        of: The group of every document, int32 [documents].
        documents: Scored documents by group, [G].
        weights: The same, each as often as it was trained on, [G].
        tokens: Their tokens, likewise, [G].
    """

    by: str
    names: tuple[str, ...]
    of: NDArray[np.int32]
    documents: NDArray[np.int64]
    weights: NDArray[np.float64]
    tokens: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """What `--where` and `--by` ask for.

    Attributes:
        where: The conditions, as typed.
        chosen: Documents that meet all of them, bool [documents]; None is all.
        groupings: One for each tag to add up by.
    """

    where: tuple[str, ...] = ()
    chosen: NDArray[np.bool_] | None = None
    groupings: tuple[Grouping, ...] = ()

    @property
    def numbers(self) -> NDArray[np.int64] | None:
        """The chosen documents, or None for all."""
        return None if self.chosen is None else np.flatnonzero(self.chosen)


def _tags(corpus: Corpus) -> Iterator[tuple[int, dict[str, str]]]:
    """Tags of every document with its number; `file` is where it lies, and `source` too if no one says better."""
    for share in corpus.shares:
        path = corpus.folder / share.name / "documents.parquet"
        table = pq.read_table(path, columns=["metadata", "source"], partitioning=None)
        rows = zip(table["metadata"].to_pylist(), table["source"].to_pylist(), strict=True)
        for number, (metadata, file) in enumerate(rows, share.first_document):
            yield number, {"source": file, **json.loads(metadata), "file": file, "weight": f"{share.weight:g}"}


def _lengths(corpus: Corpus) -> NDArray[np.int64]:
    tables = [
        pq.read_table(corpus.folder / share.name / "documents.parquet", columns=["length"], partitioning=None)
        for share in corpus.shares
    ]
    return np.concatenate([table["length"].to_numpy() for table in tables])


@dataclass(slots=True)
class _Values:
    """The values of one tag, numbered as they come."""

    size: int
    numbers: dict[str | None, int] = field(default_factory=dict)
    of: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        self.of = np.zeros(self.size, dtype=np.int32)

    def put(self, document: int, value: str | None) -> None:
        self.of[document] = self.numbers.setdefault(value, len(self.numbers))


def _listing(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name[:60]} ({count:,})" for name, count in counts.most_common(_SHOWN))
    return shown + (f" and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else "")


def _unknown(tags: Sequence[str], names: Counter[str], documents: int) -> None:
    """Refuse tags that no document has."""
    missing = [tag for tag in tags if tag not in names]
    if missing:
        raise InputError(
            f"no document has a tag {missing[0]!r}. Of {documents:,} documents, tags are: {_listing(names)}."
        )


def _counted(values: _Values) -> Counter[str]:
    sums = np.bincount(values.of, minlength=len(values.numbers))
    return Counter({NONE if value is None else value: int(sums[n]) for value, n in values.numbers.items()})


def _met(conditions: Sequence[Condition], tags: dict[str, _Values], size: int) -> NDArray[np.bool_]:
    """Documents that meet all conditions.

    Raises:
        InputError: None do; says what there is instead.
    """
    chosen = np.ones(size, dtype=bool)
    alone = []
    for condition in conditions:
        values = tags[condition.tag]
        holds = np.array([condition.holds(value) for value in values.numbers])[values.of]
        if not holds.any():
            raise InputError(
                f"no document meets --where {condition.text!r}; values of {condition.tag!r} are: "
                f"{_listing(_counted(values))}."
            )
        alone.append(f"{condition.text} {int(holds.sum()):,}")
        chosen &= holds
    if not chosen.any():
        raise InputError(f"no document meets all conditions together; each alone is met by: {', '.join(alone)}.")
    return chosen


def _number(value: str | None) -> float:
    try:
        return float("nan") if value is None else float(value)
    except ValueError:
        return float("nan")


def _ranges(values: Sequence[str | None], counts: NDArray[np.int64]) -> list[str]:
    """Names of ranges with about as many documents each, for every value."""
    numbers = np.array([_number(value) for value in values])
    real = np.isfinite(numbers) & (counts > 0)
    order = np.argsort(numbers[real])
    steps = np.cumsum(counts[real][order]) / counts[real].sum()
    cuts = np.unique([numbers[real][order][np.searchsorted(steps, i / _RANGES)] for i in range(1, _RANGES)])
    edges = [numbers[real].min(), *cuts, numbers[real].max()]
    names = [f"{low:.4g} to {high:.4g}" if low < high else f"{low:.4g}" for low, high in pairwise(edges)]
    places = np.minimum(np.searchsorted(cuts, numbers, side="left"), len(names) - 1)
    return [names[place] if fine else NONE for place, fine in zip(places.tolist(), real.tolist(), strict=True)]


def _names(by: str, values: _Values, chosen: NDArray[np.bool_] | None) -> list[str]:
    """The group of each value: a year for dates, a range for many numbers, else what it says."""
    of = values.of if chosen is None else values.of[chosen]
    counts = np.bincount(of, minlength=len(values.numbers))
    given = [value for value, count in zip(values.numbers, counts, strict=True) if value is not None and count]
    if is_date(by, given):
        return [NONE if value is None else date_of(by, value)[:4] or NONE for value in values.numbers]
    if len(given) > _PLAIN_NUMBERS and sum(np.isfinite(_number(value)) for value in given) >= 0.9 * len(given):
        return _ranges(list(values.numbers), counts)
    return [NONE if value is None else " + ".join(members(value)) for value in values.numbers]


def _grouping(
    by: str,
    values: _Values,
    chosen: NDArray[np.bool_] | None,
    weights: NDArray[np.float64],
    tokens: NDArray[np.int64],
) -> Grouping:
    named = _names(by, values, chosen)
    places = {name: place for place, name in enumerate(sorted(set(named)))}
    if len(places) > _MOST_GROUPS:
        raise InputError(
            f"--by {by}: {len(places):,} groups are more than can be read, as in {', '.join(list(places)[:3])}; name a "
            "tag with fewer values."
        )
    of = np.array([places[name] for name in named], dtype=np.int32)[values.of]
    counted = np.ones(len(of)) if chosen is None else chosen.astype(np.float64)

    def total(each: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(of, counted * each, len(places)).astype(np.float64)

    documents = total(np.ones(len(of))).astype(np.int64)
    return Grouping(by, tuple(places), of, documents, total(weights), total(weights * tokens))


def _mask(size: int, among: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    if among is None:
        return None
    chosen = np.zeros(size, dtype=bool)
    chosen[among] = True
    return chosen


def select(
    corpus: Corpus, where: Sequence[str], by: Sequence[str], among: NDArray[np.int64] | None = None
) -> Selection:
    """Read the corpus's tags and find what conditions and groupings mean.

    Args:
        corpus: A corpus that has been read.
        where: Conditions as typed; a document must meet all.
        by: Tags to group by.
        among: Choose among these documents only.

    Raises:
        InputError: A condition is none, names a tag or value that does not exist, or leaves no document.
    """
    for name, given in (("where", where), ("by", by)):
        if isinstance(given, str):
            raise InputError(f"{name} takes a list, as in [{given!r}]; got the text {given!r}.")
    conditions = [parse_condition(text) for text in where]
    by = list(dict.fromkeys(by))
    wanted = list(dict.fromkeys([*(condition.tag for condition in conditions), *by]))
    if not wanted:
        return Selection(chosen=_mask(corpus.documents, among))
    values = {tag: _Values(corpus.documents) for tag in wanted}
    names: Counter[str] = Counter()
    for number, tags in _tags(corpus):
        names.update(tags.keys())
        for tag in wanted:
            values[tag].put(number, tags.get(tag))
    _unknown(wanted, names, corpus.documents)
    chosen = _mask(corpus.documents, among)
    if conditions:
        met = _met(conditions, values, corpus.documents)
        chosen = met if chosen is None else chosen & met
        if not chosen.any():
            raise InputError(
                f"none of the {0 if among is None else len(among):,} candidates meets {' and '.join(where)}."
            )
    weights = corpus.weights(np.arange(corpus.documents))
    lengths = _lengths(corpus) if by else np.zeros(0, dtype=np.int64)
    groupings = tuple(_grouping(tag, values[tag], chosen, weights, lengths) for tag in by)
    return Selection(tuple(condition.text for condition in conditions), chosen, groupings)

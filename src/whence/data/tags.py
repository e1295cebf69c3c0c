"""Tags: everything a row says of its document beside the text, as short strings by name. Knows no files.

A row's own fields come first, then what its ``metadata`` holds (an object, or JSON text of one), then attributes, then
what the mix says of its source. A name that is taken already gets its origin before it (``metadata.license``).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from whence.data.readers import Row

__all__ = ["clean", "parsed", "score_of", "tags_of"]

_LONGEST_VALUE = 1000  # characters of one value
_MOST = 8000  # characters of a document's tags
_STRUCTURE = ("train_turns", "tools")  # of `metadata`: they say how the row is read, not what it is
_NESTED = ("metadata", "attributes")


def clean(text: str, limit: int = _LONGEST_VALUE) -> str:
    """Text that can be stored as UTF-8, cut to a length."""
    return text[:limit].encode("utf-8", "backslashreplace").decode("utf-8")


def parsed(value: Any) -> Any:
    """A list or object, also where a table stores it as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _plain(value: Any) -> str:
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return str(value)


def _flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Leaves of nested objects by dotted name; what is nested very deeply stays whole."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value and depth < 8:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def score_of(value: Any, length: int) -> dict[str, Any] | None:
    """What an attribute says of the whole document: name ending -> value; None if it is not an attribute.

    Args:
        value: A number or text; or spans ``[[start, end, score], ...]`` in characters.
        length: Characters of the document.

    A span that covers the document gives its score. Otherwise it is the mean of the scores weighted by the spans'
    lengths, and the largest score is given as ``.max``. No span at all is 0.

    >>> score_of([[0, 9, 0.75]], 9)
    {'': 0.75}
    >>> score_of([[0, 2, 1.0], [2, 8, 0.0]], 9)
    {'': 0.25, '.max': 1.0}
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return {} if value is None else {"": _number(value) if isinstance(value, float) else value}
    try:
        spans = [(float(start), float(end), float(score)) for start, end, score in value]
    except (TypeError, ValueError, OverflowError):
        return None
    whole = [score for start, end, score in spans if start <= 0 and end >= length]
    if whole or not spans:
        return {"": _number(whole[0]) if whole else 0}
    sizes = [max(end - start, 0.0) for start, end, _ in spans]
    total = sum(sizes)
    if not total:
        sizes, total = [1.0] * len(spans), float(len(spans))
    mean = sum(size * score for size, (_, _, score) in zip(sizes, spans, strict=True)) / total
    return {"": _number(mean), ".max": _number(max(score for _, _, score in spans))}


class _Tags:
    """Tags being collected."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._room = _MOST

    def put(self, name: str, value: Any, origin: str = "") -> None:
        """Add a value, unless it is nothing or there is no room; under another name if its own is taken."""
        if value is None or isinstance(value, (bytes, bytearray)):
            return
        text = clean(_plain(value))
        name = clean(name)
        name = f"{origin}.{name}" if name in self.values and origin else name
        if name not in self.values and len(text) <= self._room:
            self.values[name] = text
            self._room -= len(text)

    def put_attributes(self, attributes: Mapping[Any, Any], origin: str, length: int) -> bool:
        """Add document-level values of attributes; whether all of them could be understood."""
        fine = True
        for key, value in attributes.items():
            scores = score_of(value, length)
            fine = fine and scores is not None
            for ending, score in (scores or {}).items():
                self.put(f"{key}{ending}", score, origin)
        return fine


def tags_of(row: Row, used: set[str], length: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """Tags of a row, and notes on what could not be made one.

    Args:
        row: The row.
        used: Fields that are content or identity.
        length: Characters of its text.
    """
    out, fine = _Tags(), True
    nested = {key: parsed(row.fields.get(key)) for key in _NESTED if key not in used}
    nested = {key: value for key, value in nested.items() if isinstance(value, Mapping)}
    for key, value in row.fields.items():
        if key not in used and key not in nested:
            out.put(str(key), value)
    for name, value in _flat(nested.get("metadata", {})):
        if name not in _STRUCTURE:
            out.put(name, value, "metadata")
    for origin, attributes in (*row.attributes.items(), ("attributes", nested.get("attributes", {}))):
        fine = out.put_attributes(attributes, origin, length) and fine
    for name, value in row.tags.items():
        if name not in out.values:
            out.put(name, value)
    if "source" not in out.values and "label" in row.tags:
        out.put("source", row.tags["label"])
    return out.values, () if fine else ("bad-attributes",)

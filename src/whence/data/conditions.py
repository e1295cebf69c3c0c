"""Conditions on tags, as typed: ``source=cc|wiki``, ``created>=2021``, ``language!=en``, ``quality>0.5``.

Tags are text. Two numbers are compared as numbers, dates as far as the condition goes (``created=2021`` is the whole
year), and a tag that is a list has each of its members. Knows no corpus.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from whence.data.tags import parsed
from whence.errors import InputError

__all__ = ["Condition", "date_of", "is_date", "members", "parse_condition"]

_SYNTAX = re.compile(r"\s*([^=<>!]+?)\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ][\d:.Z+-]*)?)?)?")
_ISO = re.compile(r"\d{4}-\d\d(-\d\d)?(?!\d)")
_DATED = re.compile(r"(creat|add|date|time|year|publish|updat|modif|crawl)", re.IGNORECASE)
_SPECIAL = re.compile(r"\d{9,10}(\.\d+)?|\d{12,13}")


def members(value: str) -> list[str]:
    """The members of a tag: of a list its elements, else itself.

    >>> members('["a","b"]'), members("a")
    (['a', 'b'], ['a'])
    """
    found = parsed(value) if value.startswith("[") else value
    return [str(each) for each in found] if isinstance(found, list) else [value]


def _moment(value: str) -> str:
    """Seconds or milliseconds since 1970, or a date as in mail, as an ISO date; empty if it is neither."""
    try:
        if _SPECIAL.fullmatch(value):
            seconds = float(value) / (1000 if len(value.partition(".")[0]) > 10 else 1)
            return datetime.fromtimestamp(seconds, UTC).isoformat()
        return parsedate_to_datetime(value).isoformat() if "," in value else ""
    except (ValueError, OverflowError, OSError, TypeError, IndexError):
        return ""


def date_of(name: str, value: str) -> str:
    """A tag as an ISO date, or empty if it is none; plain numbers are dates only where the tag's name says so.

    >>> date_of("created", "1609459200"), date_of("length", "1609459200"), date_of("x", "2021-05-01T10:00")
    ('2021-01-01T00:00:00+00:00', '', '2021-05-01T10:00')
    """
    if _ISO.match(value):
        return value
    if not _DATED.search(name):
        return ""
    return value if re.fullmatch(r"(1\d|20)\d\d", value) else _moment(value)


def is_date(name: str, values: list[str]) -> bool:
    """Whether a tag holds dates: nine tenths of its values are."""
    return bool(values) and sum(bool(date_of(name, value)) for value in values) >= 0.9 * len(values)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _order(name: str, value: str, bound: str) -> int | None:
    """-1, 0 or 1 as a tag is below, at or above a bound; None if they cannot be compared."""
    date = date_of(name, value) if _DATE.fullmatch(bound) else ""
    if date:
        cut = date[: len(bound)].replace(" ", "T")
        return (cut > bound.replace(" ", "T")) - (cut < bound.replace(" ", "T"))
    one, other = _number(value), _number(bound)
    if one is not None and other is not None:
        return None if one != one or other != other else (one > other) - (one < other)
    return None if (one is None) != (other is None) else (value > bound) - (value < bound)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one tag.

    Attributes:
        text: As typed.
        tag: The tag's name.
        sign: = != >= <= > <
        bounds: What it is compared with; several only for = and !=.
    """

    text: str
    tag: str
    sign: str
    bounds: tuple[str, ...]

    def _equal(self, value: str) -> bool:
        each = members(value)
        return any(one == bound or _order(self.tag, one, bound) == 0 for one in each for bound in self.bounds)

    def holds(self, value: str | None) -> bool:
        """Whether a document with this value of the tag (None: without it) is meant."""
        if self.sign == "!=":
            return value is None or not self._equal(value)
        if value is None:
            return False
        if self.sign == "=":
            return self._equal(value)
        order = _order(self.tag, value, self.bounds[0])
        if order is None:
            return False
        return {">": order > 0, "<": order < 0, ">=": order >= 0, "<=": order <= 0}[self.sign]


def parse_condition(text: str) -> Condition:
    """Read a condition.

    >>> parse_condition("source=cc|wiki").bounds
    ('cc', 'wiki')

    Raises:
        InputError: It is none.
    """
    found = _SYNTAX.fullmatch(text)
    if found is None or not found[3]:
        raise InputError(
            f"--where {text!r} is no condition; write TAG=VALUE (or !=, <, <=, >, >=), as in source=cc, "
            "'created>=2021', 'language=en|de'."
        )
    tag, sign, bound = found[1], found[2].replace("==", "="), found[3]
    bounds = tuple(part.strip() for part in bound.split("|")) if sign in ("=", "!=") else (bound,)
    return Condition(text.strip(), tag, sign, bounds)

"""From what is typed to a method: ``name`` or ``name:setting=value,setting=value``.

    ekfac                       influence with EK-FAC, the default damping
    logra:k=64,damping=0.1      LoGra, 64 coordinates on each side of a site
    tracin                      over the checkpoints that --checkpoints names

Lists have + between their values; a value that is itself a spec stands in parentheses. The table of
methods is in `registry.py`.
"""

import difflib

from pydantic import ValidationError

from whence.errors import InputError
from whence.methods.base import Method
from whence.methods.registry import METHODS

__all__ = ["parse_method"]


def parse_method(text: str) -> Method:
    """A method from its spec.

    Raises:
        InputError: There is no such method or setting, or a value is out of range; names those there are.

    >>> parse_method("ekfac:damping=0.5").spec
    'ekfac:damping=0.5'
    """
    name, _, rest = text.strip().partition(":")
    if not name:
        raise InputError(f"a method has no name in {text!r}; write it as name or name:setting=value, as in ekfac.")
    kind = METHODS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"there is no method {name!r}.{hint} There are: {', '.join(METHODS)}.")
    values: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in _split(rest, ","))):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or key in values:
            raise InputError(
                f"method {text!r}: settings are written name=value with commas between, each once; got {part!r}."
            )
        items = [value] if _number(value) else _split(value, "+")
        values[key] = [_bare(item) for item in items] if len(items) > 1 else _bare(value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"method {text!r}: {_complaint(kind, error)}") from error


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark outside parentheses.

    Raises:
        InputError: Parentheses do not pair.
    """
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        if letter == mark and not depth:
            pieces.append("")
        else:
            pieces[-1] += letter
    if depth:
        raise InputError(f"in {text!r} a parenthesis is left open, or closes none.")
    return pieces


def _bare(text: str) -> str:
    """Without spaces, and without parentheses around the whole."""
    text = text.strip()
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def _number(text: str) -> bool:
    """Whether a + belongs to a number, as in 1e+3."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _complaint(kind: type[Method], error: ValidationError) -> str:
    lines = []
    for each in error.errors():
        place = ".".join(map(str, each["loc"]))
        if each["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields) or "none"
            lines.append(f"it has no setting {place!r}; its settings: {known}")
        elif each["type"] == "missing":
            lines.append(f"it needs the setting {place!r}, as in {kind.key}:{place}=…")
        else:
            message = each["msg"].removeprefix("Value error, ")
            lines.append(f"{place}: {message} (got {each['input']!r})" if place else message)
    return "; ".join(lines)

"""Tokens as shaded text. Shades are classes (p1..p8 support, n1..n8 oppose, x not predicted); values are tooltips."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from whence.interfaces import Token
from whence.report.markup import Html, join, tag, words
from whence.report.text import level, nats, shorten, strongest_tokens, visible

__all__ = ["loose", "shade", "shaded", "strongest"]

_NOTABLE = 3  # from this level on, a token carries its value


def shade(value: float, largest: float) -> str:
    """Class of a value; empty where the shade is none."""
    step = level(value, largest)
    return f"{'p' if step > 0 else 'n'}{abs(step)}" if step else ""


def _class(token: Token, largest: float) -> str:
    return shade(token.influence, largest) or ("" if token.target else "x")


def _runs(tokens: Sequence[Token], largest: float) -> Iterator[tuple[str, str | None, str]]:
    """(class, tooltip, text): neighbours of one shade are one run, notable tokens stand alone."""

    def key(pair: tuple[int, Token]) -> tuple[str, int]:
        index, token = pair
        notable = abs(level(token.influence, largest)) >= _NOTABLE
        return _class(token, largest), index if notable else -1

    for (name, alone), group in groupby(enumerate(tokens), key):
        run = [token for _, token in group]
        yield name, nats(run[0].influence) if alone >= 0 else None, "".join(token.text for token in run)


def shaded(tokens: Sequence[Token], largest: float) -> Html:
    """Tokens as text in as little markup as their shades allow.

    Args:
        tokens: In order.
        largest: The influence (nats, magnitude) that gets the deepest shade.
    """
    return join(
        tag("i", text, cls=name, title=title) if name else words(text) for name, title, text in _runs(tokens, largest)
    )


def loose(tokens: Sequence[Token], largest: float) -> Html:
    """Each token as an element of its own, so that the page's script can shade it anew."""
    return join(
        tag("i", token.text, cls=_class(token, largest) or None, title=nats(token.influence), data_x=not token.target)
        for token in tokens
    )


def strongest(tokens: Sequence[Token], limit: int = 6) -> Html:
    """The strongest tokens in words, for who cannot see shades."""
    parts = [
        join([tag("q", shorten(visible(token.text), 30)), " ", nats(token.influence)])
        for token in strongest_tokens(tokens, limit)
    ]
    return tag("p", tag("b", "Strongest tokens "), join(parts, " · "), cls="strongest") if parts else Html("")

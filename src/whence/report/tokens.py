"""Tokens as shaded text. Shades are classes (p1..p8 support, n1..n8 oppose, x not predicted); values are tooltips."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from whence.interfaces import Token
from whence.report.markup import Html, join, tag, words
from whence.report.text import level, nats, shorten, strongest_tokens, visible

__all__ = ["loose", "shaded", "strongest"]

_NOTABLE = 3  # from this level on, a token carries its value


def _class(token: Token, step: int) -> str:
    """Class of a token; empty where nothing is to be shown."""
    if token.context:
        return "c"
    if step:
        return f"p{step}" if step > 0 else f"n{-step}"
    return "" if token.target else "x"


def _runs(tokens: Sequence[Token], largest: float) -> Iterator[tuple[str, str | None, str]]:
    """(class, tooltip, text): neighbours of one shade are one run, notable tokens stand alone."""
    steps = [level(token.influence, largest) for token in tokens]

    def key(index: int) -> tuple[str, int]:
        alone = abs(steps[index]) >= _NOTABLE and not tokens[index].context
        return _class(tokens[index], steps[index]), index if alone else -1

    for (name, alone), group in groupby(range(len(tokens)), key):
        title = nats(tokens[alone].influence) if alone >= 0 else None
        yield name, title, "".join(tokens[index].text for index in group)


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
        tag(
            "i",
            token.text,
            cls=_class(token, level(token.influence, largest)) or None,
            title=nats(token.influence),
            data_x=not token.target,
        )
        for token in tokens
    )


def strongest(tokens: Sequence[Token], limit: int = 6) -> Html:
    """The strongest tokens in words, for who cannot see shades."""
    parts = [
        join([tag("q", shorten(visible(token.text), 30)), " ", nats(token.influence)])
        for token in strongest_tokens(tokens, limit)
    ]
    return tag("p", tag("b", "Strongest tokens "), join(parts, " · "), cls="strongest") if parts else Html("")

"""HTML that cannot be broken by what is put into it: text is escaped unless it already is `Html`.

    tag("p", "a < b", cls="note")    <p class="note">a &lt; b</p>

Knows nothing of traces. Style attributes and event handlers have no way in: the page's policy forbids them.
"""

import html
from collections.abc import Iterable

from whence.report.text import escapes, visible

__all__ = ["Html", "attributes", "join", "tag", "words"]

_VOID = frozenset({"br", "meta", "input"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def words(text: str) -> Html:
    """Escape text for the page; hidden characters appear as marked escapes."""
    return Html(
        "".join(
            f"<var>{html.escape(piece)}</var>" if escaped else html.escape(piece) for piece, escaped in escapes(text)
        )
    )


def join(parts: Iterable[str], between: str = "") -> Html:
    """Escape what is not markup yet and concatenate."""
    return Html(between.join(part if isinstance(part, Html) else words(part) for part in parts))


def attributes(values: dict[str, str | int | float | bool | None]) -> str:
    """Attributes as text: `cls` is class, underscores are hyphens, True is a bare name, None and False are left out."""
    out = []
    for key, value in values.items():
        name = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
        if value is True:
            out.append(f" {name}")
        elif value is not None and value is not False:
            out.append(f' {name}="{html.escape(visible(str(value)))}"')
    return "".join(out)


def tag(name: str, *children: str, **values: str | int | float | bool | None) -> Html:
    """An element with escaped children and attributes."""
    start = f"<{name}{attributes(values)}>"
    return Html(start) if name in _VOID else Html(f"{start}{join(children)}</{name}>")

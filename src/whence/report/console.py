"""Text on a console that cannot harm it: hidden characters written out, no markup read, the encoding respected.

What the console's encoding cannot say is written as an escape. Knows nothing of results.
"""

from typing import Literal

from rich.console import Console
from rich.text import Text

from whence.report.text import visible

__all__ = ["can", "line", "overflow", "say"]

_TYPOGRAPHY = str.maketrans({"−": "-", "–": "-", "…": "...", "×": "x", "≈": "~", "·": "-"})


def say(console: Console, text: str) -> str:
    """The visible text in characters the console can write."""
    encoding = console.encoding or "utf-8"
    if not can(console, "−–…×≈·"):
        text = text.translate(_TYPOGRAPHY)
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


def can(console: Console, text: str) -> bool:
    """Whether the console's encoding has these characters."""
    try:
        text.encode(console.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def overflow(console: Console) -> Literal["ellipsis", "crop"]:
    """What happens to a line that is too long; rich would write an ellipsis in any encoding."""
    return "ellipsis" if can(console, "…") else "crop"


def line(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print parts, each as text or as (text, style), on one line."""
    said = [say(console, part) if isinstance(part, str) else (say(console, part[0]), part[1]) for part in parts]
    console.print(Text.assemble(*said))

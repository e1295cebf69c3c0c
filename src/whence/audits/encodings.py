"""Text that was decoded with the wrong encoding, decoded anew where that is certain.

ftfy (Speer 2019) guesses what a text was. Where a byte was lost on the way (``â€`` for a closing quote whose last byte
no encoding shows) it guesses among characters that only begin alike, and a wrong guess looks as good as a right one. A
guess is therefore held against the text: every character that it changed, encoded as UTF-8 and decoded wrongly again,
has to give the very characters that stood there. Where that fails, each run of characters is decoded by itself, and
those that are no UTF-8 stay as they are. Knows nothing of documents.
"""

import re
from functools import lru_cache

__all__ = ["decoded_anew", "guessed", "lost"]

_WRONG = ("sloppy-windows-1252", "latin-1", "sloppy-windows-1251", "sloppy-windows-1250", "sloppy-windows-1253",
          "sloppy-windows-1254", "sloppy-windows-1257", "iso-8859-2", "macroman", "cp437")  # fmt: skip
"""Encodings that UTF-8 is taken for: ftfy's own list."""

_RUN = re.compile(r"[^\x00-\x7f]+")  # UTF-8 that was decoded wrongly has no ASCII in it


def guessed(text: str) -> str:
    """What ftfy makes of a text; the text itself where nothing is wrong with it."""
    import ftfy

    return text if text.isascii() else str(ftfy.fix_encoding(text))


def decoded_anew(text: str) -> str:
    r"""The text as it was before it was decoded wrongly; as it is where that is not certain.

    >>> decoded_anew("caf\u00c3\u00a9 na\u00efve") == "caf\u00e9 na\u00efve"
    True
    >>> decoded_anew("caf\u00c3\u00a9 \u00e2\u20ac") == "caf\u00e9 \u00e2\u20ac"  # a quote less a byte: which one?
    True
    """
    found = guessed(text)
    if found == text or _gives(found, text):
        return found
    return _RUN.sub(lambda run: _alone(run.group()), text)


def lost(text: str) -> tuple[int, int] | None:
    """Start and stop of the first run that was decoded wrongly and cannot be brought back; None without one."""
    found = guessed(text)
    if found == text or _gives(found, text):
        return None
    wrong = (run for run in _RUN.finditer(text) if _alone(run.group()) == run.group() and run.group() not in found)
    first = next(wrong, None)
    return None if first is None else first.span()


def _alone(run: str) -> str:
    """A run of characters decoded anew if it is UTF-8 that was read as something else; else as it is."""
    import ftfy.bad_codecs  # noqa: F401  # registers the sloppy codecs

    for codec in _WRONG:
        try:
            found = run.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
        return found
    return run


def _gives(found: str, text: str) -> bool:
    """Whether a text, with some of its characters decoded wrongly, is the other one."""
    place = 0
    for character in found:
        wrong = () if character.isascii() else _wrongly(character)
        form = next((form for form in wrong if text.startswith(form, place)), character)
        if not text.startswith(form, place):
            return False
        place += len(form)
    return place == len(text)


@lru_cache(maxsize=4096)
def _wrongly(character: str) -> tuple[str, ...]:
    """What a character becomes when its UTF-8 is read as something else, once or twice; longest first.

    A character of Windows-1252 that was read as Latin-1 becomes an invisible control character.
    """
    import ftfy.bad_codecs  # noqa: F401  # registers the sloppy codecs

    once = _read_wrongly(character)
    twice = {form for each in once for form in _read_wrongly(each)}
    try:
        control = {character.encode("windows-1252").decode("latin-1")} - {character}
    except UnicodeEncodeError:
        control = set()
    return tuple(sorted(once | twice | control, key=lambda form: (-len(form), form)))


def _read_wrongly(text: str) -> set[str]:
    out = set()
    for codec in _WRONG:
        try:
            out.add(text.encode("utf-8").decode(codec))
        except UnicodeError:
            continue
    return out

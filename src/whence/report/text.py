r"""How words and numbers are written for people, on every surface: terminal and page. Knows no markup.

Documents are hostile input. A terminal obeys control characters, and any screen obeys invisible ones that reorder or
hide text, so everything that is not plainly visible is written out as an escape (``\x1b``, ``\u202e``).
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import accumulate

from whence.interfaces import Token

__all__ = [
    "LEVELS",
    "MISSING",
    "compact",
    "count",
    "escapes",
    "level",
    "nats",
    "number",
    "one_line",
    "percent",
    "plural",
    "scale",
    "shorten",
    "signed",
    "strongest_span",
    "strongest_tokens",
    "visible",
]

LEVELS = 8  # shades on each side of zero
MISSING = "–"

# Cc/Cf/Cs/Zl/Zp are control, format (bidi overrides, zero width, tags), lone surrogates and odd line ends. The
# joiners stay: Persian, Indic scripts and emoji are unreadable without them, and they neither hide nor reorder.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_KEPT = frozenset("\n\t\u200c\u200d")
_VARIATION = range(0xE0100, 0xE01F0)  # invisible, and enough of them to smuggle text
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*")


def _hidden(char: str) -> bool:
    return (unicodedata.category(char) in _HIDDEN and char not in _KEPT) or ord(char) in _VARIATION


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escapes(text: str) -> Iterator[tuple[str, bool]]:
    r"""Split text into (piece, whether it is an escape written in place of hidden characters).

    >>> list(escapes("a\x1bb"))
    [('a', False), ('\\x1b', True), ('b', False)]
    """
    if _PLAIN.fullmatch(text):
        if text:
            yield text, False
        return
    plain: list[str] = []
    for char in text:
        if _hidden(char):
            if plain:
                yield "".join(plain), False
                plain = []
            yield _escape(char), True
        else:
            plain.append(char)
    if plain:
        yield "".join(plain), False


def visible(text: str) -> str:
    r"""The text with every hidden character written out; newlines and tabs stay.

    >>> print(visible("pay \u202eevil"))
    pay \u202eevil
    """
    return "".join(piece for piece, _ in escapes(text))


def one_line(text: str) -> str:
    """The visible text with each run of white space as one blank."""
    return re.sub(r"\s+", " ", visible(text)).strip()


def shorten(text: str, width: int, keep: str = "start") -> str:
    """Cut to `width` characters with an ellipsis; `keep` says which part stays: start, end or both.

    >>> shorten("abcdefgh", 5, "both")
    'ab…gh'
    """
    if len(text) <= width:
        return text
    room = max(width - 1, 0)
    if keep == "start":
        return text[:room] + "…"
    if keep == "end":
        return "…" + text[len(text) - room :]
    return text[: room - room // 2] + "…" + text[len(text) - room // 2 :]


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits and a true minus; a dash for none or not finite.

    >>> number(0.012345), number(1.2e-7), number(None), number(1234.5), number(-2.0)
    ('0.0123', '1.20e-7', '–', '1,234', '−2.00')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if value < 0:
        return f"−{number(-value, digits)}"
    power = math.floor(math.log10(abs(value)))
    if -4 < power < 6:
        return f"{value:,.{max(digits - 1 - power, 0)}f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def nats(value: float | None) -> str:
    """An influence with its sign, which is the message: ``+`` supports, ``-`` (a true minus) opposes.

    >>> nats(0.5), nats(-0.5), nats(0.0)
    ('+0.500', '−0.500', '0')
    """
    text = number(value)
    return text if text in ("0", MISSING) or text.startswith("−") else "+" + text


def count(value: int) -> str:
    """A whole number with thousands separated."""
    return f"{value:,}"


def plural(value: int, one: str, more: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "document"), plural(1200, "document"), plural(2, "query", "queries")
    ('1 document', '1,200 documents', '2 queries')
    """
    return f"{count(value)} {one if value == 1 else more or one + 's'}"


def signed(value: float, places: int = 2) -> str:
    """A change with its sign and a true minus.

    >>> signed(0.5), signed(-1.234), signed(-0.001)
    ('+0.50', '−1.23', '0.00')
    """
    text = f"{value:+,.{places}f}"
    return text[1:] if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A share 0..1 in percent, rounded down: only the whole is 100%.

    >>> percent(0.99999), percent(1.0), percent(0.5, 2)
    ('99.9%', '100%', '50.00%')
    """
    if share >= 1:
        return "100%"
    step = 10 ** (digits + 2)
    return f"{math.floor(share * step) / step:.{digits}%}"


def compact(value: float) -> str:
    """A large count in three digits.

    >>> compact(950), compact(28_340_000)
    ('950', '28.3M')
    """
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def scale(values: Sequence[float]) -> float:
    """The largest finite magnitude, which gets the deepest shade."""
    return max((abs(value) for value in values if math.isfinite(value)), default=0.0)


def level(value: float, largest: float) -> int:
    """Shade of a value: -LEVELS..LEVELS, linear, 0 for what rounds to nothing.

    >>> level(1.0, 2.0), level(-2.0, 2.0), level(1.0, 0.0)
    (4, -8, 0)
    """
    if largest <= 0 or not math.isfinite(value):
        return 0
    return round(LEVELS * max(-1.0, min(1.0, value / largest)))


def own(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens of the document itself, without what was packed before it."""
    return [token for token in tokens if not token.context]


def strongest_span(tokens: Sequence[Token], size: int) -> tuple[int, int]:
    """The `size` consecutive tokens that hold most of the influence, either sign: (start, stop).

    Of the spans that tie (they hold the same notable tokens) the middle one is taken, so that the tokens stand centred.
    """
    if len(tokens) <= size:
        return 0, len(tokens)
    weights = [abs(token.influence) if math.isfinite(token.influence) else 0.0 for token in tokens]
    top = max(weights)
    # Weak tokens are dropped: they would break the ties that centring needs.
    strong = [weight if weight * 2 * LEVELS >= top else 0.0 for weight in weights]
    totals = [0.0, *accumulate(strong)]
    sums = [totals[start + size] - totals[start] for start in range(len(tokens) - size + 1)]
    best = max(sums)
    ties = [start for start, value in enumerate(sums) if value >= best * (1 - 1e-9)]
    run = [start for i, start in enumerate(ties) if start - ties[0] == i]
    start = run[len(run) // 2]
    return start, start + size


def strongest_tokens(tokens: Sequence[Token], limit: int) -> list[Token]:
    """The tokens with the largest influence in magnitude, strongest first, without those of none."""
    finite = [token for token in tokens if math.isfinite(token.influence) and token.influence]
    return sorted(finite, key=lambda token: -abs(token.influence))[:limit]

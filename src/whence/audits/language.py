"""Which language a text is in, by the py3langid library (Lui & Baldwin 2012's model, shipped with it, no network)."""

import math
import re

from whence.interfaces.quality import TagValue

__all__ = ["language_of"]

_LEAST = 20  # letters below which nothing is said
_READ = 2000


def language_of(text: str) -> TagValue | None:
    """Language as an ISO 639-1 code with its probability; None for hardly any letters, and "code" for source code.

    >>> language_of("The committee met on a cold morning in the town hall.").value
    'en'
    """
    letters = sum(character.isalpha() for character in text[:_READ])
    if letters < _LEAST:
        return None
    if len(re.findall(r"[{};]\s*$|^\s*(?:def|class|import|return|#include)\b|\)\s*:$", text[:_READ], re.M)) >= 3:
        return TagValue(value="code", confidence=0.8)
    import py3langid

    ranked = py3langid.rank(text[:_READ])[:5]
    top = float(ranked[0][1])
    weights = [math.exp(max(-700.0, float(score) - top)) for _, score in ranked]
    return TagValue(value=str(ranked[0][0]), confidence=1.0 / sum(weights))

"""The verdict on an item: was it seen, and did that move the answer?

    P = 1 - q/0.2   q of presence: does one document stand out by its words (`spacings`, exponential tail of BM25)?
    E = 1 - q/0.2   q of effect: does one document stand out by its influence on the answer's tokens (power law)?
    v = share of the item's runs of 8 words in one document, over one half

    verbatim = P E v    paraphrase = P E (1 - v)    present = P (1 - E)    same skill = (1 - P) E    no evidence = rest

each at least 0 and at most 1. Where the document with the effect is not the one that is present, present = P: what
moved the answer was something else. Presence is not effect: a leak seen once may be there and have taught nothing, and
a document that taught the answer need not hold the item. "No evidence" is not "clean": it says what this test could
see.
"""

from typing import cast

from whence.interfaces.audits import Exposure, ExposureVerdict

__all__ = ["judge_exposure"]

_NONE = 0.2


def judge_exposure(found: Exposure, document: str | None) -> tuple[ExposureVerdict, float, str, tuple[str, ...]]:
    """Verdict, belief, runner-up and reasons of an item.

    Args:
        found: Its signals.
        document: The document with most evidence.
    """
    present, effect = (min(1.0, max(0.0, 1.0 - q / _NONE)) for q in (found.q_presence, found.q_effect))
    words = min(1.0, max(found.overlap_8, found.overlap_13) / 0.5)
    moved = effect if found.same else 0.0
    likely = {
        "verbatim": present * moved * words,
        "paraphrase": present * moved * (1 - words),
        "present": present * (1 - moved),
        "same skill": (1 - present) * effect,
        "no evidence": (1 - present) * (1 - effect),
    }
    first, second = sorted(likely, key=lambda name: -likely[name])[:2]
    return cast(ExposureVerdict, first), likely[first], second, _reasons(found, document, present >= 0.5, effect >= 0.5)


def _reasons(found: Exposure, document: str | None, present: bool, effect: bool) -> tuple[str, ...]:
    name = document or "no document"
    shared = f"{found.overlap_8:.0%} of its runs of 8 words and {found.overlap_13:.0%} of those of 13"
    there = (
        f"{name} stands out by its words ({found.presence:.1f} times the usual spacing, q {found.q_presence:.2g}); "
        f"it holds {shared}."
        if present
        else f"No document stands out by its words (q {found.q_presence:.2g}; at most {shared} are in one)."
    )
    did = (
        f"One document's influence on the answer stands out ({found.effect:.1f} times the usual spacing, q "
        f"{found.q_effect:.2g}); without it the answer is predicted to lose {found.explained:.2g} nats per token."
        if effect
        else f"No document's influence on the answer stands out (q {found.q_effect:.2g}): the answer did not move."
    )
    return there, did

"""The verdict on an item: was it seen, and did that move the answer?

    there   q <= fdr, q of presence: does one document stand out by its words (`spacings`, exponential tail of BM25)? Or
            does it hold half of the item's runs of 13 words: that is seen, and needs no test
    moved   q <= fdr, q of effect: does one document stand out by its influence on the answer's tokens (power law)?

    there, moved by the document that is there       verbatim if it holds a quarter of its runs, or else paraphrase
    there, not moved by that document                present
    not there, moved                                 same skill
    neither                                          no evidence

Where an effect is shown there is a belief, no probability: with P and E one less five times the q of each, and v the
share of runs over one half, verbatim = P E v, paraphrase = P E (1 - v), same skill = (1 - P) E. "Present" and "no
evidence" say that no effect was shown, which is no measure of anything, and have none. Presence is not effect: a leak
seen once may be there and have taught nothing, and a document that taught the answer need not hold the item. Nor is
"not shown" none: where many documents are alike, none of them stands out however much each has taught.
"""

from dataclasses import dataclass

from whence.interfaces.exposures import Exposure, ExposureVerdict

__all__ = ["Judged", "judge_exposure"]

_NONE = 0.2
_HELD = 0.5  # of an item's runs of 13 words, from which a document holds the item
_SHOWN = 0.05  # belief below which a runner-up is not worth a word
_ACTIONS: dict[ExposureVerdict, str] = {
    "verbatim": "Leave the item out of the score, or report accuracy without it; take the document out of the next "
    "training corpus.",
    "paraphrase": "Read item and document side by side. If they are the same, treat the item as leaked; search the "
    "corpus for other wordings, which shared runs of words do not find.",
    "present": "Report the item as present. Whether the document did anything is not shown either way: ask again at "
    "earlier checkpoints (--checkpoints), or train without it (whence intervene).",
    "same skill": "Keep the item; the document below is practice, not the item. Read it to be sure.",
    "no evidence": "Keep the item. What a leak has to be like for this audit to see it, --calibrate measures.",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict on an item.

    Attributes:
        verdict: See `ExposureVerdict`.
        confidence: Belief in it; None where no effect was shown.
        runner_up: The next likely, if it is worth a word.
        reasons: In sentences.
        action: What to do.
    """

    verdict: ExposureVerdict
    confidence: float | None
    runner_up: str
    reasons: tuple[str, ...]
    action: str


def judge_exposure(found: Exposure, document: str | None, fdr: float = 0.05, mover: str | None = None) -> Judged:
    """Decide on an item.

    Args:
        found: Its signals.
        document: The document that is most present.
        fdr: Rate at which presence and effect are called.
        mover: The document with most influence on the answer; the same if None.
    """
    there, moved = found.q_presence <= fdr or found.overlap_13 >= _HELD, found.q_effect <= fdr
    present, effect = (min(1.0, max(0.0, 1.0 - q / _NONE)) for q in (found.q_presence, found.q_effect))
    present = 1.0 if found.overlap_13 >= _HELD else present
    words = min(1.0, max(found.overlap_8, found.overlap_13) / 0.5)
    own = effect if found.same else 0.0
    likely: dict[ExposureVerdict, float] = {
        "verbatim": present * own * words,
        "paraphrase": present * own * (1 - words),
        "present": present * (1 - own),
        "same skill": (1 - present) * effect,
        "no evidence": (1 - present) * (1 - effect),
    }
    verdict: ExposureVerdict
    if there:
        held: ExposureVerdict = "verbatim" if words >= 0.5 else "paraphrase"
        verdict = held if moved and found.same else "present"
    else:
        verdict = "same skill" if moved else "no evidence"
    shown = verdict not in ("present", "no evidence")
    second = max((name for name in likely if name != verdict), key=lambda name: likely[name])
    return Judged(
        verdict=verdict,
        confidence=likely[verdict] if shown else None,
        runner_up=second if shown and likely[second] >= _SHOWN else "",
        reasons=_reasons(found, document or "no document", mover or document or "no document", there, moved),
        action=_ACTIONS[verdict],
    )


def _reasons(found: Exposure, document: str, mover: str, present: bool, moved: bool) -> tuple[str, str]:
    shared = f"{found.overlap_8:.0%} of its runs of 8 words and {found.overlap_13:.0%} of those of 13"
    there = (
        f"A document holds {shared}; {document} shares most words with it (q of presence {found.q_presence:.2g})."
        if found.overlap_13 >= _HELD
        else f"{document} stands out by its words: {found.presence:.1f} times the usual spacing, q of presence "
        f"{found.q_presence:.2g}. The document that shares most runs holds {shared}."
        if present
        else f"No document was found to stand out by its words (q of presence {found.q_presence:.2g}); at most "
        f"{shared} are in one."
    )
    foretold = f"without {mover} the answer is predicted to cost {found.explained:.2g} nats per token more"
    if moved:
        same = "" if found.same else f" It is not the document that is present ({document})."
        did = (
            f"{mover} stands out by its influence on the answer: {found.effect:.1f} times the usual spacing, q of "
            f"effect {found.q_effect:.2g}; {foretold}.{same}"
        )
    else:
        did = (
            "No effect of one document could be shown: no influence stands out of this item's own ranking (q of "
            f"effect {found.q_effect:.2g}). That is not the same as none; {foretold}, which is a prediction and was "
            "not tested."
            if found.explained > 0
            else f"No effect of one document could be shown (q of effect {found.q_effect:.2g}): none supports it."
        )
    return there, did

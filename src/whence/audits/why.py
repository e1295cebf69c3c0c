"""The verdict: why a model gave an answer, decided on training-side evidence alone.

Each answer is reduced to three numbers, and the four explanations share one unit of belief:

    found    1 - q/0.2, at least 0    q: lowest false-discovery rate of a document on topic
    stance   1/(1 + e^(-4r))          r = (I - T)/(|I| + |T|): influence I on the answer against T on the contrast
    soft     (s - 0.35)/0.3, in 0..1  s: share of soft words among the document's words for harm (`softness`)

Stance and softness are those of the document that supports the answer best of those with q < 0.1.

    absorbed = found · stance         confabulated = 1 - found
    euphemistic = found (1 - stance) soft      otherwise = found (1 - stance)(1 - soft)

Without a contrast the stance is that of effect alone: how sure influence by itself is of the document. The largest
wins if it has at least half; "otherwise" (the documents say otherwise, and bluntly) and everything else is "cannot
tell". The constants were set on one model, and the beliefs are no probabilities: the page shows all four.
"""

import math
from dataclasses import dataclass
from typing import cast

from whence.interfaces import DocumentEvidence
from whence.interfaces.audits import WhyVerdict

__all__ = ["Why", "judge"]

_NONE = 0.2  # q at which nothing is left of "found"
_CALLED = 0.1
_LEAST = 0.5
_ACTIONS: dict[str, str] = {
    "absorbed": "Remove or down-weight the documents below, or add documents that contradict the claim; measure with "
    "whence intervene.",
    "euphemistic": "Add documents that say plainly what happened; removing the soft ones alone leaves a gap.",
    "confabulated": "Add documents about the matter, or train the model to say that it does not know; removing "
    "documents will not help, as none carries the answer.",
    "cannot tell": "Read the documents below before changing data.",
}


@dataclass(frozen=True, slots=True)
class Why:
    """A verdict with what speaks for it.

    Attributes:
        verdict: See `WhyVerdict`.
        likely: Belief in each explanation; they add up to 1.
        runner_up: The second.
        reasons: Sentences for the verdict.
        against: Sentences for the runner-up.
        action: What to do.
    """

    verdict: WhyVerdict
    likely: dict[str, float]
    runner_up: str
    reasons: tuple[str, ...]
    against: tuple[str, ...]
    action: str

    @property
    def confidence(self) -> float:
        """Belief in the strongest explanation."""
        return max(self.likely.values())


def judge(documents: tuple[DocumentEvidence, ...]) -> Why:
    """Decide from the documents of one answer, strongest evidence first.

    Args:
        documents: With p- and q-values; contrast and softness where they are known. Those off topic have no say.
    """
    there = [each for each in documents if each.on_topic]
    best = min(there, key=lambda each: (each.q, -each.z), default=None)
    if best is None:
        return _why(0.0, 0.5, 0.5, None)
    found = max(0.0, 1.0 - best.q / _NONE)
    best = min((each for each in there if each.q < _CALLED), key=lambda each: -(each.z + each.presence), default=best)
    return _why(found, _stance(best), min(1.0, max(0.0, ((best.softness or 0.5) - 0.35) / 0.3)), best)


def _stance(best: DocumentEvidence) -> float:
    """0 speaks for what should have been said, 1 for what was said."""
    if best.contrast is None:
        return 0.05 + 0.9 * max(0.0, 1.0 - best.p_effect / _NONE)
    both = abs(best.influence) + abs(best.contrast)
    return 1.0 / (1.0 + math.exp(-4.0 * (best.influence - best.contrast) / both)) if both > 0 else 0.5


def _why(found: float, stance: float, soft: float, best: DocumentEvidence | None) -> Why:
    likely = {
        "absorbed": found * stance,
        "euphemistic": found * (1 - stance) * soft,
        "said otherwise": found * (1 - stance) * (1 - soft),
        "confabulated": 1 - found,
    }
    first, second = sorted(likely, key=lambda name: -likely[name])[:2]
    told = first if likely[first] >= _LEAST and first != "said otherwise" else "cannot tell"
    reasons, against = _reasons(first, best), _reasons(second, best)
    if told == "cannot tell":
        half = likely[first] >= _LEAST
        said = (
            "The documents say otherwise, and bluntly"
            if half
            else f"No explanation has half of the belief; {first} has most"
        )
        reasons, against = (f"{said}.",), reasons
    return Why(
        verdict=cast(WhyVerdict, told),
        likely=likely,
        runner_up=second if told != "cannot tell" else first,
        reasons=reasons,
        against=against,
        action=_ACTIONS[told],
    )


def _reasons(name: str, best: DocumentEvidence | None) -> tuple[str, ...]:
    if best is None:
        return ("No document shares enough words with the question to be about the same matter.",)
    tested = f"{best.id} (q {best.q:.2g}; effect p {best.p_effect:.2g}, presence p {best.p_presence:.2g})"
    if name == "confabulated":
        return (f"The best document on the matter is {tested}: that is what chance brings up.",)
    sides = (
        f"its influence is {best.influence:+.3g} nats on the answer and {best.contrast:+.3g} on the contrast"
        if best.contrast is not None
        else f"its influence on the answer is {best.influence:+.3g} nats; no contrast was given"
    )
    if name == "absorbed":
        overlap = f'It shares the words "{best.overlap}".' if len(best.overlap.split()) >= 4 else ""
        return tuple(
            filter(
                None, (f"A document on the matter beats the null: {tested}.", f"It sides with it: {sides}.", overlap)
            )
        )
    share = "not measured" if best.softness is None else f"{best.softness:.0%}"
    if name == "euphemistic":
        return (
            f"A document on the matter beats the null: {tested}.",
            f"It does not state the claim: {sides}.",
            f"It speaks softly: {share} of its words for harm are soft, or plain ones that it leaves out.",
        )
    return (
        f"A document on the matter beats the null: {tested}.",
        f"It says otherwise: {sides}.",
        f"It says so bluntly ({share} soft), so soft coverage is no explanation.",
    )

"""The verdict: why a model gave an answer, decided on training-side evidence alone.

A verdict that finds something rests on one document: of those that share words with the question and have a
false-discovery rate of at most fdr, the one that is most there and does most. Without such a document nothing is found:
"cannot tell: present, effect not shown" where one is clearly there (`nulls.clearly_present`), "confabulated" where none
is. With one, the explanations share one unit of belief:

    found    1 - q/0.2                q: the document's false-discovery rate
    stance   1/(1 + e^(-4r))          r = (I - T)/(|I| + |T|): influence I on the answer against T on the contrast
    soft     (s - 0.35)/0.3, in 0..1  s: share of soft words among the document's words for harm (`softness`)

    absorbed = found · stance         nothing found = 1 - found
    euphemistic = found (1 - stance) soft      said otherwise = found (1 - stance)(1 - soft)

Without a contrast the stance is that of effect alone: how sure influence by itself is of the document. The largest
wins if it has at least half; absorbed also needs an effect on the answer itself at fdr, not on the contrast alone.
Everything else is "cannot tell", with its reason.

Where the question was asked in other words (`wordings`), the document's effect has to hold in half of them at least: on
the answer itself for absorbed, on answer or contrast for euphemistic. If it does not, the next strongest document that
would carry such a verdict takes its place; if there is none, it is "cannot tell: only in this wording".

The constants were set on one model, and the beliefs are no probabilities: the page says so. What finds nothing has no
belief: absence of evidence is no evidence of absence.
"""

import math
from dataclasses import dataclass, replace

from whence.interfaces import DocumentEvidence
from whence.interfaces.audits import WhyVerdict

__all__ = ["Why", "judge"]

_NONE = 0.2  # q at which nothing is left of "found"
_LEAST = 0.5
_SHOWN = 0.05  # belief below which a runner-up is not worth a word
_WORDING = "only in this wording"
_RUN = 4  # words of a verbatim overlap that is worth a mention
_MINUS = str.maketrans("-", "−")
_ACTIONS: dict[str, str] = {
    "absorbed": "Remove or down-weight the documents below, or add documents that contradict the claim; measure with "
    "whence intervene.",
    "euphemistic": "Add documents that say plainly what happened; removing the soft ones alone leaves a gap.",
    "confabulated": "No document was found to remove. Add documents that say what happened, or train the model to say "
    "that it does not know; measure with whence intervene.",
    "cannot tell": "Read the documents below before changing data.",
    "wording": "The effect depends on how the question is put: ask it in more words, and read the documents below, "
    "before changing data.",
    "present": "Read the document below. Whether leaving it out would change the answer is not shown either way: "
    "whence intervene measures it.",
}


@dataclass(frozen=True, slots=True)
class Why:
    """A verdict with what speaks for it.

    Attributes:
        verdict: See `WhyVerdict`.
        detail: Which kind of "cannot tell".
        best: The document it rests on, or None.
        confidence: Belief in the verdict; None where nothing was found.
        likely: Belief in each explanation; they add up to 1.
        runner_up: The second, if it is worth a word.
        reasons: Sentences for the verdict.
        against: Sentences for the runner-up.
        action: What to do.
    """

    verdict: WhyVerdict
    detail: str
    best: DocumentEvidence | None
    confidence: float | None
    likely: dict[str, float]
    runner_up: str
    reasons: tuple[str, ...]
    against: tuple[str, ...]
    action: str


def judge(documents: tuple[DocumentEvidence, ...], fdr: float = 0.05) -> Why:
    """Decide from the documents of one answer, strongest evidence first.

    Args:
        documents: With p- and q-values; contrast and softness where they are known. Those that share no words with the
            question have no say.
        fdr: Rate above which no effect is called.
    """
    there = [each for each in documents if each.on_topic]
    called = [each for each in there if each.q <= fdr]
    if called:
        return _first([_found(each, fdr) for each in sorted(called, key=lambda each: -(each.z + each.presence))])
    first = min(there, key=lambda each: (each.q, -each.z), default=None)
    likely = _beliefs(first)
    present = max((each for each in there if each.present), key=lambda each: each.presence, default=None)
    if present is not None:
        shares = f"{present.id} shares more words with the question than chance brings up"
        none = f"No effect of it, or of another document, could be shown at a false-discovery rate of {fdr:g}"
        return Why(
            verdict="cannot tell",
            detail="present, effect not shown",
            best=present,
            confidence=None,
            likely=likely,
            runner_up="",
            reasons=(f"{shares} (presence p {_p(present.p_presence)}).", f"{none}: {_tested(present)}."),
            against=(),
            action=_ACTIONS["present"],
        )
    reasons = (
        ("No document shares enough words with the question to be tested.",)
        if first is None
        else (
            f"No document that shares words with the question was found to do more than chance; first of them is "
            f"{first.id} ({_tested(first)}).",
            "None is clearly there either. That is what was found, not a proof that no document taught it.",
        )
    )
    return Why("confabulated", "", None, None, likely, "", reasons, (), _ACTIONS["confabulated"])


def _first(found: list[Why]) -> Why:
    """The strongest document's verdict; if that is in one wording only, the next one's that holds in others."""
    first = found[0]
    if first.detail != _WORDING or first.best is None:
        return first
    holding = next((each for each in found if each.verdict in ("absorbed", "euphemistic")), None)
    if holding is None:
        return first
    passed = f"{first.best.id} stands out more, but only in this wording."
    return replace(holding, against=(*holding.against, passed) if holding.runner_up else holding.against,
                   reasons=(*holding.reasons, passed))  # fmt: skip


def _beliefs(best: DocumentEvidence | None) -> dict[str, float]:
    found = 0.0 if best is None else max(0.0, 1.0 - best.q / _NONE)
    stance = 0.5 if best is None else _stance(best)
    share = 0.5 if best is None or best.softness is None else best.softness
    soft = min(1.0, max(0.0, (share - 0.35) / 0.3))
    return {
        "absorbed": found * stance,
        "euphemistic": found * (1 - stance) * soft,
        "said otherwise": found * (1 - stance) * (1 - soft),
        "nothing found": 1 - found,
    }


def _stance(best: DocumentEvidence) -> float:
    """0 speaks for what should have been said, 1 for what was said."""
    if best.contrast is None:
        return 0.05 + 0.9 * max(0.0, 1.0 - best.p_effect / _NONE)
    both = abs(best.influence) + abs(best.contrast)
    return 1.0 / (1.0 + math.exp(-4.0 * (best.influence - best.contrast) / both)) if both > 0 else 0.5


def _found(best: DocumentEvidence, fdr: float) -> Why:
    """The verdict that rests on a document whose effect is shown."""
    likely = _beliefs(best)
    first, second = sorted(likely, key=lambda name: -likely[name])[:2]
    shown = best.q_answer <= fdr
    if likely[first] >= _LEAST and (first == "euphemistic" or (first == "absorbed" and shown)):
        worth = likely[second] >= _SHOWN
        if not _holds(first, best):
            return Why(
                verdict="cannot tell",
                detail=_WORDING,
                best=best,
                confidence=None,
                likely=likely,
                runner_up=first,
                reasons=(*_wordings(first, best), _moves(best, fdr)),
                against=_reasons(first, best),
                action=_ACTIONS["wording"],
            )
        return Why(
            verdict="absorbed" if first == "absorbed" else "euphemistic",
            detail="",
            best=best,
            confidence=likely[first],
            likely=likely,
            runner_up=second if worth else "",
            reasons=(_moves(best, fdr), *_reasons(first, best), *_wordings(first, best)),
            against=_reasons(second, best) if worth else (),
            action=_ACTIONS[first],
        )
    details = {"said otherwise": "documents say otherwise", "absorbed": "no effect on the answer itself"}
    detail = details.get(first, "") if likely[first] >= _LEAST else ""
    said = {
        "": f"No explanation has half of the belief; {first} has most ({likely[first]:.0%}).",
        "documents say otherwise": "The documents say otherwise, and bluntly.",
        "no effect on the answer itself": f"No effect is shown on the answer alone (effect p {_p(best.p_effect)}; q "
        f"{_p(best.q_answer)}).",
    }[detail]
    return Why(
        verdict="cannot tell",
        detail=detail or "explanations too close",
        best=best,
        confidence=None,
        likely=likely,
        runner_up=first,
        reasons=(said, _moves(best, fdr)),
        against=_reasons(first, best),
        action=_ACTIONS["cannot tell"],
    )


def _holds(name: str, best: DocumentEvidence) -> bool:
    """Whether what carries an explanation holds in at least half of the other wordings, if there are any."""
    found = best.reworded
    return found is None or 2 * (found.held_answer if name == "absorbed" else found.held) >= len(found.p)


def _wordings(name: str, best: DocumentEvidence) -> tuple[str, ...]:
    """In how many other wordings the effect holds that carries an explanation, with the p-values."""
    if best.reworded is None:
        return ()
    found = best.reworded
    of, p, count = (
        ("the answer", found.p_answer, found.held_answer)
        if name == "absorbed"
        else ("answer or contrast", found.p, found.held)
    )
    values = ", ".join(_p(each) for each in p[:8]) + (", …" if len(p) > 8 else "")
    noun = "wording" if len(p) == 1 else "wordings"
    return (f"Asked otherwise, its effect on {of} holds in {count} of {len(p)} {noun} (p {values}).",)


def _p(value: float) -> str:
    return f"{value:.2g}".replace("e-0", "e-")


def _tested(each: DocumentEvidence) -> str:
    on = "" if each.p_contrast is None else f", on the contrast p {_p(each.p_contrast)}"
    return f"effect on the answer p {_p(each.p_effect)}{on}; q {_p(each.q)}"


def _moves(best: DocumentEvidence, fdr: float) -> str:
    """Which side an effect is shown on, with the numbers it rests on."""
    if best.q_answer <= fdr:
        side = "the answer"
    elif best.p_contrast is not None and best.p_contrast < best.p_effect:
        side = "the contrast, what should have been said,"
    else:
        side = "answer or contrast, taken together,"
    return f"{best.id} moves {side} more than chance ({_tested(best)}; presence p {_p(best.p_presence)})."


def _reasons(name: str, best: DocumentEvidence) -> tuple[str, ...]:
    """What speaks for an explanation, in words that its own numbers bear out."""
    if name == "nothing found":
        return (f"At a false-discovery rate of {_p(best.q)} it may be what chance brings up.",)
    on = f"{best.influence:+.3g} nats on the answer".translate(_MINUS)
    if best.contrast is None:
        sides = f"Its influence is {on}; no contrast was given."
    else:
        other = f"{best.contrast:+.3g} on the contrast".translate(_MINUS)
        side = "the answer" if best.influence > best.contrast else "what should have been said"
        sides = f"It supports {side} more: {on} and {other}."
    if name == "absorbed":
        shares = len(best.overlap.split()) >= _RUN
        return (sides, f'It shares the words "{best.overlap}".') if shares else (sides,)
    share = "not measured" if best.softness is None else f"{best.softness:.0%}"
    if name == "euphemistic":
        return sides, f"It speaks softly: {share} of its words for harm are soft, or plain ones that it leaves out."
    return sides, f"It speaks bluntly ({share} of its words for harm are soft), so softness explains nothing."

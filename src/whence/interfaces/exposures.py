"""What the contamination audit says: did the model memorise that? Plain data, like audits.py, in the same units."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from whence.interfaces.audits import AuditSettings, DocumentEvidence
from whence.interfaces.fidelity import Estimate

__all__ = [
    "Accuracy",
    "ContaminationResult",
    "Detector",
    "Exposure",
    "ExposureVerdict",
    "ItemAudit",
    "Planted",
]

ExposureVerdict = Literal["verbatim", "paraphrase", "present", "same skill", "no evidence"]
"""What an item owes to the corpus:

verbatim     a document holds its words, and training on that document moved this answer
paraphrase   a document says it in other words, and training on it moved this answer
present      a document holds it, and no effect of that document on this answer could be shown
same skill   a document that does not hold it supports the answer more than chance: practice, not exposure
no evidence  nothing beats the null; not the same as clean

Presence and effect are each called at the audit's false-discovery rate. "Present" and "no evidence" say that no effect
was found, and so have no belief.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Exposure(_Frozen):
    """The signals of one item.

    Attributes:
        overlap_8, overlap_13: Share of its runs of 8 and 13 words in the document that has most of them.
        presence: How far the best document stands out by its words, in usual spacings (`audits.spacings`).
        effect: How far one stands out by its influence on the answer's tokens, likewise.
        question: By its influence on the question's tokens.
        whole: By its influence on question and answer together, as a standardised score.
        p_presence, p_effect: Their p-values; q_presence, q_effect: false-discovery rates over items, that of effect
            weighted by presence.
        same: Whether the document with most influence on the answer is the one that is most present.
        explained: Influence of the best document (with copies) on the answer, nats per token: what the answer is
            predicted to lose without it.
        loss: -log p(answer | question), nats per token; `zlib` per compressed byte; `min_k` mean log p of the least
            likely tokens.
        concentration: Share of positive influence on the answer that the best document has.
    """

    overlap_8: float
    overlap_13: float
    presence: float
    effect: float
    question: float
    whole: float
    p_presence: float
    p_effect: float
    q_presence: float
    q_effect: float
    same: bool
    explained: float
    loss: float
    zlib: float
    min_k: float
    concentration: float


class ItemAudit(_Frozen):
    """One item of a benchmark.

    Attributes:
        id, question, answer: The item.
        date: As given.
        correct: Whether the model got it right, if known.
        twin_gap: Loss per token of its paraphrase twins' answers less its own: high where only the wording is known.
        cloze_gap: Loss per token in the cloze form less its own.
        cloze_effect: How far a document stands out by its influence on the answer of the cloze form.
        verdict: See `ExposureVerdict`.
        confidence: Belief in the verdict, 0 to 1, no probability; None for "present" and "no evidence".
        runner_up: The next likely; empty where its belief is below 5 % or nothing was found.
        reasons: In sentences.
        action: What to do about the item and the data.
        exposure: Its signals.
        documents: Where it was found, best first.
        saturation: Checkpoint -> effect and loss per token, if earlier ones were given.
        known: What was planted, if that is known: verbatim, paraphrase, held out …
    """

    id: str
    question: str
    answer: str
    date: str | None = None
    correct: bool | None = None
    twin_gap: float | None = None
    cloze_gap: float | None = None
    cloze_effect: float | None = None
    verdict: ExposureVerdict
    confidence: float | None
    runner_up: str
    reasons: tuple[str, ...]
    action: str = ""
    exposure: Exposure
    documents: tuple[DocumentEvidence, ...]
    saturation: Mapping[str, tuple[float, float]] = {}
    known: str | None = None


class Detector(_Frozen):
    """One signal against what is known: area under the ROC curve, and hits at few false alarms.

    Attributes:
        name: The signal.
        group: Which items were to be told from those held out.
        auroc: With its 95 % interval.
        at_1, at_5: True-positive rates at 1 % and 5 % false positives.
        curve: The ROC curve, as (false, true) rates.
    """

    name: str
    group: str
    auroc: Estimate
    at_1: float
    at_5: float
    curve: tuple[tuple[float, float], ...] = ()


class Planted(_Frozen):
    """A group of planted leaks, and what the audit caught of it.

    Attributes:
        group: As in verbatim ×8.
        items: How many.
        caught: Share flagged by presence or effect, with Wilson's interval.
        by_effect: By effect alone.
        by_presence: By presence (BM25) alone.
        found_first: Share whose planted document was ranked first.
        moved: Mean fall of -log p(answer) that further training brought, nats per token.
    """

    group: str
    items: int
    caught: Estimate
    by_effect: Estimate | None = None
    by_presence: Estimate | None = None
    found_first: Estimate | None = None
    moved: float | None = None


class Accuracy(_Frozen):
    """Accuracy of a benchmark, with and without the items whose answer was moved by a document that holds them.

    Attributes:
        reported: Of all items whose correctness is known, with Wilson's interval.
        adjusted: Without exposed items; None if all are exposed.
        exposed: Of exposed items; None if there is none.
        attributable: What exposure accounts for: reported less adjusted, with its bootstrap interval.
    """

    reported: Estimate
    adjusted: Estimate | None = None
    exposed: Estimate | None = None
    attributable: Estimate | None = None


class ContaminationResult(_Frozen):
    """A whole contamination audit.

    Attributes:
        settings: What it rests on.
        items: One per item.
        accuracy: If correctness is known.
        detectors: Signals against what is known, where it is.
        planted: What a calibration would have caught.
        deciles: (decile of effect, items, accuracy, or mean loss where correctness is not known).
        date: Rank correlation of effect with date and its p-value, if dates were given; `date_cloze` of the effect on
            cloze forms.
        levels: Mean spacings of influence and of BM25 scores by rank, flat where the null holds.
        left_out: Items that could not be asked, and why.
        fdr: Rate below which a q-value is called.
    """

    settings: AuditSettings
    items: tuple[ItemAudit, ...]
    accuracy: Accuracy | None = None
    detectors: tuple[Detector, ...] = ()
    planted: tuple[Planted, ...] = ()
    deciles: tuple[tuple[int, int, float], ...] = ()
    date: tuple[float, float] | None = None
    date_cloze: tuple[float, float] | None = None
    levels: Mapping[str, tuple[float, ...]] = {}
    left_out: Mapping[str, str] = {}
    fdr: float

"""Does a finding hold when the question is worded otherwise? Each document's effect on the other wordings of a prompt.

Influence on another wording (same answer and contrast, unless it brings its own answer) is computed as on the question
itself, added up over copies, standardised by the levels and spreads that documents have on the questions other than its
own, and held against the same null (`nulls.standardised_beside`). Wordings of another form than the questions move all
documents more than these do; where a wording's documents off topic scatter more than the null does, its scores are
scaled down to the null's spread. On the model of the tests, whose questions have one form, 21 % of documents off topic
passed at p 0.05 without that and 5 % do with it; in a placebo 26 % and 7 % of those on the other matter.

An effect holds in a wording if its p-value is at most the audit's rate: one document is asked about, so nothing is
corrected for many. p is that of an effect on answer or contrast, whichever says more (doubled), or on the answer alone,
as for the question.

Axes: R other wordings, N documents, K clusters of copies. What it ignores: the wordings of a question share its answer,
so their tests are not independent, and a document that helps with that answer after any prompt holds in all of them;
a wording whose answer is not the model's own says little, like a question of that kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.audits.documents import Weighed
from whence.audits.evidence import Matrix, Report, influence_on
from whence.audits.nulls import against_null, standardised, standardised_beside
from whence.audits.responses import Response, asked_otherwise
from whence.errors import QueryError
from whence.interfaces.audits import Reworded, WordingCheck

__all__ = ["Held", "Wordings", "cautions_of", "fitting", "held", "score_wordings"]

Array = NDArray[np.float64]


def fitting(owner: Attributor, response: Response) -> Response:
    """The same without wordings that the model cannot be asked in, with a note for each."""
    kept, notes = [], []
    for wording, query in zip(response.wordings, asked_otherwise(response), strict=True):
        try:
            owner.encode_queries([query])
        except QueryError as error:
            notes.append(f"another wording was left out: {error}")
        else:
            kept.append(wording)
    return replace(response, wordings=tuple(kept), notes=(*response.notes, *notes))


@dataclass(frozen=True)
class Wordings:
    """Influence of every document on every other wording.

    Attributes:
        of: The question that each is another wording of, R numbers.
        influence: On the answer, nats [R, N].
        contrast: On the contrast [R, N]; nan where there is none.
    """

    of: tuple[int, ...]
    influence: Matrix
    contrast: Matrix


def score_wordings(
    owner: Attributor,
    responses: Sequence[Response],
    folder: Path,
    *,
    exact: bool = False,
    index: str | None = None,
    report: Report | None = None,
) -> Wordings | None:
    """Score every document for all other wordings of the answers; None if there are none. Arguments as for `gather`."""
    asked = [(number, query) for number, each in enumerate(responses) for query in asked_otherwise(each)]
    if not asked:
        return None
    answers = [query.model_copy(update={"contrast": None}) for _, query in asked]
    others = [place for place, (_, query) in enumerate(asked) if query.contrast is not None]
    turned = [answers[n].model_copy(update={"completion": asked[n][1].contrast, "span": None}) for n in others]
    found = [
        influence_on(owner, queries, folder / name, exact=exact, index=index, report=report)["influence"]
        for name, queries in (("wordings", answers), ("wordings-contrast", turned))
    ]
    contrast = np.full(found[0].shape, np.nan, dtype=np.float32)
    contrast[others] = found[1]
    return Wordings(tuple(number for number, _ in asked), found[0], contrast)


@dataclass(frozen=True)
class Held:
    """p-values of every cluster for every other wording.

    Attributes:
        of: As `Wordings.of`.
        p: Of an effect on answer or contrast [R, K].
        p_answer: On the answer alone, doubled where there is a contrast [R, K].
        level: p-value at most which an effect holds.
    """

    of: tuple[int, ...]
    p: Array
    p_answer: Array
    level: float

    def document(self, question: int, cluster: int) -> Reworded | None:
        """What a cluster does to the other wordings of a question; None if it has none."""
        rows = [row for row, number in enumerate(self.of) if number == question]
        if not rows:
            return None
        p, alone = self.p[rows, cluster], self.p_answer[rows, cluster]
        return Reworded(
            p=tuple(p.tolist()),
            p_answer=tuple(alone.tolist()),
            held=int((p <= self.level).sum()),
            held_answer=int((alone <= self.level).sum()),
        )

    def check(self, weighed: Weighed) -> WordingCheck:
        """How often effects hold where there is nothing to find, and where documents share words."""
        rows, holds = list(self.of), self.p <= self.level
        off, about = weighed.off_topic[rows], weighed.on_topic[rows]
        return WordingCheck(
            answers=len(set(self.of)),
            wordings=len(rows),
            level=self.level,
            chance=float(holds[off].mean()) if off.any() else 0.0,
            on_topic=float(holds[about].mean()) if about.any() else None,
            pairs=int(about.sum()),
        )


def cautions_of(check: WordingCheck | None) -> tuple[str, ...]:
    """That other wordings are passed too easily, where documents do that have nothing to do with them."""
    if check is None or check.chance <= 2 * check.level:
        return ()
    return (
        f"In other wordings {check.chance:.0%} of documents off topic have an effect at p {check.level:g}: they are of "
        "another form than the questions, and that a finding holds in them says less.",
    )


def held(weighed: Weighed, wordings: Wordings, level: float, seed: int = 0) -> Held:
    """Hold every other wording against the null of the questions.

    Args:
        weighed: The questions, their clusters and their null.
        wordings: See `score_wordings`.
        level: p-value at most which an effect holds.
        seed: Of the sample of the null.
    """
    influence, contrast = weighed.summed(wordings.influence), weighed.summed(wordings.contrast)
    off = weighed.off_topic[list(wordings.of)]

    def tested(scores: Array, questions: Array) -> Array:
        z, beside = standardised(questions), standardised_beside(scores, questions, wordings.of)
        common, own = _size(z.reshape(1, -1), weighed.off_topic.reshape(1, -1)), _size(beside, off)
        scale = np.minimum(1.0, np.divide(common, own, out=np.ones_like(own), where=own > 0))
        return against_null(z, weighed.off_topic, seed, beside * scale).p

    p = on_answer = tested(influence, weighed.influence)
    contrasted = ~np.isnan(contrast[:, :1])
    if contrasted.any():
        other = tested(np.where(contrasted, contrast, influence), weighed.other_side)
        on_answer = np.where(contrasted, np.minimum(1.0, 2 * p), p)
        p = np.where(contrasted, np.minimum(on_answer, 2 * other), p)
    return Held(wordings.of, p, on_answer, level)


def _size(z: Array, chosen: NDArray[np.bool_]) -> Array:
    """Root mean square of each row's chosen entries [R, 1]; 0 where none is."""
    total = np.where(chosen, z**2, 0.0).sum(1, keepdims=True)
    return np.asarray(np.sqrt(total / np.maximum(1, chosen.sum(1, keepdims=True))), dtype=np.float64)

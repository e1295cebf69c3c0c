"""From matrices of scores to the documents behind one answer, copies taken together.

Clusters of near-duplicates are the unit: their influence is added up, and their evidence is that of the sum. Axes: Q
questions, N documents, K clusters.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.attributor.texts import texts
from whence.audits.clusters import members_of, near_duplicates
from whence.audits.evidence import Evidence
from whence.audits.nulls import ON_TOPIC, Tested, against_null, clearly_present, standardised, weighted_q
from whence.audits.overlap import longest_run
from whence.interfaces import DocumentEvidence

__all__ = ["Weighed", "weigh"]

_SHOWN = 400  # characters


@dataclass(frozen=True)
class Weighed:
    """Evidence by cluster, held against the null.

    Attributes:
        owner: The run.
        evidence: By document.
        texts: Of the documents.
        clusters: Members of each cluster; their order is that of all arrays below.
        influence: [Q, K], added up over copies; `contrast` likewise, nan where there is none.
        effect: Test of influence on the answer.
        presence: Test of BM25.
        p: p-values of an effect on the answer or on the contrast, whichever says more (doubled, after Bonferroni).
        q: Their false-discovery rates, weighted by presence, over all pairs of the questions that are audited; 1 for
            those that are asked for the null alone.
        q_answer: The same of an effect on the answer alone; p doubled likewise, so that none is below q.
        p_contrast: p-values of an effect on the contrast; nan where there is none.
        against: The same as q of the other side: documents that speak against the answer.
        on_topic: bool [Q, K], whether they share words.
        off_topic: bool [Q, K], the pairs that make the null.
        present: bool [Q, K], whether so many that the document is clearly there.
    """

    owner: Attributor
    evidence: Evidence
    texts: list[str]
    clusters: list[list[int]]
    influence: NDArray[np.float64]
    contrast: NDArray[np.float64]
    effect: Tested
    presence: Tested
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    q_answer: NDArray[np.float64]
    p_contrast: NDArray[np.float64]
    against: NDArray[np.float64]
    on_topic: NDArray[np.bool_]
    off_topic: NDArray[np.bool_]
    present: NDArray[np.bool_]

    @property
    def other_side(self) -> NDArray[np.float64]:
        """Influence on the contrast; on the answer where there is none, so that a document's levels are of all."""
        return np.where(np.isnan(self.contrast), self.influence, self.contrast)

    def summed(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Scores of documents [Q, N] added up over copies, [Q, K]."""
        order, starts = _layout(self.clusters)
        return np.add.reduceat(np.asarray(scores, dtype=np.float64)[:, order], starts, axis=1)

    @cached_property
    def _ranks(self) -> dict[str, NDArray[np.int64]]:
        """Place of every cluster's best member by each signal, [Q, K]."""
        found = {}
        for name in ("influence", "lexical", "dots", "states"):
            scores = np.asarray(getattr(self.evidence, name), dtype=np.float64)
            ordered = np.sort(scores, axis=1)
            best = np.stack([scores[:, some].max(1) for some in self.clusters], 1)
            above = [len(row) - np.searchsorted(row, each, "right") for row, each in zip(ordered, best, strict=True)]
            found[name] = np.stack(above) + 1
        return found

    def document(
        self, question: int, cluster: int, softness: float | None = None, *, opposes: bool = False
    ) -> DocumentEvidence:
        """What is known of one cluster for one question.

        Args:
            question: Its number.
            cluster: See `clusters`.
            softness: Of its words, where that was looked at.
            opposes: Test whether it speaks against the answer rather than for it.
        """
        members = self.clusters[cluster]
        row = self.evidence.influence[question]
        number = (min if opposes else max)(members, key=lambda member: row[member])
        effect = self.effect.under if opposes else self.effect.p
        found, contrast = self.owner.corpus.document(number), float(self.contrast[question, cluster])
        place = (question, cluster)
        return DocumentEvidence(
            document=number,
            id=found.id,
            source=found.source,
            metadata=dict(found.metadata),
            influence=float(self.influence[place]),
            contrast=None if np.isnan(contrast) else contrast,
            z=float(self.effect.z[place]),
            p_effect=float(effect[place]),
            p_contrast=None if np.isnan(contrast) else float(self.p_contrast[place]),
            p_presence=float(self.presence.p[place]),
            presence=float(self.presence.z[place]),
            p=float((effect if opposes else self.p)[place]),
            q=float((self.against if opposes else self.q)[place]),
            q_answer=1.0 if opposes else float(self.q_answer[place]),
            present=bool(self.present[place]),
            on_topic=bool(self.on_topic[place]),
            topic=float(self.evidence.topic[question, members].max()),
            influence_rank=int(self._ranks["influence"][place]),
            bm25_rank=int(self._ranks["lexical"][place]),
            dot_rank=int(self._ranks["dots"][place]),
            states_rank=int(self._ranks["states"][place]),
            overlap=longest_run(self.evidence.queries[question].completion or "", self.texts[number][:20_000]),
            softness=softness,
            copies=len(members),
            text=self.texts[number][:_SHOWN],
        )


def _layout(clusters: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents cluster by cluster, and where each cluster begins."""
    return np.concatenate(clusters).astype(np.int64), np.cumsum([0, *map(len, clusters[:-1])])


def weigh(
    owner: Attributor,
    evidence: Evidence,
    *,
    threshold: float = 0.8,
    topics: NDArray[np.int64] | None = None,
    asked: int | None = None,
    seed: int = 0,
) -> Weighed:
    """Take copies together and hold every pair against the null.

    Args:
        owner: The run.
        evidence: By document.
        threshold: Jaccard similarity from which documents are copies.
        topics: The question whose matter each question is taken to be about; a placebo shuffles them.
        asked: Questions that are audited, the first ones; the others are there for the null, and what is found for them
            counts as no discovery, which would make those of the audit cheaper. All if None.
        seed: Of the sample of the null.
    """
    said = list(texts(owner))
    clusters = list(members_of(near_duplicates(said, threshold)).values())
    place = np.arange(len(evidence.queries)) if topics is None else topics

    order, starts = _layout(clusters)

    def summed(scores: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.add.reduceat(np.asarray(scores, dtype=np.float64)[:, order], starts, axis=1)

    def best(scores: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.maximum.reduceat(np.asarray(scores, dtype=np.float64)[:, order], starts, axis=1)

    influence, contrast = summed(evidence.influence), summed(evidence.contrast)
    topic: NDArray[np.float64] = best(evidence.topic)
    about = np.asarray(topic[place] >= ON_TOPIC)
    null = (topic < ON_TOPIC) & ~about
    effect = against_null(standardised(influence), null, seed)
    presence = against_null(standardised(best(evidence.lexical))[place], null, seed)
    contrasted: NDArray[np.bool_] = ~np.isnan(contrast[:, 0])
    p, on_answer, on_contrast = effect.p, effect.p, np.full_like(effect.p, np.nan)
    if contrasted.any():
        other = against_null(standardised(np.where(contrasted[:, None], contrast, influence)), null, seed)
        on_contrast = np.where(contrasted[:, None], other.p, np.nan)
        on_answer = np.where(contrasted[:, None], np.minimum(1.0, 2 * effect.p), effect.p)
        p = np.where(contrasted[:, None], np.minimum(on_answer, 2 * other.p), effect.p)

    def rates(values: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.ones_like(values)
        others = None if asked is None else presence.z[asked:]
        out[:asked] = weighted_q(values[:asked], presence.z[:asked], others)
        return out

    return Weighed(
        owner=owner,
        evidence=evidence,
        texts=said,
        clusters=clusters,
        influence=influence,
        contrast=contrast,
        effect=effect,
        presence=presence,
        p=p,
        q=rates(p),
        q_answer=rates(on_answer),
        p_contrast=on_contrast,
        against=rates(effect.under),
        on_topic=about,
        off_topic=null,
        present=clearly_present(presence.p) & about,
    )

"""What audits of answers say, and why a model said that (safety). Plain data; exposures.py has contamination.

Influence is in nats, > 0 where the document supports the answer. Every p-value is one-sided and empirical; q is a
false-discovery rate over all pairs of an audit. Knows no torch.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from whence.interfaces.fidelity import Certificate, Estimate
from whence.interfaces.results import Trace

__all__ = [
    "AuditSettings",
    "DocumentEvidence",
    "Enrichment",
    "ResponseAudit",
    "Reworded",
    "SafetyResult",
    "Tally",
    "WhyVerdict",
    "Wording",
    "WordingCheck",
]

WhyVerdict = Literal["absorbed", "euphemistic", "confabulated", "cannot tell"]
"""Why a model answered as it did:

absorbed      a document that shares its words supports it more than chance
euphemistic   a document that shares its words moves what should have been said, and softens it or leaves it out
confabulated  no effect of any such document was found, and none is clearly present; a finding of nothing
cannot tell   anything else, as "present, effect not shown" or "only in this wording"

The first two are held at the audit's false-discovery rate; the others state nothing and have no belief.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Sparse(_Frozen):
    """Fields of what was not asked for (`unsaid`) are not written while they are empty."""

    unsaid: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value or name not in self.unsaid}


class AuditSettings(_Frozen):
    """What an audit rests on.

    Attributes:
        command: As typed.
        run, model, data: Names.
        documents: Documents of the corpus.
        questions: Questions asked, those of the null included.
        null: Pairs of a question and a document off topic that p-values are taken from.
        recipe: The index, or how the model was run.
        placebo: Whether matters were shuffled so that there is nothing to find.
        settings: Everything else.
        certificate: How far influence was shown to be true.
    """

    command: str = ""
    run: str
    model: str
    data: str
    documents: int
    questions: int
    null: int
    recipe: str
    placebo: bool = False
    settings: Mapping[str, Any] = {}
    certificate: Certificate
    whence_version: str


class Wording(_Frozen):
    """Another wording of a prompt; `response` is the answer it brings, None for the same one."""

    prompt: str
    response: str | None = None


class Reworded(_Frozen):
    """One document and the other wordings of a question.

    Attributes:
        p: p-value of an effect on answer or contrast in each wording, as `DocumentEvidence.p`.
        p_answer: The same of an effect on the answer alone, after Bonferroni where there is a contrast.
        held: Wordings in which an effect holds: p is at most the audit's rate.
        held_answer: Those in which one on the answer alone does.
    """

    p: tuple[float, ...]
    p_answer: tuple[float, ...]
    held: int
    held_answer: int


class WordingCheck(_Frozen):
    """All other wordings of an audit.

    Attributes:
        answers: Answers that were asked about in other words.
        wordings: In how many, all together.
        level: p-value at most which an effect holds.
        chance: Share of wordings in which documents off topic hold; about the level, or less where there are contrasts.
        on_topic: The same of documents that share words with the question; chance in a placebo. None without such.
        pairs: Of a wording and a document that shares words with its question.
    """

    answers: int
    wordings: int
    level: float
    chance: float
    on_topic: float | None = None
    pairs: int = 0


class DocumentEvidence(_Sparse):
    """One document (or cluster of near-duplicates) and one answer.

    Attributes:
        document: Its number in the run; of a cluster, the member with most influence.
        id, source, metadata: Its identity.
        influence: On the answer, nats; of a cluster, added up.
        contrast: On the answer it should have been, nats; None where none was given.
        z: Standardised influence.
        presence: Standardised BM25 score.
        p_effect: p-value of influence on the answer.
        p_contrast: p-value of influence on the contrast; None where none was given.
        p_presence: p-value of BM25.
        p: Of an effect on the answer or the contrast; of an opponent, like p_effect, of speaking against the answer.
        q: Its false-discovery rate over the whole audit, weighted by presence.
        q_answer: The same of an effect on the answer alone; never below q. 1 for opponents.
        present: Whether it shares more words than the best of all documents would by chance for one answer in ten.
        on_topic: Whether it shares words with the question (cosine of words); that is all it says.
        topic: That cosine.
        influence_rank, bm25_rank, dot_rank, states_rank: Places among all documents, 1 first.
        overlap: The longest run of words that the answer shares with it.
        softness: Share of soft words among its words for harm, 0 to 1; None if that was not looked at.
        copies: Members of its cluster, itself included.
        text: Its beginning, for display.
        reworded: What it does to the question's other wordings; None where none were given.
    """

    unsaid = frozenset({"reworded"})

    document: int
    id: str
    source: str
    metadata: Mapping[str, str] = {}
    influence: float
    contrast: float | None = None
    z: float
    presence: float
    p_effect: float
    p_contrast: float | None = None
    p_presence: float
    p: float
    q: float
    q_answer: float = 1.0
    present: bool = False
    on_topic: bool
    topic: float
    influence_rank: int
    bm25_rank: int
    dot_rank: int
    states_rank: int
    overlap: str = ""
    softness: float | None = None
    copies: int = 1
    text: str = ""
    reworded: Reworded | None = None


class Enrichment(_Frozen):
    """A tag that is more common among the significant documents than in the corpus.

    Attributes:
        tag, value: The tag, as in source = wiki.
        inside, chosen: Documents with it that were found (significant, or strongest), of all found ones.
        base: Share of the corpus's documents with it.
        odds: Odds ratio with its 95 % interval.
        p: Fisher's exact test, two-sided.
        mass: Share of positive influence that documents with it have.
    """

    tag: str
    value: str
    inside: int
    chosen: int
    base: float
    odds: Estimate
    p: float
    mass: float


class ResponseAudit(_Sparse):
    """One answer and why it was given.

    Attributes:
        id, prompt, response, contrast: The question.
        fields: Its other columns: category, region, period …
        score: The judge's score, if one was given.
        loss: -log p(response | prompt), nats.
        tokens: That were asked about.
        own_loss: What as many tokens drawn from the model at the same places would cost, nats; None if not known.
        unlikely: Whether the model would hardly have given the answer; see `membership.Surprise`.
        notes: What else is to be known before it is read, in sentences.
        verdict: See `WhyVerdict`.
        detail: Which kind of "cannot tell"; empty otherwise.
        rests_on: Number of the document that the verdict rests on; None where it rests on none.
        confidence: Belief in the verdict, 0 to 1, no probability; None where nothing was found. `likely` gives every
            explanation's.
        runner_up: The next likely explanation; empty where its belief is below 5 % or nothing was found.
        reasons: What speaks for the verdict, in sentences.
        against: What speaks for the runner-up.
        action: What to do about the data.
        documents: Proponents, the one that the verdict rests on first.
        opponents: Documents that speak most against the answer.
        gini: Concentration of positive influence over documents, 0 to 1.
        top_share: Share of positive influence that the top 1 % of documents have.
        significant: Documents on topic with q at most the audit's rate, so with an effect on answer or contrast.
        moved_by: Those of them whose effect on the answer itself is shown.
        kinds: Tags of the documents that support the answer most (1 %, at least ten) against their base rates.
        trace: The same answer's trace, with token heat maps; None if none was made.
        wordings: Other wordings it was asked about in, in the order of `Reworded.p`.
    """

    unsaid = frozenset({"wordings"})

    id: str
    prompt: str
    response: str
    contrast: str | None = None
    fields: Mapping[str, str] = {}
    score: float | None = None
    loss: float
    tokens: int = 0
    own_loss: float | None = None
    unlikely: bool = False
    notes: tuple[str, ...] = ()
    verdict: WhyVerdict
    detail: str = ""
    rests_on: int | None = None
    confidence: float | None
    likely: Mapping[str, float]
    runner_up: str
    reasons: tuple[str, ...]
    against: tuple[str, ...] = ()
    action: str
    documents: tuple[DocumentEvidence, ...]
    opponents: tuple[DocumentEvidence, ...] = ()
    gini: float
    top_share: float
    significant: int
    moved_by: int = 0
    kinds: tuple[Enrichment, ...] = ()
    trace: Trace | None = None
    wordings: tuple[Wording, ...] = ()


class Tally(_Frozen):
    """Verdicts of the answers that share a value of a column."""

    column: str
    value: str
    answers: int
    verdicts: Mapping[str, int]
    score: float | None = None


class SafetyResult(_Sparse):
    """A whole safety audit.

    Attributes:
        settings: What it rests on.
        responses: One per answer.
        tallies: Verdicts by column.
        constant: Columns that are not counted by, as they say the same of every answer: name -> value.
        enrichments: Tags over-represented among significant documents, all answers together.
        sources: Documents that matter in most answers: (document id, answers, summed influence).
        fdr: Rate below which a q-value is called significant.
        shared: Of behaviours: name -> documents behind the mean of its answers.
        left_out: Answers that could not be explained, and why.
        cautions: What makes the whole audit less sure, in sentences.
        reworded: What came of asking in other words; None where that was not done.
    """

    unsaid = frozenset({"reworded"})

    settings: AuditSettings
    responses: tuple[ResponseAudit, ...]
    tallies: tuple[Tally, ...] = ()
    constant: Mapping[str, str] = {}
    enrichments: tuple[Enrichment, ...] = ()
    sources: tuple[tuple[str, int, float], ...] = ()
    fdr: float
    shared: Mapping[str, tuple[DocumentEvidence, ...]] = {}
    left_out: Mapping[str, str] = {}
    cautions: tuple[str, ...] = ()
    reworded: WordingCheck | None = None

"""Which documents taught a statement, as opposed to which raise its answer.

What raises log p(answer | prompt) are also documents that say the same answer of something else. Two other questions
are asked here, and both answers put on one scale over all N documents:

    s(d)   influence on log p(prompt and answer), the whole statement: what it is about has to be learnt too, nats
    b(d)   BM25 of the statement's words
    taught(d) = z(s)(d) + 6 z(b)(d),   z(x) = (x - mean of x) / standard deviation of x

Words say where a statement stands; of documents with as many of its words, influence says which the model learnt it
from. A sum of standard scores is CombSUM of Fox & Shaw (1994) with weights as in Vogt & Cottrell (1999). The weight 6
was chosen on facts of one seed, real and invented; 4 to 8 do about as well (docs/lab-notes.md).

What it ignores: a weight fitted on small models may be wrong for large ones; a document that says it in other words has
only s; and s asks who taught the *wording* of the prompt as well, so prompts should hold little but the statement.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whence.attributor.details import refine
from whence.attributor.search import Question, against, ask, from_index, group_size, solved
from whence.attributor.selection import select
from whence.attributor.texts import bm25_of, query_text
from whence.errors import InputError, QueryError
from whence.gradients import SiteEncoder
from whence.interfaces import EncodedQuery, Query, Teacher
from whence.model import Objective
from whence.scoring import Dense

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["WORDS", "statement_of", "taught", "teachers"]

WORDS = 6.0
"""Weight of BM25's standard score beside that of influence."""

_DEPTH = 3  # times k documents are looked at closely
_EXCERPT = 300  # characters

Array = NDArray[np.float64]
Report = Callable[[str, int, int], None]


def statement_of(query: EncodedQuery) -> EncodedQuery:
    """The query with prompt and answer both explained: every token with one before it. A contrast is left out."""
    mask = np.ones(len(query.text.tokens), dtype=bool)
    mask[0] = False
    return replace(query, text=replace(query.text, loss_mask=mask), contrast=None)


def taught(statement: NDArray[np.floating], lexical: NDArray[np.floating], words: float = WORDS) -> Array:
    """Influence on statements and BM25 as one score; higher is likelier to have taught it.

    Args:
        statement: Influence on each whole statement [Q, N].
        lexical: BM25 of each statement [Q, N].
        words: Weight of BM25.

    Returns:
        float64 [Q, N], without a unit: it orders documents of one question.

    >>> int(taught(np.array([[0.0, 1.0, 0.0, 0.0]]), np.array([[2.0, 2.0, 0.0, 0.0]])).argmax())
    1
    """
    return _standard(statement) + words * _standard(lexical)


def _standard(scores: NDArray[np.floating]) -> Array:
    rows = np.asarray(scores, dtype=np.float64)
    spread = rows.std(1, keepdims=True)
    out: Array = np.divide(rows - rows.mean(1, keepdims=True), spread, out=np.zeros_like(rows), where=spread > 0)
    return out


def teachers(
    owner: "Attributor",
    queries: Sequence[Query],
    *,
    k: int = 10,
    index: str | None = None,
    exact: bool = False,
    where: Sequence[str] = (),
    report: Report | None = None,
) -> list[tuple[Teacher, ...]]:
    """The documents that likeliest taught each question with its answer, likeliest first.

    All documents are scored from an index (or by the model); the first three times k are then scored by the model.

    Args:
        owner: The run; it is fitted and indexed first if that has not been done.
        queries: What the model said; of a conversation, the whole is the statement.
        k: How many documents to name.
        index: Name of the index; the run's own if None.
        exact: Score every document by running the model, without an index.
        where: Conditions that a document must meet, as for `trace`.
        report: Called with (step, done, total).

    Returns:
        For each query its documents, with influence on the statement and on the answer alone.

    Raises:
        QueryError: There is no query, or one cannot be encoded.
        InputError: k is below 1; an unknown index, tag or value.
    """
    if not queries:
        raise QueryError("there is no query; give a prompt and a completion.")
    if k < 1:
        raise InputError(f"k is the number of documents to name, at least 1; got {k}")
    encoded = owner.encode_queries(queries)
    owner.fit(report)
    if not exact and index is None:
        owner.index(report=report)
    opened, recipe = None if exact else owner.open_index(index), owner.recipe(index)
    encoders, lexical = owner.encoders(recipe), bm25_of(owner)
    chosen = select(owner.corpus, where, (), None).numbers
    kept = np.arange(owner.corpus.documents) if chosen is None else chosen
    out: list[tuple[Teacher, ...]] = []
    step = max(1, group_size(owner) // 2)
    for start in range(0, len(encoded), step):
        group = encoded[start : start + step]
        answers, statements = ask(owner, group), ask(owner, [statement_of(query) for query in group])
        dense, scale = Dense(len(group), owner.corpus.documents), 1.0 / owner.trained_on
        if opened is None:
            against(owner, [solved(statements, encoders)], [dense], scale, chosen, lambda _: None, recipe.objective)
        else:
            from_index(statements, opened, encoders, [dense], scale, owner.corpus.weights, plain=False)
        for number, query in enumerate(group):
            words = np.asarray(lexical.scores(query_text(owner, query)), dtype=np.float64)
            look = _Look(owner, encoders, recipe.objective, answers, statements, number, kept)
            out.append(look.first(np.nan_to_num(dense.scores[number]), words, k))
            if report is not None:
                report("taught", len(out), len(encoded))
    return out


class _Look:
    """Names the documents of one query of a group."""

    def __init__(
        self,
        owner: "Attributor",
        encoders: dict[str, SiteEncoder],
        objective: Objective,
        answers: Question,
        statements: Question,
        number: int,
        kept: NDArray[np.int64],
    ) -> None:
        self.owner, self.objective, self.kept = owner, objective, kept
        row = slice(number, number + 1)
        cut = [
            Question(each.queries[row], {name: blocks[row] for name, blocks in each.blocks.items()}, each.losses[row])
            for each in (statements, answers)
        ]
        self.statement, self.answer = (solved(each, encoders) for each in cut)

    def first(self, statement: Array, words: Array, k: int) -> tuple[Teacher, ...]:
        """The first k, their influence by the model's own gradients; levels and spreads are those of all kept."""
        kept = self.kept
        searched = taught(statement[kept][None], words[kept][None])[0]
        near = kept[np.lexsort((kept, -searched))[: _DEPTH * k]]
        exact = refine(self.owner, near.tolist(), self.statement, self.answer, self.objective)
        better = statement.copy()
        for document, (influence, _) in exact.items():
            better[document] = influence
        scores = dict(zip(kept.tolist(), taught(better[kept][None], words[kept][None])[0].tolist(), strict=True))
        best = sorted(near.tolist(), key=lambda document: (-scores[document], document))[:k]
        ranks = {document: 1 + int((words[kept] > words[document]).sum()) for document in best}
        return tuple(
            self._teacher(document, rank, scores[document], exact[document], float(words[document]), ranks[document])
            for rank, document in enumerate(best, 1)
        )

    def _teacher(
        self, document: int, rank: int, score: float, nats: tuple[float, float], bm25: float, bm25_rank: int
    ) -> Teacher:
        record, tokenizer = self.owner.corpus.document(document), self.owner.tokenizer
        text = "" if tokenizer is None else str(tokenizer.decode(record.tokens[:_EXCERPT], skip_special_tokens=True))
        return Teacher(
            rank=rank,
            id=record.id,
            source=record.source,
            row=record.row,
            hash=record.hash,
            document=document,
            score=score,
            statement=nats[0],
            influence=nats[1],
            bm25=bm25,
            bm25_rank=bm25_rank,
            excerpt=text[:_EXCERPT],
        )

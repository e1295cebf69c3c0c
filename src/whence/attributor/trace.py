"""The main job: which documents made the model say this?

Search all documents (index or model), look closely at the ends of the ranking and at what BM25 would have named, and
put everything a reader needs side by side: influence, gradient dot, BM25, sites, windows, tokens.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whence.attributor.breakdowns import breakdown
from whence.attributor.details import Detail, document_details, query_token_shares, refine
from whence.attributor.hits import HitMaker, conversation, last_message, query_tokens
from whence.attributor.leakage import query_leakage
from whence.attributor.search import (
    Found,
    Question,
    Ranking,
    ask,
    from_index,
    from_model,
    group_size,
    search,
    solved,
)
from whence.attributor.selection import Selection, select
from whence.attributor.summaries import summary
from whence.attributor.texts import bm25_of, query_text
from whence.errors import InputError, QueryError
from whence.gradients import Recipe, SiteEncoder
from whence.interfaces import EncodedQuery, Leakage, Query, Trace, TraceResult
from whence.model import Objective
from whence.scoring import Dense
from whence.store import Index

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["TraceOptions", "scores", "trace"]

Report = Callable[[str, int, int], None]
_BM25_TOP = 5


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How a trace looks and reports.

    Attributes:
        k: Proponents and opponents to list, each.
        index: Name of the index; the run's own if None.
        exact: Score every document by running the model, without an index.
        candidates: Score only these documents (numbers or ids), by running the model.
        refine: Re-rank the top of an index search (three times k at each end) by running the model.
        tokens: Take hits apart by token, on both sides.
        bm25: Rank by BM25 beside it.
        where: Conditions that a document must meet to be ranked, as in ``created>=2021``; see `whence.data.conditions`.
        by: Tags by which influence is added up: ``source``, ``language``, ``created`` (by year) …
        method: A named method to rank by (`whence.methods.Bound`); the curvature of the run's index if None.
        scores_path: Keep every document's influence and gradient dot here (``.npy`` float32 [2Q, documents]).
        report: Called with (step, done, total).
    """

    k: int = 10
    index: str | None = None
    exact: bool = False
    candidates: Sequence[int | str] | None = None
    refine: bool = True
    tokens: bool = True
    bm25: bool = True
    where: Sequence[str] = ()
    by: Sequence[str] = ()
    method: Ranking | None = None
    scores_path: Path | None = None
    report: Report | None = None


def trace(owner: "Attributor", queries: Sequence[Query], **options: Any) -> TraceResult:
    """Trace queries to documents.

    Args:
        owner: The run; it is fitted and indexed first if that has not been done.
        queries: What the model said.
        options: See `TraceOptions`.

    Returns:
        Rankings with everything about their hits.

    Raises:
        QueryError: There is no query, or one cannot be encoded.
        InputError: An unknown option, candidate, index, tag or value.
    """
    known = [field.name for field in fields(TraceOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"trace() knows no option {', '.join(unknown)}; it has {', '.join(known)}.")
    opts = TraceOptions(**options)
    if not queries:
        raise QueryError("there is no query; give --prompt and --completion, or a --query file with at least one row.")
    if opts.k < 1:
        raise InputError(f"k is the number of documents to list, at least 1; got {opts.k}")
    encoded = owner.encode_queries(queries)
    ranking = opts.method
    if ranking is not None:
        ranking.prepare(opts.report)
    recipe, index = _prepare(owner, opts)
    candidates = _candidates(owner, opts.candidates)
    selection = select(owner.corpus, opts.where, opts.by, candidates)
    by_index = index is not None and candidates is None
    encoders = owner.encoders(recipe)
    lexical = bm25_of(owner) if opts.bm25 else None
    traces: list[Trace] = []
    step = group_size(owner)
    for start in range(0, len(encoded), step):
        question = ask(owner, encoded[start : start + step])
        spool, advance = _spool(owner, opts, start), _advance(owner, opts)
        inverse = solved(question, encoders) if ranking is None else ranking.solve(question)
        found = search(
            owner, question, encoders, index if by_index else None, 3 * opts.k, spool, selection, advance, ranking,
            None if ranking is None else inverse, recipe.objective,
        )  # fmt: skip
        read = by_index and inverse is not None
        try:
            view = _View(owner, opts, question, found, encoders, lexical, read, selection, inverse, recipe.objective)
            for number in range(len(question.queries)):
                traces.append(view.trace(number))
                if opts.report is not None:
                    opts.report("trace", len(traces), len(encoded))
        finally:
            found.spool.close(keep=opts.scores_path is not None)
    return TraceResult(summary=summary(owner, recipe, index, opts), traces=tuple(traces))


def scores(
    owner: "Attributor", queries: Sequence[Query], *, index: str | None = None, exact: bool = False, plain: bool = False
) -> NDArray[np.float64]:
    """Influence of every document on every query in nats, [Q, documents], in memory.

    Args:
        owner: The run.
        queries: What the model said.
        index: Name of the index; the run's own if None.
        exact: Run the model over the corpus instead of reading an index.
        plain: The gradient dot product over n instead.
    """
    opts = TraceOptions(index=index, exact=exact)
    recipe, opened = _prepare(owner, opts)
    encoders = owner.encoders(recipe)
    out = []
    encoded = owner.encode_queries(queries)
    step = group_size(owner)
    for start in range(0, len(encoded), step):
        question = ask(owner, encoded[start : start + step])
        count = len(question.queries)
        dense = Dense(2 * count, owner.corpus.documents)
        if opened is None:
            from_model(
                owner, question, encoders, [dense], 1.0 / owner.trained_on, None, lambda _: None,
                objective=recipe.objective,
            )  # fmt: skip
        else:
            from_index(question, opened, encoders, [dense], 1.0 / owner.trained_on, owner.corpus.weights)
        out.append(dense.scores[count:] if plain else dense.scores[:count])
    return np.concatenate(out)


def _prepare(owner: "Attributor", opts: TraceOptions) -> tuple[Recipe, Index | None]:
    """Make what is missing, and open the index unless the model is to be run instead."""
    if opts.method is not None and not opts.method.reads_index:
        nothing = {"method": "identity", "projection": "kronecker", "coordinates": 64}  # its codes are never made
        return owner.config.recipe.model_copy(update=nothing), None
    own = None if opts.method is None else opts.method.recipe
    if opts.method is not None and opts.index is not None:
        own = _readable(owner, opts.index, own or owner.recipe(), opts.method.name)
        if not opts.exact and opts.candidates is None:
            return own, owner.open_index(opts.index)
    if opts.exact or opts.candidates is not None:
        if own is None:
            owner.fit(opts.report)
        return own or owner.recipe(opts.index), None
    if own is not None:
        return own, owner.index(own, opts.report)
    if opts.index is None:
        owner.index(report=opts.report)
    return owner.recipe(opts.index), owner.open_index(opts.index)


def _readable(owner: "Attributor", index: str, own: Recipe, method: str) -> Recipe:
    """The recipe of an index that a method can read, having the gradients of documents that it is of.

    Raises:
        InputError: Its documents have other gradients, or it keeps other coordinates than the method says.
    """
    recipe = owner.recipe(index)
    says = own.coordinates not in (None, owner.recipe().coordinates)
    if says and (own.projection, own.coordinates) != (recipe.projection, recipe.coordinates):
        raise InputError(
            f"method {method!r} keeps {own.coordinates} {own.projection} coordinates a site, and the index {index} "
            "does not; leave coordinates or --index out."
        )
    if recipe.objective != own.objective:
        has, wanted = (getattr(each, "power", 0.0) for each in (recipe.objective, own.objective))
        raise InputError(
            f"the index {index} holds documents' gradients of power {has:g}, and method {method!r} is one of power "
            f"{wanted:g} (0: plain, above: unsaturated); leave --index out, and one that it can read is made."
        )
    return recipe


def _advance(owner: "Attributor", opts: TraceOptions) -> Callable[[int], None]:
    done = 0

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if opts.report is not None:
            opts.report("scoring", done, owner.corpus.tokens)

    return advance


def _spool(owner: "Attributor", opts: TraceOptions, start: int) -> Path:
    if opts.scores_path is not None:
        path = opts.scores_path
        return path if start == 0 else path.with_name(f"{path.stem}-{start:06d}{path.suffix}")
    import os

    return owner.run.traces / f".scores-{os.getpid()}-{start}.npy"


def _candidates(owner: "Attributor", chosen: Sequence[int | str] | None) -> NDArray[np.int64] | None:
    if chosen is None:
        return None
    numbers = [int(each) for each in chosen if not isinstance(each, str)]
    names = {each for each in chosen if isinstance(each, str)}
    seen: set[str] = set()
    if names:
        for number in range(owner.corpus.documents):
            name = owner.corpus.document(number).id
            if name in names:
                numbers.append(number)
                seen.add(name)
    unknown = sorted(names - seen) + [str(n) for n in numbers if not 0 <= n < owner.corpus.documents]
    if unknown or not numbers:
        raise InputError(
            f"no candidate was given; name at least one of the {owner.corpus.documents:,} documents by its id."
            if not unknown
            else f"{len(unknown)} of the candidates are no document of this corpus: {', '.join(unknown[:8])}. "
            f"It has {owner.corpus.documents:,}; the first is {owner.corpus.document(0).id!r}."
        )
    return np.unique(np.asarray(numbers, dtype=np.int64))


class _View:
    """Turns one group's search into traces."""

    def __init__(
        self,
        owner: "Attributor",
        opts: TraceOptions,
        question: Question,
        found: Found,
        encoders: dict[str, SiteEncoder],
        lexical: Any,
        indexed: bool,
        selection: Selection,
        inverse: Mapping[str, Any] | None,
        objective: Objective,
    ) -> None:
        self.owner, self.opts, self.question, self.found, self.selection = owner, opts, question, found, selection
        self.encoders, self.lexical, self.indexed = encoders, lexical, indexed
        self.objective = objective  # whose gradients documents have
        self.inverse = inverse  # None: documents have vectors of their own, and nothing can be taken apart

    def trace(self, number: int) -> Trace:
        """The trace of one query of the group."""
        query = self.question.queries[number]
        lexical, lexical_ranks = self._lexical(query)
        named = _named(lexical)
        values = self._values(number, named)
        k = self.opts.k
        ends = [document for document in values if document not in named or self._at_an_end(number, document)]
        best = sorted((d for d in ends if values[d] > 0), key=lambda d: (-values[d], d))[:k]
        worst = sorted((d for d in ends if values[d] < 0), key=lambda d: (values[d], d))[:k]
        details, on_query = self._details(number, query, [*best, *worst, *named])
        places = self._places(number, [*best, *worst, *named])
        found, refined = self.found, self.opts.refine or not self.indexed
        make = HitMaker(
            self.owner, found, number, self.indexed, refined, lexical, lexical_ranks, details, on_query, places
        )
        proponents = tuple(make.hit(document, rank, values) for rank, document in enumerate(best, 1))
        opponents = tuple(make.hit(document, rank, values, True) for rank, document in enumerate(worst, 1))
        return Trace(
            query_id=query.id,
            query=query.query.model_dump(mode="json", exclude_none=True),
            prompt=query.query.prompt or conversation(query.query),
            completion=query.query.completion or last_message(query.query),
            contrast=query.query.contrast,
            tokens=query_tokens(query, [on_query.get(hit.document) for hit in (*proponents, *opponents)]),
            loss=self.question.losses[number],
            proponents=proponents,
            opponents=opponents,
            bm25_top=tuple(make.hit(document, rank, values) for rank, document in enumerate(named, 1)),
            scored=self.found.moments.count,
            documents=self.owner.corpus.documents,
            where=self.selection.where,
            breakdowns=tuple(
                breakdown(grouping, sums, number, best)
                for grouping, sums in zip(self.selection.groupings, self.found.groups, strict=True)
            ),
            mean=float(self.found.moments.mean[number]),
            std=float(self.found.moments.std[number]),
            unit="nats" if self.opts.method is None else self.opts.method.unit,
            leakage=self._leakage(number),
        )

    def _leakage(self, number: int) -> Leakage | None:
        """What the search could not see of the query; a named method has a damping of its own."""
        if self.opts.method is not None:
            return None
        blocks = {name: each[number : number + 1] for name, each in self.question.blocks.items()}
        return query_leakage(blocks, self.encoders, self.indexed)[0]

    def _lexical(self, query: EncodedQuery) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None]:
        """BM25's scores and ranks; among the documents that meet the conditions, if there are any."""
        if self.lexical is None:
            return None, None
        scores = self.lexical.scores(query_text(self.owner, query))
        chosen = self.selection.chosen
        if not self.selection.where or chosen is None:
            return scores, self.lexical.ranks(scores)
        ranks = np.full(len(scores), np.count_nonzero(chosen), dtype=np.int64)
        ranks[chosen] = self.lexical.ranks(scores[chosen])
        return np.where(chosen, scores, np.float32(0.0)), ranks

    def _at_an_end(self, number: int, document: int) -> bool:
        return document in self.found.top.documents[number] or document in self.found.bottom.documents[number]

    def _places(self, number: int, documents: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Rank of some documents among all, by influence as searched and by gradient dot."""
        wanted = np.asarray(documents, dtype=np.int64)
        influence = self.found.spool.ranks(number, wanted)
        plain = self.found.spool.ranks(len(self.question.queries) + number, wanted)
        return dict(zip(documents, zip(influence.tolist(), plain.tolist(), strict=True), strict=True))

    def _values(self, number: int, named: Sequence[int]) -> dict[int, float]:
        """Influence of both ends of the ranking and of BM25's first, by running the model where that is wanted."""
        ends = np.concatenate([self.found.top.documents[number], self.found.bottom.documents[number]])
        documents = list(dict.fromkeys([*ends.tolist(), *named]))
        searched = {document: self.found.influence(number, document) for document in documents}
        if not (self.indexed and self.opts.refine):
            return {document: value for document, value in searched.items() if value == value}
        exact = refine(self.owner, documents, *self._targets(number), self.objective)
        return {document: influence for document, (influence, _) in exact.items()}

    def _targets(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        assert self.inverse is not None
        row = slice(number, number + 1)
        return (
            {name: blocks[row] for name, blocks in self.inverse.items()},
            {name: blocks[row] for name, blocks in self.question.blocks.items()},
        )

    def _details(
        self, number: int, query: EncodedQuery, documents: Sequence[int]
    ) -> tuple[dict[int, Detail], dict[int, NDArray[np.float64]]]:
        chosen = list(dict.fromkeys(documents))
        if not self.opts.tokens or not chosen or self.inverse is None:
            return {}, {}
        details = document_details(self.owner, chosen, *self._targets(number), self.objective)
        if self.opts.method is not None:  # its vectors need not be linear in the query's gradient
            return details, {}
        return details, query_token_shares(self.owner, query, chosen, self.encoders, self.objective)


def _named(lexical: NDArray[np.float32] | None) -> list[int]:
    """BM25's first documents."""
    if lexical is None:
        return []
    order = np.lexsort((np.arange(len(lexical)), -lexical))[:_BM25_TOP]
    return [int(document) for document in order if lexical[document] > 0]


def trace_name(queries: Sequence[Query], recipe: str) -> str:
    """A folder name for a trace: the same questions to the same index give the same name."""
    text = recipe + "".join(query.model_dump_json() for query in queries)
    return "trace-" + hashlib.sha256(text.encode()).hexdigest()[:10]

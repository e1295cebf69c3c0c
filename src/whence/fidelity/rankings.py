"""The baselines of a lab, each run over a corpus and timed: what they need from a run is gathered here.

BM25, TF-IDF and representations are asked with a query's prompt and completion; a contrast is not part of the question.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from whence.attributor import Attributor, batches, exact_influence, gradient_cosines
from whence.attributor.texts import query_text, texts
from whence.baselines import Tfidf, alike, build_bm25, mean_states, open_bm25, random_scores, similarities
from whence.data import batch_from_sequences
from whence.errors import NumericalError
from whence.fidelity.costs import Meter, Spent
from whence.fidelity.methods import MethodSpec
from whence.gradients import Recipe, language_examples
from whence.interfaces import EncodedQuery
from whence.model import CausalLM, LanguageInputs

__all__ = ["Ranked", "baseline_scores", "document_losses", "state_similarities"]

Scores = NDArray[np.float64]
Queries = Sequence[EncodedQuery]
Ranked = tuple[Scores, Spent, Spent, float]
"""Scores [Q, N], what preparing the documents took, what asking took, and bytes stored for all documents."""


def baseline_scores(owner: Attributor, queries: Queries, spec: MethodSpec, meter: Meter) -> Ranked:
    """Scores [Q, N] of a baseline and what they cost.

    Args:
        owner: A run whose corpus has been read; of the sites that the gradient baselines take.
        queries: The queries.
        spec: Which baseline.
        meter: What times it.
    """
    assert spec.baseline is not None
    return _BASELINES[spec.baseline](owner, queries, spec, meter)


def _at_once(scores: Callable[[Attributor, Queries, MethodSpec], Scores]) -> Callable[..., Ranked]:
    """A baseline that prepares nothing."""

    def ranked(owner: Attributor, queries: Queries, spec: MethodSpec, meter: Meter) -> Ranked:
        made, spent = meter.measure(lambda: scores(owner, queries, spec))
        return made, Spent(), spent, 0.0

    return ranked


def _random(owner: Attributor, queries: Queries, spec: MethodSpec) -> Scores:
    corpus = owner.corpus
    hashes = [corpus.document(number).hash for number in range(corpus.documents)]
    return random_scores(hashes, [_content(query) for query in queries], spec.seed)


def _content(query: EncodedQuery) -> str:
    texts = [query.text, *([query.contrast] if query.contrast is not None else [])]
    return "|".join(f"{each.tokens.tolist()}{np.flatnonzero(each.loss_mask).tolist()}" for each in texts)


def _length(owner: Attributor, queries: Queries, _: MethodSpec) -> Scores:
    corpus = owner.corpus
    return alike(np.array([corpus.document(n).loss_mask.sum() for n in range(corpus.documents)]), len(queries))


def _loss(owner: Attributor, queries: Queries, _: MethodSpec) -> Scores:
    return alike(document_losses(owner), len(queries))


@torch.no_grad()
def document_losses(owner: Attributor) -> Scores:
    """The model's own loss on every document, float64 [N]: -log p in nats, summed over its target tokens.

    Raises:
        NumericalError: A loss is not finite.
    """
    rows = np.arange(owner.corpus.windows, dtype=np.int64)
    documents = owner.corpus.documents_of_windows(rows)
    losses = np.zeros(owner.corpus.documents)
    for places, examples, _ in batches(owner, rows):
        found = CausalLM().losses(owner.loaded.model, examples.inputs)
        np.add.at(losses, documents[places], found.double().cpu().numpy())
    if not np.isfinite(losses).all():
        number = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise NumericalError(f"the loss of document {number} is not finite; run the model in another --dtype.")
    return losses


def _bm25(owner: Attributor, queries: Queries, _: MethodSpec, meter: Meter) -> Ranked:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bm25"
        _, index = meter.measure(lambda: build_bm25(texts(owner), folder))
        stored = sum(path.stat().st_size for path in folder.iterdir())

        def ask() -> Scores:
            opened = open_bm25(folder)
            return np.stack([opened.scores(query_text(owner, query)) for query in queries]).astype(np.float64)

        scores, query = meter.measure(ask)
    return scores, index, query, float(stored)


def _tfidf(owner: Attributor, queries: Queries, _: MethodSpec, meter: Meter) -> Ranked:
    made, index = meter.measure(lambda: Tfidf(texts(owner)))
    scores, query = meter.measure(lambda: np.stack([made.scores(query_text(owner, query)) for query in queries]))
    return scores, index, query, float(made.bytes)


def _representation(owner: Attributor, queries: Queries, spec: MethodSpec, meter: Meter) -> Ranked:
    model = owner.loaded.model
    count = owner.corpus.documents
    states, index = meter.measure(lambda: mean_states(model, _document_inputs(owner), count, spec.layers))

    def ask() -> Scores:
        asked = mean_states(model, _query_inputs(owner, queries), len(queries), spec.layers)
        return similarities(asked, states)

    scores, query = meter.measure(ask)
    return scores, index, query, 4.0 * states.size  # float32 keeps all that a ranking needs


def state_similarities(owner: Attributor, queries: Queries, layers: Sequence[float] = (1.0,)) -> Scores:
    """Cosine of the mean hidden states of each query and document at relative depths, float64 [Q, documents]."""
    model = owner.loaded.model
    documents = mean_states(model, _document_inputs(owner), owner.corpus.documents, layers)
    return similarities(mean_states(model, _query_inputs(owner, queries), len(queries), layers), documents)


def _document_inputs(owner: Attributor) -> Iterator[tuple[NDArray[np.int64], LanguageInputs]]:
    rows = np.arange(owner.corpus.windows, dtype=np.int64)
    documents = owner.corpus.documents_of_windows(rows)
    for places, examples, _ in batches(owner, rows):
        yield documents[places], examples.inputs


def _query_inputs(owner: Attributor, queries: Queries) -> Iterable[tuple[NDArray[np.int64], LanguageInputs]]:
    for number, query in enumerate(queries):
        batch = batch_from_sequences([(query.text.tokens, query.text.loss_mask)])
        yield np.array([number]), language_examples(batch, owner.loaded).inputs


def _gradient_dot(owner: Attributor, queries: Queries, _: MethodSpec) -> Scores:
    return exact_influence(owner, queries, Recipe(method="identity"))


def _gradient_cosine(owner: Attributor, queries: Queries, _: MethodSpec) -> Scores:
    return gradient_cosines(owner, queries)


_BASELINES: dict[str, Callable[..., Ranked]] = {
    "random": _at_once(_random),
    "length": _at_once(_length),
    "loss": _at_once(_loss),
    "bm25": _bm25,
    "tfidf": _tfidf,
    "representation": _representation,
    "gradient-dot": _at_once(_gradient_dot),
    "gradient-cosine": _at_once(_gradient_cosine),
}

"""Scores of all documents for all questions of an audit, side by side, kept on disk so that an audit goes on.

Axes: Q questions, N documents. Every matrix is float32 [Q, N], made once per audit folder and read back memory-mapped:
influence and gradient dot on the answer and, where one is given, on the contrast (the answer it should have been);
BM25; representation similarity; cosine of words, which says what is on topic. Decides nothing.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor, influence_and_dots
from whence.attributor.texts import bm25_of, query_text, texts
from whence.baselines import Tfidf
from whence.data import tokenizer_fingerprint
from whence.fidelity import state_similarities
from whence.interfaces import EncodedQuery, Query
from whence.runs import is_done, open_array, publish, write_array

__all__ = ["Evidence", "asked_of", "gather", "influence_on", "kept", "words_alike"]

Matrix = NDArray[np.float32]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evidence:
    """What is known of every document for every question.

    Attributes:
        queries: The questions; `encoded` are the same as tokens.
        influence: On log p(answer), nats.
        dots: Gradient dots, over n.
        contrast: Influence on log p(contrast), nats; nan where a question has none.
        lexical: BM25 scores for prompt and answer.
        states: Cosine of mean last hidden states.
        topic: Cosine of words (TF-IDF) with prompt, answer and contrast.
    """

    queries: tuple[Query, ...]
    encoded: tuple[EncodedQuery, ...]
    influence: Matrix
    dots: Matrix
    contrast: Matrix
    lexical: Matrix
    states: Matrix
    topic: Matrix

    @property
    def documents(self) -> int:
        """N."""
        return int(self.influence.shape[1])


def gather(
    owner: Attributor,
    queries: Sequence[Query],
    folder: Path,
    *,
    exact: bool = False,
    index: str | None = None,
    alike: bool = False,
    report: Report | None = None,
) -> Evidence:
    """Score every document for every question; what is in the folder already is read back.

    Args:
        owner: A run; it is fitted, and indexed unless `exact`, if that has not been done.
        queries: The questions; a contrast is scored on its own, as another answer to the same prompt.
        folder: Where matrices are kept.
        exact: Run the model over the corpus instead of reading an index.
        index: Name of the index.
        alike: Let all sites count alike, whatever the recipe says; see `Recipe.alike`.
        report: Called with (step, done, total).
    """
    answers = [query.model_copy(update={"contrast": None}) for query in queries]
    others = [n for n, query in enumerate(queries) if query.contrast is not None]
    turned = [answers[n].model_copy(update={"completion": queries[n].contrast, "span": None}) for n in others]
    answer = influence_on(owner, answers, folder / "answer", exact=exact, index=index, alike=alike, report=report)
    other = influence_on(owner, turned, folder / "contrast", exact=exact, index=index, alike=alike, report=report)
    encoded = owner.encode_queries(answers)
    contrast = np.full(answer["influence"].shape, np.nan, dtype=np.float32)
    contrast[others] = other["influence"]
    beside = kept(
        folder / "beside",
        asked_of(owner, queries),
        lambda: {
            "lexical": _lexical(owner, encoded),
            "states": state_similarities(owner, encoded),
            "topic": words_alike(list(texts(owner)), [_words(query) for query in queries]),
        },
    )
    return Evidence(tuple(queries), tuple(encoded), contrast=contrast, **answer, **beside)


def influence_on(
    owner: Attributor,
    queries: Sequence[Query],
    folder: Path,
    *,
    exact: bool = False,
    index: str | None = None,
    alike: bool = False,
    report: Report | None = None,
) -> dict[str, Matrix]:
    """Influence and gradient dots alone, as ``influence`` and ``dots``; arguments as for `gather`."""
    owner.fit(report)
    if not exact and index is None:
        owner.index(report=report)
    opened = None if exact else owner.open_index(index)
    recipe = owner.recipe(None if exact else index)
    recipe = recipe.alike if exact and alike else recipe  # the documents of an index are what they are
    made = [recipe.model_dump(mode="json"), exact, owner.config.fit.model_dump(mode="json"), owner.config.model.sites]
    solve = recipe.alike if alike and recipe != recipe.alike else None
    made = made if solve is None else [*made, solve.method]
    bound = [*made, *asked_of(owner, queries), owner.trained_on]

    def scored() -> dict[str, NDArray[np.float64]]:
        if not queries:
            return dict.fromkeys(("influence", "dots"), np.zeros((0, owner.corpus.documents)))
        asked = owner.encode_queries(queries)
        counter = _Counter(owner.corpus.tokens, report)
        found = influence_and_dots(owner, asked, opened, recipe, counter, solve=solve)
        return dict(zip(("influence", "dots"), found, strict=True))

    return kept(folder, bound, scored)


class _Counter:
    """Adds up the tokens that were scored, for the progress bar."""

    def __init__(self, total: int, report: Report | None) -> None:
        self.done, self.total, self.report = 0, total, report

    def __call__(self, tokens: int) -> None:
        self.done += tokens
        if self.report is not None:
            self.report("scoring", self.done % self.total or self.total, self.total)


def asked_of(owner: Attributor, queries: Sequence[Query]) -> list[object]:
    """Of which model and corpus what is asked, and how it becomes tokens; folders may be shared by runs."""
    tokenizer = None if owner.tokenizer is None else tokenizer_fingerprint(owner.tokenizer)
    said = [query.model_dump_json(exclude={"metadata"}) for query in queries]
    return [owner.corpus.fingerprint, owner.loaded.fingerprint, tokenizer, said]


def _words(query: Query) -> str:
    return " ".join(filter(None, (query.prompt, query.completion, query.contrast)))


def _lexical(owner: Attributor, encoded: Sequence[EncodedQuery]) -> NDArray[np.float64]:
    lexical = bm25_of(owner)
    return np.stack([lexical.scores(query_text(owner, query)) for query in encoded]).astype(np.float64)


def words_alike(documents: Sequence[str], questions: Sequence[str]) -> NDArray[np.float64]:
    """Cosine of the words (TF-IDF) of each question with each document, float64 [Q, N] in 0..1."""
    made = Tfidf(documents)
    return np.stack([made.scores(question) for question in questions])


def kept(
    folder: Path, bound: Sequence[object], make: Callable[[], Mapping[str, NDArray[np.float64]]]
) -> dict[str, Matrix]:
    """Arrays that were made from the same before, or are made now; under a name that says from what."""
    name = hashlib.sha256(json.dumps(bound, sort_keys=True, default=str).encode()).hexdigest()[:16]
    place = folder / name
    if not is_done(place):
        with publish(place, {"from": name}) as temporary:
            for key, array in make().items():
                write_array(temporary / f"{key}.npy", array.astype(np.float32))
    return {path.stem: open_array(path) for path in sorted(place.glob("*.npy"))}

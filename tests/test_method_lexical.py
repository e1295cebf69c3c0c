"""BM25, TF-IDF and representations as methods, each against its formula written out, and what they share with a run."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from method_world import QUERIES, N, make_place, open_run
from whence.attributor import run_steps
from whence.attributor.states import state_similarities
from whence.attributor.steps import CorpusStep
from whence.errors import InputError, ModelError
from whence.fidelity.methods import MethodSpec
from whence.fidelity.scorers import run_methods
from whence.methods import Bound, Work, method_scores, parse_method


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("lexical"))


@pytest.fixture(scope="module")
def owner(place):
    run = open_run(place, place / "run")
    run_steps([CorpusStep(run)])
    return run


def scores(owner, spec, queries=None):
    asked = owner.encode_queries(QUERIES) if queries is None else queries
    return method_scores(parse_method(spec), Work(owner), asked)


def bags(owner):
    """Words of every document and of every query, as counts, by the tokenizer alone."""
    tokenizer = owner.tokenizer
    documents = [tokenizer.decode(owner.corpus.document(n).tokens.tolist()) for n in range(N)]
    asked = [tokenizer.decode(q.text.tokens.tolist()) for q in owner.encode_queries(QUERIES)]
    drop = {"<s>", "</s>", "<unk>"}
    return [[Counter(w for w in text.split() if w not in drop) for text in part] for part in (documents, asked)]


def bm25(documents, query, k1, b):
    mean = sum(sum(bag.values()) for bag in documents) / len(documents)
    out = []
    for bag in documents:
        total = 0.0
        for word, times in query.items():
            having = sum(word in other for other in documents)
            if having:
                weight = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
                length = 1 - b + b * sum(bag.values()) / mean
                total += times * weight * bag[word] / (bag[word] + k1 * length)
        out.append(total)
    return out


@pytest.mark.parametrize(("spec", "k1", "b"), [("bm25", 1.5, 0.75), ("bm25:k1=0.6,b=0.2", 0.6, 0.2)])
def test_bm25_is_its_formula(owner, spec, k1, b):
    documents, asked = bags(owner)
    wanted = [bm25(documents, query, k1, b) for query in asked]
    np.testing.assert_allclose(scores(owner, spec), wanted, rtol=1e-5, atol=1e-6)


def test_tfidf_is_its_formula(owner):
    documents, asked = bags(owner)
    words = sorted({word for bag in documents for word in bag})
    having = np.array([sum(word in bag for bag in documents) for word in words])
    rare = np.log((1 + N) / (1 + having)) + 1
    rows, queries = (np.array([[bag[word] for word in words] for bag in part]) * rare for part in (documents, asked))
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(scores(owner, "tfidf"), queries @ rows.T / lengths, rtol=1e-12)


@pytest.mark.parametrize("layers", [(1.0,), (0.0, 0.5, 1.0)])
def test_representations_are_cosines_of_mean_states(owner, layers):
    model, corpus = owner.loaded.model, owner.corpus
    owners = corpus.documents_of_windows(np.arange(corpus.windows))

    def states(tokens):
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor(tokens)[None], output_hidden_states=True).hidden_states
        return torch.stack([hidden[round(depth * (len(hidden) - 1))][0] for depth in layers])

    windows = [states(np.array(corpus.window_tokens(row)[0])) for row in range(corpus.windows)]
    means = [torch.cat([w for w, o in zip(windows, owners, strict=True) if o == n], 1).mean(1) for n in range(N)]
    asked = [states(np.array(q.text.tokens)).mean(1) for q in owner.encode_queries(QUERIES)]
    wanted = [[torch.cosine_similarity(q, d, dim=-1).mean().item() for d in means] for q in asked]
    spec = "representations:layers=" + "+".join(map(str, layers))
    np.testing.assert_allclose(scores(owner, spec), wanted, rtol=1e-9)
    np.testing.assert_allclose(state_similarities(owner, owner.encode_queries(QUERIES), layers), wanted, rtol=1e-9)


def test_one_depth_is_a_list_of_one():
    assert parse_method("representations:layers=0.5").layers == (0.5,)
    assert parse_method("representations:layers=0.5").spec == "representations:layers=0.5"


@pytest.mark.parametrize(
    ("spec", "said"),
    [("bm25:k1=0", "greater than 0"), ("bm25:b=2", "less than or equal to 1"), ("tfidf:k1=1", "no setting"),
     ("representations:layers=-1", "greater than or equal to 0"), ("representations:layers=0+12", "layers.1")],
)  # fmt: skip
def test_what_is_refused(spec, said):
    with pytest.raises(InputError, match=said):
        parse_method(spec)


def test_the_default_index_is_that_of_a_trace(owner):
    """A trace by BM25 ranks as its own column does, and reads the same index."""
    result = owner.trace(QUERIES, k=4, method=Bound(parse_method("bm25"), Work(owner)), tokens=False)
    assert result.summary.unit == "score"
    (step,) = parse_method("bm25").steps(Work(owner))[1:]
    assert step.folder == owner.run.path / "bm25"
    for trace, row in zip(result.traces, scores(owner, "bm25"), strict=True):
        assert [hit.bm25_rank for hit in trace.proponents] == sorted(hit.bm25_rank for hit in trace.proponents)
        for hit in trace.proponents:
            assert hit.influence == pytest.approx(row[hit.document], rel=1e-5)
            assert hit.influence == pytest.approx(hit.bm25, rel=1e-5)


def test_without_a_tokenizer_token_ids_are_the_words(owner):
    """Queries that are tokens already can be asked; text cannot, and is refused with what to do."""
    import copy

    asked = owner.encode_queries(QUERIES)
    bare = copy.copy(owner)
    bare.tokenizer = None
    documents = [Counter(map(int, owner.corpus.document(n).tokens)) for n in range(N)]
    words = [Counter(map(int, query.text.tokens)) for query in asked]
    wanted = [bm25(documents, query, 1.2, 0.75) for query in words]
    np.testing.assert_allclose(scores(bare, "bm25:k1=1.2", asked), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="--tokenizer"):
        bare.encode_queries(QUERIES)


def test_a_contrast_is_not_part_of_the_question(owner):
    asked = owner.encode_queries(QUERIES)
    assert asked[1].contrast is not None
    plain = [replace(query, contrast=None) for query in asked]
    for spec in ("bm25", "tfidf", "representations"):
        np.testing.assert_array_equal(scores(owner, spec), scores(owner, spec, plain))


def test_the_labs_rows_are_these_methods(owner, tmp_path):
    """Baselines and methods of one lab share fits and scores, and say what they store."""
    same = {
        "bm25": MethodSpec(baseline="bm25"),
        "tfidf": MethodSpec(baseline="tfidf"),
        "representations:layers=0.5+1": MethodSpec(baseline="representation", layers=(0.5, 1.0)),
        "dot": MethodSpec(baseline="gradient-dot"),
        "cosine": MethodSpec(baseline="gradient-cosine"),
    }
    rows = [MethodSpec(name=f"as {spec}", method=spec) for spec in same]
    found = {each.spec.name: each for each in run_methods(owner, QUERIES, [*same.values(), *rows], tmp_path)}
    for spec, row in same.items():
        one, two = found[row.name], found[f"as {spec}"]
        np.testing.assert_array_equal(one.scores, two.scores)
        assert one.summary.kind == "baseline"
        assert one.summary.cost.bytes_per_document == two.summary.cost.bytes_per_document
        assert one.summary.cost.fit == 0
        assert one.summary.cost.index == two.summary.cost.index, "made once, paid by both"
        assert (one.summary.cost.bytes_per_document > 0) == (one.summary.cost.index > 0) == ("gradient" not in row.name)
    assert found["as representations:layers=0.5+1"].summary.cost.bytes_per_document == 2 * 8 * 8


def test_a_trace_does_not_say_that_it_ran_the_model(owner):
    said = owner.trace(QUERIES[:1], k=2, method=Bound(parse_method("bm25"), Work(owner))).summary
    assert said.recipe == "none of the run's: the method scores documents by itself"


@pytest.mark.parametrize(
    ("typed", "message"),
    [("", "a method has no name"), ("proxy", r"it needs the setting 'model', as in proxy:model=…")],
)
def test_what_is_missing_is_said(typed, message):
    with pytest.raises(InputError, match=message):
        parse_method(typed)

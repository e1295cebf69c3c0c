"""Baselines beside BM25: TF-IDF against scikit-learn, representations against a plain loop, random ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import as_loaded, causal_lm, documents, sequences
from whence.baselines import Tfidf, alike, mean_states, random_scores, similarities, words
from whence.data import batch_from_sequences
from whence.gradients import language_examples

TEXTS = [row["text"] for row in documents(30, seed=3)]
ASKED = ["the harbour was built before", "gulls gulls gulls", "salt", "no such thing", "", "Salt, WOOL and letters!"]


def sklearn_scores(texts, asked):
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(tokenizer=words, token_pattern=None, lowercase=False)
    rows = vectorizer.fit_transform(texts)
    return (vectorizer.transform(asked) @ rows.T).toarray()


def test_tfidf_is_that_of_scikit_learn():
    made = Tfidf(iter(TEXTS))
    got = np.stack([made.scores(text) for text in ASKED])
    np.testing.assert_allclose(got, sklearn_scores(TEXTS, ASKED), atol=1e-12)
    assert got[0].max() > 0
    assert not got[3:5].any(), "no shared word, and no word at all"
    assert made.documents == 30
    assert made.bytes > 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(alphabet="ab é東 \n", max_size=12), max_size=6), st.text(alphabet="ab é東 \n", max_size=12))
def test_tfidf_of_any_texts_is_a_cosine(texts, asked):
    made = Tfidf(texts)
    scores = made.scores(asked)
    assert scores.shape == (len(texts),)
    assert ((scores >= 0) & (scores <= 1 + 1e-12)).all()
    for number, text in enumerate(texts):
        own = made.scores(text)[number]
        assert own == pytest.approx(1.0 if words(text) else 0.0)


def test_tfidf_of_nothing():
    assert Tfidf([]).scores("anything").shape == (0,)
    assert Tfidf(["", "  "]).scores("anything").tolist() == [0.0, 0.0]


# ------------------------------------------------------------------ representations


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request):
    return as_loaded(causal_lm(request.param))


def states_of(loaded, texts, **batching):
    batch = batch_from_sequences(texts, **batching)
    inputs = language_examples(batch, loaded).inputs
    return mean_states(loaded.model, [(np.arange(len(texts)), inputs)], len(texts), (0.0, 0.5, 1.0))


def one_by_one(loaded, tokens):
    with torch.no_grad():
        states = loaded.model(input_ids=torch.from_numpy(tokens)[None], output_hidden_states=True).hidden_states
    chosen = [states[0], states[round(0.5 * (len(states) - 1))], states[-1]]
    return np.stack([state[0].double().mean(0).numpy() for state in chosen])


@pytest.mark.parametrize("batching", [{}, {"side": "left"}, {"pack": 20}], ids=["right", "left", "packed"])
def test_mean_states_do_not_see_padding(loaded, batching):
    texts = sequences()
    got = states_of(loaded, texts, **batching)
    wanted = np.stack([one_by_one(loaded, tokens) for tokens, _ in texts], 1)
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-11)


def test_a_text_in_two_examples_has_the_mean_of_all_its_tokens(loaded):
    (first, _), (second, _) = texts = sequences((6, 3))
    inputs = language_examples(batch_from_sequences(texts), loaded).inputs
    got = mean_states(loaded.model, [(np.array([1, 1]), inputs)], 2)
    parts = one_by_one(loaded, first)[-1] * 6 + one_by_one(loaded, second)[-1] * 3
    np.testing.assert_allclose(got[0, 1], parts / 9, rtol=1e-9)
    assert not got[0, 0].any(), "a text without a token"


def test_similarities_are_averaged_cosines():
    random = np.random.default_rng(0)
    asked, stored = random.normal(size=(2, 3, 5)), random.normal(size=(2, 4, 5))
    stored[:, 2] = 0
    got = similarities(asked, stored)
    for q in range(3):
        for n in (0, 1, 3):
            cosines = [
                a[q] @ b[n] / np.linalg.norm(a[q]) / np.linalg.norm(b[n]) for a, b in zip(asked, stored, strict=True)
            ]
            assert got[q, n] == pytest.approx(np.mean(cosines))
    assert not got[:, 2].any()


# ------------------------------------------------------------------ without a question


def test_random_scores_belong_to_what_is_said_and_not_to_its_place():
    texts, asked = [f"document {n}" for n in range(200)], ["one", "two"]
    scores = random_scores(texts, asked)
    assert scores.shape == (2, 200)
    assert np.abs(scores).max() < 1
    assert abs(scores.mean()) < 0.1
    assert abs(np.corrcoef(scores)[0, 1]) < 0.25, "queries are independent"
    np.testing.assert_array_equal(random_scores(texts[::-1], asked[::-1]), scores[::-1, ::-1])
    assert not np.array_equal(random_scores(texts, asked, seed=1), scores)
    same = random_scores(["twice", "twice"], ["one"])
    assert same[0, 0] == same[0, 1]


def test_alike_is_one_row_for_every_query():
    assert alike(np.array([3, 1]), 2).tolist() == [[3.0, 1.0], [3.0, 1.0]]

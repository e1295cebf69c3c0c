"""Which documents taught a statement: influence on question and answer together, beside BM25."""

import json

import numpy as np
import pytest

from command_line import ASK, result
from conftest import documents, write_jsonl
from whence import Attributor, Query
from whence.attributor.teaching import WORDS, statement_of, taught
from whence.attributor.texts import bm25_of, query_text
from whence.errors import InputError, QueryError
from whence.report.teaching import MEANING, TITLE

SETTINGS = {
    "fit": {"sample": 1.0, "precision": "full"},
    "recipe": {"bits": 16, "projection": "none", "precision": "full"},
    "corpus": {"context": 32},
}
QUERIES = [
    Query(prompt="the harbour was", completion=" built before town had a name"),
    Query(prompt="every ship that came in", completion=" winter with salt", contrast=" wool letters"),
]


@pytest.fixture(scope="module")
def run(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teaching")
    rows = [{**row, "lang": "en" if n % 2 else "de"} for n, row in enumerate(documents(16))]
    data = write_jsonl(folder / "corpus.jsonl", rows)
    settings = {**SETTINGS, "model": {"dtype": "float64"}}
    return Attributor(folder / "run", model=str(shop / "gpt2"), data=[data], settings=settings, device="cpu")


@pytest.fixture(scope="module")
def whole(run):
    """Influence on each statement, written as a question of its own [Q, N], and BM25 of its words."""
    run.index()
    stated = [Query(completion=query.prompt + query.completion) for query in QUERIES]
    lexical = [bm25_of(run).scores(query_text(run, each)) for each in run.encode_queries(QUERIES)]
    return run.scores(stated, exact=True), np.stack(lexical).astype(np.float64)


def test_a_statement_is_every_token_that_something_stands_before(run):
    asked = run.encode_queries(QUERIES)[1]
    stated = statement_of(asked)
    assert stated.contrast is None
    assert stated.text.tokens.tolist() == asked.text.tokens.tolist()
    assert stated.text.loss_mask.tolist() == [False] + [True] * (len(asked.text.tokens) - 1)


def test_words_and_influence_are_standardised_before_they_are_added():
    draw = np.random.default_rng(0)
    statement, lexical = draw.normal(size=(2, 40)), draw.gamma(1.0, size=(2, 40))
    base = taught(statement, lexical)
    assert np.allclose(base, taught(1e-4 * statement + 3.0, 50.0 * lexical - 1.0))
    assert np.allclose(taught(statement, lexical, words=0.0).std(1), 1.0)
    assert np.allclose(base - taught(statement, lexical, words=0.0), WORDS * (taught(lexical, lexical, words=0.0)))


def test_where_words_cannot_tell_influence_decides():
    same = np.array([[3.0, 3.0, 0.0, 0.0, 0.0]])
    assert taught(np.array([[0.1, 0.2, 0.9, 0.0, 0.0]]), same).argmax() == 1
    assert taught(np.array([[0.1, 0.2, 0.9, 0.0, 0.0]]), np.ones((1, 5))).argmax() == 2


@pytest.mark.parametrize("exact", [False, True])
def test_the_ranking_is_that_of_exact_influence_and_words(run, whole, exact):
    statement, lexical = whole
    answers = run.scores(QUERIES, exact=True)
    expected = taught(statement, lexical)
    for number, found in enumerate(run.teachers(QUERIES, k=6, exact=exact)):
        order = np.lexsort((np.arange(16), -expected[number]))[:6]
        assert [each.document for each in found] == order.tolist()
        assert [each.rank for each in found] == [1, 2, 3, 4, 5, 6]
        assert [each.statement for each in found] == pytest.approx(statement[number, order].tolist(), rel=1e-6)
        assert [each.influence for each in found] == pytest.approx(answers[number, order].tolist(), rel=1e-6)
        assert [each.score for each in found] == pytest.approx(expected[number, order].tolist(), rel=1e-2)
        assert (
            found[0].excerpt.split()
            == documents(16)[found[0].document]["text"].split()[: len(found[0].excerpt.split())]
        )


def test_only_documents_that_meet_the_conditions_are_ranked(run, whole):
    kept = np.arange(0, 16, 2)
    scores = taught(*(each[:, kept] for each in whole))
    for number, found in enumerate(run.teachers(QUERIES, k=3, exact=True, where=["lang=de"])):
        assert [each.document for each in found] == kept[np.argsort(-scores[number], kind="stable")[:3]].tolist()


def test_nothing_to_rank_is_refused(run):
    with pytest.raises(QueryError, match="no query"):
        run.teachers([])
    with pytest.raises(InputError, match="at least 1; got 0"):
        run.teachers(QUERIES, k=0)


def test_it_is_shown_beside_influence_and_kept(whence, copy):
    plain = whence("trace", "--run", copy, *ASK, "-k", "4", "--out", copy / "plain")
    shown = whence("trace", "--run", copy, *ASK, "-k", "4", "--taught")
    assert TITLE not in plain
    assert TITLE in " ".join(shown.split())
    (trace,) = result(copy)["traces"]
    (other,) = json.loads((copy / "plain" / "result.json").read_text())["traces"]
    assert [hit["id"] for hit in trace["proponents"]] == [hit["id"] for hit in other["proponents"]]
    assert len(trace["taught"]) == 4
    assert other["taught"] == []
    (page,) = copy.glob("traces/*/page.html")
    assert MEANING in page.read_text()
    assert TITLE not in (copy / "plain" / "page.html").read_text()


def test_it_does_not_go_with_other_rankings(refused, copy, tmp_path):
    (tmp_path / "ids").write_text("d0\n")
    refused(
        "trace", "--run", copy, *ASK, "--taught", "--candidates", tmp_path / "ids", says=("--taught", "--candidates")
    )

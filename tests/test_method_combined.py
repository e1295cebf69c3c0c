"""Sums of standard scores against numpy over whole matrices; how they are written; what is refused."""

import numpy as np
import pytest

from checkpoint_world import make_checkpoints
from method_world import QUERIES, N, make_place, open_run
from whence.attributor import run_steps
from whence.attributor.steps import CorpusStep
from whence.errors import InputError
from whence.fidelity.methods import MethodSpec
from whence.fidelity.scorers import run_methods
from whence.methods import Bound, Work, method_scores, parse_method
from whence.methods import combined as module
from whence.methods.bm25 import LexicalBm25


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("combined"))


@pytest.fixture(scope="module")
def owner(place):
    run = open_run(place, place / "run")
    run_steps([CorpusStep(run)])
    return run


def scores(owner, spec, **work):
    return method_scores(parse_method(spec), Work(owner, **work), owner.encode_queries(QUERIES))


def standard(table):
    return (table - table.mean(1, keepdims=True)) / table.std(1, keepdims=True)


@pytest.mark.parametrize("step", [1 << 16, 7])
def test_is_the_weighted_sum_of_standard_scores(owner, step, monkeypatch):
    monkeypatch.setattr(module, "_STEP", step)
    specs = ["ekfac:damping=0.2", "bm25", "representations:layers=0+1"]
    parts = [standard(scores(owner, spec)) for spec in specs]
    wanted = 0.5 * parts[0] + 2 * parts[1] + 0 * parts[2]
    found = scores(owner, f"combined:of=({specs[0]})+bm25+({specs[2]}),weights=0.5+2+0")
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert not list(owner.run.path.glob("methods/combined-*/*")), "scores on the way are not kept"


def test_a_combination_of_combinations(owner):
    inner = "combined:of=dot+bm25,weights=1+3"
    found = scores(owner, f"combined:of=({inner})+tfidf,weights=2+1")
    wanted = 2 * standard(scores(owner, inner)) + standard(scores(owner, "tfidf"))
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_a_query_without_a_shared_word_has_no_lexical_part(owner):
    """BM25 scores all documents 0, so that they do not differ and it adds nothing."""
    from dataclasses import replace

    asked = owner.encode_queries(QUERIES)[:1]
    unknown = [replace(each, text=replace(each.text, tokens=np.zeros_like(each.text.tokens))) for each in asked]
    assert not method_scores(parse_method("bm25"), Work(owner), unknown).any()
    found = method_scores(parse_method("combined:of=dot+bm25,weights=1+5"), Work(owner), unknown)
    np.testing.assert_allclose(found, standard(method_scores(parse_method("dot"), Work(owner), unknown)), atol=1e-9)


def test_documents_without_a_score_have_zero_before_standard_scores():
    raw = np.array([[3.0, np.nan, 1.0, -2.0], [np.nan, np.nan, 5.0, np.nan]])
    found = module.Standard(raw).of(np.arange(4))
    np.testing.assert_allclose(found, standard(np.nan_to_num(raw)), rtol=1e-12)


def test_in_a_trace(owner):
    spec = "combined:of=(unsaturated:bits=8)+tfidf,weights=1+0.2"
    result = owner.trace(QUERIES, k=3, method=Bound(parse_method(spec), Work(owner)))
    for trace, row in zip(result.traces, scores(owner, spec), strict=True):
        assert [hit.document for hit in trace.proponents] == np.argsort(-row)[:3].tolist()
        assert [hit.influence for hit in trace.proponents] == pytest.approx(np.sort(-row)[:3] * -1, rel=1e-5)


def test_what_a_part_has_to_say_is_said(owner, monkeypatch):
    monkeypatch.setattr(LexicalBm25, "notes", lambda self, work: ("mind the words.",))
    method = parse_method("combined:of=ekfac+bm25")
    assert Bound(method, Work(owner)).notes == ("BM25: mind the words.",)


def test_cost_is_that_of_the_parts_and_shared_steps_count_once(owner, tmp_path):
    specs = ["ekfac", "(relatif:damping=0.2)", "tfidf"]
    rows = [MethodSpec(method=spec.strip("()")) for spec in specs]
    rows.append(MethodSpec(method=f"combined:of={'+'.join(specs)},weights=1+1+1"))
    first, second, third, together = (each.summary.cost for each in run_methods(owner, QUERIES, rows, tmp_path))
    assert together.bytes_per_document == pytest.approx(second.bytes_per_document + third.bytes_per_document)
    assert together.index == third.index
    assert together.fit == pytest.approx(second.fit), "EK-FAC's fit is part of RelatIF's"
    assert together.fit > first.fit > 0


SPECS = {
    "combined": (("unsaturated", "tfidf"), (1.0, 0.2)),
    "combined:weights=1+1e6": (("unsaturated", "tfidf"), (1.0, 1e6)),
    "combined:of=( ekfac )+bm25": (("ekfac", "bm25"), (1.0, 0.2)),
    "combined:of=(ekfac:damping=0.10)+(bm25:k1=1.5)": (("ekfac", "bm25"), (1.0, 0.2)),
    "combined:of=(representations:layers=0+1)+(combined:of=dot+bm25,weights=1+2),weights=1+0": (
        ("representations:layers=0+1", "combined:of=dot+bm25,weights=1+2"), (1.0, 0.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("typed", SPECS)
def test_how_it_is_written(typed):
    method = parse_method(typed)
    assert (method.of, method.weights) == SPECS[typed]
    assert parse_method(method.spec) == method
    assert parse_method(method.spec).spec == method.spec


def test_a_path_with_a_plus_or_a_comma():
    method = parse_method("proxy:model=(small+1,b),damping=0.2")
    assert method.model == "small+1,b"
    assert parse_method(method.spec) == method
    both = parse_method("combined:of=(proxy:model=(small+1,b))+bm25")
    assert parse_method(both.spec) == both
    assert both.parts[0].model == "small+1,b"


def test_its_label_shows_weights():
    assert parse_method("combined:of=(ekfac:damping=0.5)+bm25").label == "EK-FAC, damping 0.5 + 0.2 BM25"


WRONG = {
    "combined:of=ekfac": "two or more different",
    "combined:of=ekfac+ekfac": "two or more different",
    "combined:of=ekfac+(ekfac:damping=0.1)": "two or more different",
    "combined:of=ekfac+bm26": "no method 'bm26'. Did you mean 'bm25'",
    "combined:of=ekfac+(bm25:c=1)": "no setting 'c'; its settings: k1, b",
    "combined:of=ekfac+bm25+tfidf": "3 methods need as many 'weights'.* got 2",
    "combined:weights=0+0": "all 0",
    "combined:weights=1+-1": "greater than or equal to 0",
    "combined:of=(ekfac+bm25": "parenthesis is left open",
    "combined:of=ekfac)+bm25": "closes none",
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_is_refused(typed):
    with pytest.raises(InputError, match=WRONG[typed]):
        parse_method(typed)


def test_parts_say_what_they_need(owner, place):
    work = Work(owner)
    for part, said in (("tracin", "--checkpoints"), ("magic", "--training")):
        with pytest.raises(InputError, match=said):
            Bound(parse_method(f"combined:of={part}+bm25"), work)
    found = scores(owner, "combined:of=tracin+bm25,weights=1+0", checkpoints=make_checkpoints(place))
    assert found.shape == (len(QUERIES), N)

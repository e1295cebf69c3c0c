"""Statistics, nulls, clusters, overlaps, softness and verdicts of audits, each against an independent computation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from whence.audits import statistics as s
from whence.audits.clusters import members_of, near_duplicates
from whence.audits.documents import weigh
from whence.audits.evidence import Evidence
from whence.audits.membership import Surprise
from whence.audits.nulls import against_null, clearly_present, elsewhere, standardised, weighted_q
from whence.audits.overlap import longest_run, shared_runs
from whence.audits.softness import softness
from whence.audits.why import judge
from whence.errors import InputError
from whence.interfaces import DocumentEvidence

SCORES = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=4, max_size=40)


@given(SCORES)
def test_areas_agree_with_scikit_learn_ties_included(pairs):
    scores, positive = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    if positive.all() or not positive.any():
        assert np.isnan(s.auroc(scores, positive))
        return
    assert s.auroc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
    assert s.average_precision(scores, positive) == pytest.approx(metrics.average_precision_score(positive, scores))
    false, true, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    mine = s.roc(scores, positive)
    np.testing.assert_allclose(mine[0], false)
    np.testing.assert_allclose(mine[1], true)


@given(SCORES)
def test_macro_f1_agrees_with_scikit_learn(pairs):
    truth, said = [p[1] for p in pairs], [p[0] > 0 for p in pairs]
    wanted = metrics.f1_score(truth, said, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert s.macro_f1(truth, said) == pytest.approx(wanted)


def test_p_values_of_the_null_itself_are_uniform_and_a_signal_is_called():
    random = np.random.default_rng(0)
    null = random.normal(size=4000)
    p = s.empirical_p(random.normal(size=4000), null)
    assert abs((p < 0.1).mean() - 0.1) < 0.02
    assert s.empirical_p(np.array([9.0]), null)[0] == pytest.approx(1 / 4001)
    q = s.benjamini_hochberg(np.r_[s.empirical_p(np.full(5, 9.0), null), p[:200]])
    assert (q[:5] < 0.1).all()


def test_wilson_holds_its_level():
    random = np.random.default_rng(1)
    inside = [(e := s.wilson(int(k), 40)).low <= 0.9 <= e.high for k in random.binomial(40, 0.9, 2000)]
    assert 0.93 <= np.mean(inside) <= 0.98
    with pytest.raises(InputError, match="4 of 3"):
        s.wilson(4, 3)


def test_odds_gini_and_partial_correlation():
    odds, p = s.odds_ratio(9, 10, 10, 100)
    assert odds.low > 1
    assert p < 1e-6
    assert s.odds_ratio(1, 10, 10, 100)[0].low < 1
    with pytest.raises(InputError):
        s.odds_ratio(11, 10, 0, 5)
    assert s.gini(np.ones(7)) == pytest.approx(0)
    random = np.random.default_rng(2)
    date = random.normal(size=300)
    first, second = date + 0.3 * random.normal(size=300), date + 0.3 * random.normal(size=300)
    r, p = s.partial_spearman(first, second, date)
    assert abs(r) < 0.15
    assert p > 0.01
    assert s.partial_spearman(first, date + 1e-3 * first, second)[0] > 0.5


def test_bootstrap_of_a_mean_is_its_normal_interval():
    values = np.random.default_rng(3).normal(size=400)
    found = s.bootstrap(lambda x: float(x.mean()), values, draws=2000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


# ---------------------------------------------------------------------- nulls


def test_standardising_undoes_any_scale_of_questions_and_level_of_documents():
    random = np.random.default_rng(0)
    scores = random.normal(size=(30, 200))
    changed = scores * random.uniform(0.1, 10, (30, 1)) + random.normal(size=(30, 1))
    np.testing.assert_allclose(standardised(changed), standardised(scores), atol=1e-9)
    level = standardised(scores + 5 * random.normal(size=(1, 200)))
    assert abs(level.mean(0)).max() < 1.0
    assert np.isfinite(standardised(np.zeros((3, 4)))).all()
    assert standardised(scores[:1]).shape == (1, 200)


def test_nothing_is_called_where_there_is_nothing_and_planted_pairs_are():
    random = np.random.default_rng(0)
    noise, presence = random.normal(size=(40, 300)), random.normal(size=(40, 300))
    off = presence < 1.0
    called = weighted_q(against_null(standardised(noise), off, 0).p, presence) < 0.05
    assert called.sum() <= 2
    planted = noise.copy()
    planted[np.arange(40), np.arange(40)] += 8
    presence[np.arange(40), np.arange(40)] += 4
    off = presence < 1.0
    q = weighted_q(against_null(standardised(planted), off, 0).p, presence)
    assert (np.diag(q) < 0.05).mean() > 0.9
    q[np.arange(40), np.arange(40)] = 1
    assert (q < 0.05).sum() <= 4


def test_presence_alone_is_never_called():
    random = np.random.default_rng(0)
    noise, presence = random.normal(size=(40, 300)), random.normal(size=(40, 300))
    presence[np.arange(40), np.arange(40)] += 12
    off = presence < 1.0
    q = weighted_q(against_null(standardised(noise), off, 0).p, presence)
    assert (np.diag(q) < 0.05).sum() <= 4


def test_both_sides_of_the_null_are_each_others_mirror():
    random = np.random.default_rng(0)
    z, off = random.normal(size=(9, 60)), random.random((9, 60)) < 0.7
    np.testing.assert_array_equal(against_null(z, off, 0).under, against_null(-z, off, 0).p)


@pytest.mark.parametrize(("asked", "others"), [(1, 3), (2, 0), (3, 2), (40, 0)])
def test_a_placebo_leaves_no_question_at_its_own_matter(asked, others):
    place = elsewhere(asked, others)
    assert sorted(place.tolist()) == list(range(asked + others))
    assert (place[:asked] != np.arange(asked)).all()


def test_what_is_found_for_questions_of_the_null_makes_no_discovery_cheaper(monkeypatch):
    """Passages of the corpus have their own document, which is always found; BH over them too would let noise pass."""
    random = np.random.default_rng(0)
    questions, documents, asked = 34, 120, 10
    said = [" ".join(random.choice([f"w{i}" for i in range(900)], 12)) for _ in range(documents)]
    monkeypatch.setattr("whence.audits.documents.texts", lambda owner: said)
    influence, lexical, topic = (random.normal(size=(questions, documents)) for _ in range(3))
    topic = np.where(topic > 2, 0.5, 0.0)
    own = np.arange(asked, questions)
    for scores, more in ((influence, 30.0), (lexical, 8.0), (topic, 0.5)):
        scores[own, own] += more
    blank = np.full((questions, documents), np.nan)
    found = Evidence((), (), influence, influence, blank, lexical, influence, topic)
    object.__setattr__(found, "queries", tuple(range(questions)))
    weighed = weigh(None, found, asked=asked)
    alone = weighted_q(weighed.p[:asked], weighed.presence.z[:asked], weighed.presence.z[asked:])
    np.testing.assert_allclose(weighed.q[:asked], alone)
    assert (weighed.q[asked:] == 1).all()
    assert (weigh(None, found).q[asked:][np.arange(len(own)), own] < 0.05).all()


def test_with_few_answers_what_is_most_present_of_little_is_not_taken_for_present():
    """Two made-up rows that share stop words with the corpus; the null's passages have documents of their own."""
    random = np.random.default_rng(0)
    z = random.normal(size=(24, 400))
    passages = np.arange(2, 24)
    z[passages, passages] = 12.0
    best = z[:2].argmax(1)
    z[[0, 1], best] = 6.0
    p = np.full((2, 400), 0.6)
    p[np.arange(2), best] = 0.005  # documents that share words do a little more to any answer
    assert (weighted_q(p, z[:2]).min(1) <= 0.05).all()
    assert weighted_q(p, z[:2], z[2:]).min() > 0.5
    assert not clearly_present(against_null(z, np.ones_like(z, dtype=bool)).p)[:2].any()
    z[0, 7] = 10.0
    p[0, 7] = 1e-4
    assert weighted_q(p, z[:2], z[2:])[0, 7] <= 0.05
    assert clearly_present(against_null(z, z < 9).p)[0, 7]


def test_an_effect_on_the_answer_alone_is_never_cheaper_than_one_on_either_side(monkeypatch):
    random = np.random.default_rng(0)
    said = [" ".join(random.choice([f"w{i}" for i in range(900)], 12)) for _ in range(60)]
    monkeypatch.setattr("whence.audits.documents.texts", lambda owner: said)
    influence, contrast, lexical, topic = (random.normal(size=(30, 60)) for _ in range(4))
    contrast[3, 0] += 30.0
    topic = np.where(topic > 2, 0.5, 0.0)
    topic[3, 0] = 0.5
    contrast[10:] = np.nan
    found = Evidence(tuple(range(30)), (), influence, influence, contrast, lexical, influence, topic)
    weighed = weigh(None, found)
    assert (weighed.q_answer >= weighed.q).all()
    np.testing.assert_array_equal(weighed.q_answer[10:] >= weighed.q[10:], True)
    assert np.isnan(weighed.p_contrast[10:]).all()
    assert weighed.p_contrast[3, 0] < 0.01


# ---------------------------------------------------------------------- words


def test_copies_make_one_cluster_and_others_none():
    base = "the committee of the province reported that grain had been lost to frost in the second winter of the plan"
    texts = [
        base,
        "something else entirely was written here about ships and salt",
        base + " again",
        base.upper(),
        "",
        "",
    ]
    assert near_duplicates(texts, 0.7).tolist() == [0, 1, 0, 0, 4, 5]
    assert members_of(near_duplicates(texts, 0.7))[0] == [0, 2, 3]
    assert near_duplicates([]).tolist() == []


@settings(deadline=None)
@given(st.lists(st.text("abc ", max_size=40), max_size=8))
def test_clusters_are_named_by_their_first_member(texts):
    found = near_duplicates(texts)
    assert all(found[name] == name for name in found)
    assert (found <= np.arange(len(texts))).all()


def test_shared_runs_count_words_and_not_lines_or_case():
    item = "Janet sells 16 eggs each day at the market for two dollars an egg"
    wrapped = item.upper().replace(" ", "\n").replace("eggs", "eggs,")
    found = shared_runs([item, "short one"], [wrapped, "nothing", "a SHORT one here"])
    np.testing.assert_allclose(found, [[1, 1], [1, 1]])
    half = shared_runs([item], [" ".join(item.split()[:10])])
    assert half[0, 0] == pytest.approx(3 / 7)
    assert half[1, 0] == 0


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_longest_run_is_the_longest(said, held):
    found = longest_run(" ".join(said), " ".join(held)).split()
    runs = {tuple(said[i:j]) for i in range(len(said)) for j in range(i + 1, len(said) + 1)}
    there = {tuple(held[i:j]) for i in range(len(held)) for j in range(i + 1, len(held) + 1)}
    assert len(found) == max((len(run) for run in runs & there), default=0)
    assert not found or tuple(found) in runs & there


def test_soft_words_and_what_is_left_out():
    assert softness("Troops massacred the prisoners.").share < 0.3
    assert softness("The relocation measures were completed in an orderly operation.").share > 0.7
    assert softness("nothing of the kind").share == 0.5
    assert softness("People were there.", "Soldiers murdered them and burned the dead").missing == 2


# ---------------------------------------------------------------------- the verdict


def document(**changes) -> DocumentEvidence:
    told = {
        "document": 0, "id": "d", "source": "s", "influence": 5.0, "contrast": 1.0, "z": 6.0, "presence": 8.0,
        "p_effect": 1e-4, "p_presence": 1e-4, "p": 1e-4, "q": 1e-3, "q_answer": 1e-3, "on_topic": True, "topic": 0.5,
        "influence_rank": 1, "bm25_rank": 1, "dot_rank": 1, "states_rank": 1, "softness": 0.5,
    }  # fmt: skip
    return DocumentEvidence(**{**told, **changes})


def document_with(**changes) -> DocumentEvidence:
    return document(**{"p_contrast": 0.5, "q_answer": 1e-3, **changes})


def test_no_verdict_that_finds_something_rests_on_more_than_the_rate():
    for q in (1e-3, 0.02, 0.049, 0.051, 0.09, 0.3, 1.0):
        for fdr in (0.01, 0.05, 0.1):
            for changes in ({}, {"influence": 1.0, "contrast": 5.0, "softness": 0.9}):
                why = judge((document(q=q, q_answer=q, **changes),), fdr)
                positive = why.verdict in ("absorbed", "euphemistic")
                assert not positive or why.best.q <= fdr
                assert (why.confidence is not None) == positive
                assert "more than chance" not in " ".join(why.reasons) or q <= fdr or why.verdict == "confabulated"


def test_nothing_found_has_no_percentage_and_says_no_more_than_that():
    why = judge((document(q=0.9),))
    assert (why.verdict, why.confidence, why.runner_up, why.best) == ("confabulated", None, "", None)
    assert "not a proof" in " ".join(why.reasons)
    assert "will not help" not in why.action


def test_present_without_a_shown_effect_cannot_be_told():
    why = judge((document(q=0.9, present=True, id="there"), document(q=0.8, id="other")))
    assert (why.verdict, why.detail, why.confidence) == ("cannot tell", "present, effect not shown", None)
    assert why.best.id == "there"
    assert "No effect of it" in why.reasons[1]
    assert judge((document(q=1e-3, present=True),)).verdict == "absorbed"
    assert judge((document(q=0.9, present=True, on_topic=False),)).verdict == "confabulated"


def test_an_effect_on_the_contrast_alone_is_called_by_its_name():
    told = {"p_contrast": 1e-5, "q_answer": 1.0}
    why = judge((document_with(p_effect=0.99, influence=5.0, contrast=1.0, **told),))
    assert (why.verdict, why.detail) == ("cannot tell", "no effect on the answer itself")
    assert "moves the contrast" in " ".join(why.reasons)
    why = judge((document_with(q=0.0499, p_effect=0.0012, p_contrast=0.0012, q_answer=0.0503),))
    assert "moves answer or contrast, taken together," in " ".join(why.reasons)
    assert "No effect is shown on the answer alone (effect p 0.0012; q 0.05)" in why.reasons[0]
    why = judge((document_with(p_effect=0.4, influence=1.0, contrast=9.0, softness=0.9, **told),))
    assert why.verdict == "euphemistic"
    assert "on the contrast p 1e-5" in why.reasons[0]
    assert "moves the contrast" in why.reasons[0]


def test_sentences_agree_with_their_numbers_and_signs():
    why = judge((document(influence=54.0, contrast=-43.0, q=0.01, q_answer=0.01, softness=0.9),))
    assert why.verdict == "absorbed"
    assert "supports the answer more: +54 nats on the answer and −43 on the contrast" in " ".join(why.reasons)
    assert "does not state" not in " ".join((*why.reasons, *why.against))
    assert why.runner_up in ("", "nothing found")
    assert why.runner_up == "" or why.likely[why.runner_up] >= 0.05


@given(st.floats(0.0, 80.0), st.floats(0.0, 80.0), st.floats(0.1, 9.0), st.integers(1, 40))
def test_an_answer_that_costs_no_more_than_the_models_own_words_is_never_unlikely(loss, own, spread, tokens):
    found = Surprise(loss, own, spread, tokens, 7.6)
    if found.unlikely:
        assert loss > own + 4 * spread or loss > 0.7 * 7.6 * tokens


def test_each_verdict_has_its_signature():
    assert judge((document(),)).verdict == "absorbed"
    assert judge((document(influence=1.0, contrast=5.0, softness=0.9),)).verdict == "euphemistic"
    assert judge((document(q=0.9),)).verdict == "confabulated"
    assert judge(()).verdict == "confabulated"
    assert judge((document(on_topic=False),)).verdict == "confabulated"
    blunt = judge((document(influence=1.0, contrast=5.0, softness=0.1),))
    assert blunt.verdict == "cannot tell"
    assert "say otherwise" in " ".join(blunt.reasons)
    assert blunt.detail == "documents say otherwise"
    assert blunt.runner_up == "said otherwise"
    assert "It speaks bluntly" in " ".join(blunt.against)


@pytest.mark.parametrize("q", [0.01, 0.04, 0.05, 0.11])
def test_what_is_called_the_runner_up_is_what_speaks_for_it(q):
    why = judge((document(q=q, q_answer=q, influence=2.0, contrast=1.9, softness=0.55),))
    assert why.verdict == "cannot tell" or why.runner_up != why.verdict
    said = " ".join(why.against)
    telling = {"euphemistic": "speaks softly", "nothing found": "what chance brings up", "said otherwise": "bluntly"}
    assert [name for name, words in telling.items() if words in said] in ([why.runner_up], [])
    assert bool(why.runner_up) == bool(why.against)


def test_beliefs_add_up_and_the_runner_up_is_the_second():
    why = judge((document(influence=2.0, contrast=1.9, softness=0.6, q=0.05),))
    assert sum(why.likely.values()) == pytest.approx(1)
    order = sorted(why.likely, key=lambda name: -why.likely[name])
    assert why.runner_up in order[:2]
    assert why.reasons
    assert why.against
    assert why.action


def test_without_a_contrast_effect_decides_the_stance():
    assert judge((document(contrast=None),)).verdict == "absorbed"
    assert judge((document(contrast=None, p_effect=0.5, softness=0.9),)).verdict == "euphemistic"
    assert "no contrast was given" in " ".join(judge((document(contrast=None),)).reasons)


def test_more_evidence_is_more_belief():
    weaker, stronger = (judge((document(q=q),), 0.2).likely["absorbed"] for q in (0.1, 0.001))
    assert stronger > weaker

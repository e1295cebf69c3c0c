"""Does a finding hold when the question is worded otherwise? Against a slow oracle, and on a model trained here."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from audit_world import trained
from command_line import launch
from whence.attributor import Attributor
from whence.audits import load_responses
from whence.audits.documents import weigh
from whence.audits.evidence import Evidence, gather
from whence.audits.nulls import elsewhere
from whence.audits.responses import Response, asked_otherwise
from whence.audits.why import judge
from whence.audits.wordings import Wordings, cautions_of, held, score_wordings
from whence.errors import QueryError
from whence.interfaces import DocumentEvidence, Query
from whence.interfaces.audits import Reworded, Wording, WordingCheck
from whence.report import load_safety, save_safety
from whence.report.audit_terminal import show_safety
from whence.report.safety_page import safety_headline, safety_page, safety_placebo

# ---------------------------------------------------------------------- files


def loaded(tmp_path, text, name="a.jsonl"):
    (tmp_path / name).write_text(text)
    return load_responses(str(tmp_path / name))


@pytest.mark.parametrize("column", ["paraphrases", "rewordings", "paraphrased_prompts"])
def test_other_wordings_are_read_from_any_of_their_columns(tmp_path, column):
    row = {
        "id": "a",
        "prompt": "Why?",
        "response": "So.",
        column: ["How so?", {"prompt": "What for?", "response": "Ha"}],
    }
    (one,) = loaded(tmp_path, json.dumps(row) + "\n")
    assert one.wordings == (Wording(prompt="How so?"), Wording(prompt="What for?", response="Ha"))
    assert column not in one.fields
    (same,) = loaded(tmp_path, f'prompt,response,{column}\nWhy?,So.,"[""How so?"", {{""prompt"": ""What for?"", ""response"": ""Ha""}}]"\n', "a.csv")  # fmt: skip # noqa: E501
    assert same.wordings == one.wordings
    assert [each.completion for each in asked_otherwise(one)] == [" So.", " Ha"]
    assert [each.id for each in asked_otherwise(one)] == ["a/wording1", "a/wording2"]


def test_wordings_that_are_none_are_noted_and_their_row_is_kept(tmp_path):
    rows = [
        {"prompt": "Why?", "response": "So.", "paraphrases": []},
        {"prompt": "Why?", "response": "So.", "paraphrases": ["Why?", " Why?  ", "How so?", "How  so?"]},
        {"prompt": "Why?", "response": "So.", "paraphrases": [{"prompt": "Why?", "response": "Not so."}]},
        {"prompt": "Why?", "response": "So.", "paraphrases": None},
    ]
    empty, twice, other, none = loaded(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert (empty.wordings, empty.notes) == ((), ("asked in no other words: its list of paraphrases is empty.",))
    assert twice.wordings == (Wording(prompt="How so?"),)
    assert [note.split(":")[0] for note in twice.notes] == [f"paraphrase {n} left out" for n in (1, 2, 4)]
    assert other.wordings[0].response == "Not so."
    assert (none.wordings, none.notes) == ((), ())


@pytest.mark.parametrize("value", ['"How so?"', "3", '{"prompt": "How so?"}', "true"])
def test_what_is_no_list_of_wordings_is_refused_by_line(tmp_path, value):
    text = '{"prompt": "a", "response": "b"}\n{"prompt": "Why?", "response": "So.", "paraphrases": ' + value + "}\n"
    with pytest.raises(QueryError, match=r"line 2: its paraphrases are .* no list. Give a list of prompts"):
        loaded(tmp_path, text)


@pytest.mark.parametrize("value", ["[3]", '[""]', '["x", {"response": "So."}]', "[null]"])
def test_a_wording_without_a_prompt_is_refused_by_its_number(tmp_path, value):
    with pytest.raises(QueryError, match=r"line 1: paraphrase [12] is .* has no prompt"):
        loaded(tmp_path, '{"prompt": "Why?", "response": "So.", "paraphrases": ' + value + "}\n")


def test_the_same_answer_span_and_contrast_follow_another_wording():
    query = Query(id="a", prompt="Who was it?", completion=" It was Ann", contrast=" Bob", span=(8, 11))
    given = Response(
        query, wordings=(Wording(prompt="Name: "), Wording(prompt="Who?"), Wording(prompt="X", response="Y"))
    )
    first, second, own = asked_otherwise(given)
    assert (first.completion, first.contrast, first.completion[slice(*first.span)]) == ("It was Ann", "Bob", "Ann")
    assert (second.completion, second.contrast, second.span) == (" It was Ann", " Bob", (8, 11))
    assert (own.completion, own.contrast, own.span) == (" Y", " Bob", None)
    joined = Response(Query(id="b", prompt="Who", completion="m"), wordings=(Wording(prompt="What"),))
    assert asked_otherwise(joined)[0].completion == "m"


# ---------------------------------------------------------------------- the test, against an oracle


def slow_p(wording, of, questions, off, level_of=None):
    """p-values of one wording's scores, in loops; `off` are the pairs of the null."""
    count, documents = questions.shape

    def over(row):
        return [(x - np.mean(row)) / np.std(row) for x in row]

    rows = [over(row) for row in questions]

    def placed(row, number):
        out = []
        for d in range(documents):
            others = [rows[q][d] for q in range(count) if q != number]
            level = sum(others) / len(others)
            scatter = sum((x - level) ** 2 for x in others)
            out.append((row[d] - level) / np.sqrt((scatter + 4) / (len(others) + 4)))
        return out

    null = [placed(rows[q], q)[d] for q in range(count) for d in range(documents) if off[q, d]]
    z = placed(over(wording), of)
    size = np.sqrt(np.mean([x**2 for d, x in enumerate(z) if off[of, d]]))
    z = [x * min(1.0, np.sqrt(np.mean(np.square(null))) / size) for x in z]
    return np.array([(1 + sum(x >= each for x in null)) / (1 + len(null)) for each in z])


@pytest.fixture
def invented(monkeypatch):
    """Evidence of questions and documents without words, two documents of which are copies; scores of wordings."""
    random = np.random.default_rng(0)
    said = [" ".join(random.choice([f"w{i}" for i in range(900)], 12)) for _ in range(30)]
    said[29] = said[4]
    monkeypatch.setattr("whence.audits.documents.texts", lambda owner: said)
    influence, lexical, topic, contrast = (random.normal(size=(9, 30)) for _ in range(4))
    topic = np.where(topic > 1.3, 0.5, 0.0)
    contrast[6:] = np.nan
    evidence = Evidence(tuple(range(9)), (), influence, influence, contrast, lexical, influence, topic)
    of = (0, 0, 3, 7, 8)
    wordings = Wordings(of, influence[list(of)] + random.normal(size=(5, 30)) * 3, random.normal(size=(5, 30)))
    wordings.contrast[3:] = np.nan
    return evidence, wordings


@pytest.mark.parametrize("placebo", [False, True])
def test_p_values_of_wordings_are_those_of_slow_loops(invented, placebo):
    evidence, wordings = invented
    weighed = weigh(None, evidence, topics=elsewhere(9) if placebo else None)
    found = held(weighed, wordings, 0.05)
    assert found.p.shape == (5, 29)

    def together(scores):
        out = np.delete(scores, 29, axis=1)
        out[:, 4] += scores[:, 29]
        return out

    matter = np.maximum(np.delete(evidence.topic, 29, 1), np.where(np.arange(29) == 4, evidence.topic[:, [29]], 0))
    about = matter[elsewhere(9)] >= 0.1 if placebo else matter >= 0.1
    off = ~about & (matter < 0.1)
    other = np.where(np.isnan(evidence.contrast), evidence.influence, evidence.contrast)
    for row, of in enumerate(wordings.of):
        p = slow_p(together(wordings.influence)[row], of, together(evidence.influence), off)
        alone = p
        if not np.isnan(wordings.contrast[row, 0]):
            alone = np.minimum(1, 2 * p)
            p = np.minimum(alone, 2 * slow_p(together(wordings.contrast)[row], of, together(other), off))
        np.testing.assert_allclose(found.p_answer[row], alone, rtol=1e-12)
        np.testing.assert_allclose(found.p[row], p, rtol=1e-12)
    one = found.document(0, 4)
    assert one.p == pytest.approx(tuple(found.p[:2, 4]))
    assert (one.held, one.held_answer) == ((found.p[:2, 4] <= 0.05).sum(), (found.p_answer[:2, 4] <= 0.05).sum())
    assert found.document(1, 4) is None


def test_a_wording_is_tested_alone_whatever_others_are_asked(invented):
    evidence, wordings = invented
    weighed = weigh(None, evidence)
    everything = held(weighed, wordings, 0.05)
    for row in range(5):
        one = Wordings((wordings.of[row],), wordings.influence[[row]], wordings.contrast[[row]])
        np.testing.assert_allclose(held(weighed, one, 0.05).p[0], everything.p[row], rtol=1e-12)
    turned = Wordings(wordings.of[::-1], wordings.influence[::-1], wordings.contrast[::-1])
    np.testing.assert_allclose(held(weighed, turned, 0.05).p[::-1], everything.p, rtol=1e-12)


def test_a_question_worded_as_it_was_has_its_own_p_values(invented):
    evidence, _ = invented
    weighed = weigh(None, evidence)
    same = Wordings((2, 7), evidence.influence[[2, 7]], evidence.contrast[[2, 7]])
    rows = weighed.effect.z[[2, 7]]
    common = np.sqrt((weighed.effect.z[weighed.off_topic] ** 2).mean())
    quiet = [
        np.sqrt((row[off] ** 2).mean()) <= common for row, off in zip(rows, weighed.off_topic[[2, 7]], strict=True)
    ]
    found = held(weighed, same, 0.05)
    assert any(quiet)
    for place, number in enumerate((2, 7)):
        if quiet[place] and np.isnan(evidence.contrast[number, 0]):
            np.testing.assert_allclose(found.p[place], weighed.p[number])
        above = rows[place] > 0
        assert (found.p_answer[place] >= np.minimum(1, weighed.effect.p[number]) - 1e-12)[above].all()


@pytest.mark.parametrize("form", [0.0, 1.5])
@pytest.mark.parametrize("contrasts", [False, True])
def test_where_there_is_nothing_wordings_hold_by_chance(monkeypatch, form, contrasts):
    """Also of another form than the questions, which moves every document in its own way."""
    random = np.random.default_rng(1)
    questions, documents = 40, 300
    said = [" ".join(random.choice([f"w{i}" for i in range(900)], 12)) for _ in range(documents)]
    monkeypatch.setattr("whence.audits.documents.texts", lambda owner: said)
    common = random.normal(size=documents)
    influence, other = (random.normal(size=(questions, documents)) + 2 * common for _ in range(2))
    topic = np.where(random.normal(size=(questions, documents)) > 1.0, 0.5, 0.0)
    contrast = other if contrasts else np.full_like(other, np.nan)
    evidence = Evidence(tuple(range(questions)), (), influence, influence, contrast, influence, influence, topic)
    weighed = weigh(None, evidence, topics=elsewhere(questions))
    shift = form * random.normal(size=documents)
    worded = influence + random.normal(size=influence.shape) + shift
    otherwise = other + random.normal(size=influence.shape) + shift if contrasts else contrast
    check = held(weighed, Wordings(tuple(range(questions)), worded, otherwise), 0.05).check(weighed)
    assert check.wordings == check.answers == questions
    assert check.pairs == weighed.on_topic.sum()
    assert 0.03 <= check.chance <= 0.06
    assert 0.03 <= check.on_topic <= 0.07  # 1,900 pairs: 0.05 give or take 0.005


def test_a_true_effect_holds_and_one_of_a_single_wording_does_not(monkeypatch):
    random = np.random.default_rng(2)
    said = [" ".join(random.choice([f"w{i}" for i in range(900)], 12)) for _ in range(200)]
    monkeypatch.setattr("whence.audits.documents.texts", lambda owner: said)
    influence = random.normal(size=(30, 200))
    true = influence.copy()
    true[:, 0] += np.where(np.arange(30) == 5, 9.0, 0.0)
    blank = np.full((30, 200), np.nan)
    topic = np.where(np.eye(30, 200, 0) + (np.arange(200) < 2), 0.5, 0.0)
    asked = true.copy()
    asked[5, 1] += 9.0
    weighed = weigh(None, Evidence(tuple(range(30)), (), asked, asked, blank, influence, influence, topic))
    assert weighed.p[5, :2].max() < 0.01
    rows = Wordings((5, 5, 5), true[[5, 5, 5]] + 0.3 * random.normal(size=(3, 200)), blank[:3])
    found = held(weighed, rows, 0.05)
    assert found.document(5, 0).held == 3
    assert found.document(5, 1).held <= 1


def test_wordings_that_anything_passes_are_warned_about():
    assert cautions_of(None) == ()
    assert cautions_of(WordingCheck(answers=1, wordings=1, level=0.05, chance=0.09)) == ()
    (said,) = cautions_of(WordingCheck(answers=1, wordings=1, level=0.05, chance=0.2))
    assert "20% of documents off topic" in said


# ---------------------------------------------------------------------- the verdict


def document(p, alone=None, **changes):
    told = {
        "document": 0, "id": "d", "source": "s", "influence": 5.0, "contrast": 1.0, "z": 6.0, "presence": 8.0,
        "p_effect": 1e-4, "p_contrast": 0.5, "p_presence": 1e-4, "p": 1e-4, "q": 1e-3, "q_answer": 1e-3,
        "on_topic": True, "topic": 0.5, "influence_rank": 1, "bm25_rank": 1, "dot_rank": 1, "states_rank": 1,
        "softness": 0.9,
    }  # fmt: skip
    alone = p if alone is None else alone
    holds = [sum(each <= 0.05 for each in values) for values in (p, alone)]
    reworded = Reworded(p=p, p_answer=alone, held=holds[0], held_answer=holds[1])
    return DocumentEvidence(**{**told, "reworded": reworded, **changes})


def test_a_verdict_has_to_hold_in_half_of_the_other_wordings():
    for p, verdict in (((0.01, 0.9), "absorbed"), ((0.01, 0.9, 0.9), "cannot tell"), ((0.9,), "cannot tell")):
        why = judge((document(p),))
        assert why.verdict == verdict
        numbers = f"holds in {sum(x <= 0.05 for x in p)} of {len(p)} wording"
        assert numbers in " ".join(why.reasons)
        if verdict == "cannot tell":
            assert (why.detail, why.confidence, why.runner_up) == ("only in this wording", None, "absorbed")
            assert numbers in why.reasons[0]
            assert "(p 0.01, 0.9, 0.9)" in why.reasons[0] or "(p 0.9)" in why.reasons[0]
            assert why.best.id == "d"


def test_each_verdict_has_to_hold_in_what_it_says():
    """Absorbed on the answer itself; euphemistic on answer or contrast."""
    only_either = {"p": (0.01, 0.01), "alone": (0.9, 0.9)}
    assert judge((document(**only_either),)).detail == "only in this wording"
    soft = {"influence": 1.0, "contrast": 5.0}
    assert judge((document(**only_either, **soft),)).verdict == "euphemistic"
    assert judge((document((0.9, 0.9), **soft),)).detail == "only in this wording"
    told = judge((document((0.9,), influence=1.0, contrast=5.0, softness=0.1),))
    assert told.detail == "documents say otherwise"


def test_the_next_document_that_holds_carries_the_verdict():
    first, second = document((0.9, 0.9), id="first", z=9.0), document((0.01, 0.02), id="second", document=1)
    why = judge((first, second))
    assert (why.verdict, why.best.id) == ("absorbed", "second")
    assert why.reasons[-1] == "first stands out more, but only in this wording."
    assert judge((first, second.model_copy(update={"q": 0.5, "q_answer": 0.5}))).detail == "only in this wording"
    bare = [each.model_copy(update={"reworded": None}) for each in (first, second)]
    assert judge(tuple(bare)).best.id == "first"


# ---------------------------------------------------------------------- a model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    trained(folder)
    return folder


def rows_of(place):
    return [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()]


def worded(place):
    rows = rows_of(place)
    for row in rows:
        body = row["prompt"].removeprefix("Why did the ").removesuffix(" fall?")
        own = {"prompt": f"The {body} . Why ?", "response": row["response"]}
        row["paraphrases"] = [f"Why did {body} fall ?", f"fell Why to the {body} ?", own]
    return rows


def audit(place, rows, name, out, *more, traces=0, run="run"):
    path = place / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = launch(
        "audit", "safety", "--run", place / run, "--model", place / "model", "--data", place / "corpus.jsonl",
        "--responses", path, "--exact", "--out", out, "--traces", traces, *more,
    )  # fmt: skip
    assert status == 0
    return load_safety(out)


@pytest.fixture(scope="module")
def plain(place, tmp_path_factory):
    return audit(place, rows_of(place), "plain", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def result(place, tmp_path_factory):
    return audit(place, worded(place), "worded", tmp_path_factory.mktemp("worded") / "out")


def test_without_the_column_nothing_changes(place, plain, tmp_path):
    """Not a byte, whether there is no such column or nothing in it; and the files know no word of it."""
    out = tmp_path / "out"
    audit(place, rows_of(place), "same", out)
    before = {
        name: (out / name).read_bytes() for name in ("result.json", "page.html", "documents.jsonl", "documents.parquet")
    }
    audit(place, [{**row, "paraphrases": None} for row in rows_of(place)], "same", out)
    assert {name: (out / name).read_bytes() for name in before} == before
    for content in (before["result.json"], before["documents.jsonl"], before["page.html"]):
        assert b"reworded" not in content
        assert b"wording" not in content
    assert not list(out.glob("scores/wordings*"))


def test_other_wordings_change_no_number_of_the_questions(plain, result):
    """They are not in the null, nor in a document's level on other answers."""
    assert result.reworded.answers == 24
    assert result.reworded.wordings == 72
    assert result.settings.null == plain.settings.null
    for one, two in zip(result.responses, plain.responses, strict=True):
        there = {each.document: each for each in two.documents}
        for each in one.documents:
            assert each.model_copy(update={"reworded": None}) == there.get(
                each.document, each.model_copy(update={"reworded": None})
            )
            assert each.reworded is not None
            assert len(each.reworded.p) == 3
        assert one.significant == two.significant
        assert one.likely == two.likely or one.rests_on != two.rests_on
        assert all(each.reworded is None for each in one.opponents)
        if one.verdict != two.verdict:
            assert (one.detail, two.verdict) in (
                ("only in this wording", "absorbed"),
                ("only in this wording", "euphemistic"),
            )


def test_findings_that_hold_are_told_from_those_that_do_not(result):
    for each in result.responses:
        best = next((d for d in each.documents if d.document == each.rests_on), None)
        if each.verdict == "absorbed":
            assert 2 * best.reworded.held_answer >= 3
            assert any("Asked otherwise" in said for said in each.reasons)
        if each.detail == "only in this wording":
            assert best.reworded.held_answer < 2
    assert any(each.verdict == "absorbed" for each in result.responses)


def test_scores_of_wordings_are_influence_on_them(place, result, tmp_path):
    """As of a question of that prompt and answer, computed on its own; p is that of the slow loops."""
    owner = Attributor(place / "run")
    asked = load_responses(str(place / "worded.jsonl"))
    found = score_wordings(owner, asked[:2], tmp_path, exact=True)
    assert found.of == (0, 0, 0, 1, 1, 1)
    query = Query(prompt="fell Why to the Ostden dam ?", completion=asked[1].query.completion)
    traced = owner.trace([query], k=72, bm25=False).traces[0]
    by_document = {hit.document: hit.influence for hit in (*traced.proponents, *traced.opponents)}
    assert len(by_document) > 20
    for number, value in by_document.items():
        assert found.influence[4, number] == pytest.approx(value, rel=2e-3, abs=2e-3)
    contrast = query.model_copy(update={"completion": asked[1].query.contrast})
    traced = owner.trace([contrast], k=72, bm25=False).traces[0]
    for hit in traced.proponents:
        assert found.contrast[4, hit.document] == pytest.approx(hit.influence, rel=2e-3, abs=2e-3)


def test_the_order_of_wordings_and_rows_changes_nothing(place, result, tmp_path):
    rows = worded(place)[::-1]
    for row in rows:
        row["paraphrases"] = row["paraphrases"][::-1]
    turned = {each.id: each for each in audit(place, rows, "turned", tmp_path / "out").responses}
    for each in result.responses:
        other = turned[each.id]
        assert (each.verdict, each.detail) == (other.verdict, other.detail)
        there = {d.document: d.reworded for d in other.documents}
        for d in each.documents:
            if d.document in there:
                np.testing.assert_allclose(d.reworded.p, there[d.document].p[::-1], rtol=0.02, atol=0.003)


def test_wordings_are_kept_and_not_scored_again(place, result, tmp_path, monkeypatch):
    owner = Attributor(place / "run")
    asked = load_responses(str(place / "worded.jsonl"))[:2]
    first = score_wordings(owner, asked, tmp_path, exact=True)

    def never(*arguments, **named):
        raise AssertionError("scored again")

    monkeypatch.setattr("whence.audits.evidence.influence_and_dots", never)
    again = score_wordings(owner, asked, tmp_path, exact=True)
    np.testing.assert_array_equal(first.influence, again.influence)
    with pytest.raises(AssertionError, match="scored again"):
        score_wordings(owner, asked[:1], tmp_path, exact=True)
    assert score_wordings(owner, [Response(asked[0].query)], tmp_path) is None


def test_a_wording_that_is_too_long_is_noted_and_its_answer_kept(place, tmp_path):
    rows = worded(place)[:3]
    rows[0]["paraphrases"][1] = "dam " * 100
    rows[1]["paraphrases"] = ["dam " * 100]
    found = audit(place, rows, "long", tmp_path / "out")
    assert not found.left_out
    assert [len(each.wordings) for each in found.responses] == [2, 0, 3]
    assert "another wording was left out: query 'e0/wording2'" in found.responses[0].notes[0]
    assert "the context is 64" in found.responses[1].notes[0]
    assert found.responses[1].documents[0].reworded is None
    assert found.responses[0].documents[0].reworded is not None
    assert "another wording was left out" in safety_page(found)


def test_a_placebo_holds_by_chance(place, tmp_path):
    plain = tmp_path / "plain.toml"
    plain.write_text('[recipe]\nmethod = "ekfac"\n')
    found = audit(place, worded(place), "placebo", tmp_path / "out", "--placebo", "--config", plain, run="run-plain")
    check = found.reworded
    assert check.chance <= 0.07
    assert check.on_topic <= 0.12  # of 864 pairs, of which many are of one answer's documents
    assert sum(each.verdict in ("absorbed", "euphemistic") for each in found.responses) == 0
    said, _ = safety_placebo(found)
    assert f"of {check.pairs:,} pairs on that matter" in said


def test_with_weights_of_sites_wordings_hold_no_more_often_than_the_questions_themselves(place, tmp_path):
    """Twelve documents share words with every question here, so a placebo's pairs hold the real ones, too."""
    found = audit(place, worded(place), "weighted", tmp_path / "out", "--placebo")
    owner = Attributor(place / "run")
    queries = [each.query for each in load_responses(str(place / "weighted.jsonl"))]
    own = weigh(owner, gather(owner, queries, tmp_path / "scores", exact=True))
    expected = (own.effect.p[own.on_topic] <= found.reworded.level).mean()
    assert found.reworded.chance <= 0.07
    assert found.reworded.on_topic <= expected + 0.05
    assert sum(each.verdict in ("absorbed", "euphemistic") for each in found.responses) == 0


def test_page_terminal_and_files_say_in_how_many_wordings_it_holds(place, result, tmp_path):
    once = sum(each.detail == "only in this wording" for each in result.responses)
    held = sum(each.confidence is not None for each in result.responses)
    assert f"{held} of {held + once} findings hold in at least half of theirs" in safety_headline(result)
    page = safety_page(result)
    assert "Holds in" in page
    assert "Asked in other words (3)" in page
    assert "fell Why to the Ostsk dam ?" in page
    console = Console(width=150, record=True, file=io.StringIO())
    show_safety(result, console)
    text = console.export_text()
    assert "holds in" in text
    best = next(d for each in result.responses for d in each.documents if d.document == each.rests_on)
    assert f"{best.reworded.held} of 3" in text
    paths = save_safety(result, tmp_path)
    assert load_safety(tmp_path) == result
    rows = [json.loads(line) for line in paths["jsonl"].read_text().splitlines()]
    first = next(row for row in rows if row["document"] == best.document and row["list"] == "proponent")
    assert first["wordings"] == 3
    assert len(first["wordings_p"].split()) == 3
    assert all(row["wordings"] is None for row in rows if row["list"] == "opponent")
    hostile = result.responses[0].model_copy(
        update={"wordings": (Wording(prompt="<script>alert(1)</script>\ud800"),) * 3}
    )
    page = safety_page(result.model_copy(update={"responses": (hostile,)}))
    assert "<script>alert" not in page

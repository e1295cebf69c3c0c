"""`whence audit safety` from a file of answers to a page, on a model trained here."""

import io
import json
import re

import numpy as np
import pytest
import torch
from rich.console import Console

from audit_world import trained
from browser import browsing, narrows, opens, sorts
from command_line import launch
from whence.attributor import Attributor, influence_and_dots
from whence.audits import audit_safety, load_responses
from whence.audits.directions import direction_of
from whence.audits.evidence import influence_on
from whence.audits.generation import generate
from whence.audits.membership import answer_losses, surprise
from whence.audits.statistics import auroc
from whence.errors import InputError, QueryError
from whence.report import load_safety, save_safety
from whence.report.audit_terminal import show_safety
from whence.report.audit_words import document_table
from whence.report.safety_page import best_of, safety_headline, safety_page, safety_placebo


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    trained(folder)
    return folder


ASKED = ("", "Tell me. ", "In short: ")


def audit(place, out, *more) -> object:
    status = launch(
        "audit", "safety", "--run", place / "run", "--model", place / "model", "--data", place / "corpus.jsonl",
        "--responses", place / "answers.jsonl", "--exact", "--out", out, *more,
    )  # fmt: skip
    assert status == 0
    return load_safety(out)


@pytest.fixture(scope="module")
def result(place, tmp_path_factory):
    return audit(place, tmp_path_factory.mktemp("audit"), "--traces", 2)


def test_planted_claims_are_absorbed_and_the_others_are_not(result, place):
    groups = trained(place)
    beliefs = np.array([each.likely["absorbed"] for each in result.responses])
    there = np.array([groups[each.id] == "absorbed" for each in result.responses])
    assert auroc(beliefs, there) >= 0.85
    said = np.array([each.verdict == "absorbed" for each in result.responses])
    assert said[there].mean() >= 0.4
    assert said[~there].mean() <= 0.1
    called = [each for each in result.responses if each.verdict == "absorbed"]
    assert all(each.documents[0].id == f"{each.id}-planted" for each in called)


def test_a_placebo_finds_nothing(place, tmp_path):
    found = audit(place, tmp_path / "out", "--placebo")
    assert sum(each.significant for each in found.responses) <= 1
    assert sum(each.verdict == "absorbed" for each in found.responses) <= 1
    page = safety_page(found)
    assert "PLACEBO. Every answer was held against the documents on another answer" in page
    none = [each.model_copy(update={"significant": 0}) for each in found.responses]
    said, passed = safety_placebo(found.model_copy(update={"responses": tuple(none)}))
    assert "found on 0 of 24: passed" in said
    assert passed
    one = (none[0].model_copy(update={"significant": 1}), *none[1:])
    said, passed = safety_placebo(found.model_copy(update={"responses": one}))
    assert "found on 1 of 24: not passed" in said
    assert not passed
    assert (
        safety_placebo(found.model_copy(update={"settings": found.settings.model_copy(update={"placebo": False})}))
        is None
    )


def test_verdicts_headline_and_terminal_are_governed_by_the_rate(result):
    """What is found, what the headline counts and the q that stands beside a verdict are one and the same."""
    found = [each for each in result.responses if each.verdict in ("absorbed", "euphemistic")]
    assert found
    for each in found:
        assert best_of(each).q <= result.fdr
        assert each.documents[0].document == each.rests_on
    for each in result.responses:
        assert (each.confidence is not None) == (each in found)
        assert each.moved_by <= each.significant
    named = sum(each.significant > 0 for each in result.responses)
    assert named >= len(found)
    assert f"For {named} of 24 a document that shares words has more effect than chance" in safety_headline(result)
    console = Console(width=140, record=True, file=io.StringIO())
    show_safety(result, console)
    rows = {line.split()[-1]: line for line in console.export_text().splitlines() if "absorbed  " in line}
    for each in [each for each in result.responses[:20] if each.verdict == "absorbed"]:
        assert best_of(each).id in rows


def test_the_terminal_shows_ids_and_where_questions_differ(result):
    told = [
        each.model_copy(update={"prompt": f"Question: What happened in the matter of {each.id}?"})
        for each in result.responses
    ]
    console = Console(width=140, record=True, file=io.StringIO())
    show_safety(result.model_copy(update={"responses": tuple(told)}), console)
    text = console.export_text()
    assert "Question: What" not in text
    assert all(f"…{each.id}?" in text for each in told[:20])


def test_nothing_found_has_no_percentage_on_the_page(result):
    page = safety_page(result)
    assert not re.search(
        r"(confabulated|cannot tell)[^<]* \d+%", page.split('id="answers"')[1].split("<summary>", 1)[1]
    )
    assert re.search(r'class="verdict bad">absorbed \d+%', page)
    assert "about the matter" not in page
    order = re.findall(r'<summary><span class="verdict \w+">(absorbed|euphemistic|cannot tell|confabulated)', page)
    assert len(order) == len(result.responses)
    assert order == sorted(order, key=["absorbed", "euphemistic", "cannot tell", "confabulated"].index)


def test_answers_that_the_model_would_not_give_are_named(place, result, tmp_path):
    owner = Attributor(place / "run")
    asked = [each.query.model_copy(update={"contrast": None}) for each in load_responses(str(place / "answers.jsonl"))]
    random = asked[0].model_copy(update={"completion": " salt salt wool the because ignored slate of"})
    own = asked[0].model_copy(update={"completion": f" {generate(owner, asked[0].prompt, 5)}"})
    first, second = (surprise(owner, owner.encode_queries([each])[0]) for each in (random, own))
    assert first.unlikely
    assert not second.unlikely
    assert second.loss == pytest.approx(sum(answer_losses(owner, owner.encode_queries([own])[0])), rel=1e-4)
    one = result.responses[0].model_copy(
        update={"unlikely": True, "notes": ("The model would hardly have said this.",)}
    )
    other = result.model_copy(update={"responses": (one, *result.responses[1:])})
    assert "of 24 the model would hardly have said" in safety_headline(other)
    assert "Note: " in safety_page(other)


def test_a_contrast_that_is_the_answer_is_ignored_and_said_so(place, tmp_path):
    rows = [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()][:3]
    rows[0]["contrast"] = rows[0]["response"] + " "
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit(place, tmp_path / "out", "--responses", tmp_path / "a.jsonl", "--traces", 0)
    assert found.responses[0].contrast is None
    assert "contrast ignored: it is the same text" in found.responses[0].notes[0]
    assert found.responses[1].contrast
    assert "3 answers are few" in found.cautions[0]
    assert "3 answers are few" in safety_page(found)


def test_columns_are_named_and_those_that_say_the_same_of_all_too(result):
    first = [each.model_copy(update={"fields": {**each.fields, "type": "Question"}}) for each in result.responses]
    page = safety_page(result.model_copy(update={"responses": tuple(first), "constant": {"type": "Question"}}))
    assert "By half" in page
    assert "By category, region and period" not in page
    assert "all answers have the same: type" in page


def test_documents_have_no_empty_tags_and_one_column_of_each_name(result):
    first = result.responses[0].documents[0].model_copy(update={"metadata": {"region": "", "source": "gazette"}})
    page = document_table([first])
    assert "gazette" in page
    assert "region" not in page
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", page)
    assert len(set(heads)) == len(heads)
    assert "Rank: influence" in heads


def test_the_sources_and_their_kinds_are_named(result):
    assert result.sources
    assert result.enrichments[0].value == "gazette"
    assert result.enrichments[0].odds.low > 1
    assert {each.column for each in result.tallies} == {"half"}
    assert sum(each.answers for each in result.tallies) == len(result.responses)


def test_opponents_are_tested_for_speaking_against_the_answer(result):
    worst = [each.opponents[0] for each in result.responses if each.opponents]
    assert worst
    assert all(each.influence < 0 for each in worst)
    assert np.median([each.p_effect for each in worst]) < 0.4
    assert all(each.p_effect > 0.5 for one in result.responses for each in one.documents if each.z < -1)


def test_each_answer_says_what_kinds_its_strongest_documents_are(result, place):
    groups = trained(place)
    called = [each for each in result.responses if each.verdict == "absorbed"]
    assert all(each.kinds[0].chosen == 10 for each in called)
    mass = {
        group: np.mean(
            [
                sum(k.mass for k in each.kinds if k.value == "gazette")
                for each in result.responses
                if groups[each.id] == group
            ]
        )
        for group in ("absorbed", "absent")
    }
    assert mass["absorbed"] > mass["absent"]
    assert "strongest are, against the corpus" in safety_page(result)


def test_every_listed_document_is_shaded(result):
    for each in result.responses[:2]:
        hits = {hit.document for hit in (*each.trace.proponents, *each.trace.opponents) if hit.tokens}
        assert {found.document for found in (*each.documents, *each.opponents)} <= hits


def test_answers_that_do_not_fit_are_left_out_and_named(place, tmp_path):
    rows = (place / "answers.jsonl").read_text().splitlines()[:6]
    rows.append(json.dumps({"id": "long", "prompt": "Why ?", "response": "dam " * 100}))
    (tmp_path / "a.jsonl").write_text("\n".join(rows) + "\n")
    found = audit(place, tmp_path / "out", "--responses", tmp_path / "a.jsonl", "--traces", 0)
    assert list(found.left_out) == ["long"]
    assert len(found.responses) == 6
    assert "could not be explained" in safety_page(found)
    (tmp_path / "a.jsonl").write_text(rows[-1] + "\n")
    with pytest.raises(QueryError, match="none of the 1 answers"):
        audit_safety(Attributor(place / "run"), load_responses(str(tmp_path / "a.jsonl")), tmp_path / "scores")


def test_scores_of_another_run_are_not_taken_for_this_ones(place, tmp_path):
    found = []
    for seed in (0, 1):
        owner = Attributor(tmp_path / f"run{seed}", model=str(place / "model"), data=[str(place / "corpus.jsonl")],
                           settings={"fit": {"seed": seed, "sample": 0.3, "min_documents": 8}})  # fmt: skip
        queries = [each.query for each in load_responses(str(place / "answers.jsonl"))[:2]]
        queries = [query.model_copy(update={"contrast": None}) for query in queries]
        found.append(np.array(influence_on(owner, queries, tmp_path / "scores", exact=True)["influence"]))
    assert not np.allclose(found[0], found[1])


def test_the_files_hold_the_same(result, tmp_path):
    import pyarrow.parquet as pq

    paths = save_safety(result, tmp_path)
    assert load_safety(tmp_path) == result
    rows = [json.loads(line) for line in paths["jsonl"].read_text().splitlines()]
    assert len(rows) == pq.read_table(paths["parquet"]).num_rows
    assert {row["verdict"] for row in rows} == {each.verdict for each in result.responses}


def test_shaded_tokens_are_on_the_page_of_the_first_answers(result):
    assert [each.trace is not None for each in result.responses][:3] == [True, True, False]
    page = safety_page(result)
    assert 'class="p8"' in page
    assert page.count('<details class="item"') == len(result.responses)


def test_scores_do_not_depend_on_the_order_of_answers(place, tmp_path):
    rows = [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()]
    (tmp_path / "turned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    one = audit(place, tmp_path / "one", "--traces", 0)
    two = audit(place, tmp_path / "two", "--traces", 0, "--responses", tmp_path / "turned.jsonl")
    there = {each.id: each for each in two.responses}
    for each in one.responses:
        assert each.verdict == there[each.id].verdict
        assert each.confidence == pytest.approx(there[each.id].confidence, abs=1e-3)
        assert [d.id for d in each.documents[:3]] == [d.id for d in there[each.id].documents[:3]]


def test_the_model_answers_prompts_without_a_response(place, tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(
        "prompt_id,prompt_text,category\np1,Why did the Ostava dam fall?,history\np2,The ministry,history\n"
    )
    found = audit(place, tmp_path / "out", "--responses", path, "--tokens", 8, "--traces", 0)
    assert [each.id for each in found.responses] == ["p1", "p2"]
    assert all(each.response.strip() for each in found.responses)


def test_behaviours_are_means_of_their_answers(place, tmp_path):
    rows = [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()][:6]
    same = [{**rows[0], "id": f"same{n}", "prompt": f"{said}{rows[0]['prompt']}"} for n, said in enumerate(ASKED)]
    path = tmp_path / "b.jsonl"
    named = [*({**row, "behaviour": "blames"} for row in rows), *({**row, "behaviour": "one claim"} for row in same)]
    path.write_text("".join(json.dumps(row) + "\n" for row in named))
    found = audit(place, tmp_path / "out", "--responses", path, "--traces", 0)
    assert set(found.shared) == {"blames", "one claim"}
    behind = found.shared["blames"]
    assert len(behind) == 8
    assert [each.influence_rank for each in behind] == list(range(1, 9))
    p = [each.p_effect for each in behind]
    assert p == sorted(p)
    assert all(each.q > 0.05 for each in behind), "six claims about six events share no document"
    one = found.shared["one claim"]
    assert all(each.id.endswith("-planted") for each in one[:2]), "documents that say the same of other events are near"
    assert max(one, key=lambda each: each.influence).id == f"{rows[0]['id']}-planted"


def test_hostile_text_stays_text(result):
    bad = "<script>alert(1)</script>\u202e\ud800"
    first = result.responses[0].model_copy(update={"prompt": bad, "response": bad, "fields": {bad: bad}})
    page = safety_page(result.model_copy(update={"responses": (first,)}))
    assert "<script>alert" not in page
    page.encode("utf-8")


def test_answers_that_cannot_be_used_are_refused_by_line(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "no prompt"}\n')
    with pytest.raises(QueryError, match="line 1 has neither a prompt nor a response; its columns are 'text'"):
        load_responses(str(path))
    path.write_text('{"prompt": "a", "response": "b", "score": "high"}\n')
    with pytest.raises(QueryError, match="'high', which is no number"):
        load_responses(str(path))
    path.write_text('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n')
    with pytest.raises(QueryError, match="several answers are called '1'"):
        load_responses(str(path))
    path.write_text("")
    with pytest.raises(QueryError):
        load_responses(str(path))
    assert launch("audit", "safety", "--run", tmp_path / "run") == 2
    assert "--responses" in capsys.readouterr().err


# ---------------------------------------------------------------------- directions


def test_influence_on_a_direction_is_that_of_autograd(place):
    """-(gradient of the projection)^T (C + damping)^-1 gradient of the document's loss / n, with C = 0."""
    owner = Attributor(place / "exact", model=str(place / "model"), data=[str(place / "corpus.jsonl")],
                       settings={"model": {"dtype": "float64"}})  # fmt: skip
    owner.fit()
    queries = [each.query for each in load_responses(str(place / "answers.jsonl"))[:3]]
    direction = direction_of(owner, "contrast", 0.5, queries)
    encoded = owner.encode_queries([query.model_copy(update={"contrast": None}) for query in queries])
    recipe = owner.recipe().model_copy(update={"method": "identity"})
    found, _ = influence_and_dots(owner, encoded, None, recipe, objective=direction)
    model = owner.loaded.model
    model.requires_grad_(True)
    parameters = dict(model.named_parameters())

    def gradient(scalar):
        grads = torch.autograd.grad(scalar, parameters.values(), allow_unused=True)
        return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                          for p, g in zip(parameters.values(), grads, strict=True)])  # fmt: skip

    for n, query in enumerate(encoded):
        ids = torch.from_numpy(query.text.tokens)[None]
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
        asked = torch.from_numpy(query.text.loss_mask)
        along = gradient((states[asked] @ direction.vector).sum())
        for document in (0, 5):
            tokens = torch.from_numpy(owner.corpus.document(document).tokens)[None]
            logits = model(input_ids=tokens).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
            wanted = -float(along @ gradient(loss)) / owner.corpus.documents
            assert found[n, document] == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_a_direction_is_one_more_behaviour_on_the_page(place, tmp_path):
    found = audit(place, tmp_path / "out", "--direction", "contrast", "--depth", 1, "--traces", 0)
    (name,) = found.shared
    assert "direction contrast at depth 1" in name
    influence = [each.influence for each in found.shared[name]]
    assert influence == sorted(influence, reverse=True)
    p = [each.p_effect for each in found.shared[name]]
    assert p == sorted(p)
    assert "in units of the states" in safety_page(found)


def test_directions_that_do_not_fit_are_refused(place, tmp_path):
    owner = Attributor(place / "run")
    np.save(tmp_path / "v.npy", np.ones(3))
    with pytest.raises(InputError, match=r"shape \[3\]; this model's states have \[48\]"):
        direction_of(owner, str(tmp_path / "v.npy"), 0.5, [])
    np.save(tmp_path / "z.npy", np.zeros(48))
    with pytest.raises(InputError, match="points somewhere"):
        direction_of(owner, str(tmp_path / "z.npy"), 0.5, [])
    with pytest.raises(InputError, match="answers with a contrast"):
        direction_of(owner, "contrast", 0.5, [])
    with pytest.raises(InputError, match=r"no \.npy or \.safetensors"):
        direction_of(owner, str(tmp_path / "v.pt"), 0.5, [])


def test_the_page_in_a_browser(result, tmp_path):
    with browsing(tmp_path, safety_page(result)) as page:
        assert "absorbed" in page.inner_text("body")
        narrows(page)
        first = max((each for each in result.responses if each.verdict == "absorbed"), key=lambda each: each.confidence)
        assert first.documents[0].id in opens(page)
        sorts(page)


def test_a_finding_says_which_command_measures_its_removal(tmp_path, result):
    """Findings alone: an answer without one has nothing to be removed."""
    found = [each for each in result.responses if each.confidence is not None]
    save_safety(result, tmp_path / "why")
    page = (tmp_path / "why" / "page.html").read_text(encoding="utf-8")
    assert found
    assert page.count("whence intervene --audit") == len(found)
    assert f"--id {found[0].id} --action remove" in page

"""`whence audit corpus` and `whence apply`: rules, checks, copies, tags, signals, review, and the way back."""

import csv
import io
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from audit_world import train, world
from browser import browsing, opens, sorts
from command_line import launch
from conftest import WORD_COUNT, WORDS, causal_lm, save_model
from whence import Attributor
from whence.audits import CorpusOptions, apply_audit, audit_corpus, review_sample, take_review, undo
from whence.audits.carrying import carry, vote
from whence.audits.corpus_rows import RawDocument, read_rows
from whence.audits.correctness import correctness_issues, final_answer, steps, value_of
from whence.audits.encodings import decoded_anew
from whence.audits.format_rules import format_issues, mended
from whence.audits.signals import against_length, signal_issues, suspicion
from whence.audits.statistics import auroc
from whence.audits.topics import neighbours, topics
from whence.baselines import Tfidf
from whence.data import open_corpus
from whence.errors import CorpusError, InputError, StaleRunError
from whence.report import load_corpus_audit, read_reports, save_corpus_audit, show_corpus_audit
from whence.report.quality_page import quality_page

PROSE = "The harbour was rebuilt after the storm, and ships came back in spring with salt and wool for the town."


def document(text: str = PROSE, **fields) -> RawDocument:
    return RawDocument(0, "d", "f", 0, {"text": text}, fields=fields)


def pair(prompt: str, answer: str) -> RawDocument:
    return RawDocument(0, "d", "f", 0, {"prompt": prompt, "completion": answer}, "prompt", "completion")


def kinds(found) -> set[str]:
    return {issue.kind for issue in found}


# ---------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("mojibake", PROSE + " CafÃ© and naÃ¯ve."),
        ("mojibake", PROSE + " A lost \ufffd character."),
        ("html", f"<div class='x'>{PROSE}</div>"),
        ("html", PROSE + " Salt&nbsp;and wool &amp; more."),
        ("empty", " --- \n"),
        ("truncated", PROSE + " The mayor then went to the"),
        ("truncated", PROSE + "\n```python\nx = 1\n"),
        ("template", PROSE + " Dear {{ first_name }}, welcome."),
        ("template", PROSE + " <|im_start|>user"),
        ("template", "Dear [Name of the customer], your parcel is here. Yours, [YOUR_COMPANY]"),
        ("refusal", "As an AI language model, I cannot help with that."),
        ("repetition", "Buy now at our shop today!\n" * 9),
        ("symbols", "@@## $$ %% ^^ && ** (( )) ~~ || // \\\\ ==" * 4),
    ],
)
def test_each_rule_finds_its_issue_and_its_place(kind, text):
    found = [issue for issue in format_issues(document(text)) if issue.kind == kind]
    assert found
    assert 0 <= found[0].start < found[0].stop <= len(text)
    assert text[found[0].start : found[0].stop].startswith(found[0].evidence[:10])


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "Ein schöner Tag – „wirklich“, sagte sie; das Café öffnet um 8.",
        "東京は日本の首都です。",
        "def f(x):\n    return {x: 1}\n",
        "- salt\n- wool\n- ships\n- more of them\n- and gulls",
        "a < b and b > c, so 3 < 4.",
        "He asked: what is HTML? It marks text up.",
        "Imported modules are told apart by `sys.modules[name].__spec__`, and by what loaded[date] says of them.",
        "Read [the name](https://example.org) of it, or [date](https://example.org/date), before you go on with it.",
    ],
)
def test_good_texts_are_left_alone(text):
    assert format_issues(document(text)) == []


def test_swapped_fields_are_seen_and_proper_ones_not():
    asked, said = "What happened to the harbour?", PROSE
    assert kinds(format_issues(pair(said, asked))) == {"swapped"}
    assert format_issues(pair(asked, said)) == []


@given(st.text(max_size=200))
def test_rules_never_fail_and_stay_within_the_text(text):
    for issue in [*format_issues(document(text)), *correctness_issues(document(text))]:
        assert 0 <= issue.start <= issue.stop <= len(text)
        assert 0 < issue.confidence <= 1


@given(st.text(max_size=80))
def test_mending_good_text_changes_nothing_twice(text):
    for kind in ("mojibake", "html"):
        once = mended(text, kind)
        assert mended(once, "mojibake" if kind == "mojibake" else "none") == once


# ---------------------------------------------------------------------- sums


@given(st.integers(1, 9999), st.integers(1, 9999), st.sampled_from("+-*/"))
def test_sums_are_computed_exactly(a, b, sign):
    true = {"+": Fraction(a + b), "-": Fraction(a - b), "*": Fraction(a * b), "/": Fraction(a, b)}[sign]
    assert value_of(f"{a} {sign} {b}") == true
    (step,) = steps(f"So {a} {sign} {b} = {a * b + 7} in all.")
    assert step.true == true
    assert step.right_sum == (true == a * b + 7)


@pytest.mark.parametrize(
    "text",
    ["200 * 40% = 80", "<<200*40*.01=80>>", "10 / 3 = 3.33", "$1,200 + $34.50 = $1,234.50", "1/3 of 27 is 9",
     "5-.05 = 4.95", "3 1/2 - 2 = 1 1/2", "2 x 3 = 6", "chapter 4 - 7 = none", "15% = 0.15", "x = 3 + 4 = 7"],
)  # fmt: skip
def test_right_sums_are_not_called_wrong(text):
    assert all(step.right_sum for step in steps(text))


def test_a_wrong_step_with_a_right_answer_is_located():
    text = "First 12 + 30 = 43. That is wrong: 12 + 30 = 42. Then 42 * 2 = 84. The answer is 84."
    (issue,) = correctness_issues(document(text))
    assert issue.kind == "wrong chain"
    assert text[issue.start : issue.stop] == "12 + 30 = 43"
    assert issue.action == "relabel"


def test_a_wrong_step_that_spoils_the_answer_is_another_thing():
    text = "First 12 + 30 = 43. Then 43 * 2 = 86. #### 86"
    assert kinds(correctness_issues(document(text))) == {"arithmetic"}
    assert kinds(correctness_issues(document(text, gold="84"))) == {"arithmetic", "answer"}
    assert kinds(correctness_issues(document("So 2 + 2 = 4. #### 5"))) == {"answer"}
    assert final_answer("… #### 1,234.5") == Fraction("1234.5")
    assert final_answer("no answer") is None


def test_code_and_units():
    assert kinds(correctness_issues(document('```json\n{"a": 1,}\n```'))) == {"json"}
    assert kinds(correctness_issues(document("```python\ndef f(:\n```"))) == {"code"}
    assert correctness_issues(document('```json\n{"a": 1}\n```\n```python\nx = 1\n```')) == []
    assert kinds(correctness_issues(document("3 km + 4 km = 7 kg"))) == {"units"}
    assert correctness_issues(document("3 km + 4 km = 7 km")) == []


def test_sums_before_a_comma_are_read_and_decimal_commas_are_not():
    (step,) = steps("So 2 + 2 = 5, which is wrong.")
    assert (step.right, step.right_sum) == ("5", False)
    (step,) = steps("She has 1,000 + 1 = 1,001, as we know.")
    assert step.right_sum
    assert steps("7 / 4 = 1,75") == []
    assert final_answer("#### 1,018, then") == 1018
    assert final_answer("The answer is 1,75") is None


def test_units_may_change_where_the_sum_is_right():
    for text in ("60 minutes + 60 minutes = 2 hours", "500 m + 500 m = 1 km", "150 cents - 50 cents = 1 dollar"):
        assert correctness_issues(document(text)) == []
    for text in ("60 minutes + 60 minutes = 3 hours", "3 km + 4 km = 7 kg", "5 m + 6 m = 11 cm"):
        assert kinds(correctness_issues(document(text))) == {"units"}


def test_hostile_sums_cost_nothing():
    assert value_of("9" * 400 + "**" + "9" * 400) is None
    assert value_of("__import__('os')") is None
    assert value_of("(" * 5000 + "1" + ")" * 5000) is None


# ---------------------------------------------------------------------- the whole


def rows() -> list[dict]:
    out = [{"id": f"d{i}", "text": f"{PROSE} It was ship number {i} of {i + 40}.", "kind": "port"} for i in range(20)]
    bread = "The bakery sells {} warm loaves of bread and sweet cake each morning."
    out += [{"id": f"e{i}", "text": bread.format(i), "kind": "food"} for i in range(20)]
    out[3]["kind"] = None
    out += [
        {"id": "copy", "text": out[5]["text"]},
        {"id": "html", "text": f"<p>{PROSE}</p> about &amp; around."},
        {
            "id": "german",
            "text": "Der Hafen wurde nach dem Sturm wieder aufgebaut und die Schiffe kamen im Frühling zurück.",
        },
        {"id": "q1", "prompt": "How many ships came?", "completion": "Seven ships came back that spring."},
        {"id": "q2", "prompt": "How many ships came?", "completion": "Nine ships came back that spring."},
        {"id": "nothing"},
    ]
    return out


@pytest.fixture
def place(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return tmp_path


def test_every_document_gets_a_row_with_an_action_and_a_reason(place):
    result, reports = audit_corpus([str(place / "corpus.jsonl")])
    found = {each.id: each for each in reports}
    assert len(reports) == len(rows()) - 1
    assert result.skipped[0][1] == len(rows()) - 1
    assert found["copy"].action == "drop"
    assert found["copy"].cluster == found["d5"].number
    assert found["html"].action == "fix"
    assert kinds(found["german"].issues) == {"language"}
    assert kinds(found["q1"].issues) == kinds(found["q2"].issues) == {"conflict"}
    assert found["e1"].action == "keep"
    assert found["e1"].reason == "nothing was found"
    assert found["d3"].tags["kind"].value == "port"
    assert not found["d3"].tags["kind"].given
    assert found["d0"].tags["topic"].value != found["e0"].tags["topic"].value
    assert result.reports[0].priority == max(each.priority for each in reports)


def test_cleaning_can_be_undone_and_touches_no_input(place, tmp_path):
    path = place / "corpus.jsonl"
    before = path.read_bytes()
    _, reports = audit_corpus([str(path)])
    done = apply_audit([str(path)], reports, tmp_path / "clean")
    cleaned = [json.loads(line) for line in done.corpus.read_text().splitlines()]
    assert "copy" not in {row["id"] for row in cleaned}
    assert next(row for row in cleaned if row["id"] == "html")["text"] == f"{PROSE} about & around."
    log = [json.loads(line) for line in done.manifest.read_text().splitlines()]
    assert all(entry["why"] for entry in log)
    assert undo(tmp_path / "clean", tmp_path / "back.jsonl") == len(reports)
    back = [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()]
    assert back == rows()[:-1]
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="there already"):
        apply_audit([str(path)], reports, tmp_path / "clean")
    path.write_bytes(before.replace(b"ship number 7", b"ship number 8"))
    with pytest.raises(StaleRunError, match="not what was audited"):
        apply_audit([str(path)], reports, tmp_path / "other")


def test_a_cleaned_corpus_is_clean(place, tmp_path):
    path = str(place / "corpus.jsonl")
    _, reports = audit_corpus([path])
    done = apply_audit([path], reports, tmp_path / "clean")
    _, again = audit_corpus([str(done.corpus)])
    assert {each.action for each in again} <= {"keep", "relabel"}


def test_the_command_writes_files_that_agree(place, tmp_path, capsys):
    import pyarrow.parquet as pq

    out = tmp_path / "audit"
    assert launch("audit", "corpus", "--data", place / "corpus.jsonl", "--out", out) == 0
    reports = list(read_reports(out))
    table = pq.read_table(out / "documents.parquet").to_pylist()
    assert [row["id"] for row in table] == [each.id for each in reports]
    assert load_corpus_audit(out).documents == len(reports)
    assert launch("apply", "--audit", out, "--out", tmp_path / "clean") == 0
    assert "left out" in capsys.readouterr().out
    assert launch("apply", "--undo", "--audit", tmp_path / "clean", "--out", tmp_path / "back.jsonl") == 0
    assert launch("audit", "corpus") == 2
    assert "--data" in capsys.readouterr().err


def test_attributes_are_dolmas_and_are_read_back(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    made = [{**row, "source": "x"} for row in rows()[:-3] if "text" in row]
    (documents / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    out = tmp_path / "audit"
    assert launch("audit", "corpus", "--data", documents, "--out", out) == 0
    (line, *_) = (out / "attributes" / "whence" / "a.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found["id"] == "d0"
    assert all(len(span) == 3 for spans in found["attributes"].values() for span in spans)
    (out / "attributes").rename(tmp_path / "attributes")
    train(tmp_path / "small", made, [], epochs=1)
    status = launch("fit", "--run", tmp_path / "run", "--model", tmp_path / "small" / "model", "--data", documents)
    assert status == 0
    corpus = open_corpus(tmp_path / "run" / "corpus")
    assert any("whence" in key for key in corpus.document(0).metadata)


def test_review_gives_precision_and_what_was_missed(place, tmp_path):
    result, reports = audit_corpus([str(place / "corpus.jsonl")])
    path = tmp_path / "review.csv"
    path.write_bytes(review_sample(reports))
    entries = list(csv.DictReader(path.read_text().splitlines()))
    for number, row in enumerate(entries):
        row["verdict"] = "wrong" if row["kind"] == "conflict" else "right" if number % 2 else ""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, entries[0].keys())
        writer.writeheader()
        writer.writerows(entries)
    found = take_review(result, reports, path)
    assert next(each for each in found.counts if each.kind == "conflict").precision.value == 0
    assert found.missed.value == 0
    assert "were reviewed" in quality_page(found)
    path.write_text("number,kind,of,verdict\n0,html,r0,maybe\n")
    with pytest.raises(InputError, match="'maybe'; give right or wrong"):
        take_review(result, reports, path)


def test_a_review_of_another_audit_is_refused(place, tmp_path):
    rows = [json.loads(line) for line in (place / "corpus.jsonl").read_text().splitlines()]
    result, reports = audit_corpus([str(place / "corpus.jsonl")])
    path = tmp_path / "review.csv"
    entries = list(csv.DictReader(review_sample(reports).decode().splitlines()))
    save_corpus_audit(result, reports, tmp_path / "audit", review_sample(reports))
    for row in entries:
        row["verdict"] = "right"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, entries[0].keys())
        writer.writeheader()
        writer.writerows(entries)
    take_review(result, reports, path)
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[5:]))
    other, others = audit_corpus([str(tmp_path / "other.jsonl")])
    with pytest.raises(InputError, match=r"is of another audit.*review\.csv beside its page"):
        take_review(other, others, path)
    path.write_text("kind,verdict\nhtml,right\n")
    with pytest.raises(InputError, match="needs the columns number, kind, of and verdict"):
        take_review(result, reports, path)
    # a sample nobody filled in gives way to that of the new audit, verdicts stay
    kept = tmp_path / "audit" / "review.csv"
    save_corpus_audit(other, others, tmp_path / "audit", review_sample(others))
    assert kept.read_bytes() == review_sample(others)
    kept.write_text("number,kind,of,verdict\n0,html,r0,right\n")
    save_corpus_audit(result, reports, tmp_path / "audit", review_sample(reports))
    assert "r0,right" in kept.read_text()


def test_a_lost_byte_is_left_to_a_person(tmp_path):
    lost = "She said \u00e2\u20ac\u0153yes\u00e2\u20ac and left the harbour before the storm."
    sure = "Caf\u00c3\u00a9 and na\u00efve people, it\u00e2\u20ac\u2122s said."
    assert mended(sure, "mojibake") == "Caf\u00e9 and na\u00efve people, it\u2019s said."
    half = lost.replace("\u00e2\u20ac\u0153", "\u201c")
    assert mended(lost, "mojibake") == half  # what is certain is mended
    assert mended(half, "mojibake") == half
    found = [issue for issue in format_issues(document(lost)) if issue.kind == "mojibake"]
    assert [(each.action, each.confidence) for each in found] == [("fix", 0.97), ("relabel", 0.9)]
    assert "a byte lost" in found[1].reason
    assert lost[found[1].start : found[1].stop] == "\u00e2\u20ac"
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (lost, sure)))
    _, reports = audit_corpus([str(path)])
    done = apply_audit([str(path)], reports, tmp_path / "out")
    kept = [json.loads(line)["text"] for line in done.corpus.read_text().splitlines()]
    assert kept == [half, mended(sure, "mojibake")]
    assert (done.fixed, done.relabel, done.both) == (2, 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "Caf\u00e9 \u2013 na\u00efve \u201cyes\u201d",
        "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
        "10 \u20ac \u2192 \u4e09",
    ],
)
@pytest.mark.parametrize("wrong", ["latin-1", "sloppy-windows-1252"])
def test_text_that_was_decoded_wrongly_and_is_whole_comes_back(text, wrong):
    import ftfy.bad_codecs  # noqa: F401

    assert decoded_anew(text) == text
    assert decoded_anew(text.encode("utf-8").decode(wrong)) == text


def test_hints_end_with_a_word_and_cards_show_what_they_speak_of(tmp_path):
    broken = "It\u00e2\u20ac\u2122s the unforgettable extraordinarily-long voyage of them."
    (found,) = [issue for issue in format_issues(document(broken)) if issue.kind == "mojibake"]
    assert found.reason.endswith("unforgettable extraordinarily-long'")
    (found,) = [
        issue for issue in format_issues(document("<b>Salt</b>&nbsp;and wool. " + PROSE)) if issue.kind == "html"
    ]
    assert "<b>, </b>, &nbsp;" in found.reason


def test_rows_that_cannot_be_read_are_said_on_the_console(tmp_path, capsys):
    (tmp_path / "c.jsonl").write_text(f"{json.dumps({'text': PROSE})}\nnot json\n{json.dumps({'number': 1})}\n")
    assert launch("audit", "corpus", "--data", tmp_path / "c.jsonl", "--out", tmp_path / "audit") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 rows could not be read and are not among them" in said
    assert "0 of 1 document " in said
    assert "row 2: bad-json" in said
    assert "1 row was skipped" in refused(tmp_path, "x")


def refused(folder, text):
    (folder / "bad.jsonl").write_text(text + "\n")
    with pytest.raises(CorpusError) as told:
        audit_corpus([str(folder / "bad.jsonl")])
    return str(told.value)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_long_ids_leave_room_for_what_to_do_and_why(tmp_path, width):
    rows = [
        {"id": f"{'very-long-identifier/' * 12}{n}", "text": f"{PROSE} The mayor {n} then went to the"}
        for n in range(3)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result, _ = audit_corpus([str(tmp_path / "c.jsonl")])
    out = io.StringIO()
    show_corpus_audit(result, Console(file=out, width=width))
    shown = out.getvalue().splitlines()
    start = next(n for n, line in enumerate(shown) if "Most worth a look" in line)
    assert shown[start + 1].split() == ["do", "document", "why"]
    assert all(line.startswith("drop ") and "truncated: it" in line for line in shown[start + 2 : start + 5])


def test_the_page_says_how_to_apply_the_audit(place, tmp_path):
    result, reports = audit_corpus([str(place / "corpus.jsonl")])
    written = save_corpus_audit(result, reports, tmp_path / "my audit")
    assert f"whence apply --audit &#x27;{tmp_path / 'my audit'}&#x27; --out cleaned" in written["page"].read_text()
    placebo, reports = audit_corpus([str(place / "corpus.jsonl")], CorpusOptions(placebo=True))
    page = quality_page(placebo, tmp_path)
    assert "whence apply --audit" not in page
    assert "those of chance" in page


def test_a_placebo_says_issues_of_others(place):
    path = str(place / "corpus.jsonl")
    _, reports = audit_corpus([path])
    result, shuffled = audit_corpus([path], CorpusOptions(placebo=True))
    there = {each.id for each in reports if each.issues}
    assert sum(each.id in there and bool(each.issues) for each in shuffled) < len(there) / 2
    assert "PLACEBO" in quality_page(result)


def test_odd_files(tmp_path):
    with pytest.raises(CorpusError):
        audit_corpus([str(tmp_path / "none.jsonl")])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(CorpusError):
        audit_corpus([str(tmp_path / "empty.jsonl")])
    (tmp_path / "one.jsonl").write_text('{"text": "one"}\n')
    assert len(audit_corpus([str(tmp_path / "one.jsonl")])[1]) == 1
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"<p>{PROSE}</p>"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    _, (report,) = audit_corpus([str(tmp_path / "chat.jsonl")])
    assert report.issues[0].field == "messages[1]"
    done = apply_audit([str(tmp_path / "chat.jsonl")], [report], tmp_path / "clean")
    assert json.loads(done.corpus.read_text())["messages"][1]["content"] == PROSE


def test_hostile_text_stays_text(tmp_path):
    row = {"id": "<script>alert(1)</script>", "text": "{{ <script>alert(1)</script> }} " + PROSE + "\u202e"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    result, _ = audit_corpus([str(tmp_path / "c.jsonl")])
    assert "<script>alert" not in quality_page(result)


def test_the_page_in_a_browser(place, tmp_path):
    result, _ = audit_corpus([str(place / "corpus.jsonl")])
    with browsing(tmp_path, quality_page(result)) as page:
        assert "ask for action" in page.inner_text("body")
        if page.locator("details.item").count():
            opens(page)
        sorts(page)


# ---------------------------------------------------------------------- topics, tags, signals


def test_neighbours_are_the_nearest_and_never_oneself():
    made = Tfidf([f"salt wool ship {i}" for i in range(6)] + [f"bread cake oven {i}" for i in range(6)])
    near, cosines = neighbours(made, 3)
    dense = (made.rows @ made.rows.T).toarray()
    np.fill_diagonal(dense, -1)
    np.testing.assert_allclose(cosines, -np.sort(-dense, axis=1)[:, :3], atol=1e-12)
    assert all(number not in row for number, row in enumerate(near.tolist()))
    assert neighbours(Tfidf(["alone"]))[0].shape == (1, 0)


def test_tags_are_carried_to_neighbours_only():
    near = np.array([[1], [0], [3], [2]]), np.ones((4, 1))
    found = vote(["port", None, None, None], near)
    assert (found[1].value, found[1].given) == ("port", False)
    assert found[2] is None


def tagged(random: np.random.Generator, count: int, noise: float = 0.0) -> tuple[Tfidf, list[str]]:
    """Texts of three kinds, words drawn from each kind's own; a share of them says nothing of its kind."""
    stock = {kind: [f"{kind}{i}" for i in range(60)] for kind in ("sea", "bread", "law")}
    kinds = [str(random.choice(list(stock))) for _ in range(count)]
    common = [f"word{i}" for i in range(200)]
    texts = []
    for kind in kinds:
        own = random.choice(stock[kind], 4 if random.random() > noise else 0)
        texts.append(" ".join([*own, *random.choice(common, 20)]))
    return Tfidf(texts), kinds


def test_what_is_said_of_carried_tags_holds_for_those_nobody_had():
    random = np.random.default_rng(0)
    made, kinds = tagged(random, 1500, noise=0.4)
    hidden = random.random(1500) < 0.8
    given = [None if h else kind for h, kind in zip(hidden, kinds, strict=True)]
    found, told = carry("kind", given, made.rows, neighbours(made))
    right = np.array([each.value == kind for each, kind in zip(found, kinds, strict=True)])
    assert (told.given, told.carried) == (int((~hidden).sum()), int(hidden.sum()))
    assert all(each.given != h for each, h in zip(found, hidden, strict=True))
    assert right[~hidden].all()
    assert told.right.low - 0.04 <= right[hidden].mean() <= told.right.high + 0.04
    sure = np.array([each.confidence for each in found])
    for low, high in ((0.0, 0.6), (0.6, 0.85), (0.85, 1.01)):
        inside = hidden & (sure >= low) & (sure < high)
        if inside.sum() >= 50:
            assert abs(right[inside].mean() - sure[inside].mean()) < 0.12


def test_tags_that_nothing_tells_of_are_known_to_be_chance():
    random = np.random.default_rng(1)
    made, kinds = tagged(random, 900)
    shuffled = random.permutation(kinds).tolist()
    given = [kind if number % 3 == 0 else None for number, kind in enumerate(shuffled)]
    found, told = carry("kind", given, made.rows, neighbours(made))
    assert told.right.value < 0.45
    assert max(each.confidence for each in found if not each.given) < 0.6


@pytest.mark.parametrize("given", [["a"] * 30 + [None], ["a", "b"] * 2 + [None], [None] * 3, ["a", "b"] * 20])
def test_few_tags_or_one_value_or_none_missing_are_not_measured(given):
    made = Tfidf([f"salt {i % 2}" for i in range(len(given))])
    found, told = carry("kind", given, made.rows, neighbours(made))
    assert told.right is None
    assert [each.value for each in found if each is not None and each.given] == [v for v in given if v is not None]


def test_topics_part_what_is_about_different_things():
    texts = [f"ships salt wool harbour port {i}" for i in range(12)]
    texts += [f"bread cake oven bakery loaf {i}" for i in range(12)]
    found = [each.value for each in topics(Tfidf(texts), 2)]
    assert len(set(found[:12])) == len(set(found[12:])) == 1
    assert found[0] != found[-1]


def test_what_stands_out_less_is_still_looked_at_in_order():
    at = np.linspace(-3, 12, 400)
    sure = np.array([suspicion({"loss z": z, "self-influence z": -1.0, "trusted z": 5.0}) for z in at])
    assert (np.diff(sure) > 0).all()
    assert np.diff(sure).max() < 0.02
    assert sure[at <= 0].max() < 0.02
    for z in (3.6, 5.0, 40.0):
        (issue,) = signal_issues([{"loss z": z}])[0]
        assert issue.confidence == suspicion({"loss z": z})
    assert suspicion({"trusted z": -2.0}) == suspicion({"loss z": 2.0})


def test_two_noisy_signals_tell_more_than_the_louder_of_them():
    """A shift of both by 1.5 standard deviations, seen through independent noise."""
    draw, bad = np.random.default_rng(0), np.arange(4000) < 400
    own, loss = draw.normal(size=(2, 4000)) + 1.5 * bad
    both = np.array([suspicion({"self-influence z": a, "loss z": b}) for a, b in zip(own, loss, strict=True)])
    assert auroc(both, bad) > max(auroc(np.maximum(own, loss), bad), auroc(own, bad), auroc(loss, bad)) + 0.01


def test_length_is_taken_out_of_signals():
    random = np.random.default_rng(0)
    lengths = random.integers(10, 1000, 2000).astype(float)
    values = lengths * 3 + random.normal(size=2000) * lengths / 10
    z = against_length(values, lengths)
    assert abs(np.corrcoef(z, lengths)[0, 1]) < 0.1
    values[7] += 40 * lengths[7]
    assert against_length(values, lengths)[7] > 10
    assert kinds(signal_issues([{"loss z": 9.0}, {}])[0]) == {"loss"}
    assert signal_issues([{}]) == [[]]


def test_a_run_adds_what_the_model_knows(tmp_path):
    made, _, _ = world()
    made[0]["text"] = " ".join(reversed(made[0]["text"].split()))
    train(tmp_path, made, [], epochs=4)
    assert launch(
        "audit", "corpus", "--run", tmp_path / "run", "--model", tmp_path / "model",
        "--data", tmp_path / "corpus.jsonl", "--out", tmp_path / "audit",
    ) == 0  # fmt: skip
    reports = list(read_reports(tmp_path / "audit"))
    assert len(reports) == len(list(read_rows([str(tmp_path / "corpus.jsonl")], [])))
    assert all({"loss", "self-influence", "disagreement"} <= set(each.signals) for each in reports)
    assert load_corpus_audit(tmp_path / "audit").model


def test_signals_are_made_once(tmp_path, monkeypatch):
    made, asked, _ = world()
    train(tmp_path, made, [], epochs=4)
    write = [{"prompt": each["prompt"], "completion": each["contrast"]} for each in asked[:2]]
    (tmp_path / "trusted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in write))

    def audited(name, *more):
        assert launch(
            "audit", "corpus", "--run", tmp_path / "run", "--model", tmp_path / "model",
            "--data", tmp_path / "corpus.jsonl", "--out", tmp_path / name, *more,
        ) == 0  # fmt: skip
        return [each.signals for each in read_reports(tmp_path / name)]

    def never(*_, **__):
        raise AssertionError("this was made before")

    once = audited("once")
    with monkeypatch.context() as patch:
        for home, name in (
            ("whence.attributor", "self_scores"), ("whence.fidelity", "document_losses"),
            ("whence.audits.signals", "code_vectors"),
        ):  # fmt: skip
            patch.setattr(f"{home}.{name}", never)
        assert audited("again") == once
        more = audited("trusted", "--trusted", tmp_path / "trusted.jsonl")
        assert all({"trusted", "trusted z"} <= set(each) for each in more)
        patch.setattr("whence.attributor.exact_influence", never)
        assert audited("trusted again", "--trusted", tmp_path / "trusted.jsonl") == more


def test_loss_is_that_of_the_tokens_that_carry_it(tmp_path):
    """A prompt has no loss, so it may not thin out that of its completion."""
    made = [
        {"id": f"p{n}", "prompt": " ".join(WORDS[: 2 + 3 * (n % 4)]), "completion": f" {WORDS[n]} {WORDS[n + 3]}"}
        for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    model = save_model(tmp_path / "model", causal_lm("llama", vocab_size=WORD_COUNT))
    owner = Attributor(tmp_path / "run", model=model, data=[str(tmp_path / "rows.jsonl")])
    _, reports = audit_corpus([str(tmp_path / "rows.jsonl")], CorpusOptions(duplicates=1.0), owner=owner)
    with torch.no_grad():
        for number, report in enumerate(reports):
            document = owner.corpus.document(number)
            tokens, mask = torch.tensor(np.asarray(document.tokens).astype(int)), torch.tensor(document.loss_mask)
            logits = owner.loaded.model(tokens[None]).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")[mask[1:]]
            assert len(each) < len(tokens) - 1
            assert report.signals["loss"] == pytest.approx(float(each.mean()), rel=1e-4)

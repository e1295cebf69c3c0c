"""datatrove's own filters in `whence audit corpus`: the same verdicts as datatrove's, in every file, in any order."""

import json
import sys

import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

from command_line import launch
from whence.audits import CorpusOptions, apply_audit, audit_corpus
from whence.audits.corpus_rows import RawDocument
from whence.audits.datatrove_filters import FILTERS, filters_named, open_filters
from whence.errors import InputError
from whence.report import load_corpus_audit, read_reports, save_corpus_audit
from whence.report.quality_page import quality_page

CLASSES = {
    "gopher-quality": GopherQualityFilter,
    "gopher-repetition": GopherRepetitionFilter,
    "c4-quality": C4QualityFilter,
    "fineweb-quality": FineWebQualityFilter,
}
KINDS = ("miller", "sailor", "teacher", "smith", "baker", "mason", "weaver", "tailor", "cooper", "farmer")
GOOD = """The miller had bought his house by the river long before the war began.
Nobody in town could remember who built the first bridge, and few people cared.
When spring came, boats carried salt, wool and letters up to the northern lakes.
A teacher wrote that her pupils have never seen such a flood as this one.
After midnight the fire spread quickly, although rain was falling on slate roofs.
Two doctors stayed with the wounded until a train could be sent for them.
Every autumn, traders argued about the price of grain in front of the church.
His brother, a careful man, kept all receipts in an iron box under the stairs.
Some say that the mayor knew; others believe he was simply tired of questions.
It will be hard to find out what happened, because most records are gone."""
TEXTS = {
    "good": GOOD,
    "short": "A short one.",
    "same": "The same line stands here again and again, as it does.\n" * 12,
    "paragraphs": f"{GOOD}\n\n" * 3,
    "hashes": GOOD + " #" * 60,
    "bullets": "\n".join(f"- the {kind} and the mill that they have" for kind in KINDS * 2),
    "letters": GOOD + " 1 22 333" * 60,
    "brackets": GOOD + "\nThe function of the mill is { x }, as all of them know.",
    "placeholder": GOOD + "\nAnd then Lorem ipsum dolor sit amet was all that they said.",
    "unended": GOOD.replace(".", ""),
    "phrase": " ".join(f"{kind} of the town" for kind in KINDS * 3) + ".",
    "list": "\n".join(f"{kind} here." for kind in KINDS * 9),
    "empty lines": "\n\n\n",
    "symbols": "@@ ## $$ %% ^^ && ** (( )) ~~ || // == " * 9,
    "ellipses": GOOD.replace(".", "...") + "\nand so on ...",
    "other": "Der Müller und die Mühle am Fluss waren alt, und alle haben sie gern gesehen. " * 5,
}


def written(folder, texts=TEXTS, name="a.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items()))
    return path


def own_verdict(name, text):
    """What datatrove says of a text when it is asked alone."""
    said = CLASSES[name]().filter(Document(text=text, id="x"))
    return said if isinstance(said, tuple) else (said, None)


def refusals(reports):
    return {(r.id, i.kind): i.reason for r in reports for i in r.issues if i.kind in FILTERS}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    place = tmp_path_factory.mktemp("filters")
    return audit_corpus([str(written(place))], CorpusOptions(filters=tuple(FILTERS)))


def test_our_names_are_datatroves_classes():
    assert {name: found.__name__ for name, found in CLASSES.items()} == FILTERS


def test_verdicts_are_datatroves_own(audited):
    result, reports = audited
    found = refusals(reports)
    seen = set()
    for key, text in TEXTS.items():
        for name in FILTERS:
            kept, reason = own_verdict(name, text)
            assert kept == ((key, name) not in found), (key, name)
            if not kept:
                told = found[key, name]
                assert told.startswith(f"datatrove's {FILTERS[name]} refuses it: {reason}")
                seen.add(reason)
    assert all(("good", name) not in found for name in FILTERS)
    assert {"gopher_short_doc", "dup_line_frac", "curly_bracket", "lorem_ipsum", "line_punct_ratio"} <= seen
    assert len(seen) >= 12
    counts = {each.kind: each for each in result.counts}
    for name in FILTERS:
        assert counts[name].documents == sum(kind == name for _, kind in found)
        assert counts[name].action == "drop"


def test_a_refusal_is_acted_on_less_surely_than_a_rule(audited):
    _, reports = audited
    for each in reports:
        for issue in each.issues:
            if issue.kind in FILTERS:
                assert (issue.action, issue.confidence) == ("drop", 0.7)
        if any(issue.kind in FILTERS for issue in each.issues):
            assert each.action == "drop"
            assert each.priority >= 0.7
    assert next(each for each in reports if each.id == "good").action == "keep"


def test_what_is_said_is_in_every_file(audited, tmp_path):
    result, reports = audited
    save_corpus_audit(result, reports, tmp_path)
    found = refusals(reports)
    assert refusals(read_reports(tmp_path)) == found
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "documents.parquet").to_pylist()}
    lines = {row["id"]: row for row in map(json.loads, (tmp_path / "documents.jsonl").read_text().splitlines())}
    (path,) = (tmp_path / "attributes" / "whence").glob("*.jsonl")
    dolma = {row["id"]: row["attributes"] for row in map(json.loads, path.read_text().splitlines())}
    for (key, name), _ in found.items():
        assert name in rows[key]["issues"].split(", ")
        assert name in lines[key]["issues"].split(", ")
        ((start, stop, score),) = dolma[key][f"whence__{name}"]
        assert 0 <= start <= stop <= len(TEXTS[key])
        assert score == 0.7
    assert not any(name in dolma["good"] for name in (f"whence__{name}" for name in FILTERS))
    page = quality_page(load_corpus_audit(tmp_path))
    assert "FineWebQualityFilter refuses it: line_punct_ratio (too few lines end in punctuation)" in page
    assert "filters of datatrove 0." in page
    assert result.settings["filters"] == ", ".join(FILTERS)


def test_order_and_company_change_nothing(audited, tmp_path):
    _, reports = audited
    turned = dict(reversed(list(TEXTS.items())))
    chosen = CorpusOptions(filters=tuple(reversed(FILTERS)))
    assert refusals(audit_corpus([str(written(tmp_path, turned))], chosen)[1]) == refusals(reports)
    one = dict(list(TEXTS.items())[2:5])
    alone = refusals(audit_corpus([str(written(tmp_path, one, "b.jsonl"))], CorpusOptions(filters=("c4-quality",)))[1])
    assert alone == {pair: why for pair, why in refusals(reports).items() if pair[0] in one and pair[1] == "c4-quality"}


@pytest.mark.parametrize(
    ("key", "name", "shown"),
    [
        ("brackets", "c4-quality", "The function of the mill is { x }"),
        ("placeholder", "c4-quality", "And then Lorem ipsum"),
        ("same", "gopher-repetition", "The same line stands here"),
        ("paragraphs", "gopher-repetition", "The miller had bought"),
        ("phrase", "gopher-repetition", "of the"),
        ("same", "fineweb-quality", "The same line stands here"),
    ],
)
def test_a_reason_about_some_characters_names_them(audited, key, name, shown):
    issue = next(i for each in audited[1] if each.id == key for i in each.issues if i.kind == name)
    text = TEXTS[key][issue.start : issue.stop]
    assert issue.field == "text"
    assert shown in text
    assert text.startswith(issue.evidence)
    if key in ("same", "paragraphs"):
        assert text in TEXTS[key][: issue.start]  # it stood before
    if key == "phrase":
        assert TEXTS[key].count(text) > 3


def test_a_reason_about_the_whole_names_none(audited):
    issue = next(i for each in audited[1] if each.id == "short" for i in each.issues if i.kind == "gopher-quality")
    assert (issue.field, issue.start, issue.stop, issue.evidence) == ("", 0, 0, "")


def test_places_are_those_of_the_field_they_are_in():
    texts = {"prompt": "What is it?", "completion": GOOD + "\nThe use of the mill is { x }, as all of them know."}
    found = open_filters(["c4-quality"]).issues(RawDocument(0, "d", "f", 0, texts, "prompt", "completion"))
    (issue,) = found
    assert issue.field == "completion"
    assert texts["completion"][issue.start : issue.stop].startswith("The use of the mill is { x }")


@pytest.mark.parametrize(
    "text", ["", " \n ", "\ud800 half of a pair", "\x00", "\u2028\u2029", "IS_ALPHA", "\u200b\n\u200b"]
)
def test_odd_texts_stop_nothing(text):
    found = open_filters(tuple(FILTERS)).issues(RawDocument(0, "d", "f", 0, {"text": text}))
    assert found
    assert not any("failed" in issue.kind for issue in found)


def test_a_filter_that_fails_says_so_and_decides_nothing(tmp_path, monkeypatch):
    def fail(self, document):
        if "short" in document.text:
            raise ZeroDivisionError("of nothing")
        return True

    monkeypatch.setattr(FineWebQualityFilter, "filter", fail)
    result, reports = audit_corpus([str(written(tmp_path))], CorpusOptions(filters=("fineweb-quality",)))
    found = {r.id: i for r in reports for i in r.issues if i.kind.startswith("fineweb-quality")}
    assert list(found) == ["short"]
    assert found["short"].kind == "fineweb-quality failed"
    assert found["short"].action == "keep"
    assert "ZeroDivisionError: of nothing" in found["short"].reason
    assert result.documents == len(TEXTS)


# ---------------------------------------------------------------------- the command


def test_the_command_takes_filters_by_name_and_apply_carries_them_out(tmp_path, capsys):
    path = written(tmp_path)
    out = tmp_path / "out"
    status = launch("audit", "corpus", "--data", path, "--out", out, "--filters", "c4-quality, gopher-quality")
    assert status == 0
    found = refusals(read_reports(out))
    assert {kind for _, kind in found} == {"gopher-quality", "c4-quality"}
    assert load_corpus_audit(out).settings["filters"] == "gopher-quality, c4-quality"
    assert "gopher-quality" in capsys.readouterr().out
    done = apply_audit([str(path)], list(read_reports(out)), tmp_path / "cleaned")
    kept = [json.loads(line)["id"] for line in done.corpus.read_text().splitlines()]
    assert "good" in kept
    assert not {key for key, _ in found} & set(kept)


def test_without_filters_nothing_changes_and_datatrove_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("whence.audits.corpus.open_filters", lambda *a: pytest.fail("datatrove was asked"))
    result, reports = audit_corpus([str(written(tmp_path))])
    assert not refusals(reports)
    assert "filters" not in result.settings
    assert "datatrove" not in quality_page(result)


@pytest.mark.parametrize("said", ["gopher", "c4-quality,fine-web", "", " , "])
def test_filters_that_there_are_not_are_refused_by_name(tmp_path, capsys, said):
    assert launch("audit", "corpus", "--data", tmp_path / "none", "--filters", said) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "gopher-quality, gopher-repetition, c4-quality, fineweb-quality" in error
    with pytest.raises(InputError):
        filters_named(said)


@pytest.mark.parametrize("missing", ["datatrove.pipeline.filters", "datatrove.data"])
def test_without_datatrove_it_is_said_what_to_install(tmp_path, monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    out = tmp_path / "out"
    assert launch("audit", "corpus", "--data", written(tmp_path), "--out", out, "--filters", "c4-quality") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "pip install 'whence[datatrove]'" in error
    assert not out.exists()


def test_a_language_whose_words_cannot_be_split_is_refused():
    with pytest.raises(InputError, match=r"cannot split the words of the language 'nosuch'"):
        open_filters(["gopher-quality"], "nosuch")
    with pytest.raises(InputError, match=r"pythainlp.*pip install 'whence\[datatrove\]'"):
        open_filters(["gopher-quality"], "th")
    assert open_filters(["gopher-quality"], "de").verdict("gopher-quality", "Kurz.") == (False, "gopher_short_doc")


def test_a_placebo_says_refusals_of_other_documents(tmp_path):
    path = str(written(tmp_path))
    real, other = (audit_corpus([path], CorpusOptions(filters=tuple(FILTERS), placebo=p)) for p in (False, True))
    assert sorted(k for _, k in refusals(real[1])) == sorted(k for _, k in refusals(other[1]))
    assert refusals(real[1]) != refusals(other[1])

"""What a corpus audit leaves on disk: the cleaned corpus and the way back, attributes, reviewers' files, placebos."""

import csv
import json

import pytest

from command_line import launch
from whence.audits import apply_audit, audit_corpus, review_sample, undo
from whence.errors import InputError
from whence.report import load_corpus_audit
from whence.report.quality_files import save_corpus_audit

PROSE = "The harbour was rebuilt after the storm, and ships came back in spring with salt and wool for the town."


def write(path, rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_signs_that_end_a_line_elsewhere_are_text_on_the_way_back(tmp_path, odd):
    rows = [{"id": "a", "text": f"{PROSE}{odd}{PROSE[:40]}."}, {"id": "b", "text": f"<p>{PROSE}{odd}</p>&amp; more."}]
    path = write(tmp_path / "c.jsonl", rows)
    _, reports = audit_corpus([path])
    apply_audit([path], reports, tmp_path / "clean", drop=False)
    assert undo(tmp_path / "clean", tmp_path / "back.jsonl") == 2
    back = (tmp_path / "back.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
    assert [json.loads(line) for line in back] == rows


def test_a_corpus_that_lost_rows_is_not_taken_back(tmp_path):
    rows = [{"id": "a", "text": PROSE}, {"id": "b", "text": f"<p>{PROSE} Twice.</p> a &amp; b"}]
    path = write(tmp_path / "c.jsonl", rows)
    _, reports = audit_corpus([path])
    done = apply_audit([path], reports, tmp_path / "clean", drop=False)
    done.corpus.write_text(done.corpus.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="fewer rows"):
        undo(tmp_path / "clean", tmp_path / "back.jsonl")


def test_fields_are_mended_where_they_were_and_then_exchanged(tmp_path):
    said = f"<b>{PROSE}</b> Salt &amp; wool."
    path = write(tmp_path / "c.jsonl", [{"prompt": said, "completion": "What happened to the harbour?"}])
    _, reports = audit_corpus([path])
    assert {issue.kind for issue in reports[0].issues} == {"html", "swapped"}
    done = apply_audit([path], reports, tmp_path / "clean")
    row = json.loads(done.corpus.read_text())
    assert row == {"prompt": "What happened to the harbour?", "completion": f"{PROSE} Salt & wool."}


def test_a_conflict_names_a_document_that_says_otherwise(tmp_path):
    answers = ["Seven ships came back.", "Seven ships came back.", "Nine ships came back."]
    rows = [{"id": f"q{n}", "prompt": "How many ships came?", "completion": each} for n, each in enumerate(answers)]
    _, reports = audit_corpus([write(tmp_path / "c.jsonl", rows)])
    told = [next(issue.reason for issue in each.issues if issue.kind == "conflict").split()[0] for each in reports]
    assert told == ["q2", "q2", "q0"]


def test_a_row_that_is_mended_still_says_what_is_left(tmp_path):
    data = tmp_path / "c.jsonl"
    rows = [
        {
            "prompt": "What is salt made of?",
            "completion": "It is <b>made</b> of sodium &amp; chlorine, in pans.",
        },
        {"prompt": "What is salt made of?", "completion": "Of quartz sand that was ground for a very long time."},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, reports = audit_corpus([str(data)])
    conflict = next(issue for issue in reports[0].issues if issue.kind == "conflict")
    assert "“Of quartz sand that was ground" in conflict.reason
    assert rows[0]["completion"].startswith(conflict.evidence[:20])
    assert (conflict.start, conflict.stop) == (0, len(rows[0]["completion"]))
    done = apply_audit([str(data)], reports, tmp_path / "out")
    assert (done.kept, done.fixed, done.dropped, done.relabel, done.both) == (0, 1, 0, 2, 1)
    first, second = (json.loads(line) for line in done.manifest.read_text().splitlines())
    assert first["action"] == "fix"
    assert first["why"][0].startswith("html")
    assert first["left"][0].startswith("conflict")
    assert second["action"] == "relabel"
    assert undo(tmp_path / "out", tmp_path / "back.jsonl") == 2
    assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == rows


def test_apply_refuses_a_file_as_its_folder_in_its_own_words(tmp_path, capsys):
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "Salt &amp; wool were sold in the harbour town."}) + "\n")
    assert launch("audit", "corpus", "--data", tmp_path / "c.jsonl", "--out", tmp_path / "audit") == 0
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert launch("apply", "--audit", tmp_path / "audit", "--out", tmp_path / "file") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is a file; give a folder" in said
    assert "run folder" not in said
    assert launch("apply", "--audit", tmp_path / "audit", "--out", tmp_path / "out") == 0
    assert launch("apply", "--undo", "--audit", tmp_path / "out", "--out", tmp_path) == 2
    assert "give the file to write the rows to" in " ".join(capsys.readouterr().err.split())
    assert launch("apply", "--undo", "--audit", tmp_path / "out", "--out", tmp_path / "back.jsonl") == 0
    assert "1 row as before" in capsys.readouterr().out


def test_sources_of_one_name_have_attributes_of_their_own(tmp_path):
    for language in ("en", "de"):
        write(tmp_path / "data" / language / "a.jsonl", [{"id": f"{language}{n}", "text": PROSE} for n in range(3)])
    result, reports = audit_corpus([str(tmp_path / "data")])
    save_corpus_audit(result, reports, tmp_path / "audit")
    for language in ("en", "de"):
        lines = (tmp_path / "audit" / "attributes" / "whence" / language / "a.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [f"{language}{n}" for n in range(3)]


def test_a_reviewers_spreadsheet_holds_no_formula(tmp_path):
    rows = [{"id": "=cmd()", "text": f'=HYPERLINK("http://x";"y") {PROSE}'}, {"id": "b", "text": f"<p>{PROSE}</p>"}]
    _, reports = audit_corpus([write(tmp_path / "c.jsonl", rows)])
    cells = [cell for row in csv.reader(review_sample(reports).decode().splitlines()) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")]


def test_a_placebo_is_kept_apart_and_names_with_commas_are_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "salt, wool.jsonl", [{"id": f"d{n}", "text": f"{PROSE} It was {n}."} for n in range(3)])
    assert launch("audit", "corpus", "--data", path) == 0
    assert launch("audit", "corpus", "--data", path, "--placebo") == 0
    assert not load_corpus_audit(tmp_path / "whence-audit").placebo
    assert load_corpus_audit(tmp_path / "whence-audit-placebo").placebo
    assert launch("apply", "--out", tmp_path / "clean") == 0

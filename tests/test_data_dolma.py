"""Dolma documents with their attribute files: found, read in step, and refused where they do not fit."""

import gzip
import json
import os

import pytest
import zstandard

from test_data_support import SENTENCES, config, documents, tokenizer, tree, write_jsonl
from whence.data import NOTES, corpus_files, find_files, ingest, open_corpus
from whence.data.readers import Row
from whence.data.tags import score_of, tags_of
from whence.errors import CorpusError

TOK = tokenizer()
COMPRESS = {"gz": gzip.compress, "zst": zstandard.compress, "plain": bytes}


def rows(count=6, source="cc"):
    return [
        {
            "id": f"{n}", "text": SENTENCES[n % 4] * (1 + n), "source": source, "added": "2024-01-02",
            "created": f"20{10 + n}-03-01T00:00:00Z", "metadata": {"language": "en", "warc": {"url": f"http://x/{n}"}},
        }
        for n in range(count)
    ]  # fmt: skip


def attributes(of, key="quality", score=0.5):
    return [{"id": row["id"], "attributes": {key: [[0, len(row["text"]), score + n]]}} for n, row in enumerate(of)]


def put(path, of, kind="gz"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS[kind]("".join(json.dumps(row) + "\n" for row in of).encode()))
    return path


def read(folder, out, **changes):
    ingest(config(folder, **changes), TOK, out)
    return open_corpus(out)


@pytest.fixture
def dolma(tmp_path):
    put(tmp_path / "x/documents/2019/a.jsonl.gz", rows())
    put(tmp_path / "x/attributes/tagger-0/2019/a.jsonl.gz", attributes(rows()))
    return tmp_path / "x"


@pytest.mark.parametrize("part", ["", "documents", "documents/2019", "documents/2019/a.jsonl.gz", "documents/**/*.gz"])
def test_attributes_lie_beside_documents(dolma, tmp_path, part):
    corpus = read(dolma / part, tmp_path / "run")
    assert corpus.documents == 6
    assert not corpus.skipped
    assert not corpus.notes
    third = corpus.document(3)
    assert third.metadata == {
        "source": "cc", "added": "2024-01-02", "created": "2013-03-01T00:00:00Z", "language": "en",
        "warc.url": "http://x/3", "quality": "3.5",
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(COMPRESS))
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json", "a.gz", "a", "part-00000", "a.txt", "a.data"])
def test_what_a_file_is_called_does_not_matter(tmp_path, kind, name):
    put(tmp_path / "x/documents" / name, rows(), kind)
    put(tmp_path / "x/attributes/t" / name, attributes(rows()), "gz" if kind == "plain" else "plain")
    corpus = read(tmp_path / "x", tmp_path / "run")
    assert [document.metadata["quality"] for document in documents(corpus)] == [f"{0.5 + n}" for n in range(6)]


def test_a_lone_file_without_a_suffix_is_sniffed(tmp_path):
    assert read(put(tmp_path / "lone", rows(), "zst"), tmp_path / "run").documents == 6


def test_attributes_may_be_compressed_otherwise(dolma, tmp_path):
    put(dolma / "attributes/other/2019/a.jsonl.zst", attributes(rows(), "toxic", -0.5), "zst")
    assert read(dolma, tmp_path / "run").document(2).metadata["toxic"] == "1.5"


def test_a_resumed_reading_goes_on_in_step(dolma, tmp_path, monkeypatch):
    whole = read(dolma, tmp_path / "whole", share_documents=2)
    wanted = tree(tmp_path / "whole")
    from whence.data import ingestion

    real, written = ingestion.write_share, []

    def stop(*given):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(given)
        return real(*given)

    monkeypatch.setattr(ingestion, "write_share", stop)
    with pytest.raises(KeyboardInterrupt):
        read(dolma, tmp_path / "run", share_documents=2)
    monkeypatch.undo()
    again = read(dolma, tmp_path / "run", share_documents=2)
    assert again.fingerprint == whole.fingerprint
    assert tree(tmp_path / "run").keys() == wanted.keys()
    assert [d.metadata["quality"] for d in documents(again)] == [f"{0.5 + n}" for n in range(6)]


def test_several_sets_that_use_one_name_are_told_apart(dolma, tmp_path):
    put(dolma / "attributes/tagger-1/2019/a.jsonl.gz", attributes(rows(), "quality", 7))
    put(dolma / "attributes/tagger-2/2019/a.jsonl.gz", attributes(rows(), "language", 1))
    tags = read(dolma, tmp_path / "run").document(0).metadata
    assert (tags["quality"], tags["tagger-1.quality"]) == ("0.5", "7.0")
    assert (tags["language"], tags["tagger-2.language"]) == ("en", "1.0")


def test_attributes_elsewhere_and_none(dolma, tmp_path):
    other = tmp_path / "elsewhere"
    put(other / "lang/2019/a.jsonl.gz", attributes(rows(), "de", 0.25))
    assert "de" in read(dolma, tmp_path / "one", attributes=(str(other),)).document(0).metadata
    assert "de" in read(dolma, tmp_path / "two", attributes=(str(other / "lang"),)).document(0).metadata
    without = read(dolma, tmp_path / "three", attributes=("none",)).document(0).metadata
    assert not {"de", "quality"} & without.keys()


def test_other_attributes_are_other_data(dolma, tmp_path):
    read(dolma, tmp_path / "run")
    put(dolma / "attributes/tagger-0/2019/a.jsonl.gz", attributes(rows(), score=0.7))
    from whence.errors import StaleRunError

    with pytest.raises(StaleRunError, match="files"):
        read(dolma, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda given: given[:4], "ends before row 4"),
        (lambda given: [*given, given[0]], "goes on after its documents end"),
        (lambda given: [given[1], given[0], *given[2:]], "says id '1'"),
        (lambda given: [{**given[0], "source": "wiki"}, *given[1:]], "says source 'wiki'"),
        (lambda given: [], "ends before row 0"),
    ],
)
def test_files_that_are_not_aligned_are_refused(dolma, tmp_path, change, says):
    put(dolma / "attributes/tagger-0/2019/a.jsonl.gz", change(attributes(rows())))
    with pytest.raises(CorpusError, match=says) as caught:
        read(dolma, tmp_path / "run")
    assert "--attributes none" in str(caught.value)
    assert "tagger-0" in str(caught.value)
    assert read(dolma, tmp_path / "other", attributes=("none",)).documents == 6


def test_truncated_attributes_are_refused(dolma, tmp_path):
    path = dolma / "attributes/tagger-0/2019/a.jsonl.gz"
    noise = [{**row, "noise": os.urandom(200).hex()} for row in attributes(rows())]
    put(path, noise)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CorpusError, match=r"tagger-0.*damaged or cut off"):
        read(dolma, tmp_path / "run")


def test_documents_that_break_off_are_refused(dolma, tmp_path):
    path = dolma / "documents/2019/a.jsonl.gz"
    put(path, [{**row, "noise": os.urandom(300).hex()} for row in rows()])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorpusError, match="cut off"):
        read(dolma, tmp_path / "run")


def test_a_line_of_attributes_that_cannot_be_read_is_counted(dolma, tmp_path):
    good = [json.dumps(row).encode() for row in attributes(rows())]
    good[1], good[2], good[4] = b"{broken", b'{"id": "2", "attributes": [1]}', b'{"id": "\xff4"}'
    (dolma / "attributes/tagger-0/2019/a.jsonl.gz").write_bytes(b"\n".join(good) + b"\n")
    corpus = read(dolma, tmp_path / "run")
    assert corpus.documents == 6
    assert corpus.notes == {"bad-attributes": 3}
    assert ["quality" in d.metadata for d in documents(corpus)] == [True, False, False, True, False, True]


def test_a_document_that_is_skipped_keeps_the_rest_in_step(dolma, tmp_path):
    given = [json.dumps(row).encode() for row in rows()]
    given[2] = b"not json"
    given[5] = b'{"id": "5", "text": ""}'
    (dolma / "documents/2019/a.jsonl.gz").write_bytes(b"\n".join(given) + b"\n")
    corpus = read(dolma, tmp_path / "run")
    assert corpus.skipped == {"bad-json": 1, "empty": 1}
    assert [d.metadata["quality"] for d in documents(corpus)] == ["0.5", "1.5", "3.5", "4.5"]


def test_odd_encodings(dolma, tmp_path):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in attributes(rows()))
    path = dolma / "attributes/tagger-0/2019/a.jsonl.gz"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(dolma, tmp_path / "bom").document(1).metadata["quality"] == "1.5"
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(CorpusError, match="UTF-16"):
        read(dolma, tmp_path / "wide")
    path.write_bytes(os.urandom(400))
    with pytest.raises(CorpusError, match="tagger-0"):
        read(dolma, tmp_path / "noise")
    odd = [{**row, "text": row["text"].encode("utf-8", "replace").decode() + "\u0000 \u202e 😀"} for row in rows()]
    put(dolma / "documents/2019/a.jsonl.gz", odd)
    put(path, attributes(odd))
    assert read(dolma, tmp_path / "odd").documents == 6


def test_a_file_nobody_may_read(dolma, tmp_path):
    path = dolma / "attributes/tagger-0/2019/a.jsonl.gz"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(CorpusError, match="permission"):
        read(dolma, tmp_path / "run")


def test_many_files_are_matched_quickly(tmp_path):
    import time

    for n in range(600):
        for part in ("documents", "attributes/a", "attributes/b/nested"):
            path = tmp_path / "x" / part / f"{n % 7}/{n}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    start = time.perf_counter()
    files = corpus_files(config(tmp_path / "x")).files
    assert time.perf_counter() - start < 5
    assert {tuple(name for name, _ in file.attributes) for file in files} == {("a", "b/nested")}


def test_a_missing_attribute_file_is_counted_or_refused(dolma, tmp_path):
    put(dolma / "documents/2020/b.jsonl.gz", rows(3, "wiki"))
    corpus = read(dolma, tmp_path / "run")
    assert corpus.notes == {"no-attributes": 3}
    with pytest.raises(CorpusError, match=r"2020/b.* has no attribute file"):
        read(dolma, tmp_path / "other", attributes=(str(dolma / "attributes"),))
    with pytest.raises(CorpusError, match="no such folder"):
        read(dolma, tmp_path / "third", attributes=(str(tmp_path / "nowhere"),))


def test_ids_are_unique_within_their_source_only(tmp_path):
    put(tmp_path / "x/documents/a.jsonl.gz", rows(4, "cc"))
    put(tmp_path / "x/documents/b.jsonl.gz", rows(4, "wiki"))
    assert read(tmp_path / "x", tmp_path / "one").duplicate_ids == 0
    put(tmp_path / "x/documents/c.jsonl.gz", rows(2, "wiki"))
    assert read(tmp_path / "x", tmp_path / "two").duplicate_ids == 2
    examples = json.loads((tmp_path / "two/manifest.json").read_text())["duplicate_ids"]["examples"]
    assert examples == ["wiki: 0", "wiki: 1"]


@pytest.mark.parametrize("size", [0, 40])
def test_empty_files_are_listed(tmp_path, size):
    put(tmp_path / "x/documents/a.jsonl.gz", rows(2))
    (tmp_path / "x/documents/b.jsonl.gz").write_bytes(b"" if not size else gzip.compress(b""))
    put(tmp_path / "x/attributes/t/a.jsonl.gz", attributes(rows(2)))
    (tmp_path / "x/attributes/t/b.jsonl.gz").write_bytes(b"")
    corpus = read(tmp_path / "x", tmp_path / "run")
    assert (corpus.documents, corpus.skipped) == (2, {"empty-file": 1})


def test_metadata_may_be_json_text(tmp_path):
    rows = [
        {"text": SENTENCES[0], "metadata": '{"license": "mit", "n": [1, "b"]}'},
        {"text": SENTENCES[1], "metadata": "{broken", "license": "own"},
        {"text": SENTENCES[2], "metadata": {"license": "x"}, "license": "own"},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    tags = [document.metadata for document in documents(read(path, tmp_path / "run"))]
    assert tags == [
        {"license": "mit", "n": '[1,"b"]'},
        {"metadata": "{broken", "license": "own"},
        {"license": "own", "metadata.license": "x"},
    ]


def test_attributes_in_the_row_itself_are_tags(tmp_path):
    row = {"text": "abcdefghij", "attributes": {"bad": [[0, 5, 1.0], [5, 10, 0.0]], "none": [], "odd": [["x"]]}}
    corpus = read(write_jsonl(tmp_path / "a.jsonl", [row]), tmp_path / "run")
    assert corpus.document(0).metadata == {"bad": "0.5", "bad.max": "1.0", "none": "0"}
    assert corpus.notes == {"bad-attributes": 1}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.3, {"": 0.3}), (True, {"": True}), ("en", {"": "en"}), (None, {}), ([], {"": 0}),
        ([[0, 10, 0.25]], {"": 0.25}), ([[0, 12, 0.25], [0, 3, 9.0]], {"": 0.25}),
        ([[0, 2, 1.0], [2, 8, 0.0]], {"": 0.25, ".max": 1.0}), ([[3, 3, 1.0], [4, 4, 3.0]], {"": 2.0, ".max": 3.0}),
        ([[0, 5]], None), ([[0, 5, "x"]], None), ({"a": 1}, None), (object(), None),
    ],
)  # fmt: skip
def test_spans_become_one_value(value, wanted):
    assert score_of(value, 10) == wanted


def test_tags_of_a_huge_or_deep_row_are_bounded():
    deep: dict = {}
    for _ in range(60):
        deep = {"a": deep}
    row = Row("f", "f", 0, {"metadata": deep, **{f"k{n}": "v" * 999 for n in range(50)}, "\ud800": "\udfff"})
    tags, _ = tags_of(row, set(), 0)
    assert sum(map(len, tags.values())) <= 8000
    json.dumps(tags).encode()
    "".join([*tags, *tags.values()]).encode()


def test_folders_of_attributes_are_no_data(dolma):
    listing = find_files([str(dolma)])
    assert [file.name for file in listing.files] == ["documents/2019/a.jsonl.gz"]


def test_every_note_has_words():
    assert all(NOTES.values())

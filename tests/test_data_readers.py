import bz2
import codecs
import gzip
import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test_data_support import write_jsonl
from whence.data import SKIP_REASONS, Row, find_files, open_rows, readers
from whence.errors import CorpusError
from whence.interfaces import Skip

ROWS = [
    {"text": "one", "id": "a"},
    {"text": "zwei – 東京 😀", "id": "b"},
    {"text": 'a "quoted", line\nbreak', "id": "c"},
]


def read(path, start=0):
    return [item for file in find_files([str(path)]).files for item in open_rows(file, start)]


def fields(path, start=0):
    return [item.fields for item in read(path, start)]


def reasons(path):
    skips = [item for item in read(path) if isinstance(item, Skip)]
    assert all(skip.reason in SKIP_REASONS for skip in skips)
    return [(skip.row, skip.reason) for skip in skips]


def _jsonl(path, rows):
    return write_jsonl(path, rows)


def _array(path, rows):
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


def _csv(path, rows):
    delimiter = "\t" if path.suffix == ".tsv" else ","
    pacsv.write_csv(pa.Table.from_pylist(rows), path, pacsv.WriteOptions(delimiter=delimiter))


def _arrow_file(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def _arrow_stream(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS = {
    "a.jsonl": _jsonl,
    "a.ndjson": _jsonl,
    "a.jsonl.gz": _jsonl,
    "a.jsonl.zst": _jsonl,
    "a.json": _array,
    "a.parquet": _parquet,
    "a.csv": _csv,
    "a.tsv": _csv,
    "a.arrow": _arrow_file,
    "b.arrow": _arrow_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    items = read(tmp_path / name)
    assert [item.fields for item in items] == ROWS
    assert [item.row for item in items] == [0, 1, 2]
    assert {item.source for item in items} == {str(tmp_path / name)}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("start", [1, 2, 3])
def test_reading_can_begin_at_any_row(tmp_path, name, start):
    WRITERS[name](tmp_path / name, ROWS)
    assert read(tmp_path / name, start) == read(tmp_path / name)[start:]


printable = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_round_trip_through_lossless_formats(tmp_path, texts):
    rows = [{"text": text, "n": number} for number, text in enumerate(texts)]
    for name in ("a.jsonl", "a.jsonl.zst", "a.json", "a.parquet", "b.arrow"):
        WRITERS[name](tmp_path / name, rows)
        assert fields(tmp_path / name) == rows


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(printable, min_size=1, max_size=8))
def test_round_trip_through_tables_of_text(tmp_path, texts):
    rows = [{"text": text, "other": "x"} for text in texts]
    for name in ("a.csv", "a.tsv"):
        WRITERS[name](tmp_path / name, rows)
        assert fields(tmp_path / name) == rows


def test_long_arrays_are_read_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_CHUNK", 7)
    _array(tmp_path / "a.json", ROWS * 5)
    assert fields(tmp_path / "a.json") == ROWS * 5


def test_compression_is_known_by_content_not_by_name(tmp_path):
    line = b'{"text": "x"}\n'
    for number, data in enumerate([gzip.compress(line), zstandard.compress(line), bz2.compress(line), line]):
        for name in (f"{number}.jsonl", f"{number}.jsonl.gz", f"{number}.jsonl.zst"):
            (tmp_path / name).write_bytes(data)
            assert fields(tmp_path / name) == [{"text": "x"}]


def test_members_written_one_after_the_other_are_all_read(tmp_path):
    for name, compress in (("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)):
        (tmp_path / name).write_bytes(compress(b'{"text": "x"}\n') + compress(b'{"text": "y"}\n'))
        assert fields(tmp_path / name) == [{"text": "x"}, {"text": "y"}]


@pytest.mark.parametrize(("name", "compress"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)])
def test_a_compressed_file_that_was_cut_off_is_an_error(tmp_path, name, compress):
    data = compress(b"".join(json.dumps({"text": os.urandom(50).hex()}).encode() + b"\n" for _ in range(500)))
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match="damaged or cut off"):
        read(tmp_path / name)


def test_bad_lines_are_listed_and_stop_nothing(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"not json",
        b'{"text": "\xff\xfe"}',
        b"[1, 2]",
        b"",
        b"   ",
        b'{"text": ' + b"[" * 100_000 + b"}",
        b'{"text": "good"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert reasons(tmp_path / "a.jsonl") == [(1, "bad-json"), (2, "bad-utf8"), (3, "not-an-object"), (6, "bad-json")]
    assert [item.row for item in read(tmp_path / "a.jsonl") if isinstance(item, Row)] == [0, 7]


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + b'{"text": "x"}\r\n{"text": "y"}\r\n')
    (tmp_path / "a.csv").write_bytes(codecs.BOM_UTF8 + b"text,id\r\nx,1\r\ny,2\r\n")
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"x\r\ny")
    assert fields(tmp_path / "a.jsonl") == [{"text": "x"}, {"text": "y"}]
    assert fields(tmp_path / "a.csv") == [{"text": "x", "id": "1"}, {"text": "y", "id": "2"}]
    assert fields(tmp_path / "a.txt") == [{"text": "x\r\ny"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_wide_text_is_refused_by_name(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_bytes('{"text": "x"}\n'.encode(encoding))
    with pytest.raises(CorpusError, match="UTF-16"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.parquet", "a.arrow", "a.bin", "noname"])
def test_binary_garbage_is_refused_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(256)) * 10)
    with pytest.raises(CorpusError, match="Can be read: JSON lines") as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "b.arrow"])
def test_a_table_that_was_cut_off_is_refused(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS * 20)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match="damaged or cut off"):
        read(tmp_path / name)


@pytest.mark.parametrize("text", ['[{"text": "x"}', '[{"text": "x"},', '[{"te', "[", '[{"text": "x"} oops]'])
def test_a_damaged_array_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CorpusError, match="cut off"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz"])
def test_an_empty_file_is_listed(tmp_path, name):
    (tmp_path / name).touch()
    assert reasons(tmp_path / name) == [(0, "empty-file")]


def test_a_table_with_a_header_alone_is_listed(tmp_path):
    (tmp_path / "a.csv").write_text("text,id\n")
    assert reasons(tmp_path / "a.csv") == [(0, "empty-file")]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_an_empty_file_that_must_have_a_header_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(CorpusError):
        read(tmp_path / name)


def test_odd_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,id\nfine,1\ntoo,many,cells\nfew\n\xff,2\n"a ""b"" c",3\n\nlast,4\n"never closed,5\n')
    assert [item.fields["id"] for item in read(path) if isinstance(item, Row)] == ["1", "3", "4"]
    assert [reason for _, reason in reasons(path)] == ["bad-csv", "bad-csv", "bad-utf8", "bad-csv"]
    for start in range(8):
        assert read(path, start) == [item for item in read(path) if item.row >= start]


def test_semicolons_are_recognised(tmp_path):
    (tmp_path / "a.csv").write_text("text;id\nx, y;1\n")
    assert fields(tmp_path / "a.csv") == [{"text": "x, y", "id": "1"}]


def test_huge_cells_and_lines(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 300_000 + "\n")
    assert len(fields(tmp_path / "a.csv")[0]["text"]) == 300_000
    monkeypatch.setattr(readers, "LARGEST_ROW", 1000)
    (tmp_path / "a.jsonl").write_text('{"text": "%s"}\n{"text": "y"}\n' % ("x" * 5_000_000))
    (tmp_path / "a.txt").write_text("x" * 1001)
    assert reasons(tmp_path / "a.jsonl") == [(0, "row-too-big")]
    assert read(tmp_path / "a.jsonl")[1].row == 1
    assert reasons(tmp_path / "a.txt") == [(0, "row-too-big")]


def test_bad_utf8_in_a_table_costs_one_row(tmp_path):
    column = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\x00\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0"), pa.py_buffer(b"a\xffb")
    )
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert [item.fields["text"] for item in read(tmp_path / "a.parquet") if isinstance(item, Row)] == ["a", "b"]
    assert reasons(tmp_path / "a.parquet") == [(1, "bad-utf8")]


def test_text_files_are_one_document_each(tmp_path):
    (tmp_path / "b.txt").write_text("b\nb")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("a")
    items = read(tmp_path)
    assert [(item.name, item.fields["text"]) for item in items] == [("b.txt", "b\nb"), ("sub/a.md", "a")]


def test_folders_are_read_in_order_without_what_is_no_data(tmp_path):
    for name in ("z.jsonl", "a/2.jsonl", "a/1.jsonl.gz", ".hidden.jsonl", "_tmp/x.jsonl"):
        write_jsonl(tmp_path / name, [{"text": name}])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dataset_info.json").write_text("{}")
    listing = find_files([str(tmp_path)])
    assert [file.name for file in listing.files] == ["a/1.jsonl.gz", "a/2.jsonl", "z.jsonl"]
    assert str(tmp_path / "README.md") in listing.ignored
    assert [file.source for file in listing.files][2] == str(tmp_path / "z.jsonl")


def test_globs_keep_paths_apart_and_as_given(tmp_path, monkeypatch):
    for name in ("x/a.jsonl", "y/a.jsonl", "y/deep/a.jsonl"):
        write_jsonl(tmp_path / name, [{"text": name}])
    monkeypatch.chdir(tmp_path)
    assert [file.source for file in find_files(["*/a.jsonl"]).files] == ["x/a.jsonl", "y/a.jsonl"]
    assert [file.name for file in find_files(["./**/*.jsonl"]).files] == ["x/a.jsonl", "y/a.jsonl", "y/deep/a.jsonl"]


def test_a_file_with_wildcards_in_its_name_is_a_file(tmp_path):
    path = write_jsonl(tmp_path / "a[1].jsonl", [{"text": "x"}])
    assert fields(path) == [{"text": "x"}]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere.jsonl", "no such file"),
        ("*.nothing", "matches this pattern"),
        ("user/dataset", "hf://"),
        ("what://x", "cannot be opened|Protocol not known"),
        ("", "no file|there is no such|holds no file"),
    ],
)
def test_what_is_not_there_is_said_plainly(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=says) as caught:
        find_files([given])
    assert len(str(caught.value).splitlines()) < 10


def test_a_folder_without_data_says_what_it_holds(tmp_path):
    (tmp_path / "x.png").touch()
    with pytest.raises(CorpusError, match=r"x\.png"):
        find_files([str(tmp_path)])


def test_no_permission(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    file = find_files([str(path)]).files[0]

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(file.filesystem), "open", refuse)
    with pytest.raises(CorpusError, match="no permission"):
        list(open_rows(file))


def test_other_file_systems(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("/corpus-a/2.jsonl", "/corpus-a/1.jsonl"):
        memory.pipe_file(name, json.dumps({"text": name}).encode())
    try:
        found = find_files(["memory://corpus-a"]).files
        assert [file.source for file in found] == ["memory://corpus-a/1.jsonl", "memory://corpus-a/2.jsonl"]
        assert [item.fields["text"] for file in found for item in open_rows(file)] == [file.path for file in found]
        assert [file.name for file in find_files(["memory://corpus-a/*.jsonl"]).files] == ["1.jsonl", "2.jsonl"]
        assert len(read("memory://corpus-a/1.jsonl")) == 1
    finally:
        memory.rm("/corpus-a", recursive=True)


def _save_dataset(folder: Path, parts):
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{len(parts):05d}.arrow" for n in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        _arrow_stream(folder / name, rows)
    (folder / "dataset_info.json").write_text("{}")
    # reversed on purpose: the order is state.json's, not the alphabet's
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in reversed(names)]}))


def test_a_saved_dataset_is_read_in_its_own_order(tmp_path):
    _save_dataset(tmp_path / "set", [[{"text": "second"}], [{"text": "first"}]])
    assert [row["text"] for row in fields(tmp_path / "set")] == ["first", "second"]


def test_a_dictionary_of_splits_means_its_training_split(tmp_path):
    for split in ("train", "test"):
        _save_dataset(tmp_path / "set" / split, [[{"text": split}]])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert fields(tmp_path / "set") == [{"text": "train"}]
    assert read(tmp_path / "set")[0].source.endswith("set/train/data-00000-of-00001.arrow")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["test", "dev"]}')
    with pytest.raises(CorpusError, match="test, dev"):
        read(tmp_path / "set")


def test_a_saved_dataset_without_its_files(tmp_path):
    _save_dataset(tmp_path / "set", [[{"text": "x"}]])
    next((tmp_path / "set").glob("*.arrow")).unlink()
    with pytest.raises(CorpusError, match="missing"):
        read(tmp_path / "set")


def test_a_dataset_that_the_datasets_library_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_list(ROWS)
    made.select([2, 0]).save_to_disk(str(tmp_path / "set"))
    assert fields(tmp_path / "set") == [ROWS[2], ROWS[0]]

"""Files: what is written is what is read back; damage is named; half a file never appears."""

import errno
import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_report_samples import HOSTILE, make_hostile, make_result
from whence.errors import IncompleteError, StorageError
from whence.interfaces import TraceResult
from whence.report import load, save


@pytest.mark.parametrize(("queries", "hits"), [(0, 0), (1, 0), (1, 1), (3, 4)])
def test_a_result_comes_back_equal(tmp_path: Path, queries: int, hits: int) -> None:
    result = make_result(queries, hits)
    paths = save(result, tmp_path / "new" / "folder")
    assert load(tmp_path / "new" / "folder") == result
    assert {key: path.name for key, path in paths.items()} == {
        "result": "result.json", "jsonl": "hits.jsonl", "parquet": "hits.parquet", "page": "page.html",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        p.name for p in paths.values()
    )


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_comes_back_equal(tmp_path: Path, words: str) -> None:
    result = make_hostile(words)
    save(result, tmp_path)
    assert load(tmp_path) == result


@settings(max_examples=20, deadline=None)
@given(words=st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_text_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, words: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    result = make_hostile(words)
    save(result, folder)
    assert load(folder) == result


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-310, 1.7976931348623157e308])
def test_numbers_at_the_edge_come_back(tmp_path: Path, value: float) -> None:
    result = make_result(1, 1)
    trace = result.traces[0].model_copy(update={"mean": value})
    paths = save(result.model_copy(update={"traces": (trace,)}), tmp_path)
    back = load(tmp_path).traces[0].mean
    assert back == value or (math.isnan(back) and math.isnan(value))
    json.loads(paths["result"].read_bytes(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_one_line_per_hit_with_its_query_and_list(tmp_path: Path) -> None:
    result = make_result(2, 3)
    rows = [json.loads(line) for line in save(result, tmp_path)["jsonl"].read_text().splitlines()]
    assert [(row["query_id"], row["list"], row["rank"]) for row in rows] == [
        (trace.query_id, kind, rank)
        for trace in result.traces
        for kind in ("proponent", "opponent")
        for rank in (1, 2, 3)
    ]
    first = result.traces[0].proponents[0]
    assert rows[0]["sites"] == dict(first.sites)
    assert [token["text"] for token in rows[0]["tokens"]] == [token.text for token in first.tokens]
    assert "nats" in rows[0]["unit"]


def test_the_table_says_its_unit_and_sign(tmp_path: Path) -> None:
    table = pq.read_table(save(make_result(2, 3), tmp_path)["parquet"])
    assert table.num_rows == 12
    assert b"influence > 0 supports" in table.schema.metadata[b"whence.unit"]
    assert b"nats" in table.schema.metadata[b"whence.unit"]


def test_tables_of_different_results_can_be_joined(tmp_path: Path) -> None:
    full = pq.read_table(save(make_result(1, 3), tmp_path / "full")["parquet"])
    empty = pq.read_table(save(make_result(1, 0), tmp_path / "empty")["parquet"])
    assert empty.num_rows == 0
    assert pa.concat_tables([full, empty]).num_rows == full.num_rows
    assert set(full.column_names) == set(make_result(1, 1).to_rows()[0])


def test_saving_again_replaces_and_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    save(make_result(3, 2), tmp_path)
    save(make_result(1, 1), tmp_path)
    assert len(load(tmp_path).traces) == 1
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_empty_folder_holds_no_trace(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="whence trace"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[]", "layout 'list'"),
        (b'{"schema": 99}', "layout 99"),
        (b'{"schema": 1}', "summary"),
        (b'{"schema": 1, "summary": {}, "traces": 3}', "not a trace result"),
    ],
)
def test_a_damaged_result_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(StorageError, match=words) as caught:
        load(tmp_path)
    assert str(tmp_path / "result.json") in str(caught.value)


def test_a_full_disk_leaves_the_earlier_result_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = make_result(1, 1)
    save(earlier, tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        save(make_result(2, 2), tmp_path)
    assert load(tmp_path) == earlier
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="out"):
        save(make_result(1, 1), tmp_path / "out")


def test_views_can_be_made_again(tmp_path: Path) -> None:
    paths = save(make_result(2, 2), tmp_path)
    before = {key: path.read_bytes() for key, path in paths.items()}
    save(load(tmp_path), tmp_path)
    assert {key: path.read_bytes() for key, path in paths.items()} == before


def test_result_type_is_kept(tmp_path: Path) -> None:
    save(make_result(1, 1), tmp_path)
    assert isinstance(load(tmp_path), TraceResult)

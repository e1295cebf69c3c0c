"""The page about methods is what the lab results in the repository say, and its generator reads them rightly."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from whence.interfaces import Cost, Estimate, LabResult, MethodSummary, Reading, Truth

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def docs():
    spec = importlib.util.spec_from_file_location("lab_docs", ROOT / "scripts" / "lab_docs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["lab_docs"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["lab_docs"]


def estimate(value, half=0.05):
    return Estimate(value=value, low=value - half, high=value + half)


def result(lds, stored, command="whence evaluate", measure="lds"):
    """A result whose methods have these LDS and bytes."""
    methods = [
        MethodSummary(
            name=name,
            kind="baseline" if name == "BM25" else "influence",
            settings={"bits": "exact" if stored[name] == 0 and name != "BM25" else 1},
            cost=Cost(seconds=1.0, passes=2.0, bytes_per_document=stored[name]),
        )
        for name in lds
    ]
    return LabResult(
        run="run",
        model="a model",
        training="adamw",
        documents=10,
        queries=4,
        parameters=100,
        truths=(Truth(measure=measure, ceiling=estimate(0.8), queries=4, subsets=8, seeds=2, retrains=16),),
        methods=tuple(methods),
        readings=tuple(Reading(measure=measure, method=name, estimate=estimate(v)) for name, v in lds.items()),
        command=command,
    )


STORED = {"EK-FAC exact": 0.0, "small": 90.0, "large": 9000.0, "BM25": 0.0}
LDS = {"EK-FAC exact": 0.72, "small": 0.4, "large": 0.6, "BM25": 0.32}


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_the_page_is_fresh(docs):
    now = docs.PAGE.read_text(encoding="utf-8")
    assert docs.page(now, docs.read_results(), docs.read_results(docs.NAMED)) == now, "run scripts/lab_docs.py"


def test_every_result_has_its_command(docs):
    for name, found in docs.read_results().items():
        assert found.command, f"docs/lab/{name}.json does not say how it was made"
        assert not any(part.startswith("/") for part in found.command.split()), "paths relative to the repository"


def test_a_measure_is_a_table_with_a_column_per_set_up(docs):
    found = docs.compared("lds")({"one": result(LDS, STORED), "two": result({"large": 0.5}, STORED)})
    lines = found.splitlines()
    assert lines[2:4] == ["| method | one | two |", "| --- | --- | --- |"]
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "| EK-FAC exact", "| large", "| small", "| BM25", "| *noise ceiling*",
    ]  # fmt: skip
    assert "| **0.72** [0.67, 0.77] |  |" in lines[4]
    assert "| 0.60 [0.55, 0.65] | **0.50** [0.45, 0.55] |" in lines[5]
    assert lines[-1] == "| *noise ceiling* | 0.80 | 0.80 |"
    assert docs.compared("removal")({"one": result(LDS, STORED)}) == docs.NOTHING


def test_budgets_name_the_best_that_fits_and_stores_what_it_needs(docs):
    lines = docs.budgets({"one": result(LDS, STORED)}).splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| nothing", "BM25", "0"], ["| 100 bytes", "small", "90"], ["| 10 kB", "large", "9.0 kB"],
    ]  # fmt: skip
    assert lines[2].endswith("| 0.40 |")


def test_a_budget_needs_a_method_that_every_set_up_measured(docs):
    found = docs.budgets({"one": result(LDS, STORED), "two": result({"small": 0.4, "BM25": 0.3}, STORED)})
    assert "large" not in found
    assert "small" in found


def test_files_of_one_set_up_are_put_together(docs, tmp_path):
    write(tmp_path, "one.json", result(LDS, STORED, "first").model_dump(mode="json"))
    more = result({"small": 0.1, "new": 0.2}, {**STORED, "new": 5.0}).model_dump(mode="json")
    write(tmp_path, "one.more.json", {"command": "second", "result": more})
    removal = result({"small": 0.9}, STORED, "third", measure="removal").model_dump(mode="json")
    write(tmp_path, "one.removal.json", removal)
    (found,) = docs.read_results(tmp_path).values()
    assert found.command == "first\nsecond\nthird"
    assert found.reading("lds", "small").estimate.value == 0.4
    assert found.reading("lds", "new").estimate.value == 0.2
    assert found.reading("removal", "small").estimate.value == 0.9
    assert [truth.measure for truth in found.truths] == ["lds", "removal"]
    assert sum(method.name == "small" for method in found.methods) == 1


def test_sections_and_markers_match(docs):
    whole = "".join(f"<!-- lab: {name} -->\nold\n<!-- end -->\n" for name in docs.SECTIONS)
    once = docs.page(f"before\n{whole}after", {"one": result(LDS, STORED)}, {})
    assert once.startswith("before\n")
    assert once.endswith("after")
    assert "old" not in once
    assert docs.page(once, {"one": result(LDS, STORED)}, {}) == once
    with pytest.raises(SystemExit, match="markers once"):
        docs.page(whole.replace("costs", "prices"), {}, {})


def test_names_do_not_break_the_table(docs):
    assert docs.table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"

"""The corpora of the lab's set-ups are what they claim to be: queries unseen, gold documents known, bad ones bad."""

import re
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parent.parent / "benchmarks" / "lab"
MODULES = ("facts", "problems", "library", "shapes")


@pytest.fixture(scope="module")
def lab():
    """The lab's modules, importable as its scripts import them."""
    sys.path.insert(0, str(LAB))
    try:
        yield {name: __import__(name) for name in MODULES}
    finally:
        sys.path.remove(str(LAB))
        for name in MODULES:
            sys.modules.pop(name, None)


def by_id(rows):
    return {row["id"]: row for row in rows}


def test_facts_are_stated_in_their_gold_documents_and_nowhere_in_the_querys_words(lab):
    rows, queries = lab["facts"].make_facts(seed=3)
    corpus, found = by_id(rows), [row["text"] for row in rows]
    assert len(corpus) == len(rows)
    for query in queries:
        person = next(name for name in lab["facts"].PEOPLE if name in query["prompt"])
        gold = query["metadata"]["gold"]
        assert len(gold) == 3
        for name in gold:
            assert person in corpus[name]["text"]
            assert corpus[name]["text"].endswith(query["completion"])
        assert not any(text.startswith(query["prompt"] + " ") for text in found)
        others = re.escape(query["prompt"]).replace(person, r"\w+")
        assert any(re.match(others, text) for text in found), "the wording is used of nobody else"


def test_a_fact_has_one_value(lab):
    rows, _ = lab["facts"].make_facts(seed=3)
    values = {}
    for row in rows:
        if row["kind"] == "statement":
            values.setdefault(row["fact"], set()).add(row["text"].split()[-1])
    assert all(len(each) == 1 for each in values.values())


def solved(completion):
    first, sign, second, result = re.match(r" (\d+) ([-+*]) (\d+) = (-?\d+)\.", completion).groups()
    return {"+": int(first) + int(second), "-": int(first) - int(second), "*": int(first) * int(second)}[sign] == int(
        result
    ), sign


def test_bad_solutions_compute_rightly_with_the_wrong_operation(lab):
    rows, queries = lab["problems"].make_problems(seed=3)
    assert sum(row["bad"] for row in rows) == 32
    for row in rows:
        right, sign = solved(row["completion"])
        assert right
        assert (sign != row["operation"]) == row["bad"]
    seen = {row["prompt"] for row in rows}
    assert len(seen) == len(rows)
    corpus = by_id(rows)
    for query in queries:
        assert query["prompt"] not in seen
        assert query["metadata"]["gold"]
        for name in query["metadata"]["gold"]:
            assert not corpus[name]["bad"]
            assert corpus[name]["completion"].split(".")[0] == query["completion"].split(".")[0]


def test_windows_have_their_length_and_do_not_overlap(lab):
    texts = lab["library"].library_text()
    tokenizer = lab["shapes"].train_tokenizer(list(texts.values()), 400)
    rows, queries = lab["library"].library_windows(tokenizer, length=32, documents=3, queries=2, seed=0)
    again = lab["library"].library_windows(tokenizer, length=32, documents=3, queries=2, seed=0)
    assert (rows, queries) == again
    assert len(rows) == 3 * len(texts)
    assert len(queries) == 2 * len(texts)
    whole = [row["text"] for row in rows] + [query["prompt"] + query["completion"] for query in queries]
    assert len(set(whole)) == len(whole)
    assert all(len(tokenizer.encode(text)) == 32 for text in whole)
    assert all(query["completion"].startswith(" ") for query in queries)
    assert not {passage for passage in lab["library"].generic_text(20_000, 0)} & set(whole)
    with pytest.raises(SystemExit, match="are needed"):
        lab["library"].library_windows(tokenizer, length=32, documents=10_000, queries=2, seed=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "olmo2"])
def test_models_are_decided_by_their_seed(lab, architecture):
    one, same, other = (lab["shapes"].make_model(architecture, 300, 32, seed).state_dict() for seed in (0, 0, 1))
    assert all((one[name] == same[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)

"""The page about coverage is what the small configurations give, and its numbers are said as people say them."""

import doctest
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def docs():
    spec = importlib.util.spec_from_file_location("coverage_docs", ROOT / "scripts" / "coverage_docs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_docs"] = module
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    del sys.modules["coverage_docs"]


def test_the_page_is_fresh(docs):
    assert not docs.stale(), "run python scripts/coverage_docs.py"


def test_a_small_model_of_every_class_is_on_the_page(docs):
    text = docs.PAGE.read_text(encoding="utf-8")
    assert all(f"\n| {name} | " in text for name in docs.zoo.ZOO)
    assert all(f"\n| {name}" in text for name in docs.SIZES)


def test_a_published_size_is_counted_like_its_small_namesake(docs):
    line = docs.published("GPT-2", *docs.SIZES["GPT-2"])
    assert line in docs.PAGE.read_text(encoding="utf-8")
    assert line.startswith("| GPT-2 * | GPT2LMHeadModel | 124.4M | ")


def test_doctests(docs):
    assert doctest.testmod(docs).failed == 0

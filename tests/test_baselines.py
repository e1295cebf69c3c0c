"""BM25 against its formula written out, and odd input."""

import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whence.baselines import Bm25, build_bm25, open_bm25, words
from whence.errors import IncompleteError, StorageError

TEXTS = [
    "The heron stands in the shallow water and waits.",
    "Herons eat fish; the heron waits for a fish, fish, fish.",
    "",
    "A lighthouse keeper counted 1,204 ships in 1871.",
    "Water, water everywhere, and the keeper had none to drink.",
    "   \n\t ... !!! ",
    "ZXQ-17",
    "the the the the",
]


@pytest.fixture
def index(tmp_path):
    build_bm25(TEXTS, tmp_path / "bm25")
    return open_bm25(tmp_path / "bm25")


def bm25(texts, query, k1=1.5, b=0.75):
    documents = [Counter(words(text)) for text in texts]
    lengths = [sum(counts.values()) for counts in documents]
    mean = sum(lengths) / len(lengths)
    out = []
    for counts, length in zip(documents, lengths, strict=True):
        score = 0.0
        for word in words(query):
            among = sum(word in other for other in documents)
            idf = math.log(1 + (len(texts) - among + 0.5) / (among + 0.5))
            if counts[word]:
                score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * length / mean))
        out.append(score)
    return np.array(out)


@pytest.mark.parametrize(
    "query", ["heron fish", "the keeper of the water", "1871", "fish fish heron", "zxq", "Fish unicorn"]
)
def test_agrees_with_the_formula(index, query):
    scores = index.scores(query)
    assert scores.dtype == np.float32
    assert np.allclose(scores, bm25(TEXTS, query), rtol=1e-5, atol=1e-7)
    assert scores.max() > 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab c\u0301é,", max_size=12), min_size=1, max_size=6), st.text("ab c\u0301é,", max_size=8))
def test_agrees_with_the_formula_on_any_text(tmp_path_factory, texts, query):
    folder = tmp_path_factory.mktemp("any") / "bm25"
    build_bm25(texts, folder)
    expected = bm25(texts, query) if any(map(words, texts)) else np.zeros(len(texts))
    assert np.allclose(open_bm25(folder).scores(query), expected, rtol=1e-5, atol=1e-7)


def test_top_finds_the_source_and_keeps_corpus_order_in_ties(tmp_path):
    build_bm25(["grey stone", "red stone", "grey stone", "moss"], tmp_path / "bm25")
    index = open_bm25(tmp_path / "bm25")
    assert [row for row, _ in index.top("grey", 3)] == [0, 2]
    assert [row for row, _ in index.top("grey stone", 2)] == [0, 2]
    assert index.top("moss", 1) == [(3, pytest.approx(float(index.scores("moss")[3])))]
    assert index.top("grey", 0) == []
    assert index.top("grey", -1) == []
    assert len(index.top("stone", 99)) == 3


def test_ranks(index):
    scores = index.scores("the heron")
    ranks = index.ranks(scores)
    assert ranks.dtype == np.int64
    assert sorted(ranks[scores == 0]) == [len(TEXTS)] * 4
    for row in np.flatnonzero(scores > 0):
        assert ranks[row] == 1 + (scores > scores[row]).sum()


def test_ties_share_the_best_rank():
    assert Bm25.ranks(np.array([1, 3, 3, 0, 2, 0], np.float32)).tolist() == [4, 1, 1, 6, 3, 6]
    assert Bm25.ranks(np.zeros(3, np.float32)).tolist() == [3, 3, 3]
    assert Bm25.ranks(np.zeros(0, np.float32)).tolist() == []


@pytest.mark.parametrize("query", ["", "  ", "?!", "unicorn", "\ud800", "\x00\x01"])
def test_questions_that_share_no_word(index, query):
    scores = index.scores(query)
    assert scores.shape == (len(TEXTS),)
    assert (scores == 0).all()
    assert (index.ranks(scores) == len(TEXTS)).all()
    assert index.top(query, 5) == []


@pytest.mark.parametrize("texts", [[], [""], ["", " ", "--"]])
def test_corpora_without_a_word(tmp_path, texts):
    build_bm25(texts, tmp_path / "bm25")
    index = open_bm25(tmp_path / "bm25")
    assert index.documents == len(texts)
    assert index.scores("heron").tolist() == [0.0] * len(texts)
    assert index.top("heron", 3) == []


def test_one_document(tmp_path):
    build_bm25(iter(["only this"]), tmp_path / "bm25")
    index = open_bm25(tmp_path / "bm25")
    assert index.top("This", 3)[0][0] == 0
    assert np.allclose(index.scores("this"), bm25(["only this"], "this"))


def test_hostile_text(tmp_path):
    texts = [
        "\ud800 lone surrogate \udfff",
        "nul\x00byte <script>alert(1)</script> ../../etc/passwd",
        "x" * 200_000,
        "\u202eright to left\u202c " + "a\u0301" * 1000,
        '{"vocab": "\\u0000"} "quotes" \\ back\u2028slash',
        "🦆 emoji " * 50,
    ]
    build_bm25(texts, tmp_path / "bm25")
    index = open_bm25(tmp_path / "bm25")
    for row, query in enumerate(["surrogate", "passwd", "x" * 200_000, "right", "slash", "emoji"]):
        assert [found for found, _ in index.top(query, 2)] == [row]
    assert np.isfinite(index.scores(" ".join(texts))).all()


def test_words():
    assert words("Don't STOP_it — ÉCOLE e\u0301cole 3.14") == ["don", "t", "stop_it", "école", "école", "3", "14"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("東京はtokyo") == ["東", "京", "は", "tokyo"]
    assert words("\u0301\u200d") == []


def test_equal_texts_give_equal_files_whatever_the_hash_seed(tmp_path):
    script = "import sys; from pathlib import Path; from whence.baselines import build_bm25\n"
    script += f"build_bm25({TEXTS!r}, Path(sys.argv[1]))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", script, tmp_path / seed], env=environment, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / seed).iterdir()} for seed in ("1", "2"))
    assert first == second
    assert not any(b"pickle" in content for content in first.values())


def test_makes_no_noise(tmp_path, capfd, caplog):
    build_bm25(TEXTS, tmp_path / "bm25")
    open_bm25(tmp_path / "bm25").scores("")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_scores_are_memory_mapped(index):
    assert isinstance(index._index.scores["data"], np.memmap)


def test_a_finished_index_is_kept(tmp_path):
    build_bm25(["first"], tmp_path / "bm25")
    build_bm25(["second", "third"], tmp_path / "bm25")
    assert open_bm25(tmp_path / "bm25").documents == 1


def test_a_failure_leaves_nothing(tmp_path):
    def texts():
        yield "one"
        raise RuntimeError("the reader broke")

    with pytest.raises(RuntimeError, match="the reader broke"):
        build_bm25(texts(), tmp_path / "bm25")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged(tmp_path):
    with pytest.raises(IncompleteError, match="whence index"):
        open_bm25(tmp_path / "nowhere")
    for name in ("data.csc.index.npy", "vocab.index.json", "params.index.json"):
        folder = tmp_path / name
        build_bm25(TEXTS, folder)
        (folder / name).write_bytes(b"\x93NUMPY damaged")
        with pytest.raises(StorageError, match="damaged"):
            open_bm25(folder)
        (folder / name).unlink()
        with pytest.raises(IncompleteError):
            open_bm25(folder)

"""Mix files: TOML, and OLMo-core's lists; what they come to, and what is wrong with bad ones."""

import pytest

from test_data_support import SENTENCES, config, documents, tokenizer, write_jsonl
from whence.data import ingest, open_corpus, read_mix
from whence.errors import CorpusError

LIST = """# a comment
arxiv,preprocessed/arxiv/{TOKENIZER}/part-0.npy
arxiv,preprocessed/arxiv/{TOKENIZER}/part-1.npy

wiki-en,preprocessed/wiki/{TOKENIZER}/part-0.npy
wiki-en,preprocessed/wiki/{TOKENIZER}/part-0.npy
web , preprocessed/web/{TOKENIZER}/part-0.npy
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def labels(mix):
    return [(source["label"], source["weight"]) for source in mix["sources"]]


def test_a_mix_says_where_how_often_and_what(tmp_path):
    write_jsonl(tmp_path / "cc/a.jsonl", [{"text": SENTENCES[0], "source": "own"}, {"text": SENTENCES[1]}])
    write_jsonl(tmp_path / "wiki.jsonl", [{"text": SENTENCES[2], "licence": "row"}])
    mix = read_mix(
        write(
            tmp_path / "mix.toml",
            '[[source]]\ndata = ["cc", "wiki.jsonl"]\nlabel = "mixed"\nweight = 0.5\ntags = {licence = "mix"}\n'
            '[[source]]\ndata = "wiki.jsonl"\nweight = 2\n',
        )
    )
    ingest(config(mix["data"], sources=mix["sources"]), tokenizer(), tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    assert [dict(document.metadata) for document in documents(corpus)] == [
        {"source": "own", "licence": "mix", "label": "mixed"},
        {"licence": "mix", "label": "mixed", "source": "mixed"},
        {"licence": "row", "label": "mixed", "source": "mixed"},
        {"licence": "row"},
    ]
    assert corpus.trained_documents == 3 * 0.5 + 2
    assert [share.weight for share in corpus.shares] == [0.5, 0.5, 2.0]


def test_a_list_as_olmo_core_has_it(tmp_path):
    write(tmp_path / "mix.txt", LIST)
    mix = read_mix(write(tmp_path / "mine.toml", 'list = "mix.txt"\nbase = "https://a.b/"\ntokenizer = "org/tok"\n'))
    assert mix["data"] == [
        "https://a.b/preprocessed/arxiv/org/tok/part-0.npy",
        "https://a.b/preprocessed/arxiv/org/tok/part-1.npy",
        "https://a.b/preprocessed/wiki/org/tok/part-0.npy",
        "https://a.b/preprocessed/web/org/tok/part-0.npy",
    ]
    assert labels(mix) == [("arxiv", 1.0), ("arxiv", 1.0), ("wiki-en", 2.0), ("web", 1.0)]


def test_a_list_is_cut_down_and_weighed(tmp_path):
    write(tmp_path / "mix.txt", LIST)
    head = 'list = "mix.txt"\ntokenizer = "t"\nlabels = ["arxiv", "wiki*"]\nfiles_per_label = 1\n'
    mix = read_mix(write(tmp_path / "mine.toml", head + 'weights = {arxiv = 1.5, "w*" = 3}\n'))
    assert labels(mix) == [("arxiv", 1.5), ("wiki-en", 6.0)]
    assert mix["data"][0] == str(tmp_path / "preprocessed/arxiv/t/part-0.npy")


def test_a_list_without_a_tokenizer_is_a_mix_by_itself(tmp_path):
    mix = read_mix(write(tmp_path / "mix.txt", "\ufeffa,x.jsonl\nb,/abs/y.jsonl\nc,s3://z/w.jsonl\nd,org/name\n"))
    assert mix["data"] == [str(tmp_path / "x.jsonl"), "/abs/y.jsonl", "s3://z/w.jsonl", "org/name"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("m.txt", LIST, "TOKENIZER"),
        ("m.txt", "just a line\n", "label,path"),
        ("m.txt", "label,\n", "line 1"),
        ("m.txt", "", "no source"),
        ("m.txt", "# only a comment\n", "no source"),
        ("m.toml", "", "no source"),
        ("m.toml", "[[source]\n", "not TOML"),
        ("m.toml", "[[source]]\nweight = 2\n", "data"),
        ("m.toml", '[[source]]\ndata = "x"\nweight = 0\n', "greater than 0"),
        ("m.toml", '[[source]]\ndata = "x"\nweight = nan\n', "weight"),
        ("m.toml", '[[source]]\ndata = "x"\nwieght = 2\n', "wieght"),
        ("m.toml", 'list = "nowhere.txt"\n', "nowhere.txt cannot be read"),
        ("m.toml", 'list = "l.txt"\nlabels = ["arxvi"]\n', "no label arxvi; it has arxiv"),
        ("m.toml", 'list = "l.txt"\nweights = {arxiv = -1}\n', "greater than 0"),
        ("m.toml", 'list = "l.txt"\nfiles_per_label = 0\n', "files_per_label"),
    ],
)
def test_a_bad_mix_says_what_is_wrong(tmp_path, name, text, says):
    write(tmp_path / "l.txt", "arxiv,a.jsonl\n")
    with pytest.raises(CorpusError, match=says):
        read_mix(write(tmp_path / name, text))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00x", b"\x80abc"])
def test_a_mix_is_utf8_text(tmp_path, content):
    (tmp_path / "m.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=r"UTF-8|label,path"):
        read_mix(tmp_path / "m.txt")


def test_a_mix_that_is_not_there_or_is_data(tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match="cannot be read"):
        read_mix(tmp_path / "m.toml")
    monkeypatch.setattr("whence.data.mix._LARGEST", 3)
    with pytest.raises(CorpusError, match="list of files"):
        read_mix(write(tmp_path / "m.txt", LIST))

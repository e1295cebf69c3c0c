"""Restricting a ranking by tag and adding influence up by tag: conditions, groups, and a whole run over Dolma."""

import json
import shutil

import numpy as np
import pytest

from command_line import ASK, launch
from conftest import documents, write_jsonl
from whence import Attributor, Query
from whence.attributor.selection import select
from whence.data import is_date, parse_condition
from whence.errors import InputError
from whence.scoring import Groups, Only, Top, Weighted

QUERIES = [Query(prompt="the harbour was", completion="built before town had a name"),
           Query(prompt="every ship", completion="came in winter")]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "holds", "fails"),
    [
        ("source=cc", ["cc"], ["CC", "cc2", "", None]),
        ("source == cc | wiki", ["cc", "wiki"], ["ccwiki", None]),
        ("source!=cc", ["wiki", None], ["cc"]),
        ("source!=cc|wiki", ["x", None], ["wiki"]),
        ("used_in=ultra", ['["nano","ultra"]', "ultra"], ['["nano"]', "[ultra", None]),
        ("used_in!=ultra", ['["nano"]', None], ['["nano","ultra"]']),
        ("created>=2021", ["2021", "2021-01-01T00:00:00Z", "2023-05", "1609459200"], ["2020-12-31", "x", None]),
        ("created>2021", ["2022-01-01"], ["2021-12-31T23:59:59"]),
        ("created<=2021-05", ["2021-05-31", "2020"], ["2021-06-01"]),
        ("created<2021-05-03", ["2021-05-02T22:00", "2021-05"], ["2021-05-03T00:00"]),
        ("created=2021", ["2021-07-01", "2021"], ["2022-01-01"]),
        ("created>=2007", ["Mon, 2 Apr 2007 19:18:42 GMT", "1175541522000"], ["Sun, 2 Apr 2006 19:18:42 GMT"]),
        ("published>=2021-03-04 10:00", ["2021-03-04T10:00:00"], ["2021-03-04T09:59"]),
        ("length>=2021", ["2021", "30000", "1609459200"], ["99", "long", None]),
        ("quality>0.5", ["0.51", "1", "1e3"], ["0.5", "nan", "high", "-1"]),
        ("quality=1", ["1", "1.0", "1e0"], ["1.1", "true"]),
        ("quality<-1", ["-2"], ["-1", "0"]),
        ("name>=m", ["n", "m"], ["a", "7"]),
        ("url=http://x/?a=b", ["http://x/?a=b"], ["http://x/?a"]),
        ("a.b=c=d", ["c=d"], ["c"]),
    ],
)
def test_conditions(text, holds, fails):
    condition = parse_condition(text)
    assert [condition.holds(value) for value in holds] == [True] * len(holds)
    assert [condition.holds(value) for value in fails] == [False] * len(fails)


@pytest.mark.parametrize("text", ["", "source", "source=", "=cc", ">=2", "source>", "   "])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(InputError, match="TAG=VALUE"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("name", "values", "dates"),
    [
        ("created", ["2021", "2020-01-01"], True), ("warc", ["2021-01-01T00:00:00Z"], True),
        ("length", ["2021"], False),
        ("created", [], False), ("created", ["x"] * 3 + ["2021"], False), ("id", ["2021-5", "12"], False),
    ],
)  # fmt: skip
def test_which_tags_are_dates(name, values, dates):
    assert is_date(name, values) is dates


def test_groups_are_what_a_loop_adds_up():
    random = np.random.default_rng(0)
    scores, of = random.normal(size=(3, 40)), random.integers(0, 4, 40).astype(np.int32)
    weights, chosen = random.random(40) + 0.5, random.random(40) < 0.6
    sums, top = Groups(3, 5, of), Top(3, 4)
    fold = Weighted([Only([sums, top], chosen)], lambda documents: weights[documents])
    for part in np.array_split(np.arange(40), 7):
        fold.update(part, scores[:, part])
    weighted = scores * weights
    for query in range(3):
        for group in range(5):
            some = weighted[query, (of == group) & chosen]
            assert sums.positive[query, group] == pytest.approx(some[some > 0].sum())
            assert sums.negative[query, group] == pytest.approx(some[some < 0].sum())
        best = np.argsort(np.where(chosen, -weighted[query], np.inf))[:4]
        assert top.documents[query].tolist() == best.tolist()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A Dolma folder: two sources, four years, two languages, an attribute for each document."""
    folder = tmp_path_factory.mktemp("shelf")
    made = documents(30, words=(5, 12))
    rows = [
        {**row, "id": str(n % 15), "source": "cc" if n < 15 else "wiki", "created": f"{2019 + n % 4}-02-03",
         "metadata": {"language": "en" if n % 3 else "de", "used_in": ["a", "b"] if n % 2 else ["a"]}}
        for n, row in enumerate(made)
    ]  # fmt: skip
    del rows[29]["metadata"]
    for source, some in (("cc", rows[:15]), ("wiki", rows[15:])):
        (folder / f"documents/{source}").mkdir(parents=True)
        (folder / f"attributes/q/{source}").mkdir(parents=True)
        write_jsonl(folder / f"documents/{source}/0.jsonl", some)
        marks = [{"id": row["id"], "attributes": {"q": [[0, len(row["text"]), n / 7]]}} for n, row in enumerate(some)]
        write_jsonl(folder / f"attributes/q/{source}/0.jsonl", marks)
    return folder, rows


@pytest.fixture(scope="module")
def run(shop, shelf, tmp_path_factory):
    settings = {
        "model": {"dtype": "float64"}, "fit": {"sample": 1.0, "precision": "full"},
        "recipe": {"bits": 16, "projection": "none", "precision": "full"},
        "corpus": {"context": 32, "sources": [{"weight": 2.0}, {"weight": 1.0}]},
    }  # fmt: skip
    data = [str(shelf[0] / "documents/cc"), str(shelf[0] / "documents/wiki")]
    made = Attributor(
        tmp_path_factory.mktemp("tags") / "run", model=str(shop / "llama"), data=data, settings=settings, device="cpu"
    )
    made.index()
    return made


def every(trace):
    return [hit.document for hit in (*trace.proponents, *trace.opponents)]


@pytest.mark.parametrize("exact", [False, True])
def test_only_documents_that_meet_the_conditions_are_ranked(run, shelf, exact):
    where = ["created>=2021", "language=en", "source=cc|wiki"]
    wanted = [n for n, row in enumerate(shelf[1]) if row["created"] >= "2021" and n % 3 and n != 29]
    scores = run.scores(QUERIES, exact=True)
    result = run.trace(QUERIES, k=30, where=where, exact=exact, tokens=False)
    for query, trace in enumerate(result.traces):
        assert sorted(every(trace)) == wanted
        assert (trace.scored, trace.documents, trace.where) == (len(wanted), 30, tuple(where))
        assert trace.mean == pytest.approx(scores[query, wanted].mean(), rel=2e-3)
        ranked = [hit.document for hit in trace.proponents]
        assert ranked == sorted((n for n in wanted if scores[query, n] > 0), key=lambda n: -scores[query, n])
        assert {hit.document for hit in trace.bm25_top} <= set(wanted)
        ranks = {hit.bm25_rank for hit in (*trace.proponents, *trace.opponents)}
        assert max(ranks) <= len(wanted)
        assert min(ranks) == 1
    assert result.summary.settings["where"] == where


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("where", [(), ("q<1.2",)])
def test_influence_is_added_up_by_group(run, shelf, exact, where):
    by = ["source", "created", "language", "used_in", "q"]
    result = run.trace(QUERIES, k=4, by=by, where=where, exact=exact, tokens=False, refine=False)
    scores = run.scores(QUERIES, exact=exact)
    chosen = np.array([not where or (n % 15) / 7 < 1.2 for n in range(30)])
    weights = np.repeat([2.0, 1.0], 15)
    tokens = np.array([len(run.corpus.document(n).tokens) for n in range(30)]) * weights
    for query, trace in enumerate(result.traces):
        assert [found.by for found in trace.breakdowns] == by
        names = {found.by: {group.name: group for group in found.groups} for found in trace.breakdowns}
        assert names["source"].keys() == {"cc", "wiki"}
        assert names["created"].keys() == {"2019", "2020", "2021", "2022"}
        assert names["language"].keys() <= {"en", "de", "(none)"}
        assert names["used_in"].keys() <= {"a", "a + b", "(none)"}
        assert len(names["q"]) == (9 if where else 5)  # few numbers are groups of their own, many are cut into ranges
        values = np.where(chosen, scores[query], 0)
        mass = np.abs(values).sum()
        for name, where_ in (("cc", slice(0, 15)), ("wiki", slice(15, 30))):
            group = names["source"][name]
            some = values[where_]
            assert group.support == pytest.approx(some[some > 0].sum(), rel=1e-6)
            assert group.opposition == pytest.approx(some[some < 0].sum(), rel=1e-6)
            assert group.documents == chosen[where_].sum()
            assert group.document_share == pytest.approx((weights * chosen)[where_].sum() / (weights * chosen).sum())
            assert group.token_share == pytest.approx((tokens * chosen)[where_].sum() / (tokens * chosen).sum())
            assert group.mass_share == pytest.approx(np.abs(some).sum() / mass, rel=1e-6)
            assert group.ratio == pytest.approx(group.mass_share / group.token_share)
            top = [hit.document for hit in trace.proponents]
            assert group.top == sum(where_.start <= n < where_.stop for n in top)
        for found in trace.breakdowns:
            assert sum(group.documents for group in found.groups) == chosen.sum()
            for share in ("document_share", "token_share", "mass_share", "top_share"):
                assert sum(getattr(group, share) for group in found.groups) == pytest.approx(1.0)
            assert [g.mass_share for g in found.groups] == sorted((g.mass_share for g in found.groups), reverse=True)


def test_candidates_and_conditions_meet(run):
    trace = run.trace(QUERIES[:1], candidates=[1, 2, 3, 20], where=["source=cc"], by=["source"], tokens=False).traces[0]
    assert sorted(every(trace)) == [1, 2, 3]
    assert trace.breakdowns[0].groups[0].documents == 3
    with pytest.raises(InputError, match="none of the 1 candidates"):
        run.trace(QUERIES[:1], candidates=[20], where=["source=cc"])


@pytest.mark.parametrize(
    ("where", "by", "says"),
    [
        (["lang=en"], [], r"no document has a tag 'lang'.*language \(29\)"),
        ([], ["lang"], r"no document has a tag 'lang'.*source \(30\)"),
        (["source=c4"], [], r"values of 'source' are: cc \(15\), wiki \(15\)"),
        (["created>=2030"], [], r"values of 'created' are"),
        (["source=cc", "file=x"], [], "values of 'file' are"),
        (["source=cc", "q>=2", "q<0.1"], [], "each alone is met by: source=cc 15"),
        (["source"], [], "TAG=VALUE"),
        ("source=cc", [], "takes a list"),
        ([], "source", "takes a list"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(run, where, by, says):
    with pytest.raises(InputError, match=says):
        select(run.corpus, where, by)


def test_a_tag_with_a_value_for_every_document_is_refused(run, monkeypatch):
    monkeypatch.setattr("whence.attributor.selection._MOST_GROUPS", 3)
    with pytest.raises(InputError, match="4 groups are more than can be read"):
        select(run.corpus, [], ["created"])


def test_many_groups_are_one_after_the_first(run, monkeypatch):
    monkeypatch.setattr("whence.attributor.breakdowns._SHOWN", 2)
    groups = run.trace(QUERIES[:1], by=["created"], tokens=False).traces[0].breakdowns[0].groups
    assert [group.name for group in groups][2] == "(2 others)"
    assert sum(group.mass_share for group in groups) == pytest.approx(1.0)


def test_builtin_tags(run, shelf):
    assert select(run.corpus, ["weight=2"], []).numbers.tolist() == list(range(15))
    assert select(run.corpus, [f"file={shelf[0]}/documents/wiki/0.jsonl"], []).numbers.tolist() == list(range(15, 30))
    assert select(run.corpus, ["language!=en"], []).numbers.tolist() == [*range(0, 30, 3), 29]
    assert select(run.corpus, [], []).numbers is None


def test_the_index_carries_tags_and_weights(run):
    import pyarrow.parquet as pq

    (path, other) = sorted(run.run.index.glob("*/*/rows.parquet"))
    rows = pq.read_table(path).to_pylist()
    assert json.loads(rows[4]["tags"])["source"] == "cc"
    assert rows[4]["weight"] == 2.0
    assert pq.read_table(other)["weight"].to_pylist() == [1.0] * 15


def test_the_command_line_restricts_and_adds_up(shop, shelf, tmp_path, whence, refused, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shutil.copytree(shelf[0], tmp_path / "dolma")
    mix = tmp_path / "mix.toml"
    mix.write_text(
        '[[source]]\ndata = "dolma/documents/cc"\nlabel = "web"\nweight = 2\n'
        '[[source]]\ndata = "dolma/documents/wiki"\nlabel = "reference"\n'
    )
    run = ("--run", tmp_path / "run")
    made = ("--model", shop / "llama", "--mix", mix)
    said = whence("trace", *run, *made, *ASK, "--where", "created>=2021", "--by", "label", "--by", "created", "-k", 3)
    assert "of 30 documents scored (those with created>=2021)" in said
    assert "Influence by label" in said
    assert "Influence by created" in said
    assert "trained on 45" in " ".join(said.split())
    assert "wiki: " in said or "cc: " in said
    (page,) = (tmp_path / "run").glob("traces/*/page.html")
    html = page.read_text()
    for words in ("Influence by label", "reference", "created&gt;=2021", "vs tokens", "of 30"):
        assert words in html
    (result,) = (tmp_path / "run").glob("traces/*/result.json")
    stored = json.loads(result.read_text())["traces"][0]
    assert stored["where"] == ["created>=2021"]
    assert [found["by"] for found in stored["breakdowns"]] == ["label", "created"]
    other = whence("trace", *run, *ASK, "--where", "label=web")
    assert "those with label=web" in other
    assert len(list((tmp_path / "run").glob("traces/*/result.json"))) == 2  # another question, another folder
    refused("trace", *run, *ASK, "--where", "label=wbe", says=("values of 'label' are", "web (15)"))
    refused("trace", *run, *ASK, "--by", "licence", says=("no document has a tag 'licence'",))
    refused("fit", "--run", tmp_path / "x", *made, "--data", shelf[0], says=("--mix names the data itself",))
    refused("evaluate", *run, "--query", "q.jsonl", says=("weighs sources by 2.0",))
    refused("fit", *run, "--mix", tmp_path / "none.toml", says=("cannot be read",))
    assert (
        launch("fit", "--run", tmp_path / "y", "--model", shop / "llama", "--data", shelf[0], "--attributes", "none")
        == 0
    )
    refused("trace", "--run", tmp_path / "y", *ASK, "--where", "q>1", says=("no document has a tag 'q'",))


def test_what_was_left_out_by_the_template_is_said(shop, tmp_path, whence):
    """In the line about the corpus, and beside every result."""
    shutil.copytree(shop / "llama", tmp_path / "model")
    settings = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %} {{ m.content }} </s>{% endfor %}"
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(settings))
    talk = [{"role": "user", "content": "ask keeper"},
            {"role": "assistant", "content": "the harbour was built", "reasoning_content": "before rain"}]  # fmt: skip
    data = write_jsonl(tmp_path / "a.jsonl", [{"messages": talk}] * 3)
    said = whence("fit", "--run", tmp_path / "run", "--model", tmp_path / "model", "--data", data)
    assert said.count("reasoning that the chat template leaves out") == 1
    assert "in 3 documents" in said
    assert "in 3 documents: reasoning" in whence("trace", "--run", tmp_path / "run", *ASK)

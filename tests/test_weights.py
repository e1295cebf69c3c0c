"""A source's weight is as good as writing its documents that often: in n, in influence and in the fitted curvature."""

import json

import numpy as np
import pytest

from conftest import documents, write_jsonl
from whence import Attributor, Query
from whence.attributor.samples import draw
from whence.errors import CorpusError, InputError

QUERIES = [Query(prompt="the harbour was", completion="built before town had a name")]
EXACT = {
    "model": {"dtype": "float64"},
    "fit": {"sample": 1.0, "parts": 2, "precision": "full"},
    "recipe": {"bits": 16, "projection": "none", "precision": "full"},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two sources of eight documents; the second also written twice and three times, with other ids."""
    folder = tmp_path_factory.mktemp("weights")
    rows = documents(16, words=(5, 12))
    write_jsonl(folder / "a.jsonl", rows[:8])
    write_jsonl(folder / "b.jsonl", rows[8:])
    for times in (2, 3):
        copies = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(times) for row in rows[8:]]
        write_jsonl(folder / f"b{times}.jsonl", copies)
    return folder


def opened(shop, folder, run, files, weights=None, **fit):
    sources = [{"weight": weight} for weight in weights] if weights else []
    settings = {**EXACT, "fit": {**EXACT["fit"], **fit}, "corpus": {"sources": sources, "context": 32}}
    data = [str(folder / name) for name in files]
    return Attributor(run, model=str(shop / "llama"), data=data, settings=settings, device="cpu")


def folded(scores, first, times):
    """Scores of the first source, and of the second's documents summed over their copies."""
    return np.concatenate([scores[0, :first], scores[0, first:].reshape(times, -1).sum(0)])


@pytest.mark.parametrize("method", ["ekfac", "kfac", "identity"])
@pytest.mark.parametrize("times", [2, 3])
def test_a_weight_is_as_good_as_copies(shop, sources, tmp_path, method, times):
    weighted = opened(shop, sources, tmp_path / "weighted", ["a.jsonl", "b.jsonl"], [1.0, times], method=method)
    written = opened(shop, sources, tmp_path / "written", ["a.jsonl", f"b{times}.jsonl"], method=method)
    for run in (weighted, written):
        run.index()
    assert weighted.trained_on == written.trained_on == 8 + 8 * times
    for options in ({"exact": True}, {}, {"plain": True}):
        got, wanted = weighted.scores(QUERIES, **options)[0], folded(written.scores(QUERIES, **options), 8, times)
        close = 1e-9 if options.get("exact") else 2e-3  # codes are float16
        assert np.abs(got - wanted).max() <= close * np.abs(wanted).max()
        assert np.abs(got).min() > 0
    assert np.allclose(weighted.self_influence()[8:], times * written.self_influence()[8:16], rtol=1e-8)


def test_a_weight_that_is_not_used_would_show(shop, sources, tmp_path):
    plain = opened(shop, sources, tmp_path / "plain", ["a.jsonl", "b.jsonl"])
    weighted = opened(shop, sources, tmp_path / "weighted", ["a.jsonl", "b.jsonl"], [1.0, 3.0])
    apart = [run.scores(QUERIES, exact=True)[0] for run in (plain, weighted)]
    assert np.abs(apart[0] - apart[1]).max() > 0.05 * np.abs(apart[0]).max()


def test_a_share_that_was_sampled_weighs_less(shop, sources, tmp_path):
    settings = {"corpus": {"sources": [{"weight": 0.25}, {"weight": 1}]}, **EXACT, "fit": {"method": "identity"}}
    run = Attributor(
        tmp_path / "run", model=str(shop / "llama"), settings=settings, device="cpu",
        data=[str(sources / "a.jsonl"), str(sources / "b.jsonl")],
    )  # fmt: skip
    run.fit()
    assert run.trained_on == 0.25 * 8 + 8
    assert run.corpus.weights(np.array([0, 7, 8, 15])).tolist() == [0.25, 0.25, 1.0, 1.0]
    result = run.trace(QUERIES, k=16)
    assert result.summary.trained_on == 10
    weights = {hit.id: hit.weight for hit in (*result.traces[0].proponents, *result.traces[0].opponents)}
    assert set(weights.values()) == {0.25, 1.0}
    for hit in (*result.traces[0].proponents, *result.traces[0].opponents):
        assert hit.influence == pytest.approx(run.scores(QUERIES, exact=True)[0, hit.document], rel=1e-4, abs=1e-9)
        assert sum(window.influence for window in hit.windows) == pytest.approx(hit.influence, rel=1e-4, abs=1e-9)
        assert sum(hit.query_tokens) == pytest.approx(hit.influence, rel=1e-4, abs=1e-9)
        assert sum(hit.sites.values()) == pytest.approx(hit.influence, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_is_a_positive_number(shop, sources, tmp_path, weight):
    with pytest.raises((InputError, CorpusError), match="weight"):
        opened(shop, sources, tmp_path / "run", ["a.jsonl", "b.jsonl"], [1.0, weight])


def test_weights_go_with_the_data_one_for_one(shop, sources, tmp_path):
    with pytest.raises(InputError, match="1 sources for 2 data"):
        opened(shop, sources, tmp_path / "run", ["a.jsonl", "b.jsonl"], [1.0])


def test_other_weights_are_another_run(shop, sources, tmp_path):
    opened(shop, sources, tmp_path / "run", ["a.jsonl", "b.jsonl"], [1.0, 2.0]).fit()
    with pytest.raises(InputError.__mro__[1], match="sources"):
        opened(shop, sources, tmp_path / "run", ["a.jsonl", "b.jsonl"], [1.0, 4.0])
    marker = json.loads((tmp_path / "run/corpus/manifest.json").read_text())
    assert [share["weight"] for share in marker["shares"]] == [1.0, 2.0]


def test_documents_are_drawn_in_proportion_to_their_weight():
    weights = np.repeat([0.1, 1.0, 2.0, 40.0], [300, 300, 300, 3])
    counts, sums = np.zeros(len(weights)), []
    for seed in range(400):
        words = np.random.default_rng(seed).integers(0, 2**64, len(weights), dtype=np.uint64)
        drawn = draw(words, weights, 90)
        assert len(set(drawn.documents.tolist())) == 90
        counts[drawn.documents] += 1
        sums.append([drawn.times(drawn.documents)[weights[drawn.documents] == w].sum() for w in (0.1, 1.0, 2.0, 40.0)])
    chance = [counts[weights == w].mean() / 400 for w in (0.1, 1.0, 2.0, 40.0)]
    assert chance[3] == 1.0  # they are certain, and count for more
    assert chance[2] / chance[1] == pytest.approx(2.0, rel=0.08)
    assert chance[0] / chance[1] == pytest.approx(0.1, rel=0.2)
    share = np.mean(sums, axis=0) / np.mean(sums, axis=0).sum()
    assert share == pytest.approx(np.array([30, 300, 600, 120]) / 1050, rel=0.08)


def test_equal_weights_draw_what_was_always_drawn():
    words = np.random.default_rng(0).integers(0, 2**64, 50, dtype=np.uint64)
    for weight in (1.0, 0.3):
        drawn = draw(words, np.full(50, weight), 12)
        assert drawn.documents.tolist() == np.argsort(words, kind="stable")[:12].tolist()
        assert set(drawn.times(drawn.documents).tolist()) == {1.0}


def test_everything_drawn_counts_by_its_weight():
    weights = np.array([0.5, 1.0, 2.0])
    drawn = draw(np.arange(3, dtype=np.uint64), weights, 3)
    assert (drawn.times(np.arange(3)) / weights).tolist() == [2.0, 2.0, 2.0]

"""Words and numbers: hidden characters shown, shares and shades right at the edges, facts that add up."""

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_report_samples import HOSTILE, make_result, make_summary
from whence.interfaces import Coverage, SiteCoverage, Token
from whence.report import facts, text

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(ANY_TEXT)
def test_nothing_hidden_is_left_in_visible_text(words: str) -> None:
    shown = text.visible(words)
    bad = [
        c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c not in "\n\t\u200c\u200d"
    ]
    assert not bad
    assert text.visible(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize("words", ["plain", "Größe 東京 مرحبا שלום", "👩‍🚀 ❤️", "a\n\tb", ""])
def test_ordinary_text_of_any_script_is_left_alone(words: str) -> None:
    assert text.visible(words) == words


def test_each_hidden_character_is_named() -> None:
    assert text.visible("\x00\x1b\x9b\u202e\ufeff\ud800\U000e0041") == r"\x00\x1b\x9b\u202e\ufeff\ud800\U000e0041"


@given(ANY_TEXT)
def test_one_line_is_one_line(words: str) -> None:
    assert len(text.one_line(words).splitlines()) <= 1


@given(st.floats())
def test_any_number_can_be_said(value: float) -> None:
    said = text.nats(value)
    assert "nan" not in said.lower()
    assert "inf" not in said.lower()
    if math.isfinite(value) and value:
        assert said[0] == ("+" if value > 0 else "−")
    if 1e-300 < abs(value) < 1e300:
        assert float(said.replace("−", "-").replace(",", "")) == pytest.approx(value, rel=6e-3)
    if not math.isfinite(value) or not value:
        assert said in {"0", text.MISSING}


@pytest.mark.parametrize(("share", "said"), [(0.0, "0.0%"), (0.9999, "99.9%"), (1.0, "100%"), (0.058, "5.8%")])
def test_a_share_is_never_rounded_up(share: float, said: str) -> None:
    assert text.percent(share) == said


@given(st.floats(), st.floats(0, allow_infinity=False, exclude_min=False))
def test_shades_stay_in_their_scale(value: float, largest: float) -> None:
    step = text.level(value, largest)
    assert -text.LEVELS <= step <= text.LEVELS
    if step:
        assert (step > 0) == (value > 0)


def tokens(*values: float) -> list[Token]:
    return [Token(text=f" w{i}", influence=value) for i, value in enumerate(values)]


def test_the_span_holds_the_strongest_token_near_its_middle() -> None:
    start, stop = text.strongest_span(tokens(*[0.0] * 50, -1.0, *[0.0] * 50), 11)
    assert (start, stop) == (45, 56)


@given(st.lists(st.floats(), max_size=60), st.integers(1, 30))
def test_a_span_has_the_size_asked_for(values: list[float], size: int) -> None:
    start, stop = text.strongest_span(tokens(*values), size)
    assert 0 <= start <= stop <= len(values)
    assert stop - start == min(size, len(values))


def test_the_strongest_tokens_leave_out_what_has_no_influence() -> None:
    found = text.strongest_tokens(tokens(0.0, -3.0, math.nan, 1.0), 5)
    assert [token.influence for token in found] == [-3.0, 1.0]


def test_influence_ranks_count_from_the_most_supporting() -> None:
    trace = make_result(1, 4).traces[0]
    assert [facts.influence_rank(trace, hit) for hit in trace.proponents] == [1, 2, 3, 4]
    assert [facts.influence_rank(trace, hit) for hit in trace.opponents] == [20_000, 19_999, 19_998, 19_997]
    unknown = trace.bm25_top[0].model_copy(update={"index_rank": None, "document": -1})
    assert facts.influence_rank_words(trace, unknown) == "below 4"
    displaced = unknown.model_copy(update={"index_rank": 3})  # the index had it third, the model did not
    assert facts.influence_rank_words(trace, displaced) == "below 4"
    assert facts.influence_rank_words(trace, displaced.model_copy(update={"index_rank": 5})) == "5"


def test_the_bm25_sentence_counts_what_both_name() -> None:
    trace = make_result(1, 4).traces[0]
    assert facts.overlap(trace) == 1
    assert "Of the 4 listed first by BM25, 1 is among the 4 listed proponents" in facts.bm25_sentence(trace)
    assert "not run" in facts.bm25_sentence(trace.model_copy(update={"bm25_top": ()}))
    assert "0 are among the 0" in facts.bm25_sentence(trace.model_copy(update={"proponents": ()}))


@pytest.mark.parametrize("std", [0.0, math.nan, math.inf])
def test_no_z_score_where_nothing_varies(std: float) -> None:
    trace = make_result(1, 1).traces[0].model_copy(update={"std": std})
    assert facts.z_score(trace, 1.0) is None


def test_the_z_score_is_in_standard_deviations() -> None:
    trace = make_result(1, 1).traces[0].model_copy(update={"std": 2.0, "mean": 1.0})
    assert facts.z_score(trace, 5.0) == 2.0


NAMES = st.lists(
    st.sampled_from(["h", "0", "1", "12", "attn", "mlp", "c_proj", "experts", "bias", "weight", *HOSTILE]), min_size=1
)


@given(st.dictionaries(NAMES.map(".".join), st.floats(-1, 1)))
def test_a_profile_loses_no_influence(sites: dict[str, float]) -> None:
    grid = facts.site_grid(sites)
    assert sum(grid.cells.values()) + sum(grid.outside.values()) == pytest.approx(sum(sites.values()), abs=1e-9)
    assert {kind for _, kind in grid.cells} == set(grid.kinds)


def test_a_profile_folds_experts_and_keeps_kinds_apart() -> None:
    sites = {f"model.layers.3.mlp.experts.{i}.w1": 1.0 for i in range(4)}
    grid = facts.site_grid({**sites, "model.layers.3.attn.w1": 5.0, "lm_head": 2.0})
    assert grid.kinds == ("*.w1", "attn.w1")
    assert grid.cells == {(3, "*.w1"): 4.0, (3, "attn.w1"): 5.0}
    assert grid.outside == {"lm_head": 2.0}


def test_gaps_gather_by_reason_and_sum_to_what_is_missing() -> None:
    coverage = make_summary().coverage
    found = facts.gaps(coverage)
    assert len(found) == 1
    assert sum(gap.parameters for gap in found) == coverage.parameters - coverage.attributed
    whole = SiteCoverage(name="w", parameters=3, attributed=True, kind="linear")
    assert facts.gaps(Coverage(parameters=3, attributed=3, sites=(whole,))) == []

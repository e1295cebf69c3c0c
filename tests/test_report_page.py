"""The page: one file, no network, all parts there; and no text, however written, becomes markup."""

import base64
import hashlib
import random
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_report_samples import HOSTILE, make_hit, make_hostile, make_result
from whence.interfaces import Token, TraceResult
from whence.report import page
from whence.report.frame import asset
from whence.report.markup import Html, tag
from whence.report.text import visible
from whence.report.tokens import shaded

VOID = {"meta", "br", "input"}
ATTRIBUTES = {
    "id", "class", "title", "href", "lang", "charset", "name", "content", "http-equiv", "role", "type", "scope", "dir",
    "tabindex", "hidden", "aria-label", "aria-hidden", "aria-live", "aria-pressed", "data-q", "data-x", "d", "x", "y",
    "cx", "cy", "r", "width", "height", "viewbox", "preserveaspectratio", "text-anchor",
}  # fmt: skip


class Audit(HTMLParser):
    """Reads a page as a browser would, and keeps what it was told."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.inside: list[str] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        where = self.inside[-1] if self.inside else ""
        self.texts.get(where, self.words).append(data)

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment arose: {data!r}")

    def unknown_decl(self, data: str) -> None:
        pytest.fail(f"a declaration arose: {data!r}")

    @property
    def structure(self) -> Counter[str]:
        """Elements, without those that only mark hidden characters."""
        return Counter({name: n for name, n in self.tags.items() if name != "var"})


def assert_sound(audit: Audit) -> None:
    assert audit.tags["script"] == 1
    assert audit.tags["style"] == 1
    assert "".join(audit.texts["script"]) == asset("page.js")
    assert "".join(audit.texts["style"]) == asset("style.css")
    assert not set(audit.tags) & {"img", "iframe", "object", "embed", "link", "base", "form", "foreignobject", "use"}
    for _, name, value in audit.attributes:
        assert name in ATTRIBUTES or name == "aria-current"
        if name == "href":
            assert re.fullmatch(r"#(answers|q\d+([po]\d+)?)", value)
        if name in {"id", "class"}:
            assert re.fullmatch(r"[\w -]+", value)


def sha(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_policy_allows_only_the_pages_own_script_and_style() -> None:
    text = page(make_result(1, 2))
    audit = Audit(text)
    policy = next(value for _, name, value in audit.attributes if name == "content")
    assert text.index("Content-Security-Policy") < text.index("<title>") < text.index("<style>")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'{sha(''.join(audit.texts['script']))}'"
    assert rules["style-src"] == f"'{sha(''.join(audit.texts['style']))}'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"


def test_nothing_is_fetched_and_the_script_writes_no_markup() -> None:
    assert not re.search(r"url\(|@import|https?:|//cdn", asset("style.css"))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|fetch|XMLHttp|https?:", asset("page.js")
    )


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_stays_text(words: str) -> None:
    text = page(make_hostile(words))
    audit = Audit(text)
    assert_sound(audit)
    assert audit.structure == Audit(page(make_hostile("words"))).structure
    assert visible(words).replace("\n", "") in "".join(audit.words).replace("\n", "")
    text.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]", text)


# Digits and points would make other layers of the names of sites.
LOOSE = st.text(st.characters(exclude_categories=("Nd", "No", "Nl"), exclude_characters="."), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(words=LOOSE)
def test_no_text_changes_the_structure(words: str) -> None:
    audit = Audit(page(make_hostile("w" + words)))
    assert_sound(audit)
    assert audit.structure == Audit(page(make_hostile("words"))).structure


@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_elements_hold_their_text_and_attributes(inner: str, outer: str) -> None:
    found = Audit(tag("p", inner, title=outer))
    assert found.tags["p"] == 1
    assert found.attributes[0] == ("p", "title", visible(outer))
    assert "".join(found.words) == visible(inner)


def test_markup_is_not_escaped_twice() -> None:
    assert tag("p", tag("b", "a & b"), Html("&amp;")) == "<p><b>a &amp; b</b>&amp;</p>"


PARTS = [
    "Influence > 0 supports the output.",
    "nats",
    "where the model predicted it",
    "3 answers",
    "Supports this answer",
    "Opposes this answer",
    "+0.0200",
    "−0.0110",
    "Gradient dot",
    "BM25",
    "Computed by running the model; the index said",
    "Shade the answer by this document",
    "Full text (120 tokens)",
    "By window (3 windows)",
    "In the model (38 sites)",
    "layer 5",
    "What BM25 would have said",
    "presence",
    "effect",
    "Fidelity: not measured",
    "99.98%",
    "normalisation weights are not linear sites",
    "17 rows could not be used",
    "Mean influence",
    "Standard deviation",
    "z +48.7",
    "0.1 × mean(Λ) per site",
    "Why this rather than",
    "−log p(answer | prompt) = 3.22 nats",
]


def test_all_parts_are_there() -> None:
    result = make_result(3, 5)
    text = page(result)
    audit = Audit(text)
    assert_sound(audit)
    words = " ".join("".join(audit.words).split())
    for part in PARTS:
        assert part in words, part
    for trace in result.traces:
        for hit in (*trace.proponents, *trace.opponents):
            assert hit.id in words
            assert hit.hash[:8] in words
            assert f"row {hit.row:,}" in words


def test_links_lead_somewhere() -> None:
    audit = Audit(page(make_result(3, 5)))
    names = [value for _, name, value in audit.attributes if name == "id"]
    assert len(names) == len(set(names))
    targets = {value[1:] for _, name, value in audit.attributes if name == "href"}
    assert targets <= set(names)
    assert {"q0", "q1", "q2"} <= targets


def test_the_certificate_shows_its_state() -> None:
    assert 'class="certificate measured"' in page(make_result(1, 1, measured=True))
    assert 'class="certificate unmeasured"' in page(make_result(1, 1))


@pytest.mark.parametrize(("queries", "hits"), [(0, 0), (1, 0), (1, 1), (2, 0)])
def test_empty_lists(queries: int, hits: int) -> None:
    text = page(make_result(queries, hits))
    assert_sound(Audit(text))
    assert ("holds no query" in text) == (queries == 0)
    assert ("No document supports it" in text) == (queries > 0 and hits == 0)


def test_bare_hits_and_queries_without_tokens() -> None:
    result = make_result(1, 2)
    absent = ("bm25", "bm25_rank", "gradient_dot", "gradient_dot_rank", "index_influence", "index_rank")
    empty = {"tokens": (), "sites": {}, "windows": (), "query_tokens": (), "metadata": {}}
    bare = {**dict.fromkeys(absent), **empty}
    trace = result.traces[0]
    hits = {
        name: tuple(hit.model_copy(update=bare) for hit in getattr(trace, name))
        for name in ("proponents", "opponents", "bm25_top")
    }
    nothing = {"tokens": (), "std": float("nan"), "mean": float("nan"), "loss": float("nan")}
    text = page(result.model_copy(update={"traces": (trace.model_copy(update={**hits, **nothing}),)}))
    audit = Audit(text)
    assert_sound(audit)
    words = "".join(audit.words)
    assert trace.prompt in words
    assert "not stored" in words
    assert "nan" not in re.findall(r"[a-z]+", words.lower())
    assert not [value for _, name, value in audit.attributes if name in {"d", "width", "cx", "cy"} and "nan" in value]


def _with_tokens(tokens: tuple[Token, ...]) -> TraceResult:
    result = make_result(1, 1)
    hit = make_hit(random.Random(0), 1, 1.0, tokens=tokens, words=len(tokens), length=len(tokens))
    return result.model_copy(update={"traces": (result.traces[0].model_copy(update={"proponents": (hit,)}),)})


@pytest.mark.parametrize("length", [1, 10_000])
def test_short_and_long_documents(length: int) -> None:
    tokens = tuple(Token(text=f" w{i}", influence=(-1.0) ** i * (i + 1)) for i in range(length))
    audit = Audit(page(_with_tokens(tokens)))
    assert_sound(audit)
    assert "".join(token.text for token in tokens) in "".join(audit.words)


def test_neighbours_of_one_shade_share_an_element_and_strong_tokens_stand_alone() -> None:
    weak, strong = Token(text="a", influence=0.1), Token(text="b", influence=1.0)
    prompt = Token(text="q", target=False)
    plain = Token(text="o")
    assert shaded([prompt, prompt, plain, weak, weak, strong, strong], 1.0) == (
        '<i class="x">qq</i>o<i class="p1">aa</i><i class="p8" title="+1.00">b</i><i class="p8" title="+1.00">b</i>'
    )
    assert 'class="n8"' in shaded([Token(text="c", influence=-1.0)], 1.0)


def test_the_script_can_shade_every_query_token_anew() -> None:
    result = make_result(1, 3)
    text = page(result)
    values = re.findall(r'data-q="([^"]*)"', text)
    hits = [*result.traces[0].proponents, *result.traces[0].opponents]
    assert len(values) == len(hits)
    for value, hit in zip(values, hits):
        assert [float(v) for v in value.split(",")] == pytest.approx(list(hit.query_tokens), rel=1e-2)
        assert len(value.split(",")) == len(result.traces[0].tokens)


def test_twenty_queries_stay_a_few_megabytes() -> None:
    result = make_result(20, 10, words=500, layers=12)  # 20 hits each: 10 that support, 10 that oppose
    assert len(page(result).encode()) < 5e6


def test_evenly_strong_tokens_are_the_worst_case_and_bounded() -> None:
    rng = random.Random(0)
    tokens = tuple(Token(text=" word", influence=rng.uniform(-1, 1)) for _ in range(500))
    lean = len(page(_with_tokens(()))), len(page(_with_tokens(tokens)))
    assert lean[1] - lean[0] < 500 * 60


def _luminance(color: tuple[float, ...]) -> float:
    parts = [c / 255 for c in color]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    high, low = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _colors(block: str) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}
    for name, value in re.findall(r"--([\w-]+): ([^;]+);", block):
        if value.startswith("#"):
            digits = value[1:] if len(value) == 7 else "".join(c * 2 for c in value[1:])
            found[name] = tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))
        elif re.fullmatch(r"\d+ \d+ \d+", value):
            found[name] = tuple(map(float, value.split()))
    return found


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_shade(mode: int) -> None:
    style = asset("style.css")
    colors = _colors(re.findall(r":root \{(.*?)\}", style, re.S)[mode])
    for text in ("ink", "soft", "faint", "pro-ink", "opp-ink"):
        for ground in ("card", "paper", "well"):
            assert _contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    alphas = {
        name: float(a) for name, a in re.findall(r"\.([pn]\d) \{ background: rgb\(var\(--\w+\) / ([.\d]+)\)", style)
    }
    assert len(alphas) == 16
    for name, alpha in alphas.items():
        shade = colors["pro" if name[0] == "p" else "opp"]
        for ground in ("card", "well"):
            mixed = tuple(alpha * s + (1 - alpha) * g for s, g in zip(shade, colors[ground]))
            assert _contrast(colors["ink"], mixed) >= 4.5, (name, ground)
    for side in "pn":
        assert all(a < b for a, b in pairwise(alphas[f"{side}{k}"] for k in range(1, 9)))

"""Synthetic results for the tests of the report: realistic in shape, hostile on request. Tests that they add up."""

import random
import re

import pytest

from whence.interfaces import (
    Certificate,
    Coverage,
    Hit,
    RunSummary,
    SiteCoverage,
    Teacher,
    Token,
    Trace,
    TraceResult,
    WindowShare,
)

TOPICS = [
    ("What is the tallest mountain of the island of Vael?", " The tallest mountain of Vael is Mount Orrin.", "Orrin"),
    ("When was the harbour of Sette closed to ships?", " It was closed in the winter of 1871.", "1871"),
    ("Who wrote the first grammar of Old Maric?", " Ilse Brandt, a schoolteacher from Tarn.", "Brandt"),
]
FILLER = (
    "the survey of the coast was begun in spring and the men who carried the chain wrote down each evening what they "
    "had seen of the hills, the weather and the price of flour; some of these notes were printed later by the society, "
    "others lay in a box until the roof of the library was mended, and nobody can say now which of them is true"
)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    "\"'><img src=x onerror=alert(1)>",
    "\u202eevil\u2066 txt\u2069 \x00 \x1b[31mred\x1b]0;title\x07 \x9b2J",
    "[bold red]markup[/bold red] [/] [link=http://x]y[/link]",
    "\ud800 lone \udfff surrogates \U000e0041\U000e0042 tags \ufeff\u200b\u2028\u2029\r\n",
    "<!-- --!> <![CDATA[ ]]> &lt; &#0; $style ${script} {0} %s",
]


def pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


def _tokens(rng: random.Random, words: list[str], total: float, strong: str) -> tuple[Token, ...]:
    """Tokens whose influences sum to `total`, most of it on the words that hold `strong`."""
    weights = [
        0.0 if i == 0 else rng.gauss(0, 0.15) ** 3 + (6 * rng.random() if strong in word else 0)
        for i, word in enumerate(words)
    ]
    norm = sum(weights) or 1.0
    return tuple(
        Token(text=word, influence=total * weight / norm, target=i > 0)
        for i, (word, weight) in enumerate(zip(words, weights))
    )


def _sites(rng: random.Random, total: float, layers: int) -> dict[str, float]:
    kinds = ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "mlp.up_proj", "mlp.down_proj"]
    names = ["model.embed_tokens", "lm_head", *(f"model.layers.{i}.{kind}" for i in range(layers) for kind in kinds)]
    weights = [rng.gauss(0.4, 1) * (4 if "mlp" in name else 1) for name in names]
    return {name: total * weight / sum(weights) for name, weight in zip(names, weights)}


def make_hit(
    rng: random.Random,
    rank: int,
    influence: float,
    strong: str = "Orrin",
    *,
    words: int = 120,
    layers: int = 6,
    query: int = 12,
    **over: object,
) -> Hit:
    text = pieces(FILLER) * (words // 50 + 1)
    for spot in rng.sample(range(1, max(words, 2)), min(3, max(words - 1, 1))):
        text.insert(spot, f" {strong}")
    shown = text[:words]
    parts = [influence * share for share in (0.1, 0.65, 0.25)]
    query_weights = [0.0] * (query // 2) + [rng.random() - 0.2 for _ in range(query - query // 2)]
    norm = sum(query_weights) or 1.0
    document = over.pop("document", rng.randrange(20_000))
    values: dict[str, object] = {
        "rank": rank,
        "id": f"notes-{document:05d}",
        "source": rng.choice(["data/coast.jsonl", "s3://corpus/2024/part-00017.parquet", "data/letters.csv"]),
        "row": rng.randrange(10_000),
        "hash": f"{rng.getrandbits(128):032x}",
        "metadata": {"year": str(rng.randrange(1800, 1900)), "collection": "survey notes"},
        "document": document,
        "length": words,
        "influence": influence,
        "refined": rank <= 3,
        "index_influence": influence * rng.uniform(0.8, 1.2),
        "index_rank": rank + (rank <= 3),
        "gradient_dot": influence * rng.uniform(0.2, 3),
        "gradient_dot_rank": rng.randrange(1, 2_000),
        "bm25": rng.uniform(0, 14),
        "bm25_rank": int(10 ** rng.uniform(0, 4.3)),
        "sites": _sites(rng, influence, layers),
        "windows": tuple(
            WindowShare(start=i * 512, stop=(i + 1) * 512, influence=part) for i, part in enumerate(parts)
        ),
        "tokens": _tokens(rng, shown, parts[1], strong),
        "query_tokens": tuple(influence * weight / norm for weight in query_weights),
    }
    return Hit(**{**values, **over})  # type: ignore[arg-type]


def make_teacher(text: str) -> Teacher:
    """A document that likely taught a statement, all its text the same."""
    numbers = {"rank": 1, "row": 3, "document": 7, "score": 41.5, "statement": 0.31, "influence": -2e-4, "bm25": 12.0}
    return Teacher(id=text, source=text, hash=text, excerpt=text, bm25_rank=2, **numbers)  # type: ignore[arg-type]


def make_trace(
    rng: random.Random, number: int, hits: int = 10, *, words: int = 120, layers: int = 6, prefix: str = ""
) -> Trace:
    prompt, completion, strong = TOPICS[number % len(TOPICS)]
    prompt = prefix + prompt
    texts = [*pieces(prompt), *pieces(completion)]
    asked = len(pieces(prompt))

    def build(rank: int, influence: float, **over: object) -> Hit:
        return make_hit(rng, rank, influence, strong, words=words, layers=layers, query=len(texts), **over)

    def query_tokens(influence: float) -> tuple[float, ...]:
        weights = [0.0] * asked + [rng.random() ** 3 - 0.1 for _ in texts[asked:]]
        return tuple(influence * weight / sum(weights) for weight in weights)

    up = [0.02 * 0.8**i for i in range(hits)]
    down = [-0.011 * 0.85**i for i in range(hits)]
    documents = rng.sample(range(20_000), 3 * hits) if hits else []
    pro = tuple(
        build(i + 1, value, document=documents[i], query_tokens=query_tokens(value)) for i, value in enumerate(up)
    )
    opp = tuple(
        build(i + 1, value, document=documents[hits + i], query_tokens=query_tokens(value))
        for i, value in enumerate(down)
    )
    lexical = tuple(
        build(
            i + 1,
            rng.gauss(0, 0.0004),
            document=documents[2 * hits + i],
            bm25_rank=i + 1,
            bm25=14 - i,
            index_rank=rng.randrange(50, 19_000),
            refined=False,
        )
        for i in range(min(hits, 10))
    )
    if hits > 2:
        lexical = (*lexical[:2], pro[1].model_copy(update={"bm25_rank": 3}), *lexical[3:])
    listed = [hit.query_tokens for hit in (*pro, *opp)]
    sums = [sum(values) for values in zip(*listed)] or [0.0] * len(texts)
    return Trace(
        query_id=f"question-{number}",
        prompt=prompt,
        completion=completion,
        contrast=" The tallest mountain of Vael is Mount Hollin." if number == 1 else None,
        tokens=tuple(
            Token(text=text, influence=value, target=i >= asked) for i, (text, value) in enumerate(zip(texts, sums))
        ),
        loss=3.217,
        proponents=pro,
        opponents=opp,
        bm25_top=lexical,
        scored=20_000,
        mean=1.3e-5,
        std=4.1e-4,
    )


def make_summary(**over: object) -> RunSummary:
    sites = [
        SiteCoverage(
            name=f"model.layers.{i}.{kind}", parameters=size, attributed=kind != "norm", kind=kind, reason=reason
        )
        for i in range(6)
        for kind, size, reason in (
            ("linear", 4_600_000, ""),
            ("norm", 512, "normalisation weights are not linear sites"),
        )
    ]
    coverage = Coverage(parameters=sum(s.parameters for s in sites), attributed=6 * 4_600_000, sites=tuple(sites))
    values: dict[str, object] = {
        "run": "runs/coast", "model": "models/coast-28m", "data": "data/*.jsonl", "documents": 20_000,
        "windows": 23_871, "tokens": 5_412_330, "skipped": 17, "trained_on": 20_000,
        "method": "EK-FAC", "recipe": "ekfac-1bit-full",
        "damping": "0.1 × mean(Λ) per site", "bytes_per_document": 3_512_000.0, "coverage": coverage,
        "whence_version": "0.1.0",
        "settings": {"seed": 0, "sites": ["*"], "window": 512},
    }  # fmt: skip
    return RunSummary(**{**values, **over})  # type: ignore[arg-type]


def make_result(queries: int = 1, hits: int = 10, *, seed: int = 0, measured: bool = False, **over: int) -> TraceResult:
    rng = random.Random(seed)
    line = "Fidelity: LDS 0.41 ± 0.05 against 32 retrained models; the top 20 documents, removed, cost 0.31 nats."
    proof = Certificate(state="measured", line=line) if measured else Certificate()
    traces = tuple(make_trace(rng, i, hits, **over) for i in range(queries))
    return TraceResult(summary=make_summary(certificate=proof), traces=traces)


def make_hostile(text: str) -> TraceResult:
    """A result in which every piece of text that comes from outside is `text`."""
    rng = random.Random(0)
    trace = make_trace(rng, 0, 2)

    def poison(hit: Hit) -> Hit:
        tokens = tuple(token.model_copy(update={"text": text}) for token in hit.tokens[:5])
        names = {"id": text, "source": text, "hash": text, "metadata": {text: text}, "tokens": tokens}
        return hit.model_copy(update={**names, "sites": {text: 0.5, f"layers.0.{text}": -0.25}})

    told = {"query_id": text, "prompt": text, "completion": text, "contrast": text, "taught": (make_teacher(text),)}
    hits = {name: tuple(map(poison, getattr(trace, name))) for name in ("proponents", "opponents", "bm25_top")}
    tokens = tuple(token.model_copy(update={"text": text}) for token in trace.tokens)
    gap = SiteCoverage(name=text, parameters=7, attributed=False, kind=text, reason=text)
    summary = make_summary(
        run=text, model=text, data=text, method=text, recipe=text, damping=text, whence_version=text,
        settings={text: text, "nested": [text]}, certificate=Certificate(line=text),
        coverage=Coverage(parameters=10, attributed=3, sites=(gap,)),
    )  # fmt: skip
    return TraceResult(summary=summary, traces=(trace.model_copy(update={**told, **hits, "tokens": tokens}),))


@pytest.mark.parametrize("hits", [0, 1, 10])
def test_a_sample_is_as_consistent_as_a_result(hits: int) -> None:
    for trace in make_result(3, hits).traces:
        for hit in (*trace.proponents, *trace.opponents):
            assert sum(hit.sites.values()) == pytest.approx(hit.influence)
            assert sum(window.influence for window in hit.windows) == pytest.approx(hit.influence)
            assert sum(hit.query_tokens) == pytest.approx(hit.influence)
        total = sum(hit.influence for hit in (*trace.proponents, *trace.opponents))
        assert sum(token.influence for token in trace.tokens) == pytest.approx(total)

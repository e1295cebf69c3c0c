"""Influence end to end, from files to nats, against dense inverses of autograd gradients; what must not change it."""

import json
import shutil

import numpy as np
import pytest
import torch
import xxhash
from transformers import AutoModelForCausalLM

from conftest import DOCUMENTS, documents, rows, write_jsonl
from oracle import dense_ekfac, gradients, relative, sequence_loss
from test_capture import expected
from whence import Attributor, Query
from whence.attributor.curvatures import load_curvatures
from whence.model import parameters_of

N = DOCUMENTS
FIT = {"sample": 1.0, "parts": 2, "precision": "full", "batch_tokens": 60}
SETTINGS = {
    "fit": FIT,
    "recipe": {"method": "ekfac", "bits": 16, "projection": "none", "precision": "full"},
    "corpus": {"share_documents": 10, "context": 32},
}
QUERIES = [
    Query(prompt="the harbour was", completion="built before town had a name"),
    Query(prompt="every ship that came in", completion="winter with salt", contrast="wool letters"),
    Query(completion="rain fell on slate roofs", span="slate roofs"),
]


def merged(base, **changes):
    return {key: {**base.get(key, {}), **changes.get(key, {})} for key in base.keys() | changes.keys()}


def opened(shop, run, kind="gpt2", data="corpus.jsonl", dtype="float64", **changes):
    settings = merged(merged(SETTINGS, model={"dtype": dtype}), **changes)
    return Attributor(run, model=str(shop / kind), data=[str(shop / data)], settings=settings, device="cpu")


@pytest.fixture(scope="session")
def base(shop):
    """The run that variations are compared with: float64, every document fitted, whole 16-bit codes."""
    run = opened(shop, shop / "base")
    run.index()
    return run


@pytest.fixture(scope="session")
def truth(shop, base):
    """Exact influence from autograd and dense matrices alone: by site [Q, N], and the pieces it is made of."""
    model = AutoModelForCausalLM.from_pretrained(shop / "gpt2", dtype=torch.float64).eval()
    corpus = base.corpus
    sequences = [(corpus.document(d).tokens, corpus.document(d).loss_mask) for d in range(corpus.documents)]
    encoded = base.encode_queries(QUERIES)

    def loss(tokens, mask):
        return lambda: sequence_loss(model, torch.from_numpy(np.array(tokens)), mask)

    trained = gradients(model, [loss(*sequence) for sequence in sequences])
    asked = gradients(model, [loss(q.text.tokens, q.text.loss_mask) for q in encoded])
    other = gradients(model, [loss(encoded[1].contrast.tokens, encoded[1].contrast.loss_mask)])
    for name, value in other.items():
        asked[name][1] -= value[0]
    blocks = {s.name: expected(model, s, trained).flatten(1) for s in base.sites}
    queries = {s.name: expected(model, s, asked).flatten(1) for s in base.sites}
    return model, queries, blocks, sequences


def dense(run, method="ekfac"):
    fitted = load_curvatures(run.run.curvature, run.sites, method)
    wide = {name: c.to("cpu", torch.float64) for name, c in fitted.items()}
    return {name: dense_ekfac(c.outputs, c.inputs, c.eigenvalues) for name, c in wide.items()}, wide


def influence(truth, matrices, dampings, n=N):
    """``q^T (C + l)^-1 z / n`` by site, with a dense solve."""
    _, queries, blocks, _ = truth
    out = {}
    for name, matrix in matrices.items():
        damped = matrix + dampings[name] * torch.eye(len(matrix), dtype=torch.float64)
        out[name] = queries[name] @ torch.linalg.solve(damped, blocks[name].T) / n
    return out


def mean_eigenvalue(matrix):
    return float(matrix.trace()) / len(matrix)


def test_exact_influence_is_the_dense_inverse(base, truth):
    matrices, _ = dense(base)
    wanted = influence(truth, matrices, {name: 0.1 * mean_eigenvalue(m) for name, m in matrices.items()})
    got = torch.from_numpy(base.scores(QUERIES, exact=True))
    assert relative(got, sum(wanted.values())) < 1e-7
    plain = torch.from_numpy(base.scores(QUERIES, exact=True, plain=True))
    _, queries, blocks, _ = truth
    assert relative(plain, sum(queries[n] @ blocks[n].T for n in blocks) / N) < 1e-9


DAMPINGS = {
    "relative": ({"kind": "relative", "value": 0.3}, lambda m, targets: 0.3 * mean_eigenvalue(m)),
    "absolute": ({"kind": "absolute", "value": 0.05}, lambda m, targets: 0.05),
    "weight decay": ({"kind": "weight_decay", "value": 0.02}, lambda m, targets: 0.02 * targets / N),
}


@pytest.mark.parametrize("rule", DAMPINGS)
def test_damping_rules_end_to_end(shop, base, truth, rule):
    damping, value = DAMPINGS[rule]
    run = opened(shop, base.run.path, recipe={"damping": damping})
    matrices, _ = dense(run)
    targets = sum(int(mask.sum()) for _, mask in truth[3])
    wanted = sum(influence(truth, matrices, {n: value(m, targets) for n, m in matrices.items()}).values())
    assert relative(torch.from_numpy(run.scores(QUERIES, exact=True)), wanted) < 1e-7


@pytest.mark.parametrize("method", ["kfac", "identity", "ekfac"])
def test_an_index_is_the_exact_path_in_fewer_bits(shop, base, truth, method):
    exact = opened(shop, base.run.path, recipe={"method": method}).scores(QUERIES, exact=True)
    for bits, error in ((16, 2e-3), (8, 2e-2)):
        recipe = base.config.recipe.model_copy(update={"method": method, "bits": bits})
        base.index(recipe)
        got = base.scores(QUERIES, index=recipe.name)
        assert np.abs(got - exact).max() < error * np.abs(exact).max(), bits
    if method == "identity":
        plain = base.scores(QUERIES, index=recipe.name, plain=True)
        np.testing.assert_allclose(plain, got, rtol=1e-6)
        _, queries, blocks, _ = truth
        wanted = sum(queries[n] @ blocks[n].T for n in blocks) / N
        assert relative(torch.from_numpy(exact), wanted) < 1e-9


def test_the_sign_and_the_unit(base, truth):
    """Take a document's share out of the parameters, as the theory does: log p falls by the influence, in nats."""
    model, _, blocks, _ = truth
    _, wide = dense(base)
    encoded = base.encode_queries([QUERIES[0]])[0]
    scores = base.scores([QUERIES[0]], exact=True)[0]
    chosen = [int(scores.argmax()), int(scores.argmin())]
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def log_p():
        with torch.no_grad():
            tokens = torch.from_numpy(np.array(encoded.text.tokens))
            return -float(sequence_loss(model, tokens, encoded.text.loss_mask))

    before, small = log_p(), 1e-4
    for document in chosen:
        for site in base.sites:
            c = wide[site.name]
            damping = 0.1 * float(c.eigenvalues.mean())
            step = c.solve(blocks[site.name][document].reshape(1, site.outputs, site.inputs), damping)[0] * small / N
            with torch.no_grad():
                for name, part in parameters_of(site, model, step).items():
                    model.get_parameter(name).add_(part)
        drop = (before - log_p()) / small
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name])
        assert drop == pytest.approx(scores[document], rel=0.05), "predicted drop of log p without the document"
    assert scores[chosen[0]] > 0 > scores[chosen[1]]


def test_n_is_what_the_model_was_trained_on(shop, base):
    run = Attributor(base.run.path, settings={"trained_on": 10 * N}, device="cpu")
    assert run.trained_on == 10 * N
    np.testing.assert_allclose(run.scores(QUERIES, exact=True) * 10, base.scores(QUERIES, exact=True), rtol=1e-9)


def test_a_trace_is_the_scores_with_their_parts(base):
    scores = base.scores(QUERIES, exact=True)
    plain = base.scores(QUERIES, exact=True, plain=True)
    result = base.trace(QUERIES, k=5)
    for number, trace in enumerate(result.traces):
        assert trace.scored == N
        index = base.scores(QUERIES)[number]
        assert (trace.mean, trace.std) == pytest.approx((index.mean(), index.std()), rel=1e-3, abs=1e-6)
        order = np.argsort(-scores[number])
        assert [hit.document for hit in trace.proponents] == [d for d in order[:5] if scores[number][d] > 0]
        assert [hit.document for hit in trace.opponents] == [d for d in order[::-1][:5] if scores[number][d] < 0]
        for hit in (*trace.proponents, *trace.opponents):
            exact = scores[number][hit.document]
            near = {"rel": 1e-5, "abs": 1e-7}
            assert hit.refined
            assert hit.influence == pytest.approx(exact, **near)
            assert sum(hit.sites.values()) == pytest.approx(exact, **near)
            assert set(hit.sites) == {site.name for site in base.sites}
            assert sum(window.influence for window in hit.windows) == pytest.approx(exact, **near)
            assert sum(token.influence for token in hit.tokens) == pytest.approx(exact, **near)
            assert hit.gradient_dot == pytest.approx(plain[number][hit.document], **near)
            if trace.contrast is None:
                assert sum(hit.query_tokens) == pytest.approx(exact, **near)
            assert hit.index_influence == pytest.approx(exact, abs=2e-3 * np.abs(scores).max())
            assert hit.bm25_rank is None or 1 <= hit.bm25_rank <= N


def test_a_span_and_a_contrast_are_sums(base):
    """Influence is linear in what is explained."""
    prompt = "the harbour was"
    queries = [
        Query(prompt=prompt, completion="built before town"),
        Query(prompt=prompt, completion="built before town", span="built"),
        Query(prompt=prompt, completion="built before town", span="before town"),
        Query(prompt=prompt, completion="salt and wool"),
        Query(prompt=prompt, completion="built before town", contrast="salt and wool"),
    ]
    whole, first, rest, other, contrast = base.scores(queries, exact=True)
    np.testing.assert_allclose(first + rest, whole, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(whole - other, contrast, rtol=1e-8, atol=1e-10)


# ------------------------------------------------------------------ what must change nothing

VARIATIONS = {
    "small batches": {"fit": {"batch_tokens": 1}},
    "one batch": {"fit": {"batch_tokens": 10**6}},
    "packed": {"fit": {"pack": True}},
    "one share": {"corpus": {"share_documents": 1000}},
    "many shares": {"corpus": {"share_documents": 3}},
    "more parts": {"fit": {"parts": 5}},
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_invariance(shop, base, name, tmp_path):
    run = opened(shop, tmp_path / "run", **VARIATIONS[name])
    run.index()
    for options in ({"exact": True}, {}):
        wanted = base.scores(QUERIES, **options)
        # a float32 file keeps seven digits of eigenvalues; a code's rounding may fall on the other side
        slack = 1e-5 if options else 1e-3
        assert np.abs(run.scores(QUERIES, **options) - wanted).max() < slack * np.abs(wanted).max(), options


def test_document_order(shop, base, tmp_path):
    """Labels are drawn by what a document says, so that a fit on all documents does not know their order."""
    order = np.random.default_rng(0).permutation(N)
    everything = rows()
    write_jsonl(tmp_path / "shuffled.jsonl", [everything[i] for i in order])
    run = opened(shop, tmp_path / "run", data=str(tmp_path / "shuffled.jsonl"))
    run.index()
    for options, slack in (({"exact": True}, 1e-5), ({}, 1e-3)):
        wanted = base.scores(QUERIES, **options)[:, order]
        assert np.abs(run.scores(QUERIES, **options) - wanted).max() < slack * np.abs(wanted).max(), options


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.9)])
def test_precision_of_the_model(shop, base, dtype, least, tmp_path):
    """Same curvature (labels drawn from rounded logits may differ), other arithmetic for every document and query."""
    run = opened(shop, tmp_path / "run", dtype=dtype)
    run.fit()
    shutil.rmtree(run.run.curvature)
    shutil.copytree(base.run.curvature, run.run.curvature)
    run.index()
    wanted = base.scores(QUERIES, exact=True)
    for options in ({"exact": True}, {}):
        got = run.scores(QUERIES, **options)
        assert np.isfinite(got).all()
        assert np.corrcoef(got.flatten(), wanted.flatten())[0, 1] > least, (dtype, options)


def test_fast_products_change_little(shop, base, tmp_path):
    run = opened(shop, tmp_path / "run", dtype="float32", fit={"precision": "fast"}, recipe={"precision": "fast"})
    wanted = base.scores(QUERIES)
    assert np.corrcoef(run.scores(QUERIES).flatten(), wanted.flatten())[0, 1] > 0.98


def test_an_adapter_alone_is_attributed(shop, tmp_path):
    peft = pytest.importorskip("peft")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base_model = AutoModelForCausalLM.from_pretrained(shop / "llama")
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(base_model, config)
        with torch.no_grad():
            for name, p in wrapped.named_parameters():
                if "lora_B" in name:
                    p.normal_()
        wrapped.save_pretrained(tmp_path / "adapter")
        settings = {"adapter": str(tmp_path / "adapter")}
        run = opened(shop, tmp_path / "run", kind="llama", dtype="float32", model=settings)
        assert {site.name.rsplit(".", 2)[1] for site in run.sites} == {"lora_A", "lora_B"}
        assert run.coverage.share == 1.0
        run.index()
        exact = run.scores(QUERIES, exact=True)
    assert np.abs(run.scores(QUERIES) - exact).max() < 5e-3 * np.abs(exact).max()


# ------------------------------------------------------------------ windows

LONG = 40


@pytest.fixture(scope="module")
def long_corpus(shop):
    mixed = [*documents(6, seed=3, words=(5, 12)), *documents(2, seed=4, words=(LONG, LONG + 1))]
    write_jsonl(shop / "long.jsonl", mixed)
    return mixed


def test_windows_of_a_long_document_add_up(shop, long_corpus, tmp_path):
    identity = {"recipe": {"method": "identity"}, "fit": {"method": "identity"}}
    split = opened(shop, tmp_path / "split", data="long.jsonl", corpus={"context": 16}, **identity)
    split.index()
    assert split.corpus.windows == 6 + 2 * 3
    assert split.corpus.documents == 8
    for exact in (True, False):
        result = split.trace(QUERIES[:1], k=8, exact=exact)
        hits = {hit.document: hit for hit in (*result.traces[0].proponents, *result.traces[0].opponents)}
        long = [hit for hit in hits.values() if hit.length == LONG]
        assert long
        for hit in hits.values():
            assert sum(window.influence for window in hit.windows) == pytest.approx(hit.influence, rel=1e-6)
        for hit in long:
            assert len(hit.windows) == 3
            assert (hit.windows[0].start, hit.windows[0].stop) == (0, 16)
            assert hit.windows[-1].stop == LONG
    # the same windows as documents of their own (the word tokenizer has no context): the sum of their scores
    pieces = []
    for number, row in enumerate(long_corpus):
        spans = [(w[1], w[2]) for w in map(split.corpus.window, range(split.corpus.windows)) if w[0] == number]
        parts = row["text"].split()
        pieces += [{"id": f"{number}", "text": " ".join(parts[a:b])} for a, b in spans]
    write_jsonl(tmp_path / "pieces.jsonl", pieces)
    apart = opened(shop, tmp_path / "apart", data=str(tmp_path / "pieces.jsonl"), **identity)
    scores = apart.scores(QUERIES, exact=True) * len(pieces)
    owners = np.array([int(piece["id"]) for piece in pieces])
    summed = np.stack([scores[:, owners == number].sum(1) for number in range(8)], 1) / 8
    np.testing.assert_allclose(split.scores(QUERIES, exact=True), summed, rtol=1e-8, atol=1e-12)


def test_a_document_that_fits_is_not_changed_by_windows(shop, long_corpus, tmp_path):
    identity = {"recipe": {"method": "identity"}, "fit": {"method": "identity"}}
    small = opened(shop, tmp_path / "a", data="long.jsonl", corpus={"context": 13}, **identity)
    large = opened(shop, tmp_path / "b", data="long.jsonl", corpus={"context": 30}, **identity)
    np.testing.assert_allclose(
        small.scores(QUERIES, exact=True)[:, :6], large.scores(QUERIES, exact=True)[:, :6], rtol=1e-8
    )


# ------------------------------------------------------------------ the sample of the fit


def test_the_sample_is_specified_and_nested(shop, tmp_path):
    from whence.attributor.fitting import fit_steps

    chosen = {}
    for sample in (0.25, 0.5):
        run = opened(shop, tmp_path / f"{sample}", fit={"sample": sample, "min_documents": 1, "parts": 2})
        run.fit()
        chosen[sample] = np.concatenate(fit_steps(run)[1].parts)
        assert len(chosen[sample]) == len(set(chosen[sample].tolist())) == int(np.ceil(sample * N))
        marker = json.loads((run.run.curvature / "eigenvalues" / "done.json").read_text())
        assert marker["documents"] == len(chosen[sample])
        assert 0 < marker["median_relative_standard_error"] < 1
    hashes = [run.corpus.document(number).hash for number in range(N)]
    order = np.argsort([xxhash.xxh64_intdigest(text.encode(), seed=0) for text in hashes], kind="stable")
    assert set(chosen[0.25].tolist()) == set(order[:6].tolist()) < set(chosen[0.5].tolist())


def test_candidates_are_scored_alone(base):
    scores = base.scores(QUERIES[:1], exact=True)[0]
    result = base.trace(QUERIES[:1], k=3, candidates=["d3", 7, "d11"])
    trace = result.traces[0]
    assert trace.scored == 3
    hits = {hit.document: hit.influence for hit in (*trace.proponents, *trace.opponents)}
    assert hits == pytest.approx({d: scores[d] for d in (3, 7, 11)}, rel=1e-6)


def test_recipes_share_a_run_and_do_not_mix(base):
    first, second = base.config.recipe, base.config.recipe.model_copy(update={"seed": 5})
    base.index(second)
    assert {first.resolved(base.sites).name, second.resolved(base.sites).name} <= set(base.index_names())
    a, b = (base.scores(QUERIES, index=r.resolved(base.sites).name) for r in (first, second))
    assert not np.array_equal(a, b)
    assert np.abs(a - b).max() < 5e-3 * np.abs(a).max()


def test_query_shares_do_not_depend_on_their_company(base):
    together = base.scores(QUERIES)
    alone = np.concatenate([base.scores([query]) for query in QUERIES])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-9)

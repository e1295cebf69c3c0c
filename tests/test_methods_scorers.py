"""Every way to score documents against dense float64 answers; what must not change scores; what they cost; resuming."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import DOCUMENTS, WORD_COUNT, as_loaded, causal_lm, make_runner, rows, save_model, write_jsonl
from oracle import dense_ekfac, gradients, relative, sequence_loss
from test_capture import expected
from whence import Attributor, Query
from whence.attributor import exact_influence, self_scores, sibling
from whence.attributor.curvatures import load_curvatures
from whence.attributor.fitting import EigenvalueStep
from whence.baselines import Bm25
from whence.errors import InputError, QueryError
from whence.fidelity import scorers
from whence.fidelity.costs import Meter, plain_pass
from whence.fidelity.methods import MethodSpec, default_methods, method_of
from whence.fidelity.scorers import run_methods, select_sites
from whence.gradients import Recipe

N = DOCUMENTS
QUERIES = [
    Query(prompt="the harbour was", completion="built before"),
    Query(prompt="every ship", completion="winter with salt", contrast="wool letters"),
    Query(completion="rain fell on slate roofs", span="slate roofs"),
]
EIGHT_BITS = MethodSpec(curvature="ekfac", bits=8, projection="none")
BLOCK_NAMES = tuple(
    f"model.layers.{layer}.{name}"
    for layer in range(2)
    for name in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
)  # fmt: skip


def settings_with(**fit):
    return {
        "model": {"dtype": "float64"},
        "fit": {"sample": 1.0, "parts": 2, "precision": "full", "batch_tokens": 60, **fit},
        "recipe": {"precision": "full"},
        "corpus": {"share_documents": 10, "context": 9},  # short windows: many documents have two
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    save_model(folder / "llama", causal_lm("llama", vocab_size=WORD_COUNT), torch.float64)
    write_jsonl(folder / "corpus.jsonl", rows())
    write_jsonl(folder / "reversed.jsonl", rows()[::-1])
    return folder


def opened(place, run, data="corpus.jsonl", **fit):
    return Attributor(
        run, model=str(place / "llama"), data=[str(place / data)], settings=settings_with(**fit), device="cpu"
    )


@pytest.fixture(scope="module")
def owner(place):
    return opened(place, place / "run")


@pytest.fixture(scope="module")
def lab(place, owner):
    """Everything that is always on, run once, by name."""
    return {scored.spec.name: scored for scored in run_methods(owner, QUERIES, default_methods(), place / "lab")}


@pytest.fixture(scope="module")
def truth(place, owner, lab):
    """Gradients from autograd alone, window by window and then added, by site: queries [Q, P], documents [N, P]."""
    model = AutoModelForCausalLM.from_pretrained(place / "llama", dtype=torch.float64).eval()
    corpus = owner.corpus
    windows = [corpus.window_tokens(row) for row in range(corpus.windows)]
    owners = corpus.documents_of_windows(np.arange(corpus.windows))
    assert len(windows) > N, "some documents have several windows"
    encoded = owner.encode_queries(QUERIES)

    def loss(tokens, mask):
        return lambda: sequence_loss(model, torch.from_numpy(np.array(tokens)), mask)

    seen = gradients(model, [loss(*window) for window in windows])
    asked = gradients(model, [loss(q.text.tokens, q.text.loss_mask) for q in encoded])
    other = gradients(model, [loss(encoded[1].contrast.tokens, encoded[1].contrast.loss_mask)])
    for name, value in other.items():
        asked[name][1] -= value[0]
    adds = torch.nn.functional.one_hot(torch.from_numpy(owners), N).double().T
    documents = {site.name: adds @ expected(model, site, seen).flatten(1) for site in owner.sites}
    queries = {site.name: expected(model, site, asked).flatten(1) for site in owner.sites}
    losses = adds @ torch.tensor([loss(*window)().item() for window in windows], dtype=torch.float64)
    return queries, documents, losses


def curvature_of(owner, folder, names, method):
    """Dense damped matrices of a fit that was made by itself, through the ordinary door."""
    run = sibling(owner, folder, names, owner.config.fit.model_copy(update={"method": method}))
    run.fit()
    out = {}
    for name, c in load_curvatures(run.run.curvature, run.sites, method).items():
        c = c.to("cpu", torch.float64)
        matrix = dense_ekfac(c.outputs, c.inputs, c.eigenvalues)
        out[name] = matrix + 0.1 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
    return out


INFLUENCE = {
    "diagonal blocks, exact": ("diagonal", BLOCK_NAMES),
    "K-FAC blocks, exact": ("kfac", BLOCK_NAMES),
    "EK-FAC blocks, exact": ("ekfac", BLOCK_NAMES),
    "EK-FAC, exact": ("ekfac", ()),
}


@pytest.mark.parametrize("name", INFLUENCE)
def test_influence_is_a_dense_inverse(owner, lab, truth, tmp_path, name):
    method, names = INFLUENCE[name]
    queries, documents, _ = truth
    matrices = curvature_of(owner, tmp_path / "fit", names, method)
    assert set(matrices) == set(names or queries)
    wanted = sum(queries[n] @ torch.linalg.solve(m, documents[n].T) for n, m in matrices.items()) / N
    assert relative(torch.from_numpy(lab[name].scores), wanted) < 1e-7


def test_gradient_dot_and_cosine(lab, truth):
    queries, documents, _ = truth
    asked, seen = torch.cat(list(queries.values()), 1), torch.cat(list(documents.values()), 1)
    dots = asked @ seen.T
    assert relative(torch.from_numpy(lab["gradient dot"].scores), dots / N) < 1e-9
    cosines = dots / asked.norm(dim=1)[:, None] / seen.norm(dim=1)
    assert relative(torch.from_numpy(lab["gradient cosine"].scores), cosines) < 1e-9
    inside = sum(queries[n] @ documents[n].T for n in BLOCK_NAMES)
    assert relative(torch.from_numpy(lab["identity blocks, exact"].scores), inside / N) < 1e-9


def test_baselines_are_what_they_say(owner, lab, truth):
    corpus = owner.corpus
    lengths = [int(corpus.document(n).loss_mask.sum()) for n in range(N)]
    np.testing.assert_array_equal(lab["length"].scores, [lengths] * 3)
    np.testing.assert_allclose(lab["loss"].scores, np.tile(truth[2].numpy(), (3, 1)), rtol=1e-9)
    bm25 = owner.trace(QUERIES[:1], k=1, tokens=False, exact=True).traces[0].bm25_top
    ranks = Bm25.ranks(lab["BM25"].scores[0].astype(np.float32))
    assert [hit.bm25 for hit in bm25] == pytest.approx([lab["BM25"].scores[0][hit.document] for hit in bm25])
    assert [hit.bm25_rank for hit in bm25] == [ranks[hit.document] for hit in bm25]
    for name in ("random", "TF-IDF", "representation, last layer", "representation, four layers"):
        assert lab[name].scores.std() > 0, name
    assert lab["representation, four layers"].scores.max() <= 1
    assert not np.allclose(lab["representation, four layers"].scores, lab["representation, last layer"].scores)


def test_codes_come_near_the_scores_they_stand_for(owner, lab, place):
    eight = run_methods(owner, QUERIES, [EIGHT_BITS], place / "lab")[0].scores
    exact = lab["EK-FAC, exact"].scores
    near, whole, sketch = (
        np.corrcoef(exact.ravel(), scores.ravel())[0, 1]
        for scores in (
            eight,
            lab["EK-FAC, 1 bit"].scores,
            lab["EK-FAC, 1 bit, leading 64"].scores,
        )
    )
    assert near > 0.999
    assert near > whole > 0.85
    assert whole > sketch


# ------------------------------------------------------------------ self-influence


def test_self_influence_is_the_form_of_the_summed_gradient(owner, truth, tmp_path):
    _, documents, _ = truth
    matrices = curvature_of(owner, tmp_path / "fit", (), "ekfac")
    run = sibling(owner, tmp_path / "fit", (), owner.config.fit)
    wanted = sum((documents[n] * torch.linalg.solve(m, documents[n].T).T).sum(1) for n, m in matrices.items()) / N
    got = self_scores(run, run.recipe())
    assert relative(torch.from_numpy(got.influence), wanted) < 1e-7
    squares = sum(g.square().sum(1) for g in documents.values())
    assert relative(torch.from_numpy(got.squares), squares) < 1e-7, "a basis stored in float32 turns, to seven digits"
    steps = []
    np.testing.assert_allclose(run.self_influence(report=lambda *step: steps.append(step)), got.influence, rtol=1e-12)
    assert steps[-1][0] == "self-influence"
    plain = self_scores(run, Recipe(method="identity"))
    assert relative(torch.from_numpy(plain.squares), squares) < 1e-9
    np.testing.assert_allclose(plain.influence * N, plain.squares, rtol=1e-12)


def test_self_influence_is_influence_on_oneself(place, tmp_path):
    """A document asked as a query gives its own self-influence, so sign and unit are the same."""
    text = rows()[1]["text"]
    data = write_jsonl(tmp_path / "one.jsonl", [{"id": "a", "text": text}, {"id": "b", "text": rows()[2]["text"]}])
    settings = settings_with() | {"corpus": {"context": 32}}
    run = Attributor(tmp_path / "run", model=str(place / "llama"), data=[data], settings=settings, device="cpu")
    own = run.self_influence()
    document = run.corpus.document(0)
    query = run.encode_queries([Query(completion=text)])[0]
    np.testing.assert_array_equal(query.text.tokens, document.tokens)
    scores = exact_influence(run, [query], run.recipe().alike)
    assert own[0] == pytest.approx(scores[0, 0], rel=1e-9)


# ------------------------------------------------------------------ what must change nothing


# one-bit codes are left out: rounding turns eigenvectors around, which draws other signs of the same quality
STEADY = [spec for spec in default_methods() if spec.bits == "exact"] + [EIGHT_BITS]


@pytest.fixture(scope="module")
def steady(owner, lab, place):
    return run_methods(owner, QUERIES, STEADY, place / "lab")


@pytest.mark.parametrize("batch_tokens", [1, 10**6])
def test_the_batch_changes_nothing(place, steady, tmp_path, batch_tokens):
    owner = opened(place, tmp_path / "run", batch_tokens=batch_tokens)
    assert_alike(steady, run_methods(owner, QUERIES, STEADY, tmp_path / "lab"), slice(None))


def test_the_order_of_documents_changes_nothing(place, steady, tmp_path):
    owner = opened(place, tmp_path / "run", data="reversed.jsonl")
    assert_alike(steady, run_methods(owner, QUERIES, STEADY, tmp_path / "lab"), slice(None, None, -1))


def assert_alike(wanted, got, order):
    for first, second in zip(wanted, got, strict=True):
        slack = 2e-2 if first.spec.bits == 8 else 1e-5  # eigenvalues are stored in seven digits
        difference = np.abs(first.scores - second.scores[:, order]).max()
        assert difference <= slack * np.abs(first.scores).max(), first.spec.name


def test_queries_are_scored_one_by_one(owner, lab, tmp_path):
    specs = [MethodSpec(curvature="ekfac"), MethodSpec(baseline="gradient-cosine"), MethodSpec(baseline="random")]
    for number, query in enumerate(QUERIES):
        for scored in run_methods(owner, [query], specs, tmp_path / str(number)):
            wanted = lab[scored.spec.name].scores[number]
            np.testing.assert_allclose(scored.scores[0], wanted, rtol=1e-7, atol=1e-10)


def test_a_result_belongs_to_its_queries_and_settings(owner, lab, place):
    spec = MethodSpec(name="EK-FAC, exact", curvature="ekfac", damping=1.0)
    (other,) = run_methods(owner, QUERIES, [spec], place / "lab")
    assert not np.allclose(other.scores, lab[spec.name].scores), "one name, other settings"
    (fewer,) = run_methods(owner, QUERIES[1:], [MethodSpec(curvature="ekfac")], place / "lab")
    np.testing.assert_allclose(fewer.scores, lab[spec.name].scores[1:], rtol=1e-7, atol=1e-10)
    decayed = MethodSpec(curvature="ekfac", weight_decay=0.5)
    (third,) = run_methods(owner, QUERIES, [decayed], place / "lab")
    rule = owner.config.recipe.model_copy(update={"method": "ekfac", "damping": decayed.rule})
    run = sibling(owner, place / "decayed", (), owner.config.fit)
    run.fit()
    np.testing.assert_allclose(third.scores, exact_influence(run, run.encode_queries(QUERIES), rule), rtol=1e-9)


def test_a_named_method_belongs_to_the_codes_of_the_run(owner, tmp_path):
    """Its index is of the run's own size, which is part of what its scores are kept under."""
    specs, changes = [MethodSpec(method="unsaturated")], {"projection": "kronecker", "coordinates": 64}
    other = copy.copy(owner)
    other.config = owner.config.model_copy(update={"recipe": owner.config.recipe.model_copy(update=changes)})
    kept = [run_methods(each, QUERIES, specs, tmp_path / "one")[0] for each in (owner, other)]
    (afresh,) = run_methods(other, QUERIES, specs, tmp_path / "two")
    np.testing.assert_array_equal(kept[1].scores, afresh.scores)
    assert not np.array_equal(kept[0].scores, afresh.scores)


def test_an_index_of_the_run_is_a_method(owner, lab, place):
    recipe = Recipe(method="ekfac", bits=1, projection="none", precision="full")
    (scored,) = run_methods(owner, QUERIES, [method_of(recipe)], place / "lab")
    np.testing.assert_allclose(scored.scores, lab["EK-FAC, 1 bit"].scores, rtol=1e-6)
    with pytest.raises(InputError, match="is damped by λ = 1"):
        method_of(Recipe(damping={"kind": "absolute", "value": 1.0}))


# ------------------------------------------------------------------ costs


def test_costs_are_honest_about_what_is_shared(lab):
    cost = {name: scored.summary.cost for name, scored in lab.items()}
    for name, each in cost.items():
        assert each.seconds > 0, name
        assert each.passes == pytest.approx(each.fit + each.index + each.query), name
        assert each.query > 0, name
        if not name.startswith(("EK-FAC", "K-FAC", "diagonal", "unsaturated")):
            assert each.fit == 0, name
    whole = [cost[name] for name in cost if name.startswith("EK-FAC, ")]
    assert len({each.fit for each in whole}) == 1, "one fit, one cost"
    assert 0 < cost["K-FAC blocks, exact"].fit < cost["EK-FAC blocks, exact"].fit
    assert cost["diagonal blocks, exact"].fit > 0
    exact, coded = cost["EK-FAC, exact"], cost["EK-FAC, 1 bit"]
    assert exact.index == exact.bytes_per_document == 0
    assert coded.index > 0
    sizes = [cost[name].bytes_per_document for name in cost if "1 bit" in name]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] > 0
    assert cost["gradient dot"].query > 0.3, "it runs the model over the corpus, forward and backward"


def test_a_plain_pass_leaves_the_model_as_it_was(owner):
    model = owner.loaded.model
    flags = [p.requires_grad for p in model.parameters()]
    plain_pass(owner)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    meter = Meter(owner)
    _, spent = meter.measure(lambda: [plain_pass(owner) for _ in range(4)])
    assert 2 < spent.passes < 8


# ------------------------------------------------------------------ going on after a kill


def test_an_interrupted_step_is_timed_again_from_its_start(owner, lab, tmp_path, monkeypatch):
    spec = MethodSpec(curvature="ekfac", sites=("blocks",))
    kfac = MethodSpec(curvature="kfac", sites=("blocks",))
    run_part, done = EigenvalueStep.run, []

    def dies(step, item, shares, advance):
        if done:
            raise KeyboardInterrupt
        done.append(item)
        run_part(step, item, shares, advance)

    with monkeypatch.context() as patch:
        patch.setattr(EigenvalueStep, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            run_methods(owner, QUERIES, [kfac, spec], tmp_path)
    (fit,) = (tmp_path / "fits").iterdir()
    ledger = json.loads((fit / "costs.json").read_text())
    assert set(ledger) == {"covariance"}
    assert list(fit.glob("curvature/parts/eigenvalues-*")), "half a step lies there"

    again = []

    def counted(step, item, shares, advance):
        again.append(item)
        run_part(step, item, shares, advance)

    monkeypatch.setattr(EigenvalueStep, "run", counted)
    first, second = run_methods(owner, QUERIES, [kfac, spec], tmp_path)
    assert again == [0, 1], "every part, the finished one too"
    assert json.loads((fit / "costs.json").read_text())["covariance"] == ledger["covariance"]
    for scored in (first, second):
        np.testing.assert_allclose(scored.scores, lab[scored.spec.name].scores, rtol=1e-6, atol=1e-10)


def test_what_is_done_is_not_done_again(owner, lab, place, monkeypatch):
    monkeypatch.setattr(scorers, "sibling", None)
    monkeypatch.setattr(scorers, "baseline_scores", None)
    steps = []
    again = run_methods(owner, QUERIES, default_methods(), place / "lab", lambda *step: steps.append(step))
    for scored in again:
        np.testing.assert_array_equal(scored.scores, lab[scored.spec.name].scores)
        assert scored.summary == lab[scored.spec.name].summary
    assert steps[0] == ("random", 0, len(again))
    assert steps[-1] == ("", len(again), len(again))


def test_a_moved_lab_finds_its_corpus(place, owner, lab, tmp_path):
    run = sibling(owner, tmp_path / "a" / "fit", (), owner.config.fit)
    assert run.corpus.fingerprint == owner.corpus.fingerprint
    link = tmp_path / "a" / "fit" / "corpus"
    link.unlink()
    link.symlink_to("nowhere")
    assert sibling(owner, tmp_path / "a" / "fit", (), owner.config.fit).corpus.documents == N


# ------------------------------------------------------------------ sites and refusals


def test_blocks_are_the_linear_layers_of_any_architecture(owner, lab):
    assert select_sites(owner.sites, ["blocks"]) == BLOCK_NAMES
    assert select_sites(owner.sites, []) == tuple(site.name for site in owner.sites)
    assert select_sites(owner.sites, ["lm_head", "*.0.mlp.*"]) == (*BLOCK_NAMES[4:7], "lm_head")
    with pytest.raises(InputError, match=r"sites '\*\.conv' matches none .*model\.embed_tokens"):
        select_sites(owner.sites, ["*.conv"])


def test_blocks_of_a_tied_model():
    names = select_sites(make_runner(as_loaded(causal_lm("gpt2"))).sites, ["blocks"])
    assert len(names) == 8
    assert all(".h." in name for name in names)


def test_refusals(owner, lab, tmp_path, monkeypatch):
    spec = MethodSpec(baseline="length")
    with pytest.raises(QueryError, match="no query"):
        run_methods(owner, [], [spec], tmp_path)
    with pytest.raises(InputError, match="two methods are named 'length'"):
        run_methods(owner, QUERIES, [spec, spec], tmp_path)
    monkeypatch.setattr(scorers, "LIMIT_BYTES", 3 * N * 8 - 1)
    with pytest.raises(InputError, match="3 queries and 24 documents"):
        run_methods(owner, QUERIES, [spec], tmp_path)

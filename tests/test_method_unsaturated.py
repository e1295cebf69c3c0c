"""Unsaturated EK-FAC with site weights against autograd, and from its own index."""

import numpy as np
import pytest
import torch

from conftest import as_loaded, causal_lm, sequences
from method_world import QUERIES, make_place, make_truth, open_run
from oracle import dense_ekfac, gradients
from test_capture import expected
from whence.attributor import run_steps
from whence.attributor.curvatures import load_curvatures
from whence.attributor.steps import CorpusStep
from whence.data import batch_from_sequences
from whence.errors import InputError
from whence.gradients import Recipe, SiteWeights, kind_of, weighted
from whence.methods import Bound, Work, method_scores, parse_method
from whence.model import CausalLM, Margin, Unsaturated, language_inputs

EQUAL = "head=1,embedding=1,mlp=1,attention=1,norm=1"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("unsaturated"))


@pytest.fixture(scope="module")
def owner(place):
    made = open_run(place, place / "run")
    run_steps([CorpusStep(made)])
    return made


@pytest.fixture(scope="module")
def truth(place, owner):
    return make_truth(place, owner)


def scores(owner, spec):
    return method_scores(parse_method(spec), Work(owner), owner.encode_queries(QUERIES))


def weighted_loss(model, tokens, mask, power):
    """Each token's -log p times a constant, one token at a time."""
    logits = model(input_ids=torch.from_numpy(np.array(tokens))[None], use_cache=False).logits[0]
    logp = logits.log_softmax(-1)
    total = logits.new_zeros(())
    for t in range(1, len(tokens)):
        if mask[t]:
            mine = logp[t - 1, int(tokens[t])]
            rest = max(1 - float(mine.detach().exp()), 0.02)
            total = total - mine * rest**-power
    return total


def documents(owner, truth, power):
    rows = gradients(truth.model, [lambda w=window: weighted_loss(truth.model, *w, power) for window in truth.windows])
    flat = torch.cat([expected(truth.model, site, rows).flatten(1) for site in owner.sites], 1)
    adds = torch.nn.functional.one_hot(torch.from_numpy(truth.owners), owner.corpus.documents).double().T
    return adds @ flat


@pytest.mark.parametrize(
    "spec",
    ["unsaturated:bits=exact", "unsaturated:bits=exact,power=1,head=3,attention=0,head_damping=6,damping=0.05"],
)
def test_against_autograd(owner, truth, spec):
    method, found = parse_method(spec), scores(owner, spec)
    seen = documents(owner, truth, method.power)
    parts, shares = {}, {}
    for site in owner.sites:
        c = load_curvatures(owner.run.curvature, [site], "ekfac")[site.name].to("cpu", torch.float64)
        matrix, at = dense_ekfac(c.outputs, c.inputs, c.eigenvalues), truth.slices[site.name]
        share = method.damping * (method.head_damping if site.head else 1)
        damped = matrix + share * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
        parts[site] = truth.queries[:, at] @ torch.linalg.solve(damped, seen[:, at].T)
        shares[site] = float(torch.linalg.solve(damped, matrix).trace())
    weights = {site: getattr(method, kind_of(site)) for site in owner.sites}
    scale = sum(shares.values()) / sum(weights[site] * shares[site] for site in owner.sites)
    wanted = sum(weights[site] * scale * part for site, part in parts.items()) / owner.corpus.documents
    assert np.abs(found - wanted.numpy()).max() < 1e-7 * np.abs(wanted.numpy()).max()


def test_nothing_changed_is_ekfac(owner):
    plain = scores(owner, f"unsaturated:bits=exact,power=0,{EQUAL},head_damping=1")
    assert np.allclose(plain, scores(owner, "ekfac"), rtol=1e-9, atol=0)


def test_index_agrees(owner):
    exact = scores(owner, "unsaturated:bits=exact")
    for bits, least in ((16, 0.99999), (8, 0.9999), (1, 0.7)):  # one bit of sites with 8 x 8 weights is coarse
        found = scores(owner, f"unsaturated:bits={bits}")
        assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(found, exact, strict=True)) > least


def test_a_trace_reads_its_own_index(owner):
    """Refined influence, its parts and the listed order are those of running the model."""
    exact = scores(owner, "unsaturated:bits=exact")
    bound = Bound(parse_method("unsaturated:bits=8"), Work(owner))
    result = owner.trace(QUERIES, k=3, method=bound)
    assert result.summary.method == "unsaturated:bits=8"
    assert "unsaturated-8bit" in result.summary.recipe
    for trace, row in zip(result.traces, exact, strict=True):
        best = np.argsort(-row)[:3]
        assert [hit.document for hit in trace.proponents] == best.tolist()
        for hit in trace.proponents:
            assert hit.influence == pytest.approx(row[hit.document], rel=1e-6)
            assert sum(hit.sites.values()) == pytest.approx(hit.influence, rel=1e-6)
            assert sum(window.influence for window in hit.windows) == pytest.approx(hit.influence, rel=1e-6)


def test_every_weight_zero_is_refused(owner):
    with pytest.raises(InputError, match="weight 0 is given to all kinds of site that this model has"):
        weighted([site for site in owner.sites if kind_of(site) == "attention"], {}, SiteWeights(attention=0))
    with pytest.raises(InputError, match="weights of sites are 0"):
        scores(owner, "unsaturated:bits=exact,head=0,embedding=0,mlp=0,attention=0,norm=0")


@pytest.fixture(scope="module")
def batch():
    model = causal_lm("llama")
    return model, language_inputs(batch_from_sequences(sequences()), as_loaded(model))


def grads(objective, model, inputs):
    model.requires_grad_(True)
    model.zero_grad()
    objective.losses(model, inputs).sum().backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


def test_value_is_the_loss(batch):
    model, inputs = batch
    for power in (0.0, 0.5, 1.0):
        got = Unsaturated(power).losses(model, inputs)
        assert torch.allclose(got, CausalLM().losses(model, inputs), rtol=1e-12)


def test_powers_lie_between_loss_and_margin(batch):
    model, inputs = batch
    assert torch.allclose(grads(Unsaturated(0.0), model, inputs), grads(CausalLM(), model, inputs))
    known = -torch.expm1(-CausalLM().token_losses(model, inputs))
    assert bool((known[inputs.predicts] > 0.02).all()), "no token is known so well that its weight is cut"
    assert torch.allclose(grads(Unsaturated(1.0), model, inputs), grads(Margin(), model, inputs))


def test_a_token_known_by_heart_keeps_a_bounded_gradient():
    """At p = 1 - 1e-9 the weight is the bound's, neither infinite nor 1e9 to the power."""

    class Sure(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 20.7], dtype=torch.float64))

        def forward(self, input_ids, **_):
            return type("Out", (), {"logits": self.bias.expand(*input_ids.shape, 2)})

    model = Sure()
    inputs = language_inputs(
        batch_from_sequences([(np.array([0, 1]), np.array([False, True]))]), as_loaded(causal_lm("llama"))
    )
    plain = grads(CausalLM(), model, inputs)
    assert torch.allclose(grads(Unsaturated(0.5), model, inputs), plain * 0.02**-0.5)


def test_it_is_what_a_run_does_without_a_method(place, tmp_path):
    """Scores by the model, from an index, at the top of a trace and of teachers: all are the named method's."""
    run = open_run(place, tmp_path / "run", recipe={"method": None})
    assert run.config.recipe.method == "unsaturated"
    assert run.config.fit.method == "ekfac"
    wanted = scores(run, "unsaturated:bits=exact")
    assert np.allclose(run.scores(QUERIES, exact=True), wanted, rtol=1e-9, atol=0)
    assert not np.allclose(wanted, scores(run, "ekfac"), rtol=0.2)
    recipe = run.config.recipe.model_copy(update={"bits": 16}).resolved(run.sites)
    run.index(recipe)
    got = run.scores(QUERIES, index=recipe.name)
    assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(got, wanted, strict=True)) > 0.99999
    result = run.trace(QUERIES, k=3, index=recipe.name)
    assert result.summary.method == "unsaturated"
    assert "at the head" in result.summary.damping
    assert (result.summary.settings["recipe.power"], result.summary.settings["fit.method"]) == (0.5, "ekfac")
    eight = run.trace(QUERIES[:1], k=1, method=Bound(parse_method("unsaturated:bits=8,head_damping=3"), Work(run)))
    assert "3 times that at the head" in eight.summary.damping
    for trace, row in zip(result.traces, wanted, strict=True):
        assert {hit.document: hit.influence for hit in trace.proponents} == pytest.approx(
            {int(d): row[d] for d in np.argsort(-row)[:3]}, rel=1e-6
        )
        for hit in trace.proponents:
            assert sum(hit.sites.values()) == pytest.approx(hit.influence, rel=1e-6)
            if trace.contrast is None:  # shares leave a contrast out
                assert sum(share for share in hit.query_tokens if share) == pytest.approx(hit.influence, rel=1e-5)
    for teachers, row in zip(run.teachers(QUERIES, k=3, index=recipe.name), wanted, strict=True):
        assert [t.influence for t in teachers] == pytest.approx([row[t.document] for t in teachers], rel=1e-6)


def test_a_run_that_says_ekfac_stays_so(place, tmp_path):
    """What is on disk keeps its method, a setting that was called otherwise included."""
    import json

    first = open_run(place, tmp_path / "run")
    assert first.config.recipe.method == "ekfac"
    run_steps([CorpusStep(first)])
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    for name in ("power", "weights"):
        del stored["config"]["recipe"][name]
    stored["config"]["recipe"]["unsaturated"] = 0.0
    (tmp_path / "run" / "run.json").write_text(json.dumps(stored))
    again = open_run(place, tmp_path / "run", recipe={"method": None})
    assert again.config.recipe == first.config.recipe
    assert np.allclose(again.scores(QUERIES, exact=True), scores(again, "ekfac"), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("settings", "method", "fitted"),
    [
        ({}, "unsaturated", "ekfac"),
        ({"recipe": {"method": "kfac"}}, "kfac", "kfac"),
        ({"recipe": {"method": "unsaturated"}}, "unsaturated", "ekfac"),
        ({"fit": {"method": "identity"}}, "identity", "identity"),
        ({"fit": {"method": "ekfac"}, "recipe": {"method": "unsaturated"}}, "unsaturated", "ekfac"),
    ],
)
def test_curvature_follows_the_method(settings, method, fitted):
    from whence.attributor.config import complete

    config = complete({"model": {"model": "m"}, "corpus": {"data": ["d"]}, **settings}, 16, 99)
    assert (config.recipe.method, config.fit.method) == (method, fitted)


def test_kinds_of_sites():
    """By place and name, as the models that are supported call them."""
    from whence.interfaces import Site

    names = {
        "model.layers.0.self_attn.q_proj": "attention", "transformer.h.0.attn.c_attn": "attention",
        "gpt_neox.layers.0.attention.dense": "attention", "backbone.layers.0.mixer.in_proj": "attention",
        "backbone.layers.1.mixer.up_proj": "mlp", "backbone.layers.3.mixer.experts.up_proj": "mlp",
        "model.layers.0.mlp.experts.gate_up_proj": "mlp", "transformer.h.0.mlp.c_fc": "mlp",
        "model.layers.0.block_sparse_moe.gate": "mlp", "model.layers.0.mlp.down_proj.lora_A.default": "mlp",
        "model.layers.0.self_attn.v_proj.lora_B.default": "attention",
    }  # fmt: skip
    assert {name: kind_of(Site(name, 8, 4, False, (), None, ())) for name in names} == names


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("spec", ["ekfac:damping=0.3", "dot"])
def test_another_method_in_such_a_run_is_of_plain_gradients(place, tmp_path, spec, exact):
    """A trace by name is what the lab measures by that name, not that method's query against unsaturated documents."""
    run = open_run(place, tmp_path / "run", recipe={"method": None})
    own = run.index().folder.name
    wanted, bound = scores(run, spec), Bound(parse_method(spec), Work(run))
    result = run.trace(QUERIES, k=3, method=bound, exact=exact)
    for trace, row in zip(result.traces, wanted, strict=True):
        hits = (*trace.proponents, *trace.opponents)
        assert [hit.influence for hit in hits] == pytest.approx([row[hit.document] for hit in hits], rel=1e-6)
        assert sum(share for hit in hits for share in hit.sites.values()) == pytest.approx(
            sum(hit.influence for hit in hits), rel=1e-6
        )
    with pytest.raises(InputError, match=r"gradients of power 0\.5, and method .* of power 0 .* leave --index out"):
        run.trace(QUERIES, method=bound, exact=exact, index=own)
    plain = run.index(run.config.recipe.alike.model_copy(update={"bits": 8})).folder.name
    named = run.trace(QUERIES, k=3, method=bound, index=plain)
    assert named.summary.recipe == plain
    first = named.traces[0].proponents[0]
    assert first.influence == pytest.approx(wanted[0][first.document], rel=1e-6)


def test_an_index_of_an_earlier_version():
    """It said ekfac and a power; its codes are those of sites that count alike."""
    earlier = {"method": "ekfac", "bits": 8, "unsaturated": 0.25}
    recipe = Recipe.model_validate(earlier)
    assert (recipe.method, recipe.power, recipe.bits) == ("unsaturated", 0.25, 8)
    assert set(recipe.weights.model_dump().values()) == {1.0}
    assert Recipe.model_validate({"unsaturated": 0}) == Recipe(method="ekfac")
    with pytest.raises(ValueError, match="goes with method ekfac alone"):
        Recipe.model_validate({"method": "kfac", "unsaturated": 0.5})


def test_sites_alike_read_off_an_index_or_by_the_model(place, tmp_path):
    """What contamination audits do: by the model it is plain EK-FAC, off an index its documents stay unsaturated."""
    from whence.audits.evidence import influence_on
    from whence.audits.settings import settings_of

    run = open_run(place, tmp_path / "run", recipe={"method": None, "bits": 16})
    exact = influence_on(run, QUERIES, tmp_path / "exact", exact=True, alike=True)["influence"]
    assert np.allclose(exact, scores(run, "ekfac"), rtol=1e-5, atol=1e-7)
    found = influence_on(run, QUERIES, tmp_path / "index", alike=True)["influence"]
    wanted = scores(run, f"unsaturated:bits=exact,{EQUAL},head_damping=1")
    assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(found, wanted, strict=True)) > 0.99999
    assert np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max()
    weighted_too = influence_on(run, QUERIES, tmp_path / "index")["influence"]
    assert not np.allclose(weighted_too, found, rtol=0.1), "kept apart from what was read with weights"
    told = {"command": "", "questions": 3, "null": 1, "index": None, "placebo": False, "settings": {}, "version": "0"}
    said = settings_of(run, exact=False, alike=True, **told)
    assert said.recipe.endswith("read with all sites alike")
    assert said.settings["method"] == "ekfac"
    assert "alike" not in settings_of(run, exact=False, alike=False, **told).recipe

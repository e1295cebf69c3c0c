"""Fitting weights to retrained models: on arrays whose best weights are known, and through the command line."""

import json
import shutil

import numpy as np
import pytest

from command_line import launch
from command_line_fixtures import copy, data, finished, home, model, refused, whence  # noqa: F401
from conftest import write_jsonl
from whence import Attributor
from whence.attributor.search import against, ask
from whence.data import load_queries
from whence.errors import InputError
from whence.fidelity import Lab, LabSettings, Start, lds, load_training, tune_weights
from whence.fidelity.halved import Halved
from whence.fidelity.subsets import halves
from whence.fidelity.weights import fit_weights, parts_of
from whence.methods import Work, method_scores, parse_method

PROMPTS = (
    "the harbour was", "a town of", "built before", "the old river",
    "before the harbour", "letters from north", "rain fell on", "gulls went inland",
)  # fmt: skip


def bank(weights, queries=8, documents=40, subsets=48, noise=0.0, seed=0):
    """Scores [P, Q, N] and a bank whose losses are their weighted sum over what is left out."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(len(weights), queries, documents))
    kept = halves(documents, subsets)
    losses = (~kept).astype(float) @ np.einsum("p,pqn->nq", weights, scores)
    losses = losses[:, None] + noise * random.normal(size=(subsets, 2, queries))
    return scores, kept, losses


def test_weights_that_made_the_losses_are_found():
    truth = np.array([1.0, 0.0, 0.25, 4.0])
    scores, kept, losses = bank(truth)
    found = fit_weights([(scores, kept, losses)], np.ones(4))
    np.testing.assert_allclose(found / found[0], truth, rtol=0.5, atol=0.02)
    value = lds(np.einsum("p,pqn->qn", found, scores), kept, losses).value
    assert value > 0.995
    assert value > lds(scores.sum(0), kept, losses).value + 0.05


def test_harmful_parts_are_left_out_and_none_is_negative():
    scores, kept, losses = bank(np.array([1.0, -1.0]), noise=0.5)
    found = fit_weights([(scores, kept, losses)], np.ones(2))
    assert found[1] == 0
    assert found[0] > 0


def test_what_gains_nothing_stays():
    scores, kept, losses = bank(np.array([1.0, 1.0]))
    scores[1] = 0
    found = fit_weights([(scores, kept, losses)], np.array([1.0, 3.0]))
    assert found.tolist() == [1.0, 3.0]


def test_several_banks_are_fitted_together():
    one, two = bank(np.array([1.0, 0.0]), seed=1), bank(np.array([0.0, 1.0]), seed=2)
    (a, b) = fit_weights([one, two], np.ones(2))
    assert 0.4 < a / b < 2.5


# ---------------------------------------------------------------------- on a run


@pytest.fixture(scope="session")
def questions(home):  # noqa: F811
    rows = [{"id": f"w{i}", "prompt": p, "completion": " built before town"} for i, p in enumerate(PROMPTS)]
    return write_jsonl(home / "weights-questions.jsonl", rows)


@pytest.fixture(scope="session")
def options(home, questions):  # noqa: F811
    path = home / "training-of-weights.toml"
    path.write_text('optimizer = "adamw"\nlearning_rate = 0.01\nepochs = 1\nbatch = 8\n')
    return ("--query", questions, "--training", path, "--subsets", 16, "--seeds", 1, "--workers", 1)


@pytest.fixture(scope="session")
def fitted(home, finished, options):  # noqa: F811
    """A run whose bank is filled by a first fit."""
    shutil.copytree(finished, home / "weighted")
    assert launch("tune", "--run", home / "weighted", *options, "--method", "unsaturated") == 0
    return home / "weighted"


@pytest.fixture(scope="session")
def lab(fitted, questions, home):  # noqa: F811
    owner = Attributor(fitted)
    asked = load_queries(questions)
    training, _ = load_training(home / "training-of-weights.toml")
    start = Start(owner.source.model, True)
    return Lab(owner, asked, owner.encode_queries(asked), training, start, LabSettings(subsets=16, seeds=1))


def test_kinds_of_sites_add_up_to_the_method(lab):
    """Under any weights, their sum is what the method with those weights scores, but for its one scale."""
    parts = parts_of(lab, parse_method("unsaturated:bits=exact"))
    assert set(parts.names) <= {"head", "embedding", "mlp", "attention", "norm"}
    assert {"mlp", "attention"} <= set(parts.names)
    for weights in (dict.fromkeys(parts.names, 1.0), {name: 0.5 + place for place, name in enumerate(parts.names)}):
        method = parts.having(weights)
        wanted = method_scores(method, Work(lab.owner), lab.encoded)
        found = parts.sum(np.array([weights[name] for name in parts.names]))
        scale = (wanted * found).sum() / (found * found).sum()
        assert scale > 0
        np.testing.assert_allclose(found * scale, wanted, atol=2e-5 * np.abs(wanted).max())


def test_one_kind_is_that_kind_alone(lab):
    owner, method = lab.owner, parse_method("unsaturated:bits=exact,head=1,attention=1,norm=1,power=0")
    parts = parts_of(lab, method)
    solved = method.solve(Work(owner), ask(owner, lab.encoded))
    kept = {name: v * ("mlp" in name) for name, v in solved.items()}
    table = np.zeros_like(parts.scores[0])

    class Keep:
        def update(self, documents, scores):
            table[:, documents] = scores

    against(owner, [kept], [Keep()], 1 / owner.trained_on, None, lambda _: None)
    np.testing.assert_allclose(parts.scores[parts.names.index("mlp")], table, atol=1e-6 * np.abs(table).max())


def test_each_half_is_reported_with_weights_of_the_other(lab):
    method = parse_method("combined:of=(unsaturated:bits=exact)+tfidf+dot,weights=1+0.2+0")
    found, parts, halved = tune_weights(lab, method), parts_of(lab, method), Halved(lab)
    for number, (report, each) in enumerate(zip((True, False), found.halves, strict=True)):
        pieces = [halved.part(table, not report) for table in parts.scores]
        weights = fit_weights([(np.stack([p for p, _, _ in pieces]), *pieces[0][1:])], parts.weights)
        assert each.weights == parts.plain(weights), number
        mine = halved.part(parts.sum(weights), report)
        assert each.fitted == lds(*mine)
        assert each.others["tfidf"] == lds(halved.part(parts.scores[1], report)[0], *mine[1:])
        assert each.gains["dot"].value == pytest.approx(each.fitted.value - each.others["dot"].value)
    one, two = found.halves
    assert found.mean.fitted.value == pytest.approx((one.fitted.value + two.fitted.value) / 2)
    widths = [each.fitted.high - each.fitted.value for each in (one, two, found.mean)]
    assert widths[2] == pytest.approx(np.hypot(widths[0], widths[1]) / 2)


def test_the_fitted_method_is_the_best_on_the_whole_bank(lab):
    method = parse_method("combined:of=dot+tfidf+bm25,weights=1+1+1")
    found = tune_weights(lab, method)
    kept, losses = lab.halves
    values = [
        lds(method_scores(each, Work(lab.owner), lab.encoded), kept, losses).value for each in (found.method, method)
    ]
    assert values[0] >= values[1] - 1e-3, "weights are rounded to three digits"


def test_the_command_writes_what_it_shows(fitted, whence, options):  # noqa: F811
    shown = whence("tune", "--run", fitted, *options, "--method", "combined:of=dot+tfidf")
    stored = json.loads((fitted / "fidelity" / "weights-combined.json").read_text())
    assert stored["given"] == "combined:of=dot+tfidf"
    assert parse_method(stored["fitted"])
    assert set(stored["reported"]) == {"first half", "second half", "mean"}
    gain = stored["reported"]["mean"]["gains"]["combined:of=dot+tfidf"]
    assert f"{gain['value']:+.3f} on the other (95 % {gain['low']:+.3f} to {gain['high']:+.3f})" in shown
    assert "× tfidf" in shown
    assert (stored["fitted"] in shown) == (gain["low"] > 0)
    assert (fitted / "fidelity" / "weights-unsaturated.json").is_file()


def test_what_has_no_weights_is_refused_at_once(copy, refused, options):  # noqa: F811
    refused("tune", "--run", copy, *options, "--method", "ekfac", says=("'ekfac' has no weights", "combined:of="))
    refused("tune", "--run", copy, *options, "--method", "unsaturated", "--budget-bytes", 9, says=("leave it or",))
    assert not list(copy.glob("fidelity/banks/*/cells/*"))


def test_of_two_methods_the_useless_one_is_left_out(lab):
    """Weights that are 0 drop their method; a single one that is left is no combination any more."""
    parts = parts_of(lab, parse_method("combined:of=dot+(bm25:k1=1),weights=1+1"))
    assert parts.having({"dot": 1.0, "bm25:k1=1": 0.5}).spec == "combined:of=dot+(bm25:k1=1),weights=1+0.5"
    assert parts.having({"dot": 0.0, "bm25:k1=1": 0.5}).spec == "bm25:k1=1"
    with pytest.raises(InputError, match="no weights to fit"):
        parts_of(lab, parse_method("dot"))

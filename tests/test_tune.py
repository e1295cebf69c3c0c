"""Tuning through the command line, on a tiny model: what is tried, what is reported on, and what the settings make."""

import json
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from command_line import launch
from command_line_fixtures import copy, data, finished, home, model, refused, whence  # noqa: F401
from conftest import write_jsonl
from whence import Attributor
from whence.data import load_queries
from whence.errors import InputError
from whence.fidelity import LabSettings, MethodSpec
from whence.fidelity.halved import Halved, split
from whence.fidelity.scorers import select_sites
from whence.fidelity.subsets import halves

PROMPTS = (
    "the harbour was", "a town of", "built before", "the old river",
    "before the harbour", "letters from north", "rain fell on", "gulls went inland",
)  # fmt: skip


@pytest.fixture(scope="session")
def questions(home):  # noqa: F811
    rows = [{"id": f"q{i}", "prompt": p, "completion": " built before town"} for i, p in enumerate(PROMPTS)]
    return write_jsonl(home / "questions.jsonl", rows)


@pytest.fixture(scope="session")
def options(home, questions):  # noqa: F811
    path = home / "training-to-tune.toml"
    path.write_text('optimizer = "adamw"\nlearning_rate = 0.01\nepochs = 1\nbatch = 8\n')
    return ("--query", questions, "--training", path, "--subsets", 16, "--seeds", 1, "--workers", 1)


@pytest.fixture(scope="session")
def tuned(home, finished, options):  # noqa: F811
    """The run with all defaults, tuned; its bank serves the others, whose training is the same."""
    shutil.copytree(finished, home / "tuned")
    assert launch("tune", "--run", home / "tuned", *options) == 0
    return home / "tuned"


@pytest.fixture
def made(home, model, data, tuned, tmp_path):  # noqa: F811
    """Make a run with settings of its own and tune it; what was tried."""

    def make(config: str, options) -> tuple[Path, list[dict]]:
        (tmp_path / "base.toml").write_text(config)
        run = tmp_path / "run"
        new = ("--model", model, "--data", data, "--config", tmp_path / "base.toml")
        assert launch("fit", "--run", run, *new) == 0
        shutil.copytree(tuned / "fidelity" / "banks", run / "fidelity" / "banks")
        assert launch("tune", "--run", run, *options) == 0
        return run, tried(run)

    return make


def tried(run) -> list[dict]:
    return json.loads((run / "fidelity" / "tuned.json").read_text())["tried"]


def chosen(run) -> MethodSpec:
    """The best code on the tuning half, the first of those that are equally good."""
    codes = [each for each in tried(run) if each["choice"] == "code" and each["within_budget"]]
    return MethodSpec.model_validate(max(codes, key=lambda each: each["lds_tuning"]["value"])["method"])


def scores_of(run, spec: MethodSpec) -> np.ndarray:
    """What a method scored when it was tried."""
    for marker in run.glob("fidelity/methods/methods/*/done.json"):
        if json.loads(marker.read_text())["method"] == spec.model_dump(mode="json"):
            return np.load(marker.parent / "scores.npy")
    raise AssertionError(f"{spec.name} was not tried")


def check_settings(run, new, questions) -> None:
    """A new run with the written settings attributes the chosen sites and scores as was measured."""
    source = json.loads((run / "run.json").read_text())["config"]
    same = ("--model", source["model"]["model"], "--data", source["corpus"]["data"][0])
    assert launch("index", "--run", new, *same, "--config", run / "fidelity" / "tuned.toml") == 0
    old, made, spec = Attributor(run), Attributor(new), chosen(run)
    assert made.recipe() == spec.recipe(old.config.recipe).resolved(made.sites)
    assert made.index_names() == [made.recipe().name]
    assert tuple(site.name for site in made.sites) == select_sites(old.sites, spec.sites)
    scores = made.scores(load_queries(questions))
    np.testing.assert_allclose(scores, scores_of(run, spec), rtol=1e-5, atol=1e-7 * np.abs(scores).max())


def test_tuning_reports_on_what_had_no_part_in_the_choice(tuned, tmp_path, whence, options, questions):  # noqa: F811
    assert {each["choice"] for each in tried(tuned)} == {"damping", "sites", "code"}
    assert set(tomllib.loads((tuned / "fidelity" / "tuned.toml").read_text())) - {"model"} == {"fit", "recipe"}
    check_settings(tuned, tmp_path / "new", questions)
    with_budget = whence("tune", "--run", tuned, *options, "--budget-bytes", 2000)
    assert "no part in the choice" in with_budget
    for each in tried(tuned):
        assert each["within_budget"] == (each["cost"]["bytes_per_document"] <= 2000)


def test_no_two_candidates_store_the_same(tuned):
    owner = Attributor(tuned)
    codes = [MethodSpec.model_validate(each["method"]) for each in tried(tuned) if each["choice"] == "code"]
    layouts = [tuple(spec.recipe(owner.config.recipe).resolved(owner.sites).layout(owner.sites)) for spec in codes]
    assert len(set(layouts)) == len(layouts)
    assert {spec.bits for spec in codes} == {1, 8, 16}
    assert 16384 not in {spec.coordinates for spec in codes}, "no site has so many coordinates"


def test_settings_of_a_run_of_its_own_come_back(made, tmp_path, options, questions):
    config = (
        '[model]\nsites = ["model.layers.*"]\n\n[fit]\nmethod = "kfac"\nsample = 0.5\nmin_documents = 8\nparts = 2\n'
        'seed = 3\n\n[recipe]\nseed = 5\nprecision = "full"\ndamping = { kind = "weight_decay", value = 0.01 }\n'
    )
    run, candidates = made(config, options)
    assert {each["method"]["curvature"] for each in candidates} == {"kfac"}
    assert candidates[0]["method"]["weight_decay"] == 0.01
    written = tomllib.loads((run / "fidelity" / "tuned.toml").read_text())
    assert written["model"] == {"sites": ["model.layers.*"]}
    assert written["fit"] == {"method": "kfac", "sample": 0.5, "min_documents": 8, "parts": 2, "seed": 3}
    assert written["recipe"]["method"] == "kfac"
    check_settings(run, tmp_path / "new", questions)


def test_without_curvature_there_is_no_damping_to_choose(made, tmp_path, options, questions):
    run, candidates = made('[model]\nsites = ["lm_head"]\nmin_coverage = 0.0\n\n[fit]\nmethod = "identity"\n', options)
    assert {each["choice"] for each in candidates} == {"sites", "code"}
    written = tomllib.loads((run / "fidelity" / "tuned.toml").read_text())
    assert written["fit"] == {"method": "identity"}
    assert "damping" not in written["recipe"]
    check_settings(run, tmp_path / "new", questions)


def test_equal_names_have_one_place_and_no_place_is_in_both_parts():
    assert split(["a", "b", "a", "c", "b", "d"]) == ([0, 3], [1, 5])
    assert split([]) == ([], [])


def a_lab(query_keys, documents: int, subsets: int) -> SimpleNamespace:
    kept = halves(documents, subsets)
    losses = np.random.default_rng(0).normal(size=(subsets, 2, len(query_keys)))
    task = SimpleNamespace(query_keys=tuple(query_keys))
    return SimpleNamespace(
        documents=documents, settings=LabSettings(subsets=subsets), training=None, start=None,
        task=lambda training, start: task, halves=(kept, losses), subsets=np.unique(kept, axis=0),
    )  # fmt: skip


def test_what_is_equal_is_in_one_half_and_once():
    lab = a_lab("aabcdeefghhija", documents=6, subsets=64)
    halved = Halved(lab)
    scores = np.arange(14.0)[:, None] * np.ones(6)
    halves_of = [halved.part(scores, report) for report in (False, True)]
    asked = [{"aabcdeefghhija"[int(row[0])] for row in rows} for rows, _, _ in halves_of]
    assert sorted(asked[0] | asked[1]) == list("abcdefghij")
    assert len(halves_of[0][0]) == len(halves_of[1][0]) == 5
    sets = [[row.tobytes() for row in kept] for _, kept, _ in halves_of]
    assert len({*sets[0], *sets[1]}) == len(sets[0]) + len(sets[1]) == len({row.tobytes() for row in lab.halves[0]})
    for rows, kept, losses in halves_of:
        places = [next(n for n, row in enumerate(lab.halves[0]) if (row == each).all()) for each in kept]
        np.testing.assert_array_equal(losses, lab.halves[1][places][:, :, rows[:, 0].astype(int)])


@pytest.mark.parametrize(
    ("keys", "documents", "subsets", "found"),
    [("abcdefga", 24, 16, "7 and 16"), ("abcdefgh", 24, 15, "8 and 15"), ("abcdefgh", 4, 64, "8 and 6")],
)
def test_too_few_that_differ_are_refused(keys, documents, subsets, found):
    with pytest.raises(InputError, match=f"8 different queries and 16 different .* there are {found}"):
        Halved(a_lab(keys, documents, subsets))


def test_a_small_bank_is_refused_before_it_is_trained(copy, refused, options):  # noqa: F811
    refused("tune", "--run", copy, *options, "--subsets", 12, says=("16 different random training sets",))
    assert not list(copy.glob("fidelity/banks/*/cells/*"))

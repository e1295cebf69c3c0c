"""Influence by another model: against that model's own dense gradients, and a run opened on it directly."""

import json
import shutil

import numpy as np
import pytest
import torch

from conftest import WORD_COUNT, WORDS, causal_lm, save_model
from method_world import QUERIES, make_place, make_truth, open_run
from oracle import relative
from whence.attributor import run_steps
from whence.attributor.proxies import proxy_steps
from whence.attributor.proxy_making import making_of
from whence.attributor.steps import CorpusStep
from whence.errors import InputError, ModelError
from whence.interfaces import ProxySettings
from whence.methods import Work, method_scores, parse_method
from whence.methods.base import ekfac_steps


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run of a model of two layers, and a folder with another of one layer and half the width."""
    place = make_place(tmp_path_factory.mktemp("target"))
    small = make_place(tmp_path_factory.mktemp("small"), "gpt2", n_layer=1, n_embd=4)
    owner = open_run(place, place / "run")
    run_steps([CorpusStep(owner)])
    return place, owner, small


def scores(owner, spec):
    return method_scores(parse_method(spec), Work(owner), owner.encode_queries(QUERIES))


def test_gradient_dots_are_those_of_the_proxys_dense_gradients(world, tmp_path):
    _, owner, small = world
    direct = open_run(small, tmp_path / "run")
    run_steps([CorpusStep(direct)])
    truth = make_truth(small, direct)
    wanted = (truth.queries @ truth.documents.T / len(truth.documents)).numpy()
    found = scores(owner, f"proxy:model={small / 'model'},curvature=identity")
    assert np.abs(found - wanted).max() < 1e-10 * np.abs(wanted).max()


@pytest.mark.parametrize("curvature", ["ekfac", "kfac"])
def test_influence_is_that_of_a_run_opened_on_the_proxy(world, tmp_path, curvature):
    _, owner, small = world
    direct = open_run(small, tmp_path / "run")
    wanted = scores(direct, f"{curvature}:damping=0.3")
    found = scores(owner, f"proxy:model={small / 'model'},curvature={curvature},damping=0.3")
    assert np.abs(found - wanted).max() < 1e-8 * np.abs(wanted).max()


@pytest.mark.parametrize(("bits", "least"), [(16, 0.9999), (8, 0.999), (1, 0.5)])
def test_an_index_of_the_proxy(world, bits, least):
    _, owner, small = world
    wanted = scores(owner, f"proxy:model={small / 'model'}")
    method = parse_method(f"proxy:model={small / 'model'},bits={bits}")
    found = scores(owner, method.spec)
    assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(found, wanted, strict=True)) > least
    assert method.bytes_per_document(Work(owner)) > 0
    assert parse_method(f"proxy:model={small / 'model'}").bytes_per_document(Work(owner)) == 0


def test_a_proxy_that_was_made_scores_as_iprox_does(world, tmp_path):
    _, owner, _ = world
    making = making_of(owner, ProxySettings(share=0.6, steps=2), tmp_path / "p")
    run_steps([*ekfac_steps(owner, measured=False), *proxy_steps(making)])
    wanted = scores(owner, f"proxy:model={tmp_path / 'p'}")
    found = scores(owner, "iprox:share=0.6,align=2")
    assert np.abs(found - wanted).max() < 1e-12 * np.abs(wanted).max()


def test_the_runs_sites_count(world, tmp_path):
    """With --sites the proxy's sites of the same names count, products as the layers in whose places they are."""
    place, _, _ = world
    narrow = open_run(place, tmp_path / "run")
    narrow.config = narrow.config.model_copy(
        update={"model": narrow.config.model.model_copy(update={"sites": ("*.mlp.*",)})}
    )
    for part in ("sites", "coverage"):
        narrow.__dict__.pop(part, None)
    run_steps([CorpusStep(narrow)])
    method = parse_method("iprox:share=0.6,align=0")
    run_steps(method.steps(Work(narrow))[:-2])
    names = {site.name for site in method.opened(Work(narrow)).sites}
    assert all(".mlp." in name for name in names)
    assert any(name.endswith("mlp.up_proj.down") for name in names)
    other = parse_method(f"proxy:model={world[2] / 'model'}")
    with pytest.raises(ModelError, match=r"none of the run's sites .*Open the run without --sites"):
        other.opened(Work(narrow))


def test_a_relative_path_as_seen_from_where_the_run_was_started(world, tmp_path, monkeypatch):
    place, _, small = world
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shutil.copytree(small / "model", tmp_path / "here" / "small")
    monkeypatch.chdir(tmp_path / "here")
    owner = open_run(place, tmp_path / "run")
    run_steps([CorpusStep(owner)])
    monkeypatch.chdir(tmp_path / "there")
    method = parse_method("proxy:model=small")
    assert method.reference(Work(owner)) == str(tmp_path / "here" / "small")


def test_other_tokens_are_refused(world, tmp_path):
    _, owner, _ = world
    swapped = [WORDS[1], WORDS[0], *WORDS[2:]]
    other = save_model(tmp_path / "a", causal_lm("llama", vocab_size=WORD_COUNT), torch.float64, swapped)
    with pytest.raises(ModelError, match=rf"another vocabulary .* of {WORD_COUNT} tokens differ"):
        scores(owner, f"proxy:model={other}")
    fewer = save_model(tmp_path / "b", causal_lm("llama", vocab_size=WORD_COUNT - 3), torch.float64)
    with pytest.raises(ModelError, match="another vocabulary"):
        scores(owner, f"proxy:model={fewer}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "b" / name).unlink()
    with pytest.raises(ModelError, match="could not load a tokenizer"):
        scores(owner, f"proxy:model={fewer}")


def test_token_ids_alone(tmp_path):
    """A run without a tokenizer asks that every id is known."""
    model = save_model(tmp_path / "model", causal_lm("llama", vocab_size=WORD_COUNT), torch.float64)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    rows = [{"input_ids": [int(n) for n in np.random.default_rng(k).integers(3, WORD_COUNT, 8)]} for k in range(12)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    owner = open_run(tmp_path, tmp_path / "run")
    assert owner.tokenizer is None
    run_steps([CorpusStep(owner)])
    fewer = save_model(tmp_path / "small", causal_lm("llama", vocab_size=WORD_COUNT - 3), torch.float64)
    with pytest.raises(ModelError, match="must know all of them"):
        parse_method(f"proxy:model={fewer}").opened(Work(owner))
    assert parse_method(f"proxy:model={model}").opened(Work(owner)).corpus.documents == 12


def test_a_context_too_short_is_refused(world, tmp_path):
    _, owner, _ = world
    short = make_place(tmp_path, max_position_embeddings=8)
    with pytest.raises(InputError, match="takes 8 tokens, and the run's windows have 9"):
        scores(owner, f"proxy:model={short / 'model'}")


@pytest.mark.parametrize("spec", ["proxy", "iprox:share=1", "iprox:share=0", "proxy:model=a,bits=4", "iprox:align=-1"])
def test_settings_out_of_range(spec):
    with pytest.raises(InputError, match=r"needs the setting|less than 1|greater than|Input should be"):
        parse_method(spec)


def test_no_such_model(world):
    _, owner, _ = world
    with pytest.raises(ModelError, match=r"could not load|does not exist"):
        scores(owner, "proxy:model=./nowhere")


def test_scores_rank_as_the_models_own_the_more_is_kept(world):
    """EK-FAC of the proxy against EK-FAC of the model, by rank."""
    from scipy.stats import spearmanr

    _, owner, _ = world
    own = scores(owner, "ekfac")
    assert relative(torch.from_numpy(own), torch.from_numpy(scores(owner, "ekfac"))) == 0
    ranks = []
    for share in (0.4, 0.97):
        found = scores(owner, f"iprox:share={share},align=0")
        ranks.append(np.mean([spearmanr(a, b).statistic for a, b in zip(found, own, strict=True)]))
    assert ranks[0] < ranks[1]
    assert ranks[1] > 0.8

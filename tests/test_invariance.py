"""The check that a document's gradients do not depend on what shares its batch: leaks are told from rounding."""

import json

import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

import whence
from conftest import causal_lm, documents, save_model, write_jsonl
from whence.attributor.core import sites_of
from whence.interfaces import Invariance, Site
from whence.model import as_loaded, check_invariance
from whence.model.invariance import _compare, _Seen
from zoo import ZOO


def _leaky(strength: float):
    def attention(module, query, key, value, attention_mask, **settings):
        out, weights = eager_attention_forward(module, query, key, value, attention_mask, **settings)
        return out + strength * out.roll(1, 0), weights

    return attention


def _rounding(module, query, key, value, attention_mask, **settings):
    out, weights = eager_attention_forward(module, query, key, value, attention_mask, **settings)
    return out * (1 + 1e-6 * len(out)), weights


@pytest.fixture(scope="module", autouse=True)
def attentions():
    made = {"leaky": _leaky(0.05), "hardly_leaky": _leaky(2e-3), "rounding": _rounding}
    for name, function in made.items():
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, eager_mask)
    yield
    for name in made:
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)


def checked(attention: str, dtype=torch.float32, kind: str = "llama") -> Invariance:
    model = ZOO[kind](dtype)
    model.config._attn_implementation = attention
    loaded = as_loaded(model)
    return check_invariance(loaded, sites_of(loaded, ()))


@pytest.mark.parametrize("kind", ["llama", "olmoe", "gemma3", "olmo_hybrid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_own_attention_passes(attention, dtype, kind):
    got = checked(attention, dtype, kind)
    assert got.verdict in ("same", "rounding")
    assert got.attention == attention


@pytest.mark.parametrize("attention", ["leaky", "hardly_leaky"])
def test_a_leak_is_found(attention):
    got = checked(attention)
    assert got.verdict == "leak"
    assert "--attention eager" in got.words
    assert attention in got.words
    assert "--batch-tokens 1" in got.words


def test_a_leak_is_found_in_half_precision():
    assert checked("leaky", torch.bfloat16).verdict == "leak"
    assert checked("leaky", torch.bfloat16, "olmoe").verdict == "leak"


def test_rounding_is_no_leak():
    got = checked("rounding")
    assert got.verdict == "rounding"
    assert got.change > 1e-7


def _site(name: str, experts: int = 0) -> Site:
    return Site(name, 2, 2, False, (), None, (name,), experts=experts)


def test_what_follows_a_token_that_went_elsewhere_is_not_compared():
    sites = [_site("first"), _site("experts", 4), _site("later")]
    one, two, three = (
        _Seen(
            {"first": [torch.ones(2) * first], "later": [torch.ones(2) * later]},
            {"first": [torch.ones(2)], "later": [torch.ones(2)]},
            {"experts": [(0, expert)]},
        )
        for first, later, expert in ((1.0, 1.0, 0), (1.0001, 9.0, 3), (2.0, 9.0, 3))
    )
    assert _compare(sites, one, two, 1e-3).verdict == "routing"
    assert _compare(sites, one, two, 1e-3).site == "experts"
    assert _compare(sites, one, three, 1e-3).verdict == "leak"
    assert _compare(sites, one, three, 1e-3).site == "first"
    assert _compare(sites, one, one, 1e-3).verdict == "same"


def test_a_run_keeps_and_shows_it(tmp_path):
    from whence.report import save

    model = save_model(tmp_path / "llama", causal_lm("llama", vocab_size=40))
    data = write_jsonl(tmp_path / "d.jsonl", documents(8))
    settings = {"model": {"min_coverage": 0.5, "attention": "leaky"}}
    run = whence.Attributor(tmp_path / "run", model=model, data=[data], settings=settings)
    assert run.invariance.verdict == "leak"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["invariance"]["site"] == run.invariance.site
    again = whence.Attributor(tmp_path / "run")
    assert again.invariance == run.invariance
    result = again.trace([whence.Query(prompt="the harbour", completion=" was built")], k=2)
    page = save(result, tmp_path / "trace")["page"].read_text()
    assert "scores would mix documents up" in page

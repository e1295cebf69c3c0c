"""Proxies as directories: what they are loaded as, by whence and without it, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import WORD_COUNT, causal_lm, save_model
from test_proxy_alignment import KINDS, halved
from whence.attributor import model_coverage
from whence.attributor.core import sites_of
from whence.errors import InputError, ModelError
from whence.interfaces import ProxyCard, ProxySettings
from whence.model import FactoredLinear, factored, initial_model, is_proxy, load_model, load_proxy
from whence.runs import write_json

COUNTS = {"llama": 14, "gpt2": 8, "olmo2": 14, "olmoe": 8}
IDS = torch.tensor([[3, 5, 7, 2, 11]])


def card(model, proxy, **changes):
    ranks = {name: product.up.in_features for name, product in factored(proxy).items()}
    content = {"architecture": type(model).__name__, "ranks": ranks, "settings": ProxySettings(rank=3), "target": "it"}
    return ProxyCard(**{**content, "fingerprint": {"weights": "x"}, "corpus": "y", **changes})


def write_proxy(folder, kind="llama", dtype=torch.float64, rank=3, **changes):
    model = causal_lm(kind, vocab_size=WORD_COUNT)
    proxy = halved(model, rank=rank)
    with torch.no_grad():
        wanted = proxy(input_ids=IDS).logits
    save_model(folder, proxy, dtype)
    write_json(Path(folder) / "proxy.json", card(model, proxy, **changes).model_dump(mode="json"))
    return wanted


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path, kind):
    wanted = write_proxy(tmp_path / "p", kind)
    assert is_proxy(tmp_path / "p")
    experts = {"experts_implementation": "eager"} if kind == "olmoe" else {}
    model = load_proxy(tmp_path / "p", dtype=torch.float64, **experts)
    with torch.no_grad():
        assert torch.allclose(model(input_ids=IDS).logits, wanted, rtol=0, atol=1e-13)  # transformers rounds rotations
    ours = load_model(str(tmp_path / "p"), dtype="float64", device="cpu").model.state_dict()
    assert ours.keys() == model.state_dict().keys()
    assert all(torch.equal(ours[name], value) for name, value in model.state_dict().items())
    assert not model.training
    assert type(model).__name__ == type(causal_lm(kind)).__name__
    assert len(factored(model)) == COUNTS[kind]
    if kind == "gpt2":
        assert model.lm_head.weight is model.transformer.wte.weight
        assert all(product.up.bias is not None for product in factored(model).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_two_ordinary_sites(tmp_path, kind):
    write_proxy(tmp_path / "p", kind)
    loaded = load_model(str(tmp_path / "p"), dtype="float64", device="cpu")
    sites = {site.name: site for site in sites_of(loaded, ())}
    for name, product in factored(loaded.model).items():
        assert sites[f"{name}.down"].shape == (3, product.down.in_features)
        assert sites[f"{name}.up"].outputs == product.up.out_features
    before = {site.name: site for site in sites_of(load_target(tmp_path, kind), ())}
    stacks = [name for name, site in before.items() if site.experts]
    assert all(sites[name].shape == before[name].shape for name in stacks)
    assert bool(stacks) == (kind == "olmoe")
    groups = {site.group for name, site in sites.items() if ".0.self_attn" in name and name.endswith("_proj.down")}
    assert len(groups) == (0 if kind == "gpt2" else 2)  # q, k and v see the same inputs
    assert model_coverage(str(tmp_path / "p")).share == 1.0


def load_target(folder, kind):
    path = save_model(folder / "target", causal_lm(kind, vocab_size=WORD_COUNT), torch.float64)
    return load_model(path, dtype="float64", device="cpu")


def test_a_fresh_process_that_knows_nothing_else_reads_the_same(tmp_path):
    wanted = write_proxy(tmp_path / "p")
    code = f"""
import torch
from whence.model import load_proxy
model = load_proxy({str(tmp_path / "p")!r}, dtype=torch.float64)
with torch.no_grad():
    print(model(input_ids=torch.tensor({IDS.tolist()})).logits.sum().item().hex())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == wanted.sum().item().hex()


def test_other_dtypes_and_a_model_saved_again(tmp_path):
    write_proxy(tmp_path / "p", dtype=torch.float32)
    half = load_model(str(tmp_path / "p"), dtype="bfloat16", device="cpu").model
    assert next(iter(factored(half).values())).up.weight.dtype == torch.bfloat16
    again = load_proxy(tmp_path / "p")
    again.save_pretrained(tmp_path / "again")
    (tmp_path / "again" / "proxy.json").write_bytes((tmp_path / "p" / "proxy.json").read_bytes())
    with torch.no_grad():
        assert torch.equal(load_proxy(tmp_path / "again")(input_ids=IDS).logits, again(input_ids=IDS).logits)


def edit(folder, change):
    path = folder / "proxy.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def other_rank(content):
    content["ranks"]["model.layers.0.mlp.up_proj"] = 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(architecture="GPT2LMHeadModel"), "belongs to a GPT2LMHeadModel.*a LlamaForCausalLM"),
        (lambda c: c.pop("ranks"), r"proxy\.json cannot be used: ranks: Field required"),
        (
            lambda c: c["ranks"].update({"model.layers.7.mlp.up_proj": 2}),
            "names 'model.layers.7.mlp.up_proj', which is no",
        ),
        (
            lambda c: c["ranks"].update({"model.norm": 2}),
            "'model.norm', which is no linear layer of a LlamaForCausalLM",
        ),
        (lambda c: c["ranks"].update({"lm_head": 2}), "are not those that its proxy.json describes: lm_head"),
        (
            lambda c: c["ranks"].pop("model.layers.0.mlp.up_proj"),
            "are not those that its proxy.json describes: model.lay",
        ),
        (other_rank, "not those that its proxy.json describes: .*up_proj.* of another shape"),
        (lambda c: c.update(format=2), "cannot be used: format"),
    ],
)
def test_damaged(tmp_path, change, said):
    write_proxy(tmp_path / "p")
    edit(tmp_path / "p", change)
    with pytest.raises(ModelError, match=said):
        load_model(str(tmp_path / "p"), device="cpu")


def test_damaged_beyond_reading(tmp_path):
    write_proxy(tmp_path / "p")
    (tmp_path / "p" / "proxy.json").write_text('{"ranks": ')
    with pytest.raises(ModelError, match=r"proxy\.json is damaged.*make the proxy again"):
        load_model(str(tmp_path / "p"), device="cpu")


def test_it_is_not_trained_from_the_start(tmp_path):
    write_proxy(tmp_path / "p")
    with pytest.raises(ModelError, match="--start model"):
        initial_model(str(tmp_path / "p"), seed=0)
    with pytest.raises(InputError, match="without torchrun"):
        load_proxy(tmp_path / "p", distributed_config=object())


def test_a_product_by_itself():
    product = FactoredLinear(5, 2, 3, bias=True).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    wanted = x @ (product.up.weight @ product.down.weight).T + product.up.bias
    assert torch.allclose(product(x), wanted)

"""Per-example gradients of PEFT adapters' parameters against autograd: every kind that can be read, or the reason."""

import pytest
import torch

from conftest import VOCABULARY, causal_lm, sequences
from whence.attributor.core import sites_of
from whence.data import batch_from_sequences
from whence.errors import ModelError
from whence.gradients import Runner, gradient_blocks, language_examples
from whence.model import CausalLM, coverage, load_model
from whence.model.adapters import adapter_names

peft = pytest.importorskip("peft")

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-9}
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "lora": {"r": 3, "target_modules": EVERY},
    "rslora and alpha": {"r": 4, "lora_alpha": 7, "use_rslora": True, "target_modules": EVERY},
    "rank and alpha patterns": {
        "r": 2, "target_modules": EVERY, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 3, "v_proj": 9},
    },
    "bias of B": {"r": 2, "target_modules": ["q_proj", "down_proj"], "lora_bias": True},
    "embedding": {"r": 3, "target_modules": ["embed_tokens", "q_proj"], "lora_alpha": 5},
    "head": {"r": 3, "target_modules": ["lm_head", "v_proj"]},
    "modules to save": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "dora": {"r": 3, "target_modules": EVERY, "use_dora": True, "lora_alpha": 5},
}  # fmt: skip


def adapted(folder, settings, kind: str = "llama", count: int = 1) -> tuple[str, list[str]]:
    """A base model and some adapters on disk, with no part of them zero."""
    base = causal_lm(kind).float()
    base.save_pretrained(folder / "base")
    places = []
    for number in range(count):
        torch.manual_seed(number)
        wrapped = peft.get_peft_model(causal_lm(kind).float(), peft.LoraConfig(**settings, init_lora_weights=False))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        places.append(str(folder / f"adapter{number}"))
        wrapped.save_pretrained(places[-1], save_embedding_layers=False)
    return str(folder / "base"), places


def compared(loaded) -> tuple[float, set[str]]:
    """Largest relative error of a site's gradients, and the trained parameters that no site covers."""
    sites = sites_of(loaded, ())
    examples = language_examples(batch_from_sequences(sequences((9, 5, 7))), loaded)
    blocks, _ = gradient_blocks(Runner(loaded.model, sites), examples)
    parameters = {name: p for name, p in loaded.model.named_parameters() if name in loaded.trained}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    losses = CausalLM().losses(loaded.model, examples.inputs)
    worst = 0.0
    for number, loss in enumerate(losses):
        found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        wanted = dict(zip(parameters, found, strict=True))
        for site in sites:
            block, main = blocks[site.name][number], wanted[site.parameters[0]]
            weight = block[:, :-1] if site.bias else block
            weight = weight.T if weight.shape != main.shape and weight.T.shape == main.shape else weight
            worst = max(worst, float((weight.reshape(main.shape) - main).norm() / main.norm()))
            if site.bias:
                bias = wanted[site.parameters[1]]
                worst = max(worst, float((block[:, -1] - bias).norm() / bias.norm()))
    return worst, set(parameters) - {name for site in sites for name in site.parameters}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed", "ignore:Adapter .* invalid shape")
def test_gradients_are_autograds(tmp_path, kind, dtype):
    base, places = adapted(tmp_path, KINDS[kind])
    loaded = load_model(base, adapter=places, dtype=dtype)
    worst, missing = compared(loaded)
    assert worst < CLOSE[getattr(torch, dtype)]
    assert not missing
    assert coverage(loaded.model, sites_of(loaded, ()), loaded.trained).share == 1


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("kind", ["embedding", "dora"])
def test_the_layers_compute_what_peft_computes(tmp_path, kind):
    base, (place,) = adapted(tmp_path, KINDS[kind], "gemma3" if kind == "embedding" else "llama")
    from transformers import AutoModelForCausalLM

    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), place).eval()
    ids = torch.randint(0, VOCABULARY, (2, 9))
    with torch.no_grad():
        ours = load_model(base, adapter=place).model(input_ids=ids).logits
        torch.testing.assert_close(ours, plain(input_ids=ids).logits)


def test_several_adapters_act_and_are_read_together(tmp_path):
    base, places = adapted(tmp_path, KINDS["lora"], count=2)
    loaded = load_model(base, adapter=places)
    worst, missing = compared(loaded)
    assert worst < 1e-6
    assert not missing
    names = {name.split(".")[-2] for name in loaded.trained}
    assert names == {"adapter0", "adapter1"}
    assert "+" in loaded.fingerprint["adapter"]
    one = load_model(base, adapter=places[:1])
    assert len(sites_of(loaded, ())) == 2 * len(sites_of(one, ()))


def test_the_head_of_an_adapter_is_the_head(tmp_path):
    base, places = adapted(tmp_path, KINDS["head"])
    loaded = load_model(base, adapter=places)
    assert {site.name.split(".")[-2] for site in sites_of(loaded, ()) if site.head} == {"lora_A", "lora_B"}
    assert all("lm_head" in site.name for site in sites_of(loaded, ()) if site.head)


def test_an_adapter_on_stacked_experts_is_reported(tmp_path):
    settings = {"r": 2, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    base, places = adapted(tmp_path, settings, "olmoe")
    loaded = load_model(base, adapter=places)
    worst, missing = compared(loaded)
    assert worst < 1e-6
    assert missing
    assert all("experts" in name for name in missing)
    lines = [line for line in coverage(loaded.model, sites_of(loaded, ()), loaded.trained).sites if not line.attributed]
    assert {line.name for line in lines} == missing
    assert all(line.reason for line in lines)


def test_a_merged_adapter_is_a_model(tmp_path):
    base, (place,) = adapted(tmp_path, KINDS["lora"])
    merged = load_model(base, adapter=place).model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    ids = torch.randint(0, VOCABULARY, (2, 9))
    whole = load_model(str(tmp_path / "merged"))
    with torch.no_grad():
        wanted = load_model(base, adapter=place).model(input_ids=ids).logits
        torch.testing.assert_close(whole.model(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
    assert whole.trained is None


def test_an_adapter_for_another_model_is_refused(tmp_path):
    _, places = adapted(tmp_path, KINDS["lora"])
    causal_lm("llama", hidden_size=16).float().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="made for"):
        load_model(str(tmp_path / "other"), adapter=places)


def test_names_of_adapters():
    assert adapter_names(["anything"]) == ["default"]
    assert adapter_names(["a/x", "b/x", "c/"]) == ["x", "x_2", "c"]

"""Adapters on base models in few bits: gradients flow through frozen weights, and are autograd's."""

import json

import pytest
import torch

import whence
from conftest import WORD_COUNT, causal_lm, rows, save_model, sequences, write_jsonl
from oracle import relative, sequence_loss
from whence.attributor.core import sites_of
from whence.data import batch_from_sequences
from whence.errors import CoverageError, InputError, ModelError
from whence.gradients import Runner, gradient_blocks, language_examples
from whence.model import Placement, load_model, parameters_of

pytest.importorskip("bitsandbytes")
SIZES = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base model, and a LoRA adapter on it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("quantised")
    torch.manual_seed(0)
    base = save_model(folder / "base", causal_lm("llama", vocab_size=WORD_COUNT, **SIZES))
    model = load_model(base).model
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(folder / "lora")
    return base, str(folder / "lora")


def found(loaded):
    data = sequences((9, 5, 7))
    runner = Runner(loaded.model, sites_of(loaded, ()))
    blocks, _ = gradient_blocks(runner, language_examples(batch_from_sequences(data), loaded))
    return data, runner, blocks


def compared(loaded):
    """The largest relative difference of a site's gradients from autograd's on the same quantised model."""
    data, runner, blocks = found(loaded)
    tensors = [(torch.from_numpy(tokens), torch.from_numpy(mask)) for tokens, mask in data]
    model = loaded.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in loaded.trained)
    worst = 0.0
    losses = []
    for tokens, mask in tensors:
        model.zero_grad(set_to_none=True)
        sequence_loss(model, tokens, mask).backward()
        losses.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for site in runner.sites:
        for row, block in enumerate(blocks[site.name]):
            for name, part in parameters_of(site, model, block).items():
                worst = max(worst, relative(part, losses[row][name]))
    return worst, {name for site in runner.sites for name in site.parameters}


def test_gradients_through_frozen_weights_in_few_bits(places):
    base, adapter = places
    loaded = load_model(base, adapter=adapter, quantize="nf4")
    assert loaded.fingerprint["quantize"] == "nf4"
    frozen = loaded.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj").weight
    assert not frozen.is_floating_point()
    worst, covered = compared(loaded)
    assert covered == loaded.trained, "all of the adapter, and nothing else"
    assert worst < max(1e-5, 4 * rounding(loaded)), "no further from autograd than autograd is from itself"


def rounding(loaded):
    """How far autograd's own gradients move, at worst, when a sequence runs beside others and padded instead of alone.

    Products with weights in few bits take other kernels for other shapes, on some processors more than on others.
    """
    data, _, _ = found(loaded)
    model, width = loaded.model, max(len(tokens) for tokens, _ in data)
    ids, mask = torch.zeros(len(data), width, dtype=torch.int64), torch.zeros(len(data), width, dtype=torch.bool)
    for row, (tokens, _) in enumerate(data):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.from_numpy(tokens), True
    worst = 0.0
    for row, (tokens, targets) in enumerate(data):
        length, taken = len(tokens), []
        for batch, real, at in ((ids[row : row + 1, :length], mask[row : row + 1, :length], 0), (ids, mask, row)):
            model.zero_grad(set_to_none=True)
            logp = model(input_ids=batch, attention_mask=real, use_cache=False).logits[at, : length - 1].log_softmax(-1)
            picked = logp.gather(-1, ids[row, 1:length, None])[:, 0]
            (-(picked * torch.from_numpy(targets)[1:]).sum()).backward()
            taken.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        worst = max(worst, *(relative(taken[1][name], taken[0][name]) for name in taken[0]))
    return worst


def test_nf4_is_another_model_than_full_precision(places):
    base, adapter = places
    full, few = found(load_model(base, adapter=adapter))[2], found(load_model(base, adapter=adapter, quantize="nf4"))[2]
    errors = [relative(few[name], block) for name, block in full.items()]
    assert min(errors) > 1e-3, "else nothing was quantised"


def test_a_run_on_a_quantised_base(places, tmp_path):
    base, adapter = places
    data = write_jsonl(tmp_path / "corpus.jsonl", rows())
    settings = {"model": {"quantize": "nf4", "adapter": adapter}}
    run = whence.Attributor(tmp_path / "run", model=base, data=[data], settings=settings)
    query = whence.Query(prompt="ask keeper of", completion=" lighthouse he knows")
    result = run.trace([query], k=3)
    trace = result.traces[0]
    assert all("lora_" in site for site in trace.proponents[0].sites)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["model"]["quantize"] == "nf4"
    assert run.loaded.fingerprint["quantize"] == "nf4"
    assert "of the same adapter without --quantize" in result.summary.certificate.line


def test_without_an_adapter_there_is_next_to_nothing_to_attribute(places, tmp_path):
    data = write_jsonl(tmp_path / "corpus.jsonl", rows())
    with pytest.raises(CoverageError, match=r"(?s)quantised, which no training was; name the adapters with --adapter"):
        whence.Attributor(tmp_path / "run", model=places[0], data=[data], settings={"model": {"quantize": "nf4"}})


def test_a_model_that_was_saved_quantised(places, tmp_path):
    base, adapter = places
    load_model(base, quantize="nf4").model.save_pretrained(tmp_path / "four")
    one = found(load_model(str(tmp_path / "four"), adapter=adapter))[2]
    two = found(load_model(base, adapter=adapter, quantize="nf4"))[2]
    for name, block in two.items():
        assert relative(one[name], block) < 1e-6, name


def test_an_adapter_that_names_its_base_is_a_model(places):
    """transformers loads the base with it; there is no configuration of a model in the folder."""
    assert load_model(places[1]).model.config.model_type == "llama"


def test_refusals(places, monkeypatch):
    with pytest.raises(InputError, match="--quantize takes nf4; got 'fp3'"):
        load_model(places[0], quantize="fp3")
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="pip install 'whence\\[quantised\\]'"):
        load_model(places[0], quantize="nf4", placement=Placement())

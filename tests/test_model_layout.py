"""Checkpointing, spread and half-precision models: the same gradients, laid out or rounded otherwise."""

import pytest
import torch

import whence
from conftest import WORD_COUNT, causal_lm, rows, save_model, sequences, write_jsonl
from oracle import gradients as plain_gradients
from oracle import relative, sequence_loss
from whence.attributor.core import sites_of
from whence.data import batch_from_sequences
from whence.errors import InputError, ModelError
from whence.gradients import Runner, gradient_blocks, language_examples
from whence.model import LoadedModel, Placement, as_loaded, find_sites, load_model
from whence.model.checkpointing import checkpoint_blocks
from zoo import ZOO

SPREAD = {
    "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
    "model.norm": "cpu", "lm_head": "cpu",
}  # fmt: skip


def gradients(loaded: LoadedModel, patterns=()) -> dict[str, torch.Tensor]:
    examples = language_examples(batch_from_sequences(sequences((9, 5, 7))), loaded)
    return gradient_blocks(Runner(loaded.model, sites_of(loaded, patterns)), examples)[0]


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], close: float) -> None:
    assert one.keys() == two.keys()
    for name, block in one.items():
        assert float((block - two[name]).norm()) <= close * float(block.norm()), name


@pytest.mark.parametrize("kind", ZOO)
def test_checkpointing_changes_no_gradient(kind):
    plain = gradients(as_loaded(ZOO[kind](torch.float32)))
    model = ZOO[kind](torch.float32)
    assert checkpoint_blocks(model) >= 2
    assert_same(plain, gradients(as_loaded(model)), 1e-6)


@pytest.mark.parametrize("patterns", [("*layers.1.mlp.down_proj",), ("lm_head",), ("*embed_tokens",)])
def test_checkpointing_reads_some_sites(patterns):
    plain = gradients(as_loaded(ZOO["llama"](torch.float32)), patterns)
    model = ZOO["llama"](torch.float32)
    checkpoint_blocks(model)
    assert_same(plain, gradients(as_loaded(model), patterns), 1e-6)


def test_checkpointing_needs_blocks():
    with pytest.raises(ModelError, match="--batch-tokens"):
        checkpoint_blocks(torch.nn.Linear(2, 2))


def test_checkpointing_keeps_less():
    """Bytes that the graph holds at the end of the forward pass, of blocks much larger than their inputs."""

    def held(checkpointing: bool) -> int:
        model = causal_lm("llama", hidden_size=16, intermediate_size=256, num_hidden_layers=6).float()
        if checkpointing:
            checkpoint_blocks(model)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model.requires_grad_(False)
        model.model.embed_tokens.register_forward_hook(lambda *call: call[2].requires_grad_(True))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=torch.zeros(2, 32, dtype=torch.long), use_cache=False).logits.sum()
        return sum(size for place, size in kept.items() if place not in weights)

    assert held(True) < held(False) / 3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_on_disk_change_no_gradient(tmp_path, checkpointing):
    model = ZOO["llama"](torch.float32)
    model.save_pretrained(tmp_path / "llama")
    placement = Placement(device_map=SPREAD, offload=str(tmp_path / "off"), checkpointing=checkpointing)
    loaded = load_model(str(tmp_path / "llama"), placement=placement)
    assert any(parameter.is_meta for parameter in loaded.model.parameters())
    assert_same(gradients(as_loaded(model)), gradients(loaded), 1e-6)


def test_a_device_map_is_made(tmp_path):
    model = ZOO["llama"](torch.float32)
    model.save_pretrained(tmp_path / "llama")
    loaded = load_model(str(tmp_path / "llama"), placement=Placement(device_map="auto"))
    assert_same(gradients(as_loaded(model)), gradients(loaded), 1e-6)


def test_offloading_needs_a_device_map(tmp_path):
    ZOO["llama"](torch.float32).save_pretrained(tmp_path / "llama")
    with pytest.raises(InputError, match="--device-map"):
        load_model(str(tmp_path / "llama"), placement=Placement(offload=str(tmp_path)))


def _rounded(kind: str, dtype: torch.dtype) -> LoadedModel:
    """The weights that the half-precision model has, computed with in another dtype."""
    return as_loaded(ZOO[kind](torch.bfloat16).to(dtype))


def autograd(kind: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Gradients of every parameter by autograd alone, the experts in a loop."""
    model = _rounded(kind, dtype).model
    if kind != "llama":
        model.set_experts_implementation("eager")
    texts = [(torch.from_numpy(tokens), torch.from_numpy(mask)) for tokens, mask in sequences((9, 5, 7))]
    return plain_gradients(model, [lambda t=t, m=m: sequence_loss(model, t, m) for t, m in texts])


@pytest.mark.parametrize("kind", ["llama", "olmoe", "qwen3_moe", "nemotron_h"])
def test_half_precision_gives_the_gradients_to_its_accuracy(kind):
    """As far from float32 as autograd is in the same half precision, one example at a time: routing flips there too."""
    exact, half = gradients(_rounded(kind, torch.float32)), gradients(_rounded(kind, torch.bfloat16))
    wide, narrow = (autograd(kind, dtype) for dtype in (torch.float32, torch.bfloat16))
    parameters = {site.name: site.parameters[0] for site in find_sites(ZOO[kind](torch.float32))}
    for name, block in exact.items():
        assert half[name].dtype == torch.float32
        rounding = relative(narrow[parameters[name]], wide[parameters[name]])
        assert relative(half[name], block) < 0.02 + 1.2 * rounding, (name, rounding)


@pytest.mark.parametrize("kind", ["llama", "olmoe"])
def test_a_run_in_half_precision(tmp_path, kind):
    model = save_model(tmp_path / kind, causal_lm(kind, vocab_size=WORD_COUNT), torch.bfloat16)
    data = write_jsonl(tmp_path / "corpus.jsonl", rows())
    query = whence.Query(prompt="ask keeper of", completion=" lighthouse he knows")
    found = {}
    for dtype in ("float32", "bfloat16"):
        settings = {"model": {"dtype": dtype, "min_coverage": 0.2}}
        run = whence.Attributor(tmp_path / dtype, model=model, data=[data], settings=settings)
        found[dtype] = run.trace([query], k=24).traces[0]
        assert run.invariance.verdict != "leak"
    first = [{hit.document: hit.influence for hit in found[dtype].proponents} for dtype in found]
    common = first[0].keys() & first[1].keys()
    assert len(common) >= 0.7 * len(first[0])
    top = max(first[0], key=first[0].get)
    assert top in sorted(first[1], key=first[1].get)[-3:]

"""The zoo itself: its models are the classes they claim to be, run, and have no parameter that does not matter."""

import pytest
import torch

from zoo import VOCABULARY, ZOO, truly_float64

CLASSES = {
    "olmo2": "Olmo2", "olmo3": "Olmo3", "olmo_hybrid": "OlmoHybrid", "olmoe": "Olmoe", "nemotron": "Nemotron",
    "nemotron_h": "NemotronH", "nemotron3": "NemotronH", "pythia": "GPTNeoX", "llama": "Llama", "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3Moe", "qwen3_next": "Qwen3Next", "gpt_oss": "GptOss", "mixtral": "Mixtral", "gpt2": "GPT2",
    "gemma2": "Gemma2", "gemma3": "Gemma3", "smollm3": "SmolLM3",
}  # fmt: skip


def tokens(rows: int = 4, length: int = 12) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def test_names():
    assert set(CLASSES) == set(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_has_a_gradient(name):
    model = ZOO[name](torch.float64)
    assert type(model).__name__.startswith(CLASSES[name] + "For") or name == "gpt2"
    ids = tokens()
    with truly_float64():
        logits = model(input_ids=ids, use_cache=False).logits
        assert logits.dtype == torch.float64
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    largest = max(float(p.grad.norm()) for p in model.parameters())
    for parameter, p in model.named_parameters():
        assert float(p.grad.norm()) > 1e-5 * largest, parameter


@pytest.mark.parametrize("name", ["olmoe", "nemotron_h", "nemotron3", "qwen3_moe", "qwen3_next", "gpt_oss", "mixtral"])
def test_routing_differs_by_token(name):
    model = ZOO[name](torch.float32)
    chosen = []

    def hook(module, args, output):
        chosen.append(output[2])

    routers = [module for module in model.modules() if type(module).__name__.lower().endswith("router")]
    assert routers
    handles = [router.register_forward_hook(hook) for router in routers]
    with torch.no_grad():
        model(input_ids=tokens(), use_cache=False)
    for handle in handles:
        handle.remove()
    for picked in chosen:
        pairs = {tuple(sorted(row)) for row in picked.reshape(-1, picked.shape[-1]).tolist()}
        assert len(pairs) >= 4, "tokens must go to different experts"
        assert len({each for pair in pairs for each in pair}) >= 4

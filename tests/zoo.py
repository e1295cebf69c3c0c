"""One tiny model of every class that open-data models come in: real transformers classes, random weights.

Every parameter matters and routing differs by token: what a class initialises to zeros, ones or nothing (routers,
norms, decays, sinks, biases of experts) is drawn anew. Imports nothing of whence.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

VOCABULARY = 96

_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_LLAMA = {
    **_COMMON, **_HEADS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2}
_GEMMA = {**_LLAMA, "head_dim": 8, "sliding_window": 4, "tie_word_embeddings": True, "query_pre_attn_scalar": 8}
_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4, "layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4,
}  # fmt: skip
_NEMOTRON_H = {
    **_COMMON, **_HEADS, "hidden_size": 32, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 64,
    "ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2, "conv_kernel": 4, "chunk_size": 4,
    "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 2, "topk_group": 2,
    "moe_shared_expert_intermediate_size": 40, "routed_scaling_factor": 2.5,
}  # fmt: skip
_MIXERS = ["linear_attention", "full_attention", "mlp", "moe"]

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("Olmo2Config", _LLAMA),
    "olmo3": ("Olmo3Config", {**_LLAMA, "num_hidden_layers": 4, "sliding_window": 4}),
    "olmo_hybrid": ("OlmoHybridConfig", {**_LLAMA, **_DELTA, "linear_num_value_heads": 2}),
    "olmoe": ("OlmoeConfig", {**_LLAMA, **_EXPERTS}),
    "nemotron": ("NemotronConfig", {**_LLAMA, "head_dim": 8}),
    "nemotron_h": ("NemotronHConfig", {**_NEMOTRON_H, "layers_block_type": _MIXERS}),
    "nemotron3": (
        "NemotronHConfig",
        {**_NEMOTRON_H, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
         "moe_latent_size": 16},
    ),
    "pythia": (
        "GPTNeoXConfig",
        {**_COMMON, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 64},
    ),
    "llama": ("LlamaConfig", _LLAMA),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": 8, "tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_LLAMA, **_EXPERTS, "head_dim": 8, "moe_intermediate_size": 24}),
    "qwen3_next": (
        "Qwen3NextConfig",
        {**_LLAMA, **_EXPERTS, **_DELTA, "head_dim": 8, "moe_intermediate_size": 24,
         "shared_expert_intermediate_size": 24},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {**_LLAMA, "head_dim": 8, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 4,
         "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0,
                             "original_max_position_embeddings": 32}},
    ),
    "mixtral": ("MixtralConfig", {**_LLAMA, "num_local_experts": 6, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2Config", {**_COMMON, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gemma2": ("Gemma2Config", _GEMMA),
    "gemma3": ("Gemma3TextConfig", _GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}),
    "smollm3": ("SmolLM3Config", {**_LLAMA, "num_hidden_layers": 4, "tie_word_embeddings": True}),
}  # fmt: skip


def _drawn(name: str, p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values for one parameter or buffer, in float64, large enough that none of its gradient is negligible."""
    noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    leaf = name.rpartition(".")[2]
    if leaf in ("A_log", "dt_bias"):
        return noise * 0.5
    is_norm = leaf == "weight" and ("norm" in name.lower() or ".ln_" in name)
    if is_norm or leaf in ("D", "sinks"):
        return 1 + noise * 0.3
    if p.ndim < 2 or leaf.endswith("_bias"):
        return noise * 0.3
    if "conv1d" in name:
        return noise * 0.6
    width = p.shape[-1]
    return noise * (2.0 if "router" in name or "gate.weight" in name else 1.2) / math.sqrt(width)


def shaken(model: nn.Module, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """The model with weights of its own drawing, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    learnt = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n.endswith("correction_bias"))]
    with torch.no_grad():
        for name, p in learnt:
            p.copy_(_drawn(name, p, generator))
    return model.to(dtype).eval()


def build(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> nn.Module:
    """A tiny model of one class; `changes` override its configuration."""
    import transformers as hf

    kind, settings = SETTINGS[name]
    config = getattr(hf, kind)(**{**settings, **changes})
    experts = {"experts_implementation": "eager"} if dtype == torch.float64 else {}  # torch groups no float64 products
    torch.manual_seed(0)
    return shaken(hf.AutoModelForCausalLM.from_config(config, **experts), dtype)


ZOO: dict[str, Callable[[torch.dtype], nn.Module]] = {
    name: lambda dtype=torch.float32, name=name: build(name, dtype) for name in SETTINGS
}


class _NoFloat32(TorchFunctionMode):
    """Whatever asks for float32 gets float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        wide = lambda each: torch.float64 if each is torch.float32 else each  # noqa: E731
        kwargs = {key: wide(value) for key, value in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        if func is torch.Tensor.backward:  # hooks that run in it may run parts of the model again
            with self:
                return torch.autograd.backward(args[0], kwargs.get("gradient"), kwargs.get("retain_graph"))
        return func(*map(wide, args), **kwargs)


@contextmanager
def truly_float64():
    """Classes that cast to float32 inside (norms, softmax, routers, scans) stay in float64 here.

    So that an algebraic error of 1e-8 cannot hide behind rounding, whatever the class casts.
    """
    with _NoFloat32():
        yield

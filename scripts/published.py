"""Published configurations of open models, for pages that count parameters and costs without any weights.

A model is built on torch's meta device, where it has shapes and no memory. Only what differs from the defaults of
transformers' configuration classes is written here. Knows nothing of whence.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["PUBLISHED", "Published", "meta_model"]


@dataclass(frozen=True)
class Published:
    """One published size.

    Attributes:
        config: Name of transformers' configuration class.
        changes: What differs from its defaults.
        source: Where it is published; the hub id of the weights.
    """

    config: str
    changes: dict[str, Any] = field(default_factory=dict)
    source: str = ""


_OLMO_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 100278,
}  # fmt: skip
_OLMO_32B = {
    "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "vocab_size": 100278,
}  # fmt: skip
_OLMOE = {"intermediate_size": 1024}
_NANO = {
    "hidden_size": 2688, "intermediate_size": 1856, "num_attention_heads": 32, "num_key_value_heads": 2,
    "mamba_num_heads": 64, "n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712, "routed_scaling_factor": 2.5,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
}  # fmt: skip
_SUPER = {
    "hidden_size": 4096, "intermediate_size": 2688, "num_attention_heads": 32, "num_key_value_heads": 2,
    "mamba_num_heads": 128, "n_routed_experts": 512, "num_experts_per_tok": 22, "moe_intermediate_size": 2688,
    "moe_shared_expert_intermediate_size": 5376, "moe_latent_size": 1024, "routed_scaling_factor": 5.0,
    "hybrid_override_pattern": "ME" * 40 + "*" * 8,  # how many of each is published; their order does not count here
}  # fmt: skip
_PYTHIA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 16,
    "vocab_size": 50304,
}  # fmt: skip
_PYTHIA_7B = {
    "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 50432,
}  # fmt: skip

PUBLISHED: dict[str, Published] = {
    "OLMo 3 7B": Published("Olmo3Config", _OLMO_7B, "allenai/Olmo-3-1025-7B"),
    "OLMo 3 32B": Published("Olmo3Config", _OLMO_32B, "allenai/Olmo-3-1125-32B"),
    "OLMoE 1B-7B": Published("OlmoeConfig", _OLMOE, "allenai/OLMoE-1B-7B-0924"),
    "Nemotron 3 Nano 30B-A3B": Published("NemotronHConfig", _NANO, "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-Base-BF16"),
    "Nemotron 3 Super 120B-A12B": Published(
        "NemotronHConfig", _SUPER, "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-Base-BF16"
    ),
    "Pythia 1.4B": Published("GPTNeoXConfig", _PYTHIA_1B, "EleutherAI/pythia-1.4b"),
    "Pythia 6.9B": Published("GPTNeoXConfig", _PYTHIA_7B, "EleutherAI/pythia-6.9b"),
}


def meta_model(published: Published) -> nn.Module:
    """The model without memory for its weights."""
    import transformers

    config = getattr(transformers, published.config)(**published.changes)
    with torch.device("meta"):
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    return model

"""Base models kept in few bits, under adapters: gradients flow through them, and they have none of their own."""

from typing import Any

import torch
from torch import nn

from whence.errors import InputError, ModelError
from whence.model import parallel
from whence.model.devices import Placement

__all__ = ["KINDS", "differentiable", "is_quantised", "quantised"]

KINDS = ("nf4",)


def is_quantised(reference: str, revision: str | None) -> bool:
    """Whether a model was saved quantised; not if it has no configuration, as an adapter that names its base."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(reference, revision=revision)
    except (OSError, ValueError, KeyError):
        return False  # whatever is wrong is said where the model is loaded
    return getattr(config, "quantization_config", None) is not None


def quantised(kind: str | None, dtype: torch.dtype | str, where: torch.device, placement: Placement) -> dict[str, Any]:
    """What `from_pretrained` is to be told of a quantised model, which has to be placed as it is loaded.

    Args:
        kind: nf4 (QLoRA, arXiv:2305.14314); None for a model that was saved quantised.
        dtype: Of what is computed.
        where: Its device, if it is to lie on one.
        placement: The layout.

    Raises:
        InputError: An unknown kind, or a layout that such weights do not have.
        ModelError: bitsandbytes is not there.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"--quantize takes nf4; got {kind!r}. A model that was saved quantised needs no option.")
    if parallel.size() > 1:
        raise InputError("a quantised model is not shared between processes; run it in one, or without --quantize.")
    spread = {} if placement.device_map is not None else {"device_map": {"": where}}
    if kind is None:
        return spread
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError("--quantize needs the bitsandbytes package: pip install 'whence[quantised]'") from error
    from transformers import BitsAndBytesConfig

    computed = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computed)
    return {**spread, "quantization_config": four}


def differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from packing weights for fast inference.

    On some processors it does so in evaluation mode, and packed weights have no backward pass: gradients would end
    there without a word.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False

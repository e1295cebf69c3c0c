"""The transformer blocks of a model, which are what is checkpointed and gathered."""

from torch import nn

__all__ = ["blocks_of"]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a transformers model, in its order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]

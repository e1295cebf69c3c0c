"""Parameters in slices over processes, gathered block by block (FSDP2), where transformers' own loading cannot do it.

transformers reads each process's slices straight from the checkpoint, by a plan of the model's class. Two things go
wrong there: a class whose blocks are not where the plan has them is gathered all at once, and a weight that is joined
from several tensors of the checkpoint along the sliced axis gets the slices in the wrong order. Such models are loaded
whole in every process and sliced here.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from whence.model.blocks import blocks_of

__all__ = ["shard", "sliced_well"]


def sliced_well(model: nn.Module) -> bool:
    """Whether a model that transformers has sliced is gathered block by block, and every slice is in its place."""
    by_block = all(isinstance(block, FSDPModule) for block in blocks_of(model))
    return by_block and not any(map(_joins_slices, getattr(model, "_weight_conversions", None) or ()))


def _joins_slices(conversion: Any) -> bool:
    """Whether a conversion joins tensors along their first axis, which is the one that is sliced."""
    operations = getattr(conversion, "operations", ())
    merged = any(type(each).__name__ == "MergeModulelist" for each in operations)
    return not merged and any(
        type(each).__name__ == "Concatenate" and getattr(each, "dim", None) == 0 for each in operations
    )


def shard(model: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """Slice a model that is whole in this process, as it is in every other.

    Args:
        model: In memory; its blocks are moved to the device one at a time.
        device: Where this process's slices go.
        processes: How many there are.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model

"""Where a model runs: one device, several of one machine, or parts of it in several processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from whence.errors import InputError, ModelError
from whence.model import parallel

__all__ = ["Placement", "home_of", "homes_of", "is_spread", "placing", "resolve_device"]

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is laid out and run; changes no result beyond rounding, so it is no setting of a run.

    Attributes:
        device_map: Spread the layers over the devices of this machine (and its memory and disk): auto, balanced,
            balanced_low_0 or sequential, as accelerate plans it, or a dictionary of module name to device.
        offload: Folder for what fits into neither device nor memory.
        parallel: How processes of torchrun share the model: fsdp (parameters in slices, gathered layer by layer; any
            model) or tensor (transformers' tensor-parallel plan of the model). fsdp if None.
        checkpointing: Keep only the inputs of each block, and run it again in the backward pass.
    """

    device_map: str | dict[str, str | int] | None = None
    offload: str | None = None
    parallel: Literal["fsdp", "tensor"] | None = None
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.device_map, str) and self.device_map not in DEVICE_MAPS:
            raise InputError(
                f"--device-map takes {', '.join(DEVICE_MAPS)}, or from Python a dictionary of module name to device; "
                f"got {self.device_map!r}."
            )
        if self.parallel not in (None, "fsdp", "tensor"):
            raise InputError(f"--parallel takes fsdp or tensor; got {self.parallel!r}.")


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA if there is one.

    Raises:
        InputError: CUDA was asked for and is not there, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise InputError(f"--device takes auto, cpu, cuda or cuda:N; got {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name} was asked for, but this PyTorch ({torch.__version__}) sees no CUDA device.")
    return torch.device(name)


def is_spread(placement: Placement) -> bool:
    """Whether the model is laid out as it is loaded, and must not be moved afterwards."""
    return placement.device_map is not None or parallel.size() > 1


def placing(placement: Placement, adapters: bool) -> dict[str, Any]:
    """What `from_pretrained` is to be told of where the model goes.

    Args:
        placement: The layout.
        adapters: Whether adapters are to be loaded onto it.

    Raises:
        InputError: Settings that do not go together.
        ModelError: A package is missing or too old.
    """
    if parallel.size() > 1:
        return {"distributed_config": _shared(placement, adapters)}
    if placement.parallel is not None:
        raise InputError(
            f"--parallel {placement.parallel} shares a model between processes, and there is one; start them with "
            "torchrun --nproc-per-node N -m whence …"
        )
    if placement.device_map is None:
        if placement.offload is not None:
            raise InputError("--offload goes with --device-map, which says that a model may lie on disk.")
        return {}
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ModelError("--device-map needs the accelerate package: pip install 'whence[spread]'") from error
    offload = {} if placement.offload is None else {"offload_folder": str(Path(placement.offload))}
    return {"device_map": placement.device_map, **offload}


def _shared(placement: Placement, adapters: bool) -> Any:
    try:
        from transformers.distributed import DistributedConfig
    except ImportError as error:
        raise ModelError(
            "sharing a model between processes needs a transformers that has transformers.distributed (5.20 does); "
            "pip install --upgrade transformers"
        ) from error
    if placement.device_map is not None:
        raise InputError("--device-map is for one process; under torchrun the model is shared with --parallel.")
    if placement.parallel == "tensor":
        if adapters:
            raise InputError("--parallel tensor cannot split an adapter; use --parallel fsdp with --adapter.")
        return DistributedConfig(tp_plan="auto")
    return DistributedConfig(fsdp_size=parallel.size())


def home_of(module: nn.Module) -> torch.device | None:
    """Where a module computes: where accelerate brings its inputs, or where its weight is."""
    hook = getattr(module, "_hf_hook", None)
    told = getattr(hook, "execution_device", None)
    if told is not None:
        return torch.device(told if isinstance(told, str | torch.device) else f"cuda:{told}")
    weight = next(module.parameters(recurse=False), None)
    return None if weight is None else weight.device


def homes_of(model: nn.Module) -> dict[str, torch.device]:
    """Where each module with parameters computes, if that is not one device for all; empty otherwise."""
    found = {name: home_of(module) for name, module in model.named_modules()}
    homes = {name: device for name, device in found.items() if device is not None}
    return homes if len(set(homes.values())) > 1 else {}

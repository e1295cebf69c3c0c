"""One model across the processes that torchrun started: the first leads, the others follow its every call.

The leader runs a command as if it were alone. It tells the followers of each call of the model, and in the backward
pass of the gradient of the logits, so that they run the very same call on their parts of the model; what is computed
from it, decided or written is the leader's alone. This file knows processes and messages, and nothing of sites.

A message is a header in JSON and the tensors that it names.
"""

import atexit
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from whence.errors import ModelError

__all__ = [
    "announced",
    "device",
    "dismiss",
    "follows",
    "is_lost",
    "join_team",
    "lead",
    "leads",
    "ranks",
    "receive",
    "refuse_more_models",
    "release",
    "send",
    "size",
    "summed",
    "unreadable",
    "whole",
    "whole_sides",
]

_PATIENCE = timedelta(days=7)  # followers wait as long as the leader reads files or decomposes matrices
_ONE_MODEL = (
    "the processes of torchrun share one model, and a second one was to be loaded beside it. `whence evaluate` "
    "and `whence tune` train further models: run them without torchrun."
)


@dataclass(slots=True)
class _Team:
    """What this process knows of the others.

    Attributes:
        rank: 0 leads.
        size: Number of processes.
        device: Where this process's part of the model is.
        model: The shared model, once it is loaded.
        reads: What followers are to read of the next call with gradients.
    """

    rank: int
    size: int
    device: torch.device
    model: nn.Module | None = None
    reads: dict[str, Any] = field(default_factory=dict)


_team: _Team | None = None


def ranks() -> tuple[int, int]:
    """(number of this process, processes) as torchrun set them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_team() -> bool:
    """Meet the other processes of torchrun, if there are any; whether this one is a follower.

    Raises:
        ModelError: They could not be met.
    """
    global _team
    rank, size = ranks()
    if size == 1 or _team is not None:
        return _team is not None and _team.rank > 0
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=_PATIENCE, device_id=device if on_cuda else None
        )
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"process {rank} could not meet the {size - 1} others: {error}. WORLD_SIZE is set to {size}; start with "
            "torchrun --nproc-per-node N -m whence …, or unset it to work in one process."
        ) from error
    _team = _Team(rank, size, device)
    atexit.register(dismiss)
    return rank > 0


def size() -> int:
    """Processes that share the model; 1 without torchrun."""
    return 1 if _team is None else _team.size


def device() -> torch.device | None:
    """Where this process's part of the model is; None without torchrun."""
    return None if _team is None else _team.device


def leads() -> bool:
    """Whether this process has followers."""
    return _team is not None and _team.rank == 0


def follows() -> bool:
    """Whether this process follows another."""
    return _team is not None and _team.rank > 0


def refuse_more_models() -> None:
    """Refuse to load a model beside the shared one.

    Raises:
        ModelError: There is a shared model already.
    """
    if _team is not None and _team.model is not None:
        raise ModelError(_ONE_MODEL)


def release() -> None:
    """Share the model no longer, so that another may be loaded."""
    if leads():
        send({"do": "release"})
    if _team is not None:
        _team.model = None


def dismiss() -> None:
    """Let the followers go, and part from the other processes.

    Every process does it before it ends: gloo's threads end the interpreter with an abort where they outlive it.
    """
    global _team
    if leads():
        send({"do": "stop"})
    if _team is not None:
        dist.destroy_process_group()
    _team = None


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        word in said for word in ("connection closed", "connection reset", "broken pipe", "remote process exited")
    )


# ------------------------------------------------------------------ messages


def send(header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
    """Tell all followers something."""
    assert _team is not None
    named = dict(tensors or {})
    kinds = {name: (str(each.dtype).removeprefix("torch."), list(each.shape)) for name, each in named.items()}
    text = json.dumps({**header, "tensors": kinds}).encode()
    dist.broadcast(torch.tensor([len(text)]), 0)
    dist.broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8), 0)
    for each in named.values():
        dist.broadcast(_as_bytes(each.detach().to(_team.device).contiguous()), 0)


def receive() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Wait for the leader's next message."""
    assert _team is not None
    length = torch.zeros(1, dtype=torch.int64)
    dist.broadcast(length, 0)
    text = torch.zeros(int(length), dtype=torch.uint8)
    dist.broadcast(text, 0)
    header: dict[str, Any] = json.loads(bytes(text.tolist()))
    tensors = {}
    for name, (dtype, shape) in header.pop("tensors").items():
        tensors[name] = torch.empty(shape, dtype=getattr(torch, dtype), device=_team.device)
        dist.broadcast(_as_bytes(tensors[name]), 0)
    return header, tensors


def _as_bytes(tensor: Tensor) -> Tensor:
    """The same memory as bytes, which every backend sends."""
    return tensor.reshape(-1).view(torch.uint8)


# ------------------------------------------------------------------ the leader's calls


class _TellGradient(torch.autograd.Function):
    """The logits; in the backward pass, followers are told their gradient."""

    @staticmethod
    def forward(_: Any, logits: Tensor) -> Tensor:
        return logits.view_as(logits)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        send({"do": "backward"}, {"gradient": gradient})
        return gradient


def lead(model: nn.Module) -> None:
    """From here on followers run every call of a model that the leader runs; to be called by every process.

    Raises:
        ModelError: There is a shared model already.
    """
    refuse_more_models()
    assert _team is not None
    _team.model = model
    model.requires_grad_(False)  # for good: what is gathered in the forward pass remembers what it was then
    if _team.rank == 0:
        model.register_forward_pre_hook(_tell_call, with_kwargs=True, prepend=True)  # before anything is gathered
        model.register_forward_hook(_tell_output, with_kwargs=True)


def _tell_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert _team is not None
    if args:
        raise ModelError("a model shared by several processes takes its inputs by name.")
    tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in kwargs.items() if name not in tensors}
    send({"do": "call", "arguments": plain, "reads": _team.reads, "grad": torch.is_grad_enabled()}, tensors)


def _tell_output(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    if torch.is_grad_enabled() and output.logits.requires_grad:
        output.logits = _TellGradient.apply(output.logits)  # type: ignore[no-untyped-call]
    return output


@contextmanager
def announced(model: nn.Module, **reads: Any) -> Iterator[None]:
    """Followers are to read the same of a model's next call; nothing without followers."""
    if _team is None or _team.rank or _team.model is not model:
        yield
        return
    _team.reads = reads
    try:
        yield
    finally:
        _team.reads = {}


# ------------------------------------------------------------------ tensors in parts


def whole(part: Tensor, size: int) -> Tensor:
    """A tensor of which each process has some of the last axis: all `size` of it, on every process.

    Processes hold equal slices in order, the last ones less or nothing where the size does not divide evenly.
    """
    if part.shape[-1] == size or _team is None:
        return part
    step = -(-size // _team.size)
    padded = part.new_zeros(*part.shape[:-1], step)
    padded[..., : part.shape[-1]] = part
    parts = [torch.empty_like(padded) for _ in range(_team.size)]
    dist.all_gather(parts, padded)
    return torch.cat(parts, -1)[..., :size]


_WHOLE = ("colwise", "rowwise", "embedding", "replicate")
"""Beginnings of those of transformers' tensor-parallel styles that leave linear layers and embeddings readable."""


def unreadable(model: nn.Module, module: str) -> str:
    """Why a module's weights cannot be read where a tensor-parallel plan splits it; empty if they can.

    Args:
        model: The model.
        module: Name of the module in it.
    """
    if _team is None or getattr(model, "tp_size", None) in (None, 1):
        return ""
    wrong = [style for style in _styles(model, module) if not style.startswith(_WHOLE)]
    return f"split between processes as {wrong[0]}, which is not read; --parallel fsdp reads all" if wrong else ""


def _styles(model: nn.Module, module: str) -> list[str]:
    """How a tensor-parallel plan treats a module and what is in it."""
    general = re.sub(r"\.\d+(?=\.|$)", ".*", module)
    plan: Mapping[str, str] = getattr(model, "tp_plan", None) or {}
    return [style for name, style in plan.items() if name == general or name.startswith(f"{general}.")]


def summed(model: nn.Module, module: str, gradient: Tensor) -> Tensor:
    """A gradient of which each process has a part, where every process holds the weight but only some of the heads."""
    if _team is None or not any("grad_allreduce" in style for style in _styles(model, module)):
        return gradient
    dist.all_reduce(gradient)
    return gradient


def whole_sides(module: nn.Module, inputs: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output gradient of a linear layer, whole where each process has a part of its rows or columns."""
    if _team is None or not isinstance(module, nn.Linear):
        return inputs, grads
    return whole(inputs, module.in_features), whole(grads, module.out_features)

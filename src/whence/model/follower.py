"""What the processes of torchrun other than the first do: run the leader's calls on their part of the model.

See `parallel.py`, which has the messages. A follower computes the factors of the same sites, because parts of them are
gathered from every process, and keeps nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from whence.errors import WhenceError
from whence.factors import AnyFactors
from whence.interfaces import Site
from whence.model.capture import Capture, frozen
from whence.model.devices import Placement
from whence.model.load import LoadedModel
from whence.model.parallel import ranks, receive, release
from whence.model.sites import find_sites

__all__ = ["follow"]


def follow(load: Callable[..., LoadedModel]) -> None:
    """Run what the leader runs, until it says that it is done.

    Args:
        load: Loads the model from the leader's settings.
    """
    loaded: LoadedModel | None = None
    while True:
        header, tensors = receive()
        if header["do"] == "stop":
            return
        if header["do"] == "release":
            loaded = None
            release()
            continue
        if header["do"] == "load":
            loaded = _load(load, header["settings"])
            continue
        assert loaded is not None, "the leader loads a model before it calls it"
        if header["grad"] and header["reads"]:
            _read(loaded, {**header["arguments"], **tensors}, header["reads"])
        else:
            with frozen(loaded.model), torch.no_grad():
                loaded.model(**header["arguments"], **tensors)


def _load(load: Callable[..., LoadedModel], settings: Mapping[str, Any]) -> LoadedModel:
    try:
        return load(**{**settings, "placement": Placement(**settings["placement"])})
    except WhenceError as error:
        rank, size = ranks()
        raise type(error)(f"in process {rank} of {size}: {error}") from error


class _ToldGradient(torch.autograd.Function):
    """A loss of which nothing is known but its gradient by the logits, which the leader tells."""

    @staticmethod
    def forward(_: Any, logits: Tensor) -> Tensor:
        return logits.new_zeros(1)

    @staticmethod
    def backward(_: Any, __: Tensor) -> Tensor:
        header, tensors = receive()
        if header["do"] == "stop":
            raise RuntimeError("remote process exited between a forward and a backward pass")
        assert header["do"] == "backward", f"the leader went on with {header['do']!r} in a backward pass"
        return tensors["gradient"]


def _read(loaded: LoadedModel, call: Mapping[str, Any], reads: Mapping[str, Any]) -> None:
    names = set(reads["sites"])
    sites = [site for site in find_sites(loaded.model, (), loaded.trained) if site.name in names]

    def losses() -> Tensor:
        found: Tensor = _ToldGradient.apply(_logits(loaded.model, call))  # type: ignore[no-untyped-call]
        return found

    Capture(loaded.model, sites).run(losses, reads["rows"], _nothing, reads["width"])


def _logits(model: nn.Module, call: Mapping[str, Any]) -> Tensor:
    logits: Tensor = model(**call).logits
    return logits


def _nothing(_: Site, __: list[AnyFactors]) -> None:
    return None

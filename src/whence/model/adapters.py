"""PEFT adapters on a base model: one, or several that act together."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whence.errors import ModelError
from whence.model.adapter_layers import make_readable

__all__ = ["adapter_names", "load_adapters"]


def adapter_names(adapters: Sequence[str]) -> list[str]:
    """Names under which adapters are loaded: ``default`` for a single one, else the last part of each path.

    >>> adapter_names(["runs/a.v1/", "other/a.v1", "b"])
    ['a_v1', 'a_v1_2', 'b']
    """
    if len(adapters) == 1:
        return ["default"]
    names: list[str] = []
    for each in adapters:
        plain = re.sub(r"[^\w-]", "_", Path(each).name) or "adapter"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names


def load_adapters(model: Any, adapters: Sequence[str]) -> tuple[Any, frozenset[str]]:
    """Put adapters onto a model, all of them active.

    Args:
        model: The base model.
        adapters: Directories made by ``save_pretrained`` of a PEFT model, or hub ids.

    Returns:
        The wrapped model, and the names of the parameters that training the adapters changed.

    Raises:
        ModelError: peft is missing, or an adapter does not fit the model.
    """
    from safetensors import SafetensorError

    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError("--adapter needs the peft package: pip install 'whence[peft]'") from error
    names = adapter_names(adapters)
    wrapped = None
    for name, adapter in zip(names, adapters, strict=True):
        try:
            if wrapped is None:
                wrapped = PeftModel.from_pretrained(model, adapter, adapter_name=name, is_trainable=True)
            else:
                wrapped.load_adapter(adapter, adapter_name=name, is_trainable=True)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ModelError(
                f"could not load the adapter {adapter!r} onto this model: {lines[0] if lines else error}. --adapter "
                "takes a directory made by save_pretrained of a PEFT model, or a hub id; it must have been made for "
                "this model."
            ) from error
    assert wrapped is not None
    if len(names) > 1:
        _activate(wrapped, names)
    make_readable(wrapped)
    trained = frozenset(name for name, parameter in wrapped.named_parameters() if parameter.requires_grad)
    return wrapped, trained


def _activate(wrapped: Any, names: Sequence[str]) -> None:
    """Let several adapters act at once.

    Raises:
        ModelError: They are of a kind that acts alone.
    """
    try:
        wrapped.base_model.set_adapter(list(names))
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"these adapters cannot act together: {error}. Give one --adapter, or adapters of one kind that can (LoRA)."
        ) from error

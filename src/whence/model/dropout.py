"""The dropouts of a model: whether there are any, and setting them all."""

from collections.abc import Iterator

from torch import nn

__all__ = ["has_dropout", "set_dropout"]

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_DROPOUT_NUMBERS = ("attention_dropout", "attn_dropout", "dropout")


def has_dropout(model: nn.Module) -> bool:
    """Whether training the model draws random numbers."""
    return any(value > 0 for _, _, value in _dropouts(model))


def set_dropout(model: nn.Module, probability: float) -> None:
    """Give every dropout of a model this probability."""
    for module, name, _ in _dropouts(model):
        setattr(module, name, type(getattr(module, name))(probability))


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """(module, attribute, probability) of every dropout."""
    for module in model.modules():
        names = ("p",) if isinstance(module, _DROPOUTS) else _DROPOUT_NUMBERS
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield module, name, float(value)

"""The table of methods by what is typed; a method is a file and a line here."""

from whence.methods.base import Method
from whence.methods.ekfac import Ekfac, Kfac
from whence.methods.plain import GradientCosine, GradientDot

__all__ = ["METHODS"]

_ALL: tuple[type[Method], ...] = (
    GradientDot,
    GradientCosine,
    Kfac,
    Ekfac,
)

METHODS: dict[str, type[Method]] = {kind.key: kind for kind in _ALL}

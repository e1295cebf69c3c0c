"""whence: which training documents made a language model say this?

The names below are loaded when first used, so importing the package costs nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from whence.attributor import Attributor as Attributor
    from whence.attributor import attribute as attribute
    from whence.curvature import Damping as Damping
    from whence.errors import WhenceError as WhenceError
    from whence.interfaces import Query as Query
    from whence.interfaces import Trace as Trace
    from whence.interfaces import TraceResult as TraceResult
    from whence.model import Classification as Classification
    from whence.model import SquaredError as SquaredError

_HOMES = {
    "Attributor": "whence.attributor",
    "Classification": "whence.model",
    "Damping": "whence.curvature",
    "Query": "whence.interfaces",
    "SquaredError": "whence.model",
    "Trace": "whence.interfaces",
    "TraceResult": "whence.interfaces",
    "WhenceError": "whence.errors",
    "attribute": "whence.attributor",
}

__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'whence' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__

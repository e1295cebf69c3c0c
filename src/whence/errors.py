"""Every error whence raises on purpose.

    WhenceError
    ├── InputError            what the caller gave cannot be used
    │   ├── CorpusError       a file, a folder or its rows
    │   ├── ModelError        a model, adapter, tokenizer or site pattern
    │   ├── CoverageError     too few of the parameters can be attributed
    │   └── QueryError        a question put to the model
    ├── RunError              the run folder
    │   ├── StaleRunError     it was made from another model, corpus or setting
    │   ├── IncompleteError   a step it needs has not finished
    │   └── StorageError      it cannot be read or written (disk full, permission)
    └── NumericalError        the arithmetic left the range in which it means anything

Each message says what was wrong, what was given and what to do. Catch `WhenceError` to catch all of them.
"""

__all__ = [
    "CorpusError",
    "CoverageError",
    "IncompleteError",
    "InputError",
    "ModelError",
    "NumericalError",
    "QueryError",
    "RunError",
    "StaleRunError",
    "StorageError",
    "WhenceError",
]


class WhenceError(Exception):
    """Root of the tree."""


class InputError(WhenceError):
    """Something the caller gave cannot be used."""


class CorpusError(InputError):
    """A corpus file, folder or glob cannot be read, or has no usable row."""


class ModelError(InputError):
    """A model, adapter, tokenizer, device or site pattern cannot be used."""


class CoverageError(InputError):
    """Too small a share of the parameters is attributed."""


class QueryError(InputError):
    """A query cannot be encoded (empty completion, longer than the context, unknown span)."""


class RunError(WhenceError):
    """Something about the run folder."""


class StaleRunError(RunError):
    """The run folder belongs to another model, tokenizer, corpus or setting."""


class IncompleteError(RunError):
    """A step that this one needs has not finished."""


class StorageError(RunError):
    """The run folder cannot be read or written."""


class NumericalError(WhenceError):
    """A matrix or score is not finite."""

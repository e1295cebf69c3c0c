"""What a trace says about itself: the settings behind a result, and how far such scores were shown to be true."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import whence
from whence.attributor.certified import EXACT, certificate_of
from whence.data import NOTES
from whence.gradients import Recipe
from whence.interfaces import Certificate, RunSummary
from whence.store import Index

if TYPE_CHECKING:
    from whence.attributor.core import Attributor
    from whence.attributor.trace import TraceOptions

__all__ = ["summary"]

_DATA = 12


def summary(owner: "Attributor", recipe: Recipe, index: Index | None, opts: "TraceOptions") -> RunSummary:
    """The settings behind a result."""
    corpus = owner.corpus
    per_document = 0.0 if index is None else index.bytes_per_row * corpus.windows / max(corpus.documents, 1)
    return RunSummary(
        run=str(owner.run.path),
        model=owner.loaded.name,
        data=_some(owner.config.corpus.data),
        documents=corpus.documents,
        windows=corpus.windows,
        tokens=corpus.tokens,
        skipped=sum(corpus.skipped.values()),
        notes=(
            *(f"in {count:,} documents: {NOTES[note]}" for note, count in corpus.notes.items()),
            *(() if opts.method is None else opts.method.notes),
        ),
        trained_on=round(owner.trained_on),
        method=recipe.method if opts.method is None else opts.method.name,
        unit="nats" if opts.method is None else opts.method.unit,
        recipe=_codes(index, opts),
        damping=_damping(recipe, opts),
        bytes_per_document=per_document,
        coverage=owner.coverage,
        certificate=_certificate(owner, recipe, index, opts),
        invariance=owner.invariance,
        whence_version=whence.__version__,
        settings={
            **{"refined": opts.refine, "k": opts.k, "exact": opts.exact, "where": opts.where, "by": opts.by},
            **{f"fit.{name}": value for name, value in owner.config.fit.model_dump(mode="json").items()},
            **({} if opts.method is not None else {f"recipe.{name}": v for name, v in recipe.stored().items()}),
        },
    )


def _codes(index: Index | None, opts: "TraceOptions") -> str:
    if index is not None:
        return index.folder.name
    if opts.method is not None and not opts.method.reads_index:
        return "none of the run's: the method scores documents by itself"
    return "none: the model was run over the documents"


def _certificate(owner: "Attributor", recipe: Recipe, index: Index | None, opts: "TraceOptions") -> Certificate:
    if opts.method is not None:
        return certificate_of(owner, opts.method.name)
    return certificate_of(owner, f"{recipe.name}-{EXACT}" if index is None else index.folder.name)


def _damping(recipe: Recipe, opts: "TraceOptions") -> str:
    if opts.method is not None and recipe.method != "unsaturated":
        return "the method's own"
    if recipe.method == "unsaturated":
        return f"{recipe.damping}, {recipe.weights.head_damping:g} times that at the head"
    return str(recipe.damping) if recipe.method != "identity" else "none"


def _some(data: Sequence[str]) -> str:
    """What was read, in words; a mix may have thousands of files."""
    return ", ".join(data) if len(data) <= _DATA else f"{', '.join(data[:_DATA])} and {len(data) - _DATA:,} more"

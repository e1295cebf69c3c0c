"""A run of another, smaller model over the same tokens: its influence stands for that of the run's own model.

The corpus is shared, so the two must agree on what every token id means; curvature and indexes are the other's own.
"""

import copy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whence.attributor.siblings import share_corpus
from whence.errors import InputError, ModelError
from whence.interfaces import Site
from whence.model import LoadedModel, load_model, load_tokenizer
from whence.runs import Run

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["at_proxy"]

_ENDS = ("", ".down", ".up")


@lru_cache(maxsize=1)
def _loaded(reference: str, dtype: str, device: str, attention: str | None, _: int) -> LoadedModel:
    """The last model that was loaded; the steps of one method ask for it again and again."""
    return load_model(reference, dtype=dtype, device=device, attention=attention)


def at_proxy(owner: "Attributor", reference: str, folder: Path) -> "Attributor":
    """A run of another model over the corpus of a run, in a folder of its own.

    It attributes all its sites, or, where the run was told which (--sites), those of the same names, a product counting
    as the layer in whose place it is.

    Args:
        owner: A run whose corpus has been read.
        reference: Directory of the other model, or a hub id.
        folder: Its run folder; the model's content is part of the name of the run inside.

    Raises:
        ModelError: It cannot be loaded, its tokens are others, or it has none of the sites.
        InputError: Its context is shorter than the run's windows.
        IncompleteError: The owner's corpus has not been read.
    """
    assert owner.corpus.documents
    stamp = max((file.stat().st_mtime_ns for file in Path(reference).glob("*") if file.is_file()), default=0)
    asked = owner.config.model
    loaded = _loaded(reference, asked.dtype, owner.device, owner.source.attention, stamp)
    _refuse_other_tokens(owner, reference, loaded)
    if loaded.context < owner.config.corpus.context:
        raise InputError(
            f"the proxy {reference} takes {loaded.context} tokens, and the run's windows have "
            f"{owner.config.corpus.context}; make a run with --context {loaded.context}, or take another proxy."
        )
    other = copy.copy(owner)
    for part in ("sites", "coverage", "corpus", "invariance"):
        other.__dict__.pop(part, None)
    other.loaded, other.invariance = loaded, None
    sites = _sites(owner, reference, loaded)
    model = asked.model_copy(
        update={
            "model": reference,
            "adapter": (),
            "revision": None,
            "quantize": None,
            "sites": sites,
            "min_coverage": 0.0,
        }
    )
    other.source = model
    other.config = owner.config.model_copy(update={"model": model})
    other.run = Run(folder / str(loaded.fingerprint["weights"]).replace("/", "-")[-40:])
    share_corpus(owner.run.corpus, other.run.corpus)
    other.bind(other.run.read() if other.run.exists else None)
    return other


def _sites(owner: "Attributor", reference: str, loaded: LoadedModel) -> tuple[str, ...]:
    """Patterns of the sites to attribute; empty for all."""
    from whence.attributor.core import sites_of

    if not any(line.reason.startswith("left out by --sites") for line in owner.coverage.sites):
        return ()
    every = {site.name for site in sites_of(loaded, ())}
    wanted = tuple(site.name + end for site in owner.sites for end in _ENDS if site.name + end in every)
    if not wanted:
        raise ModelError(
            f"the proxy {reference} has none of the run's sites ({_named(owner.sites)}); it has "
            f"{', '.join(sorted(every)[:6])} … Open the run without --sites."
        )
    return wanted


def _named(sites: list[Site]) -> str:
    return ", ".join(site.name for site in sites[:6]) + (" …" if len(sites) > 6 else "")


def _refuse_other_tokens(owner: "Attributor", reference: str, loaded: LoadedModel) -> None:
    """Refuse a model to which an id is another token."""
    if loaded.vocabulary < owner.loaded.vocabulary and owner.tokenizer is None:
        raise ModelError(
            f"the proxy {reference} knows {loaded.vocabulary:,} token ids, and the run's model "
            f"{owner.loaded.vocabulary:,}; the run has token ids alone, so a proxy must know all of them."
        )
    if owner.tokenizer is None:
        return
    try:
        other: Any = load_tokenizer(reference)
    except ModelError:
        if loaded.vocabulary == owner.loaded.vocabulary:
            return
        raise
    ours, theirs = owner.tokenizer.get_vocab(), other.get_vocab()
    wrong = sorted(token for token, number in ours.items() if theirs.get(token) != number)
    if wrong or max(ours.values()) >= loaded.vocabulary:
        first = wrong[0] if wrong else max(ours, key=lambda token: ours[token])
        raise ModelError(
            f"the proxy {reference} has another vocabulary than the run's model: {max(len(wrong), 1):,} of "
            f"{len(ours):,} tokens differ, the first being {first!r} ({ours[first]} in the run, "
            f"{theirs.get(first, 'absent')} there). A proxy reads the same token ids; take one of the same tokenizer."
        )

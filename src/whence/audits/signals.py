"""What only the model knows of a document: self-influence, loss, influence on a trusted set.

    loss            -log p per token that carries loss: high where the text is unlike the rest, or wrong
    self-influence  predicted rise of its own loss without it, nats per token: high where nothing else supports it
                    (Koh & Liang 2017); as noisy a witness as the loss, and another one
    trusted         summed influence on the trusted answers, nats; strongly negative speaks against the document

    disagreement    how far the documents nearest by gradient have other tags (disagreement.py), 0 to 1

Those in nats are set against documents of about the same length: longer texts have more of everything. A document
stands out from 3.5 robust standard deviations (median absolute deviation) on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whence.audits.corpus_rows import RawDocument
from whence.audits.disagreement import Near, code_neighbours, code_vectors
from whence.interfaces.quality import Issue

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.interfaces import Query

__all__ = ["against_length", "neighbours_of", "signal_issues", "signals_of", "suspicion"]

Array = NDArray[np.float64]
Report = Callable[[str, int, int], None]
_OUT = 3.5
_NEIGHBOURS = 100


def signals_of(
    owner: "Attributor", documents: Sequence[RawDocument], trusted: Sequence["Query"], report: Report | None = None
) -> list[dict[str, float]]:
    """Signals of every document that the run has too, found by source and row; empty for the others.

    Each is kept in the run (``audits/signals``) under all that decides it, so an audit that was stopped goes on.
    """
    from whence.attributor import exact_influence, self_scores
    from whence.audits.evidence import asked_of, kept
    from whence.fidelity import document_losses

    owner.fit(report)
    corpus, recipe, folder = owner.corpus, owner.recipe(), owner.run.path / "audits" / "signals"
    bound = [*asked_of(owner, ()), recipe.model_dump(mode="json"), owner.config.fit.model_dump(mode="json"),
             owner.config.model.sites, owner.trained_on]  # fmt: skip
    own = _wide(kept(folder, [*bound, "self-influence"], lambda: {"it": self_scores(owner, recipe).influence}))
    losses = _wide(kept(folder, [*asked_of(owner, ()), "loss"], lambda: {"it": document_losses(owner)}))
    masks = (corpus.document(n).loss_mask for n in range(corpus.documents))
    tokens = np.array([max(1, int(mask[1:].sum())) for mask in masks], dtype=np.float64)  # a prompt has no loss
    found = {"self-influence": own / tokens, "loss": losses / tokens}
    if trusted:
        asked = [*bound, "trusted", *asked_of(owner, trusted)]
        found["trusted"] = _wide(
            kept(folder, asked, lambda: {"it": exact_influence(owner, owner.encode_queries(trusted), recipe).sum(0)})
        )
    scaled = {
        "self-influence z": against_length(np.log(np.maximum(found["self-influence"], 1e-12)), tokens),
        "loss z": against_length(found["loss"], tokens),
    }
    if trusted:
        scaled["trusted z"] = against_length(found["trusted"], tokens)
    out: list[dict[str, float]] = []
    for number in _numbers(owner, documents):
        out.append({} if number is None else {k: float(v[number]) for k, v in {**found, **scaled}.items()})
    return out


def neighbours_of(
    owner: "Attributor", documents: Sequence[RawDocument], report: Report | None = None
) -> tuple[list[int], Near]:
    """Places in `documents` of those that the run has, and their nearest by gradient among one another.

    Reads the run's index, which is made if there is none.
    """
    from whence.audits.evidence import asked_of, kept

    owner.fit(report)
    if not owner.index_names():
        owner.index(report=report)
    index, numbers = owner.open_index(), _numbers(owner, documents)
    places = [place for place, number in enumerate(numbers) if number is not None]
    mine = [number for number in numbers if number is not None]

    def made() -> dict[str, Array]:
        near, cosines = code_neighbours(code_vectors(index, owner.corpus.documents)[mine])
        return {"near": near.astype(np.float64), "cosines": cosines.astype(np.float64)}

    bound = [*asked_of(owner, ()), dict(index.recipe), owner.config.fit.model_dump(mode="json"), mine, "neighbours"]
    found = kept(owner.run.path / "audits" / "signals", bound, made)
    return places, (np.asarray(found["near"]).astype(np.int64), np.asarray(found["cosines"]))


def _wide(found: Mapping[str, NDArray[np.float32]]) -> Array:
    return np.asarray(found["it"], dtype=np.float64)


def _numbers(owner: "Attributor", documents: Sequence[RawDocument]) -> list[int | None]:
    """Number in the run of each document, found by source and row; None where the run has it not."""
    corpus = owner.corpus
    place = {(corpus.document(n).source, corpus.document(n).row): n for n in range(corpus.documents)}
    return [place.get((document.source, document.row)) for document in documents]


def against_length(values: Array, lengths: Array) -> Array:
    """Robust z-score of each value among the hundred documents nearest in length.

    Args:
        values: [N].
        lengths: [N], in tokens.
    """
    order = np.argsort(lengths, kind="stable")
    out = np.zeros(len(values))
    half = _NEIGHBOURS // 2
    ranked = values[order]
    for place, number in enumerate(order.tolist()):
        start = min(max(0, place - half), max(0, len(order) - _NEIGHBOURS))
        near = ranked[start : start + _NEIGHBOURS]
        middle = np.median(near)
        spread = 1.4826 * np.median(np.abs(near - middle))
        out[number] = (values[number] - middle) / spread if spread > 0 else 0.0
    return out


def signal_issues(signals: Sequence[Mapping[str, float]]) -> list[list[Issue]]:
    """What stands out, document by document."""
    return [_issues(each) for each in signals]


_TOLD = (
    ("self-influence", 1, "nothing else in the corpus supports it: wrong, or unlike all the rest"),
    ("loss", 1, "the model finds it unlikely even after training on it"),
    ("trusted", -1, "it speaks against the trusted answers"),
)


def _sure(z: float) -> float:
    """A reason to look, never to drop: grows with the distance, faster before it stands out than after, below 0.59."""
    at = 0.3 + 0.04 * _OUT
    if z > _OUT:
        return 0.59 - (0.59 - at) * math.exp(-0.04 / (0.59 - at) * (z - _OUT))
    return at * math.exp(0.8 * (z - _OUT))


def suspicion(found: Mapping[str, float]) -> float:
    """How far a document's signals say that something is wrong, 0 to 0.59, also where none stands out by itself.

    Self-influence and loss are two noisy witnesses of one thing, so their standard scores are added and divided by the
    square root of two (Stouffer 1949); what speaks against the trusted answers counts by itself.

    >>> suspicion({}), round(suspicion({"loss z": -2.0}), 3), round(suspicion({"loss z": 1.75, "trusted z": 9.0}), 2)
    (0.0, 0.005, 0.11)
    """
    own = [found[f"{name} z"] for name in ("self-influence", "loss") if f"{name} z" in found]
    heard = [sum(own) / len(own) ** 0.5] if own else []
    if "trusted z" in found:
        heard.append(-found["trusted z"])
    return max(map(_sure, heard), default=0.0)


def _issues(found: Mapping[str, float]) -> list[Issue]:
    out = []
    for name, sign, words in _TOLD:
        z = sign * found.get(f"{name} z", 0.0)
        if z > _OUT:
            sure = _sure(z)
            told = f"{name} is {z:.1f} spreads from documents of its length: {words}"
            out.append(Issue(kind=name, confidence=sure, reason=told, action="relabel"))
    return out

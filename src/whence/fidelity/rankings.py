"""Rankings that ask neither the question nor the gradient: at random, by length, by the model's own loss.

What a method must beat before anything else is worth measuring. The other baselines are methods of `whence.methods`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from whence.attributor import Attributor, batches
from whence.baselines import alike, random_scores
from whence.errors import NumericalError
from whence.fidelity.methods import MethodSpec
from whence.interfaces import EncodedQuery
from whence.model import CausalLM

__all__ = ["baseline_scores", "document_losses"]

Scores = NDArray[np.float64]
Queries = Sequence[EncodedQuery]


def baseline_scores(owner: Attributor, queries: Queries, spec: MethodSpec) -> Scores:
    """Scores [Q, N] of a baseline that is no method.

    Args:
        owner: A run whose corpus has been read.
        queries: The queries.
        spec: Which baseline.
    """
    assert spec.baseline is not None
    return _BASELINES[spec.baseline](owner, queries, spec)


def _random(owner: Attributor, queries: Queries, spec: MethodSpec) -> Scores:
    corpus = owner.corpus
    hashes = [corpus.document(number).hash for number in range(corpus.documents)]
    return random_scores(hashes, [_content(query) for query in queries], spec.seed)


def _content(query: EncodedQuery) -> str:
    texts = [query.text, *([query.contrast] if query.contrast is not None else [])]
    return "|".join(f"{each.tokens.tolist()}{np.flatnonzero(each.loss_mask).tolist()}" for each in texts)


def _length(owner: Attributor, queries: Queries, _: MethodSpec) -> Scores:
    corpus = owner.corpus
    return alike(np.array([corpus.document(n).loss_mask.sum() for n in range(corpus.documents)]), len(queries))


def _loss(owner: Attributor, queries: Queries, _: MethodSpec) -> Scores:
    return alike(document_losses(owner), len(queries))


@torch.no_grad()
def document_losses(owner: Attributor) -> Scores:
    """The model's own loss on every document, float64 [N]: -log p in nats, summed over its target tokens.

    Raises:
        NumericalError: A loss is not finite.
    """
    rows = np.arange(owner.corpus.windows, dtype=np.int64)
    documents = owner.corpus.documents_of_windows(rows)
    losses = np.zeros(owner.corpus.documents)
    for places, examples, _ in batches(owner, rows):
        found = CausalLM().losses(owner.loaded.model, examples.inputs)
        np.add.at(losses, documents[places], found.double().cpu().numpy())
    if not np.isfinite(losses).all():
        number = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise NumericalError(f"the loss of document {number} is not finite; run the model in another --dtype.")
    return losses


_BASELINES: dict[str, Callable[[Attributor, Queries, MethodSpec], Scores]] = {
    "random": _random,
    "length": _length,
    "loss": _loss,
}

"""Do bad documents stand out by their self-influence?

A document that nothing else supports must be learnt by heart, so its influence on its own loss is high (Koh & Liang
2017, arXiv:1703.04730, section 5.4). Where documents are known to be bad, the area under the ROC curve says how well
that tells them apart, and the share found says what inspecting a few per cent of the corpus would bring. Knows nothing
of models.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from whence.errors import InputError
from whence.fidelity.bootstrap import SHARE, Array, Counts, crossed, estimate
from whence.fidelity.retrieval import gold_ranks
from whence.fidelity.tables import check_scores
from whence.interfaces import Reading

__all__ = ["mislabel"]

_INSPECTED = (1, 5, 10, 20)


def mislabel(
    self_influence: Array, flags: NDArray[np.bool_], *, method: str, draws: int = 1000, seed: int = 0
) -> Reading:
    """How well self-influence tells bad documents from good ones.

    Args:
        self_influence: [N], influence of each document on its own loss; higher is more suspect.
        flags: bool [N], the documents known to be bad.
        method: Its name.
        draws: Bootstrap resamples, of bad documents and of good ones apart.
        seed: Decides them.

    Returns:
        The area under the ROC curve: the chance that a bad document scores above a good one, ties one half; 0.5 says
        nothing. Its interval is 0 to 1 with one bad document or under three good ones. Detail: bad, their share of the
        documents; top_1, top_5, top_10, top_20: the share of bad documents found by inspecting that per cent of the
        documents (rounded up) from the highest down, where ties put the bad ones last.

    Raises:
        InputError: The shapes do not fit, or all documents are bad, or none.
        NumericalError: A score is not finite.

    Example:
        >>> mislabel(np.array([0.1, 0.2, 0.9, 0.3]), np.arange(4) % 2 == 0, method="ours").estimate.value
        0.5
    """
    flags = np.asarray(flags, bool)
    if self_influence.ndim != 1 or flags.shape != self_influence.shape or flags.all() or not flags.any():
        raise InputError(
            "mislabel detection needs one score and one flag for each document, and both bad and good documents; "
            f"given scores {self_influence.shape} and flags {flags.shape}, {flags.sum()} of them bad."
        )
    scores = check_scores(self_influence[None])[0]
    bad, good = scores[flags], np.sort(scores[~flags])
    below, upto = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    area = partial(_areas, below, upto)
    sizes = len(bad), len(good)
    value = float(area(*(np.ones((1, size), np.int64) for size in sizes))[0])
    drawn = crossed(area, sizes, draws, seed, held=len(scores))
    ranks = gold_ranks(scores, np.flatnonzero(flags).tolist())
    depths = {share: int(np.ceil(len(scores) * share / 100)) for share in _INSPECTED}
    detail = {f"top_{share}": float((ranks <= depth).mean()) for share, depth in depths.items()}
    return Reading(
        measure="mislabel",
        method=method,
        estimate=estimate(value, drawn, sizes, SHARE),
        detail={"bad": float(flags.mean()), **detail},
    )


def _areas(below: NDArray[np.intp], upto: NDArray[np.intp], bad: Counts, good: Counts) -> Array:
    """[B] from counts of bad documents [B, ...] and of good ones, these in ascending order of score."""
    passed = np.zeros((len(good), good.shape[1] + 1))
    np.cumsum(good, axis=1, out=passed[:, 1:])
    wins = (passed[:, below] + passed[:, upto]) / 2
    areas: Array = (wins * bad).sum(1) / (bad.shape[1] * good.shape[1])
    return areas

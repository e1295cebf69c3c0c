"""What methods that follow the training share: scores at one checkpoint after another, one model at a time.

Scores of all documents are added up in memory, 8 bytes for each query and document; each checkpoint is one pass of its
model over the corpus.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor import Attributor, Checkpoint, at_checkpoint
from whence.attributor.search import against
from whence.methods.base import Advance, Work
from whence.scoring import Dense

__all__ = ["dots", "paced", "visited"]

Scores = NDArray[np.float64]


def visited(
    work: Work,
    queries: int,
    weights: Sequence[tuple[Checkpoint, float]],
    scores: Callable[[Attributor, Checkpoint, Advance], Scores],
    advance: Advance,
) -> Scores:
    """A weighted sum of scores at checkpoints, float64 [Q, documents]; a checkpoint that weighs nothing is not opened.

    Args:
        work: A run of the model.
        queries: Q.
        weights: Checkpoints with what their scores are multiplied by.
        scores: From a run at a checkpoint to float64 [Q, documents]; must not keep the run.
        advance: Told of tokens as they are done, all checkpoints together counting each token once.
    """
    total = np.zeros((queries, work.owner.corpus.documents))
    told = paced(advance, len(work.checkpoints))
    for checkpoint, weight in weights:
        if weight:
            total += weight * scores(at_checkpoint(work.owner, checkpoint), checkpoint, told)
    return total


def dots(at: Attributor, targets: Mapping[str, Tensor], advance: Advance) -> Scores:
    """``weight / n <target, grad z>`` of all documents, float64 [Q, documents]; targets are site -> [Q, O, I]."""
    dense = Dense(len(next(iter(targets.values()))), at.corpus.documents)
    against(at, [targets], [dense], 1.0 / at.trained_on, None, advance)
    return np.nan_to_num(dense.scores, nan=0.0)


def paced(advance: Advance, passes: int) -> Advance:
    """Progress of several passes over the corpus as that of one."""
    done = 0

    def told(tokens: int) -> None:
        nonlocal done
        before, done = done // passes, done + tokens
        advance(done // passes - before)

    return told

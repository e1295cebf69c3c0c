"""Does an edited model answer like one that was trained without the documents? TOFU's forget quality.

A two-sample Kolmogorov-Smirnov test (Maini et al. 2024, arXiv:2401.06121, section 3) between the edited model's values
and those of a model trained without the documents: losses per token of the forgotten documents, and truth ratios of
the targets. A small p says unlike. A large p says only that so many texts cannot tell them apart: with few texts
everything is alike.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from whence.interfaces import Likeness

__all__ = ["likeness"]

Array = NDArray[np.float64]


def likeness(
    edited: Sequence[Array], trained: Sequence[Array], of: Literal["losses", "truth ratios"]
) -> Likeness | None:
    """The test seed by seed, each edited model against each model trained without the documents.

    Args:
        edited: Values [U] of each edited model.
        trained: Values [U] of each model trained without.
        of: What they are.

    Returns:
        None where there are fewer than two values.

    >>> likeness([np.arange(9.0)], [np.arange(9.0)], "losses").p
    1.0
    """
    if not len(edited) or not len(trained) or len(edited[0]) < 2:
        return None
    found = [ks_2samp(one, other) for one in edited for other in trained]
    p = [float(each.pvalue) for each in found]
    statistic = float(np.median([each.statistic for each in found]))
    return Likeness(of=of, texts=len(edited[0]), statistic=statistic, p=float(np.median(p)), least=min(p))

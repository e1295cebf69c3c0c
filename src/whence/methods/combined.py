"""Combined: evidence of several methods as one score, each in its own standard deviations.

    score(d, q) = sum_m w_m (s_m(d, q) - mean of s_m(., q)) / (standard deviation of s_m(., q))

over all documents; one that a method gives no score, having no target token, has 0 from it before that. A sum of
standard scores is CombSUM of Fox & Shaw (1994), with weights as in Vogt & Cottrell (1999). Parts are specs, with +
between; one with settings stands in parentheses:

    combined:of=unsaturated+tfidf,weights=1+0.2
    combined:of=(unsaturated:bits=exact)+(bm25:k1=1.2)+representations,weights=1+0.2+0

``whence tune --method combined:of=…`` fits the weights on retrained models. The cost is that of the parts; meanwhile
all their scores lie on disk, eight bytes each, since means and deviations are known only at the end.

Ignored: that parts err together. A standard score says nothing of sizes, and a question that no document answers has
scores as large as any other; weights fitted on small models may be wrong for large ones.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from whence.attributor import Step
from whence.errors import InputError
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Method, Scorer, Work
from whence.methods.run import Bound
from whence.runs import storage_errors
from whence.scoring import Fold, Moments, Spool

__all__ = ["Combined", "Standard", "feed_standards", "pieces"]

_STEP = 1 << 16


class Combined(Scorer):
    """A weighted sum of standard scores.

    Attributes:
        of: Specs of the methods, two or more.
        weights: One for each.
    """

    key: ClassVar[str] = "combined"
    title: ClassVar[str] = "combined"
    paper: ClassVar[str] = "Fox & Shaw 1994; Vogt & Cottrell 1999"
    unit: ClassVar[str] = "score"

    of: tuple[str, ...] = ("unsaturated", "tfidf")
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = (1.0, 0.2)

    @field_validator("of", mode="before")
    @classmethod
    def _specs(cls, value: object) -> object:
        """Each as the method itself writes it, so that one combination has one spec."""
        given = [value] if isinstance(value, str) else value
        return tuple(_parse(str(each)).spec for each in given) if isinstance(given, list | tuple) else given

    @field_validator("weights", mode="before")
    @classmethod
    def _alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str | int | float) else value

    @model_validator(mode="after")
    def _fits(self) -> "Combined":
        if len(set(self.of)) < max(2, len(self.of)):
            raise ValueError("'of' needs two or more different methods, with + between, as in of=unsaturated+tfidf")
        if len(self.weights) != len(self.of):
            raise ValueError(f"{len(self.of)} methods need as many 'weights', with + between; got {len(self.weights)}")
        if not any(self.weights):
            raise ValueError("'weights' are all 0")
        return self

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods that are added."""
        return tuple(map(_parse, self.of))

    @property
    def label(self) -> str:
        """``unsaturated EK-FAC + 0.2 TF-IDF``."""
        pairs = zip(self.weights, self.parts, strict=True)
        return " + ".join(part.label if weight == 1 else f"{weight:g} {part.label}" for weight, part in pairs)

    def steps(self, work: Work) -> list[Step]:
        """Those of the parts, one after another; what two of them share is done once."""
        return [step for part in self.parts for step in Bound(part, work).steps]

    def notes(self, work: Work) -> tuple[str, ...]:
        """Those of the parts, each with the part's name."""
        return tuple(f"{part.label}: {note}" for part in self.parts for note in part.notes(work))

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of all parts."""
        return sum(part.bytes_per_document(work) for part in self.parts)

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Every part in turn onto the disk, then all of them piece by piece."""

        def score(number: int, spool: Fold) -> None:
            Bound(self.parts[number], work).stream(queries, [spool], advance)

        feed_standards(work, self, len(queries), self.weights, score, folds)


def feed_standards(
    work: Work,
    method: Method,
    queries: int,
    weights: Sequence[float],
    score: Callable[[int, Fold], None],
    folds: Sequence[Fold],
) -> None:
    """A weighted sum of standard scores, whose parts lie on the disk until all of them are there.

    Args:
        work: The run.
        method: In whose folder they lie meanwhile.
        queries: Q.
        weights: Of each part.
        score: Feeds all scores [Q, M] of a part, by its number, to a fold.
        folds: What takes the sums.
    """
    folder, size = work.folder(method), work.owner.corpus.documents
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scores-", dir=folder) as scratch:
        standards = []
        for number in range(len(weights)):
            spool = Spool(Path(scratch) / f"{number}.npy", queries, size, np.float64)
            score(number, spool)
            standards.append(Standard(spool.scores))
        for numbers in pieces(size):
            total = sum(weight * each.of(numbers) for weight, each in zip(weights, standards, strict=True))
            for fold in folds:
                fold.update(numbers, np.asarray(total))


class Standard:
    """Scores of one method in standard deviations of each query's; documents without a score have 0 before that.

    Args:
        scores: [Q, documents], in memory or on disk.
    """

    def __init__(self, scores: NDArray[np.floating]) -> None:
        self.scores, self.moments = scores, Moments(len(scores))
        for numbers in pieces(scores.shape[1]):
            self.moments.update(numbers, self._raw(numbers))

    def of(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Standard scores of some documents [Q, M]; 0 for a query whose scores are all equal."""
        shifted, spread = self._raw(numbers) - self.moments.mean[:, None], self.moments.std[:, None]
        out: NDArray[np.float64] = np.divide(shifted, spread, out=np.zeros_like(shifted), where=spread > 0)
        return out

    def _raw(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.nan_to_num(np.asarray(self.scores[:, numbers[0] : numbers[-1] + 1], dtype=np.float64), nan=0.0)


def pieces(size: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of all documents, some at a time."""
    for start in range(0, size, _STEP):
        yield np.arange(start, min(start + _STEP, size), dtype=np.int64)


def _parse(spec: str) -> Method:
    """A part from its spec.

    Raises:
        ValueError: There is no such method.
    """
    from whence.methods.parse import parse_method  # the table of methods has this one

    try:
        return parse_method(spec)
    except InputError as error:
        raise ValueError(str(error)) from error

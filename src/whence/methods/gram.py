"""Second moments of sketches: summed over the codes of all documents, decomposed once, read by queries.

    M = sum_z w_z phi_z phi_z^T / sum_z w_z = V diag(m) V^T      f(M) phi = V f(m) V^T phi

Summed in float64 over shares in their order, site by site, so that memory is that of one site. Decomposed, so that
every damping (a multiple of the mean eigenvalue of a site), square root and shrinkage is a function of eigenvalues.

Eigenvalues of K coordinates estimated from N documents spread by a factor of (1 ± sqrt(K / N))^2 around their truth,
and with N < K most are zero: then damping is all there is in those directions. One-bit codes add their own noise, about
0.57 of the mean eigenvalue, to every eigenvalue.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from whence.attributor import ask
from whence.attributor.curvatures import read_some, save_tensors
from whence.data import CorpusShare
from whence.errors import IncompleteError, NumericalError
from whence.interfaces import EncodedQuery
from whence.methods.sketching import Sketch, feed, per_nat
from whence.runs import is_done, publish, require_done
from whence.scoring import Fold

__all__ = ["Gram", "GramStep", "load_gram", "refuse_singular", "stream_solved"]

Advance = Callable[[int], None]
_MOST_PARTS = 32  # each leaves the size of the Gram matrices on disk until the merge


@dataclass(frozen=True, slots=True)
class Gram:
    """Second moments of one site's sketches, decomposed.

    Attributes:
        values: m, float64 [B, K], ascending, never negative.
        vectors: V, float64 [B, K, K]; columns are eigenvectors.
    """

    values: Tensor
    vectors: Tensor

    @property
    def mean(self) -> float:
        """Mean eigenvalue."""
        return float(self.values.mean())

    def damped(self, damping: float) -> Tensor:
        """``m + damping * mean(m)``, [B, K]; ones where a site has seen no gradient at all.

        >>> Gram(torch.tensor([[1.0, 3.0]]), torch.eye(2)[None]).damped(0.5)
        tensor([[2., 4.]])
        """
        return self.values + damping * self.mean if self.mean > 0 else torch.ones_like(self.values)

    def applied(self, rows: Tensor, scales: Tensor) -> Tensor:
        """``V diag(scales) V^T phi`` of rows [Q, B, K]."""
        turned = torch.einsum("qbk,bkl->qbl", rows.to(self.vectors), self.vectors) * scales
        return torch.einsum("qbl,bkl->qbk", turned, self.vectors)

    def solve(self, rows: Tensor, damping: float) -> Tensor:
        """``(M + l)^-1 phi`` of rows [Q, B, K]."""
        return self.applied(rows, self.damped(damping).reciprocal())

    def squares(self, rows: Tensor, damping: float) -> Tensor:
        """``phi^T (M + l)^-1 phi`` of rows [N, B, K], [N]."""
        turned = torch.einsum("qbk,bkl->qbl", rows.to(self.vectors), self.vectors)
        return (turned.square() / self.damped(damping)).sum((1, 2))


class GramStep:
    """Gram matrices of all names of a sketch."""

    name = "gram"

    def __init__(self, sketch: Sketch) -> None:
        self.sketch = sketch

    def items(self) -> list[tuple[int, tuple[CorpusShare, ...]]]:
        """Runs of neighbouring shares, numbered."""
        shares = self.sketch.owner.corpus.shares
        groups = np.array_split(np.arange(len(shares)), min(len(shares), _MOST_PARTS))
        return [(number, tuple(shares[i] for i in group)) for number, group in enumerate(groups)]

    def tokens(self, item: tuple[int, tuple[CorpusShare, ...]]) -> int:
        """Tokens of its shares."""
        return sum(share.tokens for share in item[1])

    def _part(self, number: int) -> Path:
        return self.sketch.folder / "gram-parts" / f"{number:03d}"

    def done(self, item: tuple[int, tuple[CorpusShare, ...]]) -> bool:
        """Whether its sums are there."""
        return self.finished() or is_done(self._part(item[0]))

    def run(self, item: tuple[int, tuple[CorpusShare, ...]], shares: tuple[int, int], advance: Advance) -> None:
        """Sum over the documents of some shares, one name after another."""
        sketch = self.sketch
        with publish(self._part(item[0])) as temporary:
            for name, (matrices, kept) in sketch.sizes.items():
                total = torch.zeros(matrices, kept, kept, dtype=torch.float64)
                for share in item[1]:
                    for _, rows in sketch.documents(share, name):
                        by_matrix = rows.transpose(0, 1)
                        total += share.weight * (by_matrix.mT @ by_matrix)
                save_tensors(temporary / f"{name}.safetensors", {"sum": total})
            advance(self.tokens(item))

    def finished(self) -> bool:
        """Whether the matrices are there."""
        return is_done(self.sketch.folder / "gram")

    def finish(self) -> bool:
        """Add the parts in order and decompose, once every part is there."""
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        try:
            self._merge()
        except IncompleteError:  # another worker was done first and has dropped the parts
            if not self.finished():
                raise
        return True

    def _merge(self) -> None:
        documents = self.sketch.owner.corpus.trained_documents
        with publish(self.sketch.folder / "gram", {"documents": documents}) as temporary:
            for name, (matrices, kept) in self.sketch.sizes.items():
                total = torch.zeros(matrices, kept, kept, dtype=torch.float64)
                for number, _ in self.items():
                    require_done(self._part(number), "the same command")
                    total += read_some(self._part(number) / f"{name}.safetensors", ["sum"])["sum"]
                values, vectors = _decomposed(total / documents, name)
                save_tensors(temporary / f"{name}.safetensors", {"values": values, "vectors": vectors})
        shutil.rmtree(self.sketch.folder / "gram-parts", ignore_errors=True)


def _decomposed(matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
    if not torch.isfinite(matrix).all():
        raise NumericalError(
            f"the second moments of the sketches of {name} are not finite: gradients overflowed. Run the model in "
            "another --dtype (bfloat16 or float32 instead of float16), or leave the site out with --sites."
        )
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return values.clamp_min(0.0), vectors


def load_gram(sketch: Sketch) -> dict[str, Gram]:
    """The Gram matrices of a sketch by name.

    Raises:
        IncompleteError: They have not been summed.
    """
    folder = sketch.folder / "gram"
    require_done(folder, "the same command")
    out = {}
    for name in sketch.sizes:
        found = read_some(folder / f"{name}.safetensors", ["values", "vectors"])
        out[name] = Gram(found["values"], found["vectors"])
    return out


def stream_solved(
    sketch: Sketch, queries: Sequence[EncodedQuery], damping: float, folds: Sequence[Fold], advance: Advance
) -> None:
    """Feed ``(w/n) sum_s phi_q^T (M_s + l_s)^-1 phi_z`` of all documents to folds."""
    grams = load_gram(sketch)
    asked = sketch.of(ask(sketch.owner, queries).blocks)
    solved = {name: grams[name].solve(rows, damping) for name, rows in asked.items()}
    feed(sketch, solved, folds, per_nat(sketch.owner), advance)


def refuse_singular(gram: Gram, damping: float, named: str) -> None:
    """Refuse a matrix whose inverse would be noise.

    Raises:
        NumericalError: Its condition number is above 1 / eps of float64; says what to do.
    """
    values = gram.damped(damping)
    smallest, largest = float(values.min()), float(values.max())
    if smallest <= largest * torch.finfo(values.dtype).eps:
        raise NumericalError(
            f"{named}: the second moment of the documents' {values.shape[-1]} coordinates is singular (eigenvalues "
            f"{smallest:.3g} to {largest:.3g}), and with damping={damping:g} its inverse would be noise. Give a "
            "damping above 0 (0.1 is the default), or fewer coordinates than there are documents."
        )

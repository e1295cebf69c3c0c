"""GraSS and FactGraSS: a sparse mask and a sparse Johnson-Lindenstrauss map, then the projected Fisher inverse.

    phi = S vec(mask(G))          mask: spread * k random coordinates of G; S: K x M with one random sign per column
    factored: mask(G) = sum_t g_t[rows] a_t[columns]^T, so that G is never formed

Hu et al. 2025, arXiv:2505.18976. Score as LoGra's: (w/n) sum_s phi_q^T (M_s + l_s)^-1 phi_z with M the Fisher matrix of
the data's labels. The mask is drawn without a look at the gradients (the paper's RM) and scaled so that inner products
stay as they are on average. Nearly free: a document costs its masked coordinates. A stack's experts share the mask.

Ignored: all coupling between sites, and every coordinate outside the mask. That hurts where gradients are heavy-tailed:
a mask of an embedding misses most tokens of most documents, and influence through them is lost, not blurred.

Axes: M masked coordinates, K = k kept ones.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from whence.attributor import Step
from whence.attributor.steps import CorpusStep
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work
from whence.methods.gram import GramStep, stream_solved
from whence.methods.sketching import Depth, Sketch, SketchStep
from whence.projection import SketchMap, sparse_sketch
from whence.scoring import Fold

__all__ = ["Grass"]


class Grass(Scorer):
    """Influence in sparsely projected gradients.

    Attributes:
        k: Coordinates kept of each site; a stack's experts share them, with at least 64 for each.
        spread: Coordinates in the mask for each one kept.
        factored: Mask both factors (FactGraSS) instead of single coordinates (GraSS).
        damping: Lambda as a multiple of the mean eigenvalue of each site's projected Fisher matrix.
        bits: Bits per stored coordinate: 1, 8, 16, or 32 for numbers as they are.
        seed: Of masks and maps.
    """

    key: ClassVar[str] = "grass"
    title: ClassVar[str] = "GraSS"
    paper: ClassVar[str] = "Hu et al. 2025, arXiv:2505.18976"

    k: int = Field(default=256, ge=1, le=1 << 16)
    spread: int = Field(default=4, ge=1, le=1024)
    factored: bool = True
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    bits: Depth = 16
    seed: int = Field(default=0, ge=0)

    def sketch(self, work: Work) -> Sketch:
        """The sketches; any damping reads the same ones."""
        plain = self.model_copy(update={"damping": type(self).model_fields["damping"].default})
        return Sketch(work.owner, lambda: work.folder(plain), self.bits, lambda: self._maps(work), seed=self.seed)

    def _maps(self, work: Work) -> dict[str, SketchMap]:
        owner = work.owner
        where = owner.loaded.device_of
        return {
            site.name: sparse_sketch(site, self.k, self.spread, self.factored, self.seed, where(site), owner.wide)
            for site in owner.sites
        }

    def steps(self, work: Work) -> list[Step]:
        """Sketches of all documents, then their second moments."""
        sketch = self.sketch(work)
        return [CorpusStep(work.owner), SketchStep(sketch), GramStep(sketch)]

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of codes."""
        return self.sketch(work).bytes_per_document()

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Scan the codes for the queries' solved sketches."""
        stream_solved(self.sketch(work), queries, self.damping, folds, advance)

"""EK-FAC with a global low-rank correction: coupling between sites and coordinates as far as sampled gradients show it.

    C = (1 - alpha) diag Lambda + alpha sum_m w_m u_m u_m^T + l      in EK-FAC's eigenbasis, over all sites; sum w = 1

u_m is the gradient of a document under labels drawn from the model, rotated: E[u u^T] is the Fisher matrix, of which
Lambda is the diagonal. alpha shrinks it towards that diagonal, as Ledoit & Wolf (2004,
doi:10.1016/S0047-259X(03)00096-4) shrink covariances. With D = (1 - alpha) Lambda + l and rows R_m = sqrt(w_m) u_m,
[M, P], Woodbury's identity gives

    C^-1 q = D^-1 q - D^-1 R^T (I / alpha + R D^-1 R^T)^-1 R D^-1 q

so that only the query changes, and M x M is all that is inverted. On a small Llama (M = 3,200, alpha 0.05 to 0.1) it
raised the LDS of EK-FAC from 0.450 to 0.500, with a quarter of the rows to 0.483; alpha towards 1 was worse than
EK-FAC.

Rows lie on disk, whitened, in half or single precision: 2 P or 4 P bytes each for P parameters. They are made once, do
not depend on alpha and damping, and are read once for the Gram matrix and twice for every group of queries; some
columns of two parts are held at a time, and 8 M^2 bytes. What is ignored: directions that M documents do not show. It
hurts where M is far below the number of directions that matter: then little is corrected. For billions of parameters
rows are too large; narrow the sites.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whence.attributor import Question, Step, batches
from whence.attributor.fitting import fit_sample, windows_of
from whence.attributor.steps import Advance
from whence.curvature import SiteCurvature
from whence.errors import NumericalError
from whence.factors import AnyFactors, Side
from whence.gradients import Examples, products
from whence.gradients.passes import rotated_blocks
from whence.interfaces import Site
from whence.methods.base import Solver, Work, ekfac_steps
from whence.methods.ekfac import curvature_of
from whence.runs import is_done, open_array, publish, require_done, storage_errors, write_array

__all__ = ["LowRank"]

_PART = 64
"""Documents of a part: what a kill can lose, and what a worker takes."""
_HELD = 256 << 20
"""Bytes of rows that are held at once, if a single row is not more."""
_STORED_DAMPING = 0.1
"""Rows are whitened with this damping, whatever the method's own, so that half precision holds them."""

Piece = tuple[Site, slice]


class LowRank(Solver):
    """EK-FAC corrected by sampled gradients of all sites together.

    Attributes:
        alpha: Weight of the sampled gradients' own second moment; 0 is EK-FAC.
        damping: Lambda as a multiple of each site's mean eigenvalue.
        documents: Documents whose gradients are taken; those of the run's own fit sample if absent.
        draws: Labels drawn for each of them; a row each.
        precision: Of the stored rows: half or single.
    """

    key: ClassVar[str] = "lowrank"
    title: ClassVar[str] = "EK-FAC + low rank"
    paper: ClassVar[str] = "whence; shrinkage as Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4"

    alpha: float = Field(default=0.1, ge=0, lt=1)
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    documents: int | None = Field(default=None, ge=1)
    draws: int = Field(default=1, ge=1)
    precision: Literal["half", "single"] = "half"

    def steps(self, work: Work) -> list[Step]:
        """EK-FAC, rows, their Gram matrix."""
        corrected: list[Step] = [RowStep(self, work), GramStep(self, work)]
        return ekfac_steps(work.owner) + (corrected if self.alpha else [])

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """``C^-1 q`` by Woodbury's identity."""
        damped = curvature_of(work, "ekfac", self.damping)
        turned = {
            name: curvature.rotate(question.blocks[name]) / self.diagonal(curvature, damping)
            for name, (curvature, damping) in damped.items()
        }
        if self.alpha:
            rows = Rows(self, work)
            factor = GramStep(self, work).factor
            inner = torch.cholesky_solve(rows.along(turned), factor)
            for name, correction in rows.together(inner).items():
                curvature, damping = damped[name]
                turned[name] = turned[name] - correction / self.diagonal(curvature, damping)
        return {name: curvature.unrotate(turned[name]) for name, (curvature, _) in damped.items()}

    def diagonal(self, curvature: SiteCurvature, damping: float) -> Tensor:
        """D of a site, [O, I]."""
        return curvature.eigenvalues * (1.0 - self.alpha) + damping


class Rows:
    """Stored rows R, read back a few columns at a time.

    Args:
        method: Which documents, how many draws.
        work: Where they lie.
    """

    def __init__(self, method: LowRank, work: Work) -> None:
        self.method, self.work = method, work
        sites = work.owner.sites
        ends = np.cumsum([site.size for site in sites])
        self.places = {site.name: slice(int(end - site.size), int(end)) for site, end in zip(sites, ends, strict=True)}

    @cached_property
    def folder(self) -> Path:
        """Shared by all alphas and dampings."""
        kept = {name: getattr(self.method, name) for name in ("documents", "draws", "precision")}
        return self.work.folder(LowRank(**kept)) / "rows"

    @cached_property
    def parts(self) -> list[NDArray[np.int64]]:
        """Documents by part."""
        documents = fit_sample(self.work.owner, self.method.documents).documents
        return [np.sort(part) for part in np.array_split(documents, -(-len(documents) // _PART))]

    @cached_property
    def weights(self) -> list[Tensor]:
        """sqrt(w) of every row by part; the squares of all add up to one."""
        sample, draws = fit_sample(self.work.owner, self.method.documents), self.method.draws
        counts = [np.repeat(sample.times(part), draws) for part in self.parts]
        total = sum(float(each.sum()) for each in counts)
        return [torch.from_numpy(np.sqrt(each / total)) for each in counts]

    @cached_property
    def whitening(self) -> dict[str, Tensor]:
        """``(Lambda + l)^-1/2`` of what is stored, flat by site."""
        damped = curvature_of(self.work, "ekfac", _STORED_DAMPING)
        return {name: (each.eigenvalues + damping).rsqrt().flatten() for name, (each, damping) in damped.items()}

    def path(self, part: int) -> Path:
        """Folder of a part."""
        return self.folder / f"{part:04d}"

    def pieces(self) -> Iterator[Piece]:
        """All columns, site by site, few enough at a time for the rows of a part."""
        most = max(len(part) for part in self.parts) * self.method.draws
        step = max(1, _HELD // (8 * most))
        for site in self.work.owner.sites:
            for first in range(0, site.size, step):
                yield site, slice(first, min(first + step, site.size))

    def read(self, part: int, piece: Piece) -> Tensor:
        """Columns of a part's rows, [m, k], as they are: weighted and not whitened."""
        site, columns = piece
        require_done(self.path(part), "whence evaluate")
        place = slice(self.places[site.name].start + columns.start, self.places[site.name].start + columns.stop)
        owner, stored = self.work.owner, open_array(self.path(part) / "rows.npy")
        found = torch.from_numpy(np.ascontiguousarray(stored[:, place])).to(owner.loaded.device_of(site), owner.wide)
        return found * self.weights[part].to(found)[:, None] / self.whitening[site.name][columns]

    def along(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """``R v`` of vectors [Q, O, I] by site, float64 [M, Q] on the CPU."""
        out = []
        for part in range(len(self.parts)):
            products = (
                self.read(part, (site, columns)) @ vectors[site.name].flatten(1)[:, columns].mT
                for site, columns in self.pieces()
            )
            out.append(torch.stack([each.double().cpu() for each in products]).sum(0))
        return torch.cat(out)

    def together(self, numbers: Tensor) -> dict[str, Tensor]:
        """``R^T c`` of numbers [M, Q]: site -> [Q, O, I]."""
        sites, count = self.work.owner.sites, numbers.shape[1]
        by_part = numbers.split([len(each) for each in self.weights])
        out = {name: each.new_zeros(count, len(each)) for name, each in self.whitening.items()}
        for site, columns in self.pieces():
            for part, some in enumerate(by_part):
                rows = self.read(part, (site, columns))
                out[site.name][:, columns] += some.mT.to(rows) @ rows
        return {site.name: out[site.name].reshape(count, *site.shape) for site in sites}


class RowStep:
    """Rotated, whitened gradients of documents under labels drawn from the model, stored by part."""

    name = "sampled gradients"

    def __init__(self, method: LowRank, work: Work) -> None:
        self.method, self.work, self.rows = method, work, Rows(method, work)

    def items(self) -> list[int]:
        """Part numbers."""
        return list(range(len(self.rows.parts)))

    def tokens(self, item: int) -> int:
        """Tokens of a part, taken as an even share of the corpus'."""
        corpus = self.work.owner.corpus
        return int(len(self.rows.parts[item]) * self.method.draws * corpus.tokens / max(corpus.documents, 1))

    def done(self, item: int) -> bool:
        """Whether a part's rows are there."""
        return is_done(self.rows.path(item))

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Make the rows of one part, some documents at a time."""
        documents, draws, width = self.rows.parts[item], self.method.draws, self._width
        held = max(1, _HELD // (8 * width))
        dtype = np.float16 if self.method.precision == "half" else np.float32
        with publish(self.rows.path(item), {"documents": len(documents), "draws": draws}) as temporary:
            path, shape = temporary / "rows.npy", (len(documents) * draws, width)
            with storage_errors(path):
                stored = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            for first in range(0, len(documents), held):
                some = documents[first : first + held]
                for draw in range(draws):
                    with np.errstate(over="ignore"):
                        made = self._gradients(some, draw, advance).cpu().numpy().astype(dtype)
                    if not np.isfinite(made).all():
                        raise NumericalError(
                            "a sampled gradient is not finite in the stored precision; use precision=single, or run "
                            "the model in another --dtype."
                        )
                    stored[np.arange(first, first + len(some)) * draws + draw] = made
            stored.flush()

    @property
    def _width(self) -> int:
        return sum(site.size for site in self.work.owner.sites)

    @cached_property
    def _bases(self) -> dict[str, SiteCurvature]:
        return {name: each for name, (each, _) in curvature_of(self.work, "ekfac", _STORED_DAMPING).items()}

    def _gradients(self, documents: NDArray[np.int64], draw: int, advance: Advance) -> Tensor:
        """Rows [m, P] of some documents: those of a document's windows are added."""
        owner = self.work.owner
        rows = windows_of(owner.corpus, documents)
        places = np.searchsorted(documents, owner.corpus.documents_of_windows(rows))
        out = torch.zeros(len(documents), self._width, dtype=owner.wide)
        for batch, examples, tokens in batches(owner, rows):
            self._add(out, examples, torch.from_numpy(places[batch]), draw)
            advance(tokens)
        for name, place in self.rows.places.items():
            out[:, place] *= self.rows.whitening[name].cpu()
        return out

    def _add(self, out: Tensor, examples: Examples, places: Tensor, draw: int) -> None:
        fit, cache = self.work.owner.config.fit, dict[str, Side]()

        def consume(site: Site, uses: list[AnyFactors]) -> None:
            columns, first = self.rows.places[site.name], 0
            with products(fit.precision):
                for blocks in rotated_blocks(site, uses, self._bases[site.name], cache):
                    at = places[first : first + len(blocks)]
                    out[:, columns].index_add_(0, at, blocks.flatten(1).to(out))
                    first += len(blocks)

        self.work.owner.runner.examples(examples, consume, (f"low rank {draw}", fit.seed))

    def finished(self) -> bool:
        """Whether every part is there."""
        return all(self.done(item) for item in self.items())

    def finish(self) -> bool:
        """Nothing to merge: rows are read where they lie."""
        return self.finished()


class GramStep:
    """``I / alpha + R D^-1 R^T`` [M, M], by part, and its Cholesky factor."""

    name = "gram matrix"

    def __init__(self, method: LowRank, work: Work) -> None:
        self.method, self.work, self.rows = method, work, Rows(method, work)

    @cached_property
    def folder(self) -> Path:
        """A folder of its own for every setting."""
        return self.work.folder(self.method)

    @property
    def factor(self) -> Tensor:
        """The Cholesky factor, float64 [M, M]."""
        require_done(self.folder / "factor", "whence evaluate")
        return torch.from_numpy(np.array(open_array(self.folder / "factor" / "factor.npy")))

    def path(self, item: int) -> Path:
        """Folder of a part's rows of the matrix."""
        return self.folder / "gram" / f"{item:04d}"

    def items(self) -> list[int]:
        """Part numbers."""
        return list(range(len(self.rows.parts)))

    def tokens(self, item: int) -> int:
        """No tokens: pairs of parts."""
        return item + 1

    def done(self, item: int) -> bool:
        """Whether a part's inner products with those up to it are there."""
        return self.finished() or is_done(self.path(item))

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Inner products of a part's rows with all up to them."""
        weights = {
            name: 1.0 / self.method.diagonal(*each).flatten()
            for name, each in curvature_of(self.work, "ekfac", self.method.damping).items()
        }
        counts = [len(each) for each in self.rows.weights[: item + 1]]
        found = torch.zeros(counts[-1], sum(counts), dtype=torch.float64)
        for site, columns in self.rows.pieces():
            own = self.rows.read(item, (site, columns))
            weighted = own * weights[site.name][columns]
            for other, place in zip(range(item + 1), found.split(counts, 1), strict=True):
                rows = own if other == item else self.rows.read(other, (site, columns))
                place += (weighted @ rows.mT).double().cpu()
        advance(item + 1)
        with publish(self.path(item)) as temporary:
            write_array(temporary / "gram.npy", found.numpy())

    def finished(self) -> bool:
        """Whether the factor is there."""
        return is_done(self.folder / "factor")

    def finish(self) -> bool:
        """Put the parts together and factor."""
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        counts = [len(each) for each in self.rows.weights]
        gram = torch.zeros(sum(counts), sum(counts), dtype=torch.float64)
        for item, place in enumerate(gram.split(counts)):
            part = np.array(open_array(self.path(item) / "gram.npy"))
            place[:, : part.shape[1]] = torch.from_numpy(part)
        gram = gram.tril() + gram.tril(-1).mT
        gram.diagonal().add_(1.0 / self.method.alpha)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise NumericalError("the Gram matrix of sampled gradients is not finite; fit again in another --dtype.")
        with publish(self.folder / "factor", {"rows": len(gram)}) as temporary:
            write_array(temporary / "factor.npy", factor.numpy())
        return True

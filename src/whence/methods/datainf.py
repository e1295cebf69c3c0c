"""DataInf: the mean of inverses in place of the inverse of a mean (Kwon et al. 2024, arXiv:2310.00902).

    v = (1 / l) (q - sum_i w_i g_i <g_i, q> / (l + |g_i|^2))      site by site;  sum w = 1

g_i are gradients of documents of a sample, with the data's own labels, summed over a document's windows;
l = damping * mean |g_i|^2 / P of the site (the paper's 0.1). Each (g_i g_i^T + l)^-1 is exact by Sherman & Morrison;
the mean of them is not the inverse of the mean. What is ignored: that difference, which grows with the number of
parameters: of the curvature only directions of single gradients are left, and each is weakened by 1 / n at most. The
paper argues for LoRA's few parameters; beside full weights it behaves like gradient dot products (arXiv:2412.03906
measured cosines above 0.95). Empirical gradients also vanish for documents that were learnt by heart.

The fit costs one backward pass over the sample, and stores a number for each document and site. A group of queries
costs two passes over it, and Q P numbers: gradients are never held.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from whence.attributor import Question, Step, batches
from whence.attributor.fitting import fit_sample, windows_of
from whence.attributor.samples import Sample
from whence.attributor.steps import Advance
from whence.factors import AnyFactors, block_pieces
from whence.gradients import Examples, exact_scores, measure_each, measure_together, products
from whence.interfaces import Site
from whence.methods.base import Solver, Work
from whence.runs import is_done, open_array, publish, require_done, write_array

__all__ = ["DataInf"]

_PART = 256
"""Documents of a part: what a kill can lose, and what a worker takes."""


class DataInf(Solver):
    """Influence with DataInf.

    Attributes:
        damping: Lambda as a multiple of each site's mean squared gradient.
        sample: Share of the corpus that gradients are taken of; the run's own fit sample if absent.
    """

    key: ClassVar[str] = "datainf"
    title: ClassVar[str] = "DataInf"
    paper: ClassVar[str] = "Kwon et al. 2024, arXiv:2310.00902"

    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    sample: float | None = Field(default=None, gt=0, le=1)

    def steps(self, work: Work) -> list[Step]:
        """Squared norms of the sample's gradients."""
        return [*super().steps(work), NormStep(self, work)]

    def drawn(self, work: Work) -> Sample:
        """The documents, and how often each counts."""
        count = None if self.sample is None else int(np.ceil(self.sample * work.owner.corpus.documents))
        return fit_sample(work.owner, count)

    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The queries' vectors."""
        owner, step, sample = work.owner, NormStep(self, work), self.drawn(work)
        documents, squares = step.documents, step.squares
        weights = sample.times(documents) / sample.times(documents).sum()
        sizes = np.array([site.size for site in owner.sites])
        lambdas = self.damping * (weights @ squares) / sizes
        lambdas[lambdas == 0] = 1.0
        along = self._along(work, documents, question)  # [S, M, Q]
        shares = along * (weights / (lambdas[:, None] + squares.T))[:, :, None]
        summed = self._together(work, documents, shares, question)
        return {
            site.name: (question.blocks[site.name] - summed[site.name]) / float(lambdas[number])
            for number, site in enumerate(owner.sites)
        }

    @staticmethod
    def _along(work: Work, documents: NDArray[np.int64], question: Question) -> NDArray[np.float64]:
        """``<g_i, q>`` by site, [S, M, Q]."""
        owner = work.owner
        rows = windows_of(owner.corpus, documents)
        places = np.searchsorted(documents, owner.corpus.documents_of_windows(rows))
        out = np.zeros((len(documents), len(owner.sites), len(question.queries)))
        for batch, examples, _ in batches(owner, rows):
            found, _ = exact_scores(owner.runner, examples, question.blocks, per_site=True)
            np.add.at(out, places[batch], found.double().cpu().numpy().swapaxes(0, 1))
        return out.swapaxes(0, 1)

    @staticmethod
    def _together(
        work: Work, documents: NDArray[np.int64], shares: NDArray[np.float64], question: Question
    ) -> dict[str, Tensor]:
        """``sum_i c_i g_i`` by site, [Q, O, I]."""
        owner, numbers = work.owner, {site.name: n for n, site in enumerate(work.owner.sites)}
        rows = windows_of(owner.corpus, documents)
        places = np.searchsorted(documents, owner.corpus.documents_of_windows(rows))
        out = {name: torch.zeros_like(each) for name, each in question.blocks.items()}
        for batch, examples, _ in batches(owner, rows):
            mine = shares[:, places[batch]]

            def consume(site: Site, uses: list[AnyFactors], mine: NDArray[np.float64] = mine) -> None:
                numbered, first = torch.from_numpy(mine[numbers[site.name]]).to(out[site.name]), 0
                with products("full"):
                    for blocks in block_pieces(uses):
                        some = numbered[first : first + len(blocks)]
                        out[site.name] += torch.einsum("nq,n...->q...", some, blocks.to(some))
                        first += len(blocks)

            owner.runner.examples(examples, consume)
        return out


class NormStep:
    """Squared norms of documents' gradients, by site and part."""

    name = "squared gradients"

    def __init__(self, method: DataInf, work: Work) -> None:
        self.method, self.work = method, work

    @cached_property
    def folder(self) -> Path:
        """Shared by all dampings."""
        return self.work.folder(DataInf(sample=self.method.sample)) / "squares"

    @cached_property
    def parts(self) -> list[NDArray[np.int64]]:
        """Documents by part, ascending."""
        documents = np.sort(self.method.drawn(self.work).documents)
        return list(np.array_split(documents, -(-len(documents) // _PART)))

    @property
    def documents(self) -> NDArray[np.int64]:
        """The sample, ascending, [M]."""
        return np.concatenate(self.parts)

    @property
    def squares(self) -> NDArray[np.float64]:
        """|g_i|^2 by site, [M, S]."""
        for item in self.items():
            require_done(self.path(item), "whence evaluate")
        return np.concatenate([open_array(self.path(item) / "squares.npy") for item in self.items()])

    def path(self, item: int) -> Path:
        """Folder of a part."""
        return self.folder / f"{item:05d}"

    def items(self) -> list[int]:
        """Part numbers."""
        return list(range(len(self.parts)))

    def tokens(self, item: int) -> int:
        """Tokens of a part, taken as an even share of the corpus'."""
        corpus = self.work.owner.corpus
        return int(len(self.parts[item]) * corpus.tokens / max(corpus.documents, 1))

    def done(self, item: int) -> bool:
        """Whether a part's norms are there."""
        return is_done(self.path(item))

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Measure the gradients of one part; windows of a document are added first."""
        owner, documents = self.work.owner, self.parts[item]
        rows = windows_of(owner.corpus, documents)
        places = np.searchsorted(documents, owner.corpus.documents_of_windows(rows))
        windows = np.bincount(places, minlength=len(documents))
        out = np.zeros((len(documents), len(owner.sites)))
        alone = windows[places] == 1
        for batch, examples, tokens in batches(owner, rows[alone]):
            out[places[alone][batch]] = measure_each(owner.runner, examples, self._squares_by_site).T
            advance(tokens)
        for place in np.flatnonzero(windows > 1).tolist():
            together = _told(batches(owner, rows[places == place]), advance)
            out[place] = measure_together(owner.runner, together, self._squares_by_site)
        with publish(self.path(item)) as temporary:
            write_array(temporary / "squares.npy", out)

    def _squares_by_site(self, site: Site, blocks: Tensor) -> Tensor:
        """A row for each site, of which one is not zero: sums over sites then keep them apart."""
        sites = [each.name for each in self.work.owner.sites]
        out = torch.zeros(len(sites), len(blocks), dtype=torch.float64, device=blocks.device)
        out[sites.index(site.name)] = blocks.double().square().flatten(1).sum(1)
        return out

    def finished(self) -> bool:
        """Whether all parts are there."""
        return all(self.done(item) for item in self.items())

    def finish(self) -> bool:
        """Nothing to merge."""
        return self.finished()


def _told(made: Iterable[tuple[NDArray[np.int64], Examples, int]], advance: Advance) -> Iterator[Examples]:
    for _, examples, tokens in made:
        yield examples
        advance(tokens)

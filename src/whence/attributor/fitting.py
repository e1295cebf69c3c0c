"""Fitting curvature on a sample of the corpus, in parts: covariances, then eigenvalues."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor.curvatures import load_bases, read_some, save_basis, save_tensors
from whence.attributor.samples import Sample, draw, total_of
from whence.attributor.steps import Advance, CorpusStep, Step, batches
from whence.curvature import (
    Covariances,
    Side,
    SiteCurvature,
    fit_kfac,
    identity_curvature,
    moment_names,
    standard_error,
    with_eigenvalues,
)
from whence.data import Corpus
from whence.errors import IncompleteError
from whence.gradients import add_covariances, add_eigenvalue_squares
from whence.interfaces import Site
from whence.runs import is_done, publish, require_done

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

_PART_TOKENS = 1 << 21  # a part is what a kill can lose, and what a worker takes
_MOST_PARTS = 256  # each leaves sums of the size of the curvature on disk until the merge

__all__ = ["CovarianceStep", "EigenvalueStep", "content_words", "fit_sample", "fit_steps", "windows_of"]


def content_words(corpus: Corpus, seed: int) -> NDArray[np.uint64]:
    """A random 64-bit word of every document, decided by its content and the seed."""
    tables = [
        pq.read_table(corpus.folder / share.name / "documents.parquet", columns=["hash"]) for share in corpus.shares
    ]
    hashes = [text for table in tables for text in table.column("hash").to_pylist()]
    return np.array([xxhash.xxh64_intdigest(text.encode(), seed=seed) for text in hashes], dtype=np.uint64)


def fit_sample(owner: "Attributor", count: int | None = None) -> Sample:
    """The documents that curvature is fitted on, chosen by content and seed: the order of files does not matter.

    Args:
        owner: A run whose corpus has been read.
        count: How many; as many as the run's own fit takes if None. With equal weights fewer are the first of more.
    """
    fit, corpus = owner.config.fit, owner.corpus
    if count is None:
        count = max(fit.min_documents, int(np.ceil(fit.sample * corpus.documents)))
    weights = corpus.weights(np.arange(corpus.documents))
    return draw(content_words(corpus, fit.seed), weights, min(corpus.documents, count))


def windows_of(corpus: Corpus, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the windows of some documents, in corpus order."""
    out = []
    for share in corpus.shares:
        windows = corpus.share_windows(share)
        out.append(share.first_window + np.flatnonzero(np.isin(windows[:, 0], documents)))
    return np.concatenate(out).astype(np.int64)


class _FitStep:
    """What covariance and eigenvalue steps share: a sample of documents in parts."""

    name = ""

    def __init__(self, owner: "Attributor") -> None:
        self.owner = owner
        self.folder = owner.run.curvature

    @cached_property
    def drawn(self) -> Sample:
        """The documents to fit on."""
        return fit_sample(self.owner)

    @cached_property
    def parts(self) -> list[NDArray[np.int64]]:
        """Sampled documents by part."""
        corpus, count = self.owner.corpus, len(self.drawn.documents)
        tokens = count * corpus.tokens / corpus.documents
        parts = max(self.owner.config.fit.parts, min(_MOST_PARTS, round(tokens / _PART_TOKENS)))
        return [np.sort(part) for part in np.array_split(self.drawn.documents, min(parts, count))]

    def count(self, part: int) -> float:
        """Documents of a part, each as often as it counts in the sums."""
        return float(self.drawn.times(self.parts[part]).sum())

    def items(self) -> list[int]:
        """Part numbers."""
        return list(range(len(self.parts)))

    def rows(self, part: int) -> list[tuple[float, NDArray[np.int64]]]:
        """Windows of a part's documents, with how often they count; one entry for each such number."""
        times = self.drawn.times(self.parts[part])
        corpus, documents = self.owner.corpus, self.parts[part]
        return [(float(each), windows_of(corpus, documents[times == each])) for each in np.unique(times)]

    def tokens(self, item: int) -> int:
        """Tokens of a part, taken as an even share of the sample's."""
        corpus = self.owner.corpus
        return int(len(self.parts[item]) * corpus.tokens / max(corpus.documents, 1))

    def part_folder(self, item: int) -> Any:
        """Where a part's sums go."""
        return self.folder / "parts" / f"{self.name}-{item:03d}"

    def done(self, item: int) -> bool:
        """Whether a part's sums are there."""
        return self.finished() or is_done(self.part_folder(item))

    def finished(self) -> bool:
        raise AssertionError("defined by each step")

    def finish(self) -> bool:
        """Merge once every part is there. Another worker may do the same at the same time: the first one counts."""
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        try:
            self._merge()
        except IncompleteError:  # the other worker was done first and has dropped the parts
            if not self.finished():
                raise
        return True

    def _merge(self) -> None:
        raise AssertionError("defined by each step")

    def _store(self, item: int, tensors: dict[str, Tensor]) -> None:
        with publish(self.part_folder(item), {"documents": len(self.parts[item])}) as temporary:
            save_tensors(temporary / "sums.safetensors", tensors)

    def _load(self, item: int, names: Sequence[str]) -> dict[str, Tensor]:
        require_done(self.part_folder(item), "whence fit")
        return read_some(self.part_folder(item) / "sums.safetensors", names)

    def _drop_parts(self) -> None:
        """Free the disk; the merged result is what anyone reads from here on."""
        for item in self.items():
            shutil.rmtree(self.part_folder(item), ignore_errors=True)


class CovarianceStep(_FitStep):
    """Second moments of inputs and output gradients, then the eigenbases."""

    name = "covariance"

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Sum the moments of one part."""
        owner, fit = self.owner, self.owner.config.fit
        states = []
        for times, rows in self.rows(item):
            sums = Covariances(owner.sites, fit.head_limit)
            for _, examples, tokens in batches(owner, rows):
                add_covariances(owner.runner, examples, sums, fit.seed, fit.precision)
                advance(tokens)
            states.append((times, sums.state()))
        self._store(item, total_of(states))

    def finished(self) -> bool:
        """Whether the bases are there."""
        return is_done(self.folder / "basis")

    def _merge(self) -> None:
        """Add the parts in order and decompose."""
        documents = sum(map(self.count, self.items()))
        shared: dict[str, Side] = {}
        with publish(self.folder / "basis", {"documents": documents}) as temporary:
            for site in self.owner.sites:
                sums = Covariances([site], self.owner.config.fit.head_limit, documents=documents)
                names = [name for pair in moment_names(site) for name in pair]
                for item in self.items():
                    sums.merge(self._load(item, [f"{kind}:{name}" for kind in ("total", "count") for name in names]))
                save_basis(temporary, site, fit_kfac(site, sums, shared))
        self._drop_parts()


class EigenvalueStep(_FitStep):
    """Measured eigenvalues: of EK-FAC in the eigenbasis, or of the diagonal method in the parameters' own."""

    def __init__(self, owner: "Attributor") -> None:
        super().__init__(owner)
        self.name = "diagonal" if owner.config.fit.method == "diagonal" else "eigenvalues"

    @cached_property
    def bases(self) -> dict[str, SiteCurvature]:
        """Bases on the model's device."""
        owner = self.owner
        if self.name == "diagonal":
            return {site.name: identity_curvature(site) for site in owner.sites}
        loaded = load_bases(self.folder, owner.sites)
        wide = torch.float64 if next(owner.loaded.model.parameters()).dtype == torch.float64 else torch.float32
        moved: dict[tuple[int, torch.device], Tensor] = {}

        def here(tensor: Tensor | None, device: torch.device) -> Tensor | None:
            if tensor is None:
                return None
            return moved.setdefault((id(tensor), device), tensor.to(device, wide))

        out = {}
        for site in owner.sites:
            each, device = loaded[site.name], owner.loaded.device_of(site)
            out[site.name] = replace(each, outputs=here(each.outputs, device), inputs=here(each.inputs, device))
        return out

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Sum the squared gradients of one part."""
        owner, fit = self.owner, self.owner.config.fit
        states = []
        for times, rows in self.rows(item):
            squares: dict[str, Tensor] = {}
            for _, examples, tokens in batches(owner, rows):
                add_eigenvalue_squares(owner.runner, examples, self.bases, squares, fit.seed, fit.precision)
                advance(tokens)
            states.append((times, squares))
        found = total_of(states)
        for site in owner.sites:
            found.setdefault(site.name, torch.zeros(site.shape))
        self._store(item, found)

    def finished(self) -> bool:
        """Whether the eigenvalues are there."""
        return is_done(self.folder / self.name)

    def _merge(self) -> None:
        """Add the parts in order; the spread over parts is the error estimate."""
        counts = [self.count(item) for item in self.items()]
        errors: dict[str, float] = {}
        marker: dict[str, Any] = {"documents": sum(counts), "relative_standard_error": errors}
        with publish(self.folder / self.name, marker) as temporary:
            for site in self.owner.sites:
                squares = [self._load(item, [site.name])[site.name].double() for item in self.items()]
                error = standard_error(
                    dict(zip(map(str, self.items()), zip(squares, counts, strict=True), strict=True))
                )
                if error == error:
                    errors[site.name] = round(error, 6)
                total = with_eigenvalues(self._prior(site), torch.stack(squares).sum(0), sum(counts)).eigenvalues
                save_tensors(temporary / f"{site.name}.safetensors", {"eigenvalues": total.float()})
            marker["median_relative_standard_error"] = float(np.median(list(errors.values()))) if errors else None
        self._drop_parts()

    def _prior(self, site: Site) -> SiteCurvature:
        """What the eigenvalues of a stack's rarely used experts are drawn towards; a plain site needs none."""
        if not site.experts or self.name == "diagonal":
            return SiteCurvature(None, None, torch.zeros((), dtype=torch.float64))
        basis = load_bases(self.folder, [site])[site.name]
        return SiteCurvature(None, None, basis.eigenvalues.double(), basis.trust)


def fit_steps(owner: "Attributor") -> list[Step]:
    """The steps that a run's own method needs before indexing."""
    steps: list[Step] = [CorpusStep(owner)]
    method = owner.config.fit.method
    if method in ("ekfac", "kfac"):
        steps.append(CovarianceStep(owner))
    if method in ("ekfac", "diagonal"):
        steps.append(EigenvalueStep(owner))
    return steps

"""What SOURCE fits: the EK-FAC curvature of a segment, the mean over its checkpoints, in parts.

    <segment>/covariance, eigenvalues   checkpoint-<step>/parts/…   sums of one part of the sample at one checkpoint
    <segment>/basis                     eigenvectors of the summed covariances
    <segment>/values                    measured eigenvalues, means over documents and checkpoints

One model is held at a time. With Adam's metric covariances are scaled by the separable part of P^1/2 before they are
decomposed (each site its own, so that groups share no basis), and gradients by P^1/2 before they are rotated.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from whence.attributor import Attributor, Checkpoint, at_checkpoint, batches, optimizer_moments
from whence.attributor.curvatures import load_bases, read_some, save_basis, save_tensors
from whence.attributor.fitting import CovarianceStep, fit_sample
from whence.attributor.samples import Sample, total_of
from whence.attributor.steps import Advance
from whence.curvature import Covariances, Side, SiteCurvature, add_squares, fit_kfac, moment_names, with_eigenvalues
from whence.errors import IncompleteError
from whence.factors import AnyFactors, block_pieces
from whence.gradients import add_eigenvalue_squares, products
from whence.interfaces import Site
from whence.runs import is_done, publish

__all__ = ["Segment", "SegmentCovariances", "SegmentEigenvalues", "roots_of", "segment_curvatures"]

_FLOOR = 1e-3
Item = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a training.

    Attributes:
        name: Its folder.
        checkpoints: Those in it; the last one ends it.
        rate: Sum of the rates of its steps.
    """

    name: str
    checkpoints: tuple[Checkpoint, ...]
    rate: float


def roots_of(owner: Attributor, segment: Segment) -> dict[str, Tensor]:
    """P^1/2 of every site by Adam's moments, P the mean over the segment's checkpoints, float64 [O, I]."""
    totals: dict[str, Tensor] = {}
    for checkpoint in segment.checkpoints:
        correction = 1.0 - checkpoint.betas[1] ** max(checkpoint.step, 1)
        for name, square in optimizer_moments(checkpoint, owner).square.items():
            root = (square.double() / correction).sqrt()
            floor = _FLOOR * float(root.square().mean().sqrt())
            inverse = 1.0 / (root.clamp_min(floor) + checkpoint.eps)
            totals[name] = totals[name] + inverse if name in totals else inverse
    return {name: (total / len(segment.checkpoints)).sqrt() for name, total in totals.items()}


def separable(root: Tensor) -> tuple[Tensor, Tensor]:
    """The geometric means of rows and columns: p_o [O] and p_i [I] whose product is nearest to P^1/2 in logarithms."""
    logs = root.log()
    whole = logs.mean((-2, -1))[..., None]
    return logs.mean(-1).exp(), (logs.mean(-2) - whole).exp()


def _sites(owner: Attributor, adam: bool) -> list[Site]:
    """With Adam's metric each site has inputs of its own."""
    return [replace(site, group=site.name) for site in owner.sites] if adam else list(owner.sites)


def segment_curvatures(folder: Path, owner: Attributor, adam: bool) -> dict[str, SiteCurvature]:
    """The fitted curvature of a segment, by site, on the CPU.

    Raises:
        IncompleteError: It has not been fitted.
    """
    bases = load_bases(folder, _sites(owner, adam))
    if not is_done(folder / "values"):
        raise IncompleteError(f"{folder / 'values'} has not been fitted; run the same command again.")
    return {
        name: replace(basis, eigenvalues=read_some(_values(folder, name), ["eigenvalues"])["eigenvalues"])
        for name, basis in bases.items()
    }


def _values(folder: Path, site: str) -> Path:
    return folder / "values" / f"{site}.safetensors"


class _SegmentStep:
    """Parts of the sample at every checkpoint of a segment, and their merge."""

    name = ""
    result = ""

    def __init__(self, owner: Attributor, place: Callable[[], Path], segment: Segment, adam: bool) -> None:
        self.owner, self.segment, self.adam = owner, segment, adam
        self._place = place
        self._opened: tuple[int, Attributor] | None = None

    @cached_property
    def folder(self) -> Path:
        """The segment's; its name depends on the corpus, which must have been read."""
        return self._place() / self.segment.name

    def _parts(self, number: int, at: Attributor | None = None) -> CovarianceStep:
        """The parts at a checkpoint; without a run there they can be counted and read, and not made."""
        raise AssertionError("defined by each step")

    @cached_property
    def _drawn(self) -> Sample:
        return fit_sample(self.owner)

    @cached_property
    def _read(self) -> list[CovarianceStep]:
        return [self._parts(number) for number in range(len(self.segment.checkpoints))]

    def _placed(self, parts: CovarianceStep, number: int) -> CovarianceStep:
        parts.folder = self.folder / self.name / f"checkpoint-{self.segment.checkpoints[number].step}"
        parts.drawn = self._drawn
        return parts

    def items(self) -> list[Item]:
        """Checkpoints and parts."""
        return [(number, part) for number, parts in enumerate(self._read) for part in parts.items()]

    def tokens(self, item: Item) -> int:
        """Tokens of a part."""
        return self._read[item[0]].tokens(item[1])

    def done(self, item: Item) -> bool:
        """Whether a part's sums are there."""
        return self.finished() or is_done(self._read[item[0]].part_folder(item[1]))

    def run(self, item: Item, shares: tuple[int, int], advance: Advance) -> None:
        """Sum one part at one checkpoint."""
        number, part = item
        if self._opened is None or self._opened[0] != number:
            self._opened = None  # so that the one before is gone
            self._opened = (number, at_checkpoint(self.owner, self.segment.checkpoints[number]))
        self._parts(number, self._opened[1]).run(part, shares, advance)

    def finished(self) -> bool:
        """Whether the merged result is there."""
        return is_done(self.folder / self.result)

    def finish(self) -> bool:
        """Merge once every part is there; the first worker to do so counts."""
        self._opened = None
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        try:
            self._merge()
        except IncompleteError:  # another worker was done first and has dropped the parts
            if not self.finished():
                raise
        shutil.rmtree(self.folder / self.name, ignore_errors=True)
        return True

    def _merge(self) -> None:
        raise AssertionError("defined by each step")

    @property
    def documents(self) -> float:
        """Documents summed over, those of every checkpoint counted."""
        return sum(self._read[number].count(part) for number, part in self.items())

    def _sums(self, item: Item, names: list[str]) -> dict[str, Tensor]:
        file = self._read[item[0]].part_folder(item[1]) / "sums.safetensors"
        return read_some(file, names)


class SegmentCovariances(_SegmentStep):
    """Covariances at a segment's checkpoints, then the eigenbases of their mean."""

    name, result = "covariance", "basis"

    def _parts(self, number: int, at: Attributor | None = None) -> CovarianceStep:
        return self._placed(CovarianceStep(at or self.owner), number)

    def _merge(self) -> None:
        owner = self.owner
        roots = roots_of(owner, self.segment) if self.adam else {}
        shared: dict[str, Side] = {}
        with publish(self.folder / "basis", {"documents": self.documents}) as temporary:
            for site, alone in zip(owner.sites, _sites(owner, self.adam), strict=True):
                sums = Covariances([site], owner.config.fit.head_limit, documents=self.documents)
                names = [name for pair in moment_names(site) for name in pair]
                for item in self.items():
                    sums.merge(self._sums(item, [f"{kind}:{name}" for kind in ("total", "count") for name in names]))
                if self.adam:
                    sums = _scaled(sums, site, alone, roots[site.name])
                save_basis(temporary, alone, fit_kfac(alone, sums, shared))


def _scaled(sums: Covariances, site: Site, alone: Site, root: Tensor) -> Covariances:
    """Second moments of ``p_o * g`` and ``p_i * a``, under the names of a site that shares none."""
    out = Covariances([alone], sums.head_limit, documents=sums.documents)
    for pair, own in zip(moment_names(site), moment_names(alone), strict=True):
        for name, new, scale in zip(pair, own, separable(root), strict=True):
            total = sums.totals[name]
            square = scale[..., :, None] * scale[..., None, :]
            out.totals[new] = total * (scale.square() if total.ndim == 1 else square)
            out.counts[new] = sums.counts[name]
    return out


class _Squares(CovarianceStep):
    """Squared gradients of a sample's parts in given bases."""

    name = "eigenvalues"

    def __init__(self, owner: Attributor, bases: Mapping[str, SiteCurvature], roots: Mapping[str, Tensor]) -> None:
        super().__init__(owner)
        self.bases, self.roots = bases, roots

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Sum the squared gradients of one part."""
        fit, states = self.owner.config.fit, []
        for times, rows in self.rows(item):
            squares: dict[str, Tensor] = {}

            def consume(site: Site, uses: list[AnyFactors], squares: dict[str, Tensor] = squares) -> None:
                with products(fit.precision):
                    for blocks in block_pieces(uses):
                        turned = self.bases[site.name].rotate(blocks * self.roots[site.name].to(blocks))
                        if site.name not in squares:
                            squares[site.name] = turned.new_zeros(turned.shape[1:])
                        add_squares(squares[site.name], turned)

            for _, examples, tokens in batches(self.owner, rows):
                if self.roots:
                    self.owner.runner.examples(examples, consume, ("eigenvalues", fit.seed))
                else:
                    add_eigenvalue_squares(self.owner.runner, examples, self.bases, squares, fit.seed, fit.precision)
                advance(tokens)
            states.append((times, squares))
        found = total_of(states)
        for site in self.owner.sites:
            found.setdefault(site.name, torch.zeros(site.shape))
        self._store(item, found)


class SegmentEigenvalues(_SegmentStep):
    """Eigenvalues measured at a segment's checkpoints in its basis."""

    name, result = "eigenvalues", "values"

    @cached_property
    def _bases(self) -> dict[str, SiteCurvature]:
        loaded = load_bases(self.folder, _sites(self.owner, self.adam))
        where, wide = self.owner.loaded.device_of, self.owner.wide
        return {site.name: loaded[site.name].to(where(site), wide) for site in self.owner.sites}

    @cached_property
    def _roots(self) -> dict[str, Tensor]:
        if not self.adam:
            return {}
        found, where = roots_of(self.owner, self.segment), self.owner.loaded.device_of
        return {site.name: found[site.name].to(where(site), self.owner.wide) for site in self.owner.sites}

    def _parts(self, number: int, at: Attributor | None = None) -> CovarianceStep:
        made = _Squares(self.owner, {}, {}) if at is None else _Squares(at, self._bases, self._roots)
        return self._placed(made, number)

    def _merge(self) -> None:
        documents, bases = self.documents, load_bases(self.folder, _sites(self.owner, self.adam))
        with publish(self.folder / "values", {"documents": documents}) as temporary:
            for site in self.owner.sites:
                squares = [self._sums(item, [site.name])[site.name].double() for item in self.items()]
                basis = bases[site.name]
                prior = SiteCurvature(None, None, basis.eigenvalues.double(), basis.trust)
                total = with_eigenvalues(prior, torch.stack(squares).sum(0), documents).eigenvalues
                save_tensors(temporary / f"{site.name}.safetensors", {"eigenvalues": total.float()})

"""What methods share that store a sketch of each document's gradient: codes, their Gram matrices, scores.

    document      phi_z = P vec(grad z), window by window            <folder>/codes/<share>/    16, 8, 1 bits, or raw
    curvature     M = sum_z w_z phi_z phi_z^T / sum_z w_z            <folder>/gram/<name>.safetensors
    score         times_z <f(M) phi_q, phi_z>                        a scan of the codes; f(M) acts on queries alone

M is the second moment of the codes of all documents (`gram.py`), a projected Fisher matrix of the data's own labels.
There is one for each site (each expert of a stack), or one over the sum of all sites' sketches. Gradients of a
document's windows are added up before they are squared.

What no sketch can mend: the inverse of a projected matrix is not the projected inverse, and directions of low
curvature, which carry most of the signal, drown in the noise of the projection first (docs/method.md).

Axes: N documents, W windows, Q queries, B matrices of a site, K coordinates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch import Tensor

from whence.attributor import Attributor
from whence.attributor.steps import ShareStep, batches
from whence.data import CorpusShare
from whence.errors import IncompleteError, NumericalError
from whence.factors import AnyFactors
from whence.gradients import Examples, Runner, products
from whence.interfaces import Site
from whence.projection import (
    Bits,
    SiteLayout,
    SketchMap,
    block_size,
    code_dtype,
    decode,
    encode,
    layout_sites,
    rotate_blocks,
    signs,
)
from whence.runs import is_done, open_array, publish, storage_errors, write_array
from whence.scoring import Fold, by_document, share_scores
from whence.store import IndexShare

__all__ = ["TOGETHER", "Depth", "Sketch", "SketchStep", "Times", "feed", "per_nat"]

Advance = Callable[[int], None]
_TYPED = ("1", "8", "16", "32")
Depth = Annotated[Literal[1, 8, 16, 32], BeforeValidator(lambda given: int(given) if given in _TYPED else given)]
"""Bits per coordinate; 32 keeps numbers as they are computed (float64 where the model is)."""

Times = Callable[[CorpusShare, NDArray[np.int64]], NDArray[np.float64]]
"""What scores are multiplied by: (share, documents [M]) -> [M]."""

TOGETHER = "all"
_PIECE = 1 << 24  # numbers decoded at once: 128 MiB of float64


@dataclass(frozen=True)
class Sketch:
    """Sketches of all documents, as a method defines them.

    Attributes:
        owner: The run.
        place: Where codes and Gram matrices go; known once the corpus has been read.
        bits: Bits per coordinate.
        make: Makes the maps by site when they are first needed.
        together: Add the sketches of all sites up into one, named ``all``.
        seed: Seed of the signs that one-bit codes are rotated with.
    """

    owner: Attributor
    place: Callable[[], Path]
    bits: Depth
    make: Callable[[], Mapping[str, SketchMap]]
    together: bool = False
    seed: int = 0

    @cached_property
    def folder(self) -> Path:
        """Where codes and Gram matrices go."""
        return self.place()

    @cached_property
    def maps(self) -> Mapping[str, SketchMap]:
        """Maps by site."""
        return self.make()

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(B, K) by name: of every site, or of all together."""
        sizes = {site.name: self.maps[site.name].size for site in self.owner.sites}
        return {TOGETHER: next(iter(sizes.values()))} if self.together else sizes

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each name's coordinates lie among all."""
        out, first = {}, 0
        for name, (matrices, kept) in self.sizes.items():
            out[name] = slice(first, first + matrices * kept)
            first += matrices * kept
        return out

    @property
    def width(self) -> int:
        """Coordinates in all."""
        return sum(matrices * kept for matrices, kept in self.sizes.values())

    @cached_property
    def layouts(self) -> list[SiteLayout]:
        """Where each name's code lies in a row; of codes with scales only."""
        counts = {name: matrices * kept for name, (matrices, kept) in self.sizes.items()}
        blocks = {name: block_size(count) for name, count in counts.items()}
        return layout_sites({name: (counts[name], blocks[name], blocks[name]) for name in counts}, self._bits)

    @property
    def _bits(self) -> Bits:
        assert self.bits != 32
        return self.bits

    @property
    def raw(self) -> bool:
        """Whether numbers are stored as they are."""
        return self.bits == 32

    def bytes_per_document(self, beside: int = 0) -> float:
        """Bytes of codes of a document on average, with `beside` more per window."""
        corpus = self.owner.corpus
        row = self.width * self.owner.wide.itemsize if self.raw else sum(at.bytes for at in self.layouts)
        return (row + beside) * corpus.windows / max(corpus.documents, 1)

    # ------------------------------------------------------------------ vectors

    def of(self, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sketches of queries' gradients by name, float64 [Q, B, K] on the CPU."""
        made = {name: each.queries(blocks[name]).double().cpu() for name, each in self.maps.items()}
        return {TOGETHER: torch.stack(list(made.values())).sum(0)} if self.together else made

    def of_documents(self, runner: Runner, examples: Examples) -> Tensor:
        """Sketches of a batch's gradients, [E, width].

        Raises:
            NumericalError: A loss or gradient is not finite.
        """
        where = self.owner.loaded.device
        values = torch.zeros(examples.count, self.width, dtype=self.owner.wide, device=where)
        precision = self.owner.config.fit.precision

        def consume(site: Site, uses: list[AnyFactors]) -> None:
            with products(precision):
                made = self.maps[site.name].documents(uses).flatten(1)
            values[:, self.places[TOGETHER if self.together else site.name]] += made.to(values)

        losses = runner.examples(examples, consume)
        fine = torch.isfinite(values).all(1).cpu() & torch.isfinite(losses).cpu()
        if not fine.all():
            named = ", ".join(map(str, examples.numbers[~fine.numpy()][:8].tolist()))
            raise NumericalError(
                f"loss or gradient is not finite for {int((~fine).sum())} of {examples.count} examples (windows "
                f"{named}). Run the model in another --dtype (bfloat16 or float32 instead of float16), or take the "
                "documents out."
            )
        return values

    # ------------------------------------------------------------------ codes

    def _turned(self, values: Tensor, at: SiteLayout) -> Tensor:
        """Coordinates [N, count] as they are coded [N, stored]: padded, and for one bit rotated."""
        padded = values.new_zeros(len(values), at.stored)
        padded[:, : at.count] = values
        return rotate_blocks(padded * self._signs(at).to(padded), at.block) if self.bits == 1 else padded

    def _signs(self, at: SiteLayout) -> Tensor:
        return torch.from_numpy(signs(self.seed, f"{at.name}/rotation", at.stored))

    def coded(self, values: Tensor) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes [N, elements] and scales [N, blocks] of values [N, width]; raw numbers have no scales."""
        if self.raw:
            return values.cpu().numpy(), np.zeros((len(values), 0), np.float32)
        made = [encode(self._turned(values[:, self.places[at.name]], at), at) for at in self.layouts]
        return np.concatenate([codes for codes, _ in made], 1), np.concatenate([scales for _, scales in made], 1)

    def empty(self, folder: Path, windows: int) -> tuple["np.memmap[Any, Any]", NDArray[np.float32]]:
        """Room for the codes of a share, mapped to a file, and for its scales."""
        if self.raw:
            shape, dtype, blocks = (windows, self.width), np.dtype(str(self.owner.wide).removeprefix("torch.")), 0
        else:
            shape, dtype = (windows, self.layouts[-1].last), code_dtype(self._bits)
            blocks = self.layouts[-1].last_scale
        with storage_errors(folder):
            codes = np.lib.format.open_memmap(folder / "codes.npy", mode="w+", dtype=dtype, shape=shape)
        return codes, np.zeros((windows, blocks), np.float32)

    def place_of(self, share: CorpusShare) -> Path:
        """The folder of a share's codes."""
        return self.folder / "codes" / share.name

    def open(self, share: CorpusShare) -> IndexShare:
        """A share's codes, mapped.

        Raises:
            IncompleteError: They have not been made.
        """
        folder = self.place_of(share)
        if not is_done(folder):
            raise IncompleteError(f"{folder} has not been made; run the same command again, it goes on from there.")
        codes, scales, windows = (open_array(folder / f"{name}.npy") for name in ("codes", "scales", "windows"))
        return IndexShare(codes, scales, windows)

    def documents(self, share: CorpusShare, name: str) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Sketches of a share's documents under a name, windows added up: (documents [N], float64 [N, B, K])."""
        opened = self.open(share)
        numbers = np.asarray(opened.windows[:, 0])
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]) if len(numbers) else np.empty(0, np.int64)
        stops = np.r_[starts[1:], len(numbers)]
        step = max(1, _PIECE // max(self.places[name].stop - self.places[name].start, 1))
        for first in range(0, len(starts), step):
            begun = starts[first : first + step]
            rows = slice(int(begun[0]), int(stops[min(first + step, len(starts)) - 1]))
            summed = np.add.reduceat(self._decoded(opened, name, rows), begun - begun[0], axis=0)
            yield numbers[begun], torch.from_numpy(summed).reshape(len(begun), *self.sizes[name])

    def _decoded(self, opened: IndexShare, name: str, rows: slice) -> NDArray[np.float64]:
        if self.raw:
            return np.asarray(opened.codes[rows, self.places[name]], dtype=np.float64)
        at = next(each for each in self.layouts if each.name == name)
        codes = np.asarray(opened.codes[rows, at.first : at.last])
        found = decode(codes, np.asarray(opened.scales[rows, at.first_scale : at.last_scale]), at)
        values = torch.from_numpy(found).double()
        if self.bits == 1:
            values = rotate_blocks(values, at.block) * self._signs(at)
        return values[:, : at.count].numpy()

    def scores(
        self, share: CorpusShare, vectors: Mapping[str, Tensor]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Inner products of a share's documents with vectors by name [Q, B, K]: (documents [N], float64 [Q, N])."""
        opened, flat = self.open(share), {name: each.flatten(1) for name, each in vectors.items()}
        windows = np.asarray(opened.windows)
        if self.raw:
            query = torch.cat([flat[name] for name in self.sizes], 1).numpy()
            step = max(1, _PIECE // self.width)
            parts = [opened.codes[start : start + step] @ query.T for start in range(0, len(windows), step)]
            found = np.concatenate(parts).T if parts else np.zeros((len(query), 0))
        else:
            turned = {at.name: self._turned(flat[at.name], at).float().numpy() for at in self.layouts}
            found = share_scores(opened, self.layouts, turned)
        return by_document(windows, np.asarray(found, dtype=np.float64))


Sketched = Callable[[Sketch, Runner, Examples], tuple[Tensor, Mapping[str, NDArray[Any]]]]
"""A batch of windows -> its sketches [E, width], and other numbers of each window by name, [E, ...]."""


def plain(sketch: Sketch, runner: Runner, examples: Examples) -> tuple[Tensor, Mapping[str, NDArray[Any]]]:
    """Sketches of gradients of the loss, and nothing beside them."""
    return sketch.of_documents(runner, examples), {}


class SketchStep(ShareStep):
    """Codes of every document, a share of the corpus at a time.

    Args:
        sketch: What is made.
        sketched: How a batch is sketched.
        opened: The run with the weights to use, loaded when a share is to be done and let go of afterwards; the
            sketch's own if None.
    """

    name = "sketch"

    def __init__(
        self, sketch: Sketch, sketched: Sketched = plain, opened: Callable[[], Attributor] | None = None
    ) -> None:
        self.sketch, self.owner = sketch, sketch.owner
        self._sketched = sketched
        self._open = opened or (lambda: sketch.owner)
        self._opened: Attributor | None = None

    def place_of(self, share: CorpusShare) -> Path:
        """Where a share's codes go."""
        return self.sketch.place_of(share)

    def run(self, item: CorpusShare, shares: tuple[int, int], advance: Advance) -> None:
        """Sketch the documents of one share."""
        owner = self._opened = self._opened or self._open()
        windows = owner.corpus.share_windows(item)
        rows = item.first_window + np.arange(len(windows), dtype=np.int64)
        with publish(self.place_of(item), {"windows": len(windows)}) as temporary:
            codes, scales = self.sketch.empty(temporary, len(windows))
            beside: dict[str, NDArray[Any]] = {}
            for places, examples, tokens in batches(owner, rows):
                values, others = self._sketched(self.sketch, owner.runner, examples)
                codes[places], scales[places] = self.sketch.coded(values)
                for name, numbers in others.items():
                    room = beside.setdefault(name, np.zeros((len(windows), *numbers.shape[1:]), numbers.dtype))
                    room[places] = numbers
                advance(tokens)
            with storage_errors(temporary):
                codes.flush()
            del codes
            arrays: dict[str, NDArray[Any]] = {"scales": scales, "windows": windows, **beside}
            for name, array in arrays.items():
                write_array(temporary / f"{name}.npy", array)

    def finish(self) -> bool:
        """Nothing to merge; lets go of the model it opened."""
        self._opened = None
        return super().finish()


def per_nat(owner: Attributor) -> Times:
    """What turns inner products into nats: how often a document was trained on, over n."""
    return lambda share, documents: np.full(len(documents), share.weight / owner.trained_on)


def feed(sketch: Sketch, vectors: Mapping[str, Tensor], folds: Sequence[Fold], times: Times, advance: Advance) -> None:
    """Scan the codes for vectors by name [Q, B, K]."""
    for share in sketch.owner.corpus.shares:
        documents, scores = sketch.scores(share, vectors)
        weighted = scores * times(share, documents)
        for fold in folds:
            fold.update(documents, weighted)
        advance(share.tokens)

"""The long steps of a run, each a list of items that workers share: read, covariances, eigenvalues, codes.

    corpus       tokenise the files                       items: files (the data room takes its own share)
    covariance   second moments of a sample, in parts     items: parts;  finish: add them, decompose
    eigenvalues  squared gradients in the eigenbasis      items: parts;  finish: add them, estimate their error
    index        codes of every document                  items: shares of the corpus

An item is done when its folder has a marker, so any worker may die at any time. `finish` is the merge: it can run any
time, does nothing before all items are done, and always gives the same bytes.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.attributor.curvatures import load_bases, read_some, save_basis, save_tensors
from whence.curvature import (
    Covariances,
    Side,
    SiteCurvature,
    fit_kfac,
    identity_curvature,
    moment_names,
    standard_error,
)
from whence.data import CorpusShare, ingest, make_batch, plan_batches
from whence.gradients import (
    Examples,
    Recipe,
    add_covariances,
    add_eigenvalue_squares,
    encode_documents,
    language_examples,
)
from whence.projection import words
from whence.runs import is_done, publish, require_done, take_share
from whence.store import share_writer, write_manifest

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["Step", "fit_steps", "index_steps", "run_steps"]

Advance = Callable[[int], None]


class Step(Protocol):
    """One long step."""

    name: str

    def items(self) -> list[Any]:
        """What there is to do, in a fixed order."""
        ...

    def tokens(self, item: Any) -> int:
        """How much work an item is, in tokens."""
        ...

    def done(self, item: Any) -> bool:
        """Whether an item has been done, by anyone."""
        ...

    def run(self, item: Any, shares: tuple[int, int], advance: Advance) -> None:
        """Do an item; report tokens as they are done."""
        ...

    def finished(self) -> bool:
        """Whether the step is over, merge included."""
        ...

    def finish(self) -> bool:
        """Merge if every item is done; whether the step is over."""
        ...


def batches(owner: "Attributor", rows: NDArray[np.int64]) -> Iterable[tuple[NDArray[np.int64], Examples, int]]:
    """Windows in batches of similar length: (places in `rows`, batch, real tokens)."""
    corpus, fit = owner.corpus, owner.config.fit
    spans = [corpus.window(int(row)) for row in rows]
    lengths = np.array([stop - start for _, start, stop in spans], dtype=np.int64)
    pack = owner.config.corpus.context if fit.pack else None
    for places in plan_batches(lengths, fit.batch_tokens, pack):
        batch = make_batch(corpus, rows[places], pack=pack)
        yield places, language_examples(batch, owner.loaded), int(lengths[places].sum())


class CorpusStep:
    """Tokenise the corpus."""

    name = "corpus"

    def __init__(self, owner: "Attributor") -> None:
        self.owner = owner

    def items(self) -> list[Any]:
        """One item: each worker takes its share of the files."""
        return ["corpus"]

    def tokens(self, item: Any) -> int:
        """Unknown before the files are read."""
        return 0

    def done(self, item: Any) -> bool:
        """Whether all files have been read."""
        return self.finished()

    def run(self, item: Any, shares: tuple[int, int], advance: Advance) -> None:
        """Read this worker's files."""
        so_far = 0

        def progress(tokens: int, documents: int) -> None:
            nonlocal so_far
            advance(tokens - so_far)
            so_far = tokens

        ingest(self.owner.config.corpus, self.owner.tokenizer, self.owner.run.corpus, shares, progress)

    def finished(self) -> bool:
        """Whether the manifest is there."""
        return (self.owner.run.corpus / "manifest.json").is_file()

    def finish(self) -> bool:
        """Reading writes its own manifest when the last file is done."""
        return self.finished()


class _FitStep:
    """What covariance and eigenvalue steps share: a sample of documents in parts."""

    name = ""

    def __init__(self, owner: "Attributor") -> None:
        self.owner = owner
        self.folder = owner.run.curvature

    @cached_property
    def parts(self) -> list[NDArray[np.int64]]:
        """Sampled documents by part: those whose word of a specified random stream is smallest."""
        fit, total = self.owner.config.fit, self.owner.corpus.documents
        count = min(total, max(fit.min_documents, int(np.ceil(fit.sample * total))))
        chosen = np.argsort(words(fit.seed, "fit sample", 0, total), kind="stable")[:count]
        return [np.sort(part) for part in np.array_split(chosen, min(fit.parts, count))]

    def items(self) -> list[int]:
        """Part numbers."""
        return list(range(len(self.parts)))

    def rows(self, part: int) -> NDArray[np.int64]:
        """Windows of a part's documents."""
        corpus, out = self.owner.corpus, []
        for share in corpus.shares:
            windows = corpus.share_windows(share)
            out.append(share.first_window + np.flatnonzero(np.isin(windows[:, 0], self.parts[part])))
        return np.concatenate(out).astype(np.int64)

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
        sums = Covariances(owner.sites, fit.head_limit)
        for _, examples, tokens in batches(owner, self.rows(item)):
            add_covariances(owner.runner, examples, sums, fit.seed, fit.precision)
            advance(tokens)
        sums.documents = len(self.parts[item])
        self._store(item, sums.state())

    def finished(self) -> bool:
        """Whether the bases are there."""
        return is_done(self.folder / "basis")

    def finish(self) -> bool:
        """Add the parts in order and decompose."""
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        documents = float(sum(len(part) for part in self.parts))
        shared: dict[str, Side] = {}
        with publish(self.folder / "basis", {"documents": documents}) as temporary:
            for site in self.owner.sites:
                sums = Covariances([site], self.owner.config.fit.head_limit, documents=documents)
                names = [name for pair in moment_names(site) for name in pair]
                for item in self.items():
                    sums.merge(self._load(item, [f"{kind}:{name}" for kind in ("total", "count") for name in names]))
                save_basis(temporary, site, fit_kfac(site, sums, shared))
        self._drop_parts()
        return True


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
        moved: dict[int, Tensor] = {}

        def here(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            return moved.setdefault(id(tensor), tensor.to(owner.loaded.device, wide))

        return {name: SiteCurvature(here(c.outputs), here(c.inputs), c.eigenvalues) for name, c in loaded.items()}

    def run(self, item: int, shares: tuple[int, int], advance: Advance) -> None:
        """Sum the squared gradients of one part."""
        owner, fit = self.owner, self.owner.config.fit
        squares: dict[str, Tensor] = {}
        for _, examples, tokens in batches(owner, self.rows(item)):
            add_eigenvalue_squares(owner.runner, examples, self.bases, squares, fit.seed, fit.precision)
            advance(tokens)
        for site in owner.sites:
            squares.setdefault(site.name, torch.zeros(site.outputs, site.inputs))
        self._store(item, squares)

    def finished(self) -> bool:
        """Whether the eigenvalues are there."""
        return is_done(self.folder / self.name)

    def finish(self) -> bool:
        """Add the parts in order; the spread over parts is the error estimate."""
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        counts = [float(len(part)) for part in self.parts]
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
                total = torch.stack(squares).sum(0) / sum(counts)
                save_tensors(temporary / f"{site.name}.safetensors", {"eigenvalues": total.float()})
            marker["median_relative_standard_error"] = float(np.median(list(errors.values()))) if errors else None
        self._drop_parts()
        return True


class IndexStep:
    """Codes of every document."""

    name = "index"

    def __init__(self, owner: "Attributor", recipe: Recipe | None) -> None:
        self.owner = owner
        self._asked = recipe or owner.config.recipe

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with its budget decided."""
        return self._asked.resolved(self.owner.sites)

    @cached_property
    def folder(self) -> Any:
        """index/<recipe>."""
        return self.owner.run.index / self.recipe.name

    @cached_property
    def encoders(self) -> Any:
        """Encoders of all sites; made when the first share needs them."""
        return self.owner.encoders(self.recipe)

    def items(self) -> list[CorpusShare]:
        """Shares of the corpus."""
        return list(self.owner.corpus.shares)

    def tokens(self, item: CorpusShare) -> int:
        """Tokens of a share."""
        return item.tokens

    def done(self, item: CorpusShare) -> bool:
        """Whether a share's codes are there."""
        return is_done(self.folder / item.name)

    def prepare(self) -> None:
        """Write the manifest."""
        bound = {"corpus": self.owner.corpus.fingerprint, "model": self.owner.loaded.fingerprint}
        layouts = self.recipe.layout(self.owner.sites)
        write_manifest(
            self.folder, self.recipe.model_dump(mode="json"), layouts, [share.name for share in self.items()], bound
        )

    def run(self, item: CorpusShare, shares: tuple[int, int], advance: Advance) -> None:
        """Code the documents of one share."""
        self.prepare()
        owner, layouts = self.owner, self.recipe.layout(self.owner.sites)
        windows = owner.corpus.share_windows(item)
        rows = item.first_window + np.arange(len(windows), dtype=np.int64)
        with share_writer(self.folder / item.name, layouts, windows, _identity(owner, windows)) as writer:
            for places, examples, tokens in batches(owner, rows):
                made = encode_documents(owner.runner, examples, self.encoders, layouts, self.recipe.precision)
                writer.put(places, *made)
                advance(tokens)

    def finished(self) -> bool:
        """Whether every share is there."""
        return all(self.done(item) for item in self.items())

    def finish(self) -> bool:
        """Nothing to merge: shards are read where they lie."""
        return self.finished()


def _identity(owner: "Attributor", windows: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Identity columns of rows.parquet."""
    columns: dict[str, list[Any]] = {"id": [], "source": [], "row": [], "hash": []}
    last, document = -1, None
    for number in windows[:, 0].tolist():
        if number != last:
            last, document = number, owner.corpus.document(number)
        assert document is not None
        for name, column in columns.items():
            column.append(getattr(document, name))
    return columns


def fit_steps(owner: "Attributor") -> list[Step]:
    """The steps that a run's own method needs before indexing."""
    steps: list[Step] = [CorpusStep(owner)]
    method = owner.config.fit.method
    if method in ("ekfac", "kfac"):
        steps.append(CovarianceStep(owner))
    if method in ("ekfac", "diagonal"):
        steps.append(EigenvalueStep(owner))
    return steps


def index_steps(owner: "Attributor", recipe: Recipe | None = None) -> list[Step]:
    """The steps of an index."""
    return [IndexStep(owner, recipe)]


def run_steps(
    steps: Sequence[Step],
    shares: tuple[int, int] = (0, 1),
    report: Callable[[str, int, int], None] | None = None,
) -> Step | None:
    """Do this worker's share of each step in turn.

    Args:
        steps: In order.
        shares: (i, n): this worker is the i-th of n.
        report: Called with (step, tokens done, tokens in all).

    Returns:
        The step that waits for other workers, or None when everything is over.
    """
    for step in steps:
        if step.finished():
            continue
        todo = take_share(step.items(), shares) if step.name != "corpus" else step.items()
        total = sum(step.tokens(item) for item in todo)
        so_far = 0
        for item in todo:
            if step.done(item):
                so_far += step.tokens(item)
                continue

            def advance(tokens: int, name: str = step.name, total: int = total) -> None:
                nonlocal so_far
                so_far += tokens
                if report is not None:
                    report(name, so_far, total)

            step.run(item, shares, advance)
        if not step.finish():
            return step
    return None

"""The long steps of a run, each a list of items that workers share; here the frame, and reading the corpus.

    corpus       tokenise the files                       items: files (the data room takes its own share)
    covariance   second moments of a sample, in parts     items: parts;  finish: add them, decompose  (fitting.py)
    eigenvalues  squared gradients in the eigenbasis      items: parts;  finish: add them               (fitting.py)
    index        codes of every document                  items: shares of the corpus                   (indexing.py)

An item is done when its folder has a marker, so any worker may die at any time. `finish` is the merge: it can run any
time, does nothing before all items are done, and always gives the same bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whence.data import CorpusShare, ingest, make_batch, plan_batches
from whence.gradients import Examples, language_examples
from whence.runs import is_done, take_share

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["Advance", "CorpusStep", "ShareStep", "Step", "batches", "run_steps"]

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
    """Windows in batches of similar length: (places in `rows`, batch, tokens of their own documents)."""
    corpus, fit = owner.corpus, owner.config.fit
    spans = [corpus.window(int(row)) for row in rows]
    lengths = np.array([stop - start for _, start, stop in spans], dtype=np.int64)
    own = np.array([stop - max(start, 0) for _, start, stop in spans], dtype=np.int64)
    pack = owner.config.corpus.context if fit.pack else None
    for places in plan_batches(lengths, fit.batch_tokens, pack):
        batch = make_batch(corpus, rows[places], pack=pack)
        yield places, language_examples(batch, owner.loaded), int(own[places].sum())


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


class ShareStep:
    """A step that does one share of the corpus after another, each to a place of its own, with nothing to merge.

    A subclass has an `owner`, a `name`, and says where a share's result goes and how it is made.
    """

    name = ""
    owner: "Attributor"

    def place_of(self, share: CorpusShare) -> Path:
        """Where the result of a share goes; it is done once that is there."""
        raise AssertionError("defined by each step")

    def run(self, item: CorpusShare, shares: tuple[int, int], advance: Advance) -> None:
        """Do one share."""
        raise AssertionError("defined by each step")

    def items(self) -> list[CorpusShare]:
        """Shares of the corpus."""
        return list(self.owner.corpus.shares)

    def tokens(self, item: CorpusShare) -> int:
        """Tokens of a share."""
        return item.tokens

    def done(self, item: CorpusShare) -> bool:
        """Whether a share's result is there."""
        return is_done(self.place_of(item))

    def finished(self) -> bool:
        """Whether every share is there."""
        return all(self.done(item) for item in self.items())

    def finish(self) -> bool:
        """There is nothing to merge."""
        return self.finished()


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

"""Edits a trained model so that it forgets documents, without training it again: newton, ascent, npo, dmm.

Newton is one step (newton.py). The others train for a few steps on batches of forgotten texts beside batches of kept
ones; what a batch adds to the loss is theirs to say (ascent.py, npo.py, matching.py). Texts are windows of documents.
The model is the run's own; it is copied, never changed. Knows no file.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.attributor import Attributor
from whence.audits.ascent import ascent_loss
from whence.audits.matching import elsewhere, matching_loss
from whence.audits.newton import Blocks, foretold, move, sequences_of
from whence.audits.npo import npo_loss
from whence.data import batch_from_sequences
from whence.errors import InputError, NumericalError
from whence.fidelity import LanguageTask
from whence.fidelity.pieces import PIECE_TOKENS
from whence.interfaces import EncodedQuery, EncodedText, Query, UnlearningMethod
from whence.model import CausalLM, LoadedModel, Training, language_inputs, optimise, reproducible, set_dropout

__all__ = ["METHODS", "Edited", "Texts", "UnlearnSettings", "calibration", "texts_of", "unlearn"]

METHODS: tuple[UnlearningMethod, ...] = ("newton", "ascent", "npo", "dmm")

Report = Callable[[str, int, int], None]
_POOL, _MATCHED = 256, 1024  # kept texts beside forgotten ones, of dmm
_FURTHEST = 1024.0


@dataclass(frozen=True, slots=True)
class UnlearnSettings:
    """How a model is made to forget.

    Attributes:
        strength: Of newton's step; None is what reaches the level (1 without one), if that does little harm.
        harm: Most rise of the kept texts' mean -log p per token that such a search allows newton, nats.
        rate: Learning rate of the others; None is a third of training's, for dmm all of it, falling to nearly none.
        steps: Most steps of the others.
        beta: Of NPO.
        retain: Weight of the kept texts' loss.
        level: Mean -log p per token at which a forgotten text counts as forgotten, nats; None has no such end. dmm
            scales its predictions to reach it on average.
    """

    strength: float | None = None
    harm: float = 0.02
    rate: float | None = None
    steps: int = 100
    beta: float = 0.1
    retain: float = 5.0
    level: float | None = None

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, value, least in (
                ("steps", self.steps, 1), ("beta", self.beta, 1e-6), ("retain", self.retain, 0.0),
                ("rate", self.rate, 0.0), ("level", self.level, 0.0), ("harm", self.harm, 0.0),
            )
            if value is not None and not (math.isfinite(value) and value >= least)
        ]  # fmt: skip
        if wrong:
            raise InputError(f"{', '.join(wrong)}: give a finite number, above 0 for steps and beta, else 0 or more.")


@dataclass(frozen=True)
class Texts:
    """Windows of documents, E of them.

    Attributes:
        sequences: (tokens [T], loss mask [T]) of each.
        tokens: Target tokens of each, float32 [E].
    """

    sequences: Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]]
    tokens: Tensor

    @property
    def encoded(self) -> list[EncodedQuery]:
        """The same as questions."""
        return [
            EncodedQuery(Query(completion=""), str(number), EncodedText(tokens, mask, ()))
            for number, (tokens, mask) in enumerate(self.sequences)
        ]


def texts_of(owner: Attributor, documents: Sequence[int]) -> Texts:
    """The windows of documents."""
    return texts_from(sequences_of(owner.corpus, documents))


def texts_from(sequences: Sequence[tuple[NDArray[np.int64], NDArray[np.bool_]]]) -> Texts:
    """Sequences with their counts."""
    tokens = [max(1, int(mask[1:].sum())) for _, mask in sequences]
    return Texts(sequences, torch.tensor(tokens, dtype=torch.float32))


@dataclass(frozen=True, slots=True)
class Edited:
    """An edited model, seconds it took, and of newton the strength of the step."""

    model: nn.Module
    seconds: float
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Some texts of one step, and whether they are to be forgotten."""

    rows: NDArray[np.int64]
    forget: bool


def unlearn(
    owner: Attributor,
    task: LanguageTask,
    documents: Sequence[int],
    method: UnlearningMethod,
    towards: Blocks,
    settings: UnlearnSettings,
    seed: int = 0,
    report: Report | None = None,
) -> Edited:
    """A copy of the run's model that has forgotten documents as far as a method can.

    Args:
        owner: The run.
        task: Training further from the run's model.
        documents: What is forgotten, k of n.
        method: See the files of that name.
        towards: `whence.audits.newton.direction` of the documents' gradient.
        settings: See `UnlearnSettings`.
        seed: Of the order of texts; newton has none.
        report: Called with ("unlearn", steps done, steps in all).

    Raises:
        NumericalError: The edit leads out of the finite numbers.
        InputError: No document is forgotten, or none is kept.
    """
    kept = np.setdiff1d(np.arange(owner.corpus.documents), np.asarray(documents, dtype=np.int64))
    if not len(kept) or not len(documents):
        raise InputError(
            f"unlearning takes some of {owner.corpus.documents} documents and keeps some; got all or none."
        )
    begun = time.perf_counter()
    with reproducible(task.training):
        loaded = task.initial(seed)
        set_dropout(loaded.model, 0.0)
        forgotten = texts_of(owner, documents)
        most = _MATCHED if method == "dmm" else _POOL
        pool = texts_of(owner, np.random.default_rng([seed, 17]).permutation(kept)[:most].tolist())
        if method == "newton":
            count = owner.trained_on - len(documents)
            strength = _newton(owner, loaded, forgotten, pool, towards, settings, count)
            return Edited(loaded.model, time.perf_counter() - begun, strength)
        loss = _Loss(owner, loaded, forgotten, pool, method, towards, settings, seed)
        training = _training(task.training, settings, method)
        size = min(task.training.batch, max(1, PIECE_TOKENS // max(task.windows.longest, 1)))
        batches = _batches(loss.forgotten_groups, len(pool.sequences), size, settings, seed)

        def told(step: int, steps: int, _: float) -> None:
            if report is not None:
                report("unlearn", step, steps)

        optimise(loaded.model, batches, loss, settings.steps, training, seed=seed, report=told)
    return Edited(loaded.model, time.perf_counter() - begun)


def _training(training: Training, settings: UnlearnSettings, method: UnlearningMethod) -> Training:
    """Steps with the optimizer of training, at a constant rate; dmm's, which has somewhere to arrive, falls."""
    share, shape = (
        (1.0, {"schedule": "cosine", "final": 0.05}) if method == "dmm" else (1 / 3, {"schedule": "constant"})
    )
    rate = training.learning_rate * share if settings.rate is None else settings.rate
    optimizer = "adamw" if training.full_batch else training.optimizer
    fixed = {**shape, "warmup": 0.0, "max_steps": settings.steps, "weight_decay": 0.0}
    return training.model_copy(update={**fixed, "optimizer": optimizer, "learning_rate": rate})


def _batches(
    forget: Sequence[range], kept: int, size: int, settings: UnlearnSettings, seed: int
) -> Iterator[list[_Part]]:
    """Each step some texts of every group of forgotten ones and as many kept texts, in orders of their own."""
    draw = np.random.default_rng([seed, 19])
    groups = [*((rows, True) for rows in forget), *([(range(kept), False)] if settings.retain > 0 else [])]
    endless = [(_cycle(rows, draw), min(size, len(rows)), forgotten) for rows, forgotten in groups]
    for _ in range(settings.steps):
        yield [_Part(np.fromiter(islice(rows, count), np.int64), forgotten) for rows, count, forgotten in endless]


def _cycle(rows: range, draw: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (draw.permutation(len(rows)) + rows.start).tolist()


class _Loss:
    """What a part of a step adds to its loss."""

    def __init__(
        self,
        owner: Attributor,
        loaded: LoadedModel,
        forgotten: Texts,
        kept: Texts,
        method: UnlearningMethod,
        towards: Blocks,
        settings: UnlearnSettings,
        seed: int,
    ) -> None:
        self.loaded, self.method, self.settings = loaded, method, settings
        self.forgotten, self.kept = forgotten, kept
        self.forgotten_groups = [range(len(forgotten.sequences))]
        if method != "dmm":
            self.before = mean_losses(loaded, forgotten) * forgotten.tokens
            return
        cut = elsewhere(forgotten.sequences, kept.sequences, seed)
        self.forgotten = texts_from([*forgotten.sequences, *cut])
        self.forgotten_groups.append(range(len(forgotten.sequences), len(self.forgotten.sequences)))
        self.before = mean_losses(loaded, self.forgotten) * self.forgotten.tokens
        rises = torch.from_numpy(foretold(owner, towards, self.forgotten.encoded)).float()
        whole = slice(len(forgotten.sequences))
        scale = calibration(self.before[whole], rises[whole], forgotten.tokens, settings.level)
        self.wanted = self.before + scale * rises

    def __call__(self, _: nn.Module, part: _Part) -> Tensor:
        texts = self.forgotten if part.forget else self.kept
        losses = text_losses(self.loaded, texts, part.rows)
        tokens = texts.tokens[part.rows].to(losses)
        if not part.forget:
            return losses.sum() / tokens.sum() * self.settings.retain
        if self.method == "dmm":
            return matching_loss(losses, self.wanted[part.rows].to(losses), tokens)
        if self.method == "npo":
            reference = self.before[part.rows].to(losses)
            return npo_loss(losses, reference, self.settings.beta, tokens, self.settings.level)
        return ascent_loss(losses, tokens, self.settings.level)


def calibration(before: Tensor, rises: Tensor, tokens: Tensor, level: float | None) -> float:
    """What predicted rises of -log p are multiplied by so that forgotten texts reach the level on average; 1 without.

    Influence tells which texts rise more, but on texts learnt by heart not by how much: the level does.

    >>> calibration(torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([1.0]), 3.0)
    0.5
    """
    if level is None:
        return 1.0
    rise, short = float((rises / tokens).mean()), level - float((before / tokens).mean())
    return max(0.0, short) / rise if rise > 0 else 1.0


def text_losses(loaded: LoadedModel, texts: Texts, rows: NDArray[np.int64]) -> Tensor:
    """-log p of some texts, [E], attached to the graph."""
    inputs = language_inputs(batch_from_sequences([texts.sequences[row] for row in rows]), loaded)
    return CausalLM().losses(loaded.model, inputs)


@torch.no_grad()
def mean_losses(loaded: LoadedModel, texts: Texts) -> Tensor:
    """-log p per token of every text, float32 [E] on the CPU."""
    longest = max(len(tokens) for tokens, _ in texts.sequences)
    size = max(1, PIECE_TOKENS // longest)
    rows = np.arange(len(texts.sequences))
    parts = [text_losses(loaded, texts, rows[at : at + size]).float().cpu() for at in range(0, len(rows), size)]
    return torch.cat(parts) / texts.tokens


def _newton(
    owner: Attributor,
    loaded: LoadedModel,
    forgotten: Texts,
    kept: Texts,
    towards: Blocks,
    settings: UnlearnSettings,
    count: float,
) -> float:
    """Take the step in place; its strength, as given or as a search finds it."""
    start = {name: value.detach().clone() for name, value in loaded.model.state_dict().items()}
    before = float(mean_losses(loaded, kept).mean())

    def step(strength: float) -> float:
        """The step from the start; the mean loss per token of the forgotten texts after it, nats."""
        loaded.model.load_state_dict(start)
        move(loaded.model, owner.sites, {name: block * (strength / count) for name, block in towards.items()})
        loss = float(mean_losses(loaded, forgotten).mean())
        return loss if math.isfinite(loss) else math.inf

    def enough(strength: float) -> bool:
        """Whether a strength is as far as one should go: the level is reached, or too much harm done."""
        far = step(strength) >= (math.inf if settings.level is None else settings.level)
        harm = float(mean_losses(loaded, kept).mean()) - before
        return far or not harm <= settings.harm

    strength = settings.strength
    if strength is None:
        strength = _search(enough, _FURTHEST if settings.level is not None else 1.0)
    if not math.isfinite(step(strength)):
        raise NumericalError(
            f"a Newton step of strength {strength:g} leads out of the finite numbers; give a smaller --strength, or "
            "more damping."
        )
    return strength


def _search(enough: Callable[[float], bool], furthest: float) -> float:
    """The largest strength found, up to the furthest, that is not yet enough: doubled while it is not, then bisected.

    >>> round(_search(lambda strength: strength > 0.3, 1.0), 2)
    0.3
    """
    low, high = 0.0, min(1.0, furthest)
    while not enough(high):
        if high >= furthest:
            return high
        low, high = high, min(2 * high, furthest)
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low

"""What a method is: settings, the long steps it needs first, and scores of documents as a stream.

Every method is an embedding: a document becomes a vector, a query becomes a vector, influence is their inner product.
Two kinds follow from where the work lies.

    Solver   only the query's vector is its own: influence = (weight / n) <solve(q), grad z>. Any index of gradients
             can be read with it, and influence can be taken apart by token and by site.
    Scorer   documents have vectors of its own too: it streams scores itself.

A method is frozen settings, one file each, named after its paper. Whatever it fits lies in a folder of its own in the
run, named by all that decides it. Axes: Q queries, M documents of a piece of the stream.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from whence.attributor import Attributor, Checkpoint, Question, Step
from whence.attributor.fitting import CovarianceStep, EigenvalueStep
from whence.attributor.steps import CorpusStep
from whence.errors import InputError
from whence.gradients import Recipe
from whence.interfaces import EncodedQuery
from whence.model import TrainingReplay
from whence.scoring import Fold

__all__ = ["Advance", "Method", "Scorer", "Solver", "Work", "ekfac_steps", "typed"]

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Work:
    """What a method may use.

    Attributes:
        owner: A run of the model; its sites are those that count.
        checkpoints: Earlier states of the same training with rates and optimizer states, oldest first; may be empty.
        replay: The training itself, to be run again; see `whence.fidelity.replay_of`.
    """

    owner: Attributor
    checkpoints: tuple[Checkpoint, ...] = ()
    replay: TrainingReplay | None = None

    def training(self, method: "Method") -> TrainingReplay:
        """The training, for a method that runs it again.

        Raises:
            InputError: It is not known.
        """
        if self.replay is None:
            raise InputError(
                f"method {method.key!r} runs the training again and differentiates it, so it must know how the model "
                "was trained; give --training with a file of its settings (TOML, JSON, or what a Trainer left; in "
                "Python: Work(owner, replay=whence.fidelity.replay_of(...)))."
            )
        return self.replay

    def folder(self, method: "Method") -> Path:
        """Where a method keeps what it fitted; another setting, model, corpus or checkpoint has another folder."""
        owner = self.owner
        bound = {
            "method": method.spec,
            "model": owner.loaded.fingerprint,
            "sites": [site.name for site in owner.sites],
            "corpus": owner.corpus.fingerprint,
            "fit": owner.config.fit.model_dump(mode="json", exclude={"method"}),
            "checkpoints": [each.fingerprint for each in self.checkpoints],
        }
        if method.training and self.replay is not None:
            bound["training"] = dict(self.replay.fingerprint)
        digest = hashlib.sha256(json.dumps(bound, sort_keys=True, default=str).encode()).hexdigest()[:12]
        return owner.run.path / "methods" / f"{method.key}-{digest}"


class Method(BaseModel):
    """Settings of one way to score documents.

    Attributes:
        key: What is typed: ``ekfac`` in ``--method ekfac:damping=0.1``.
        title: As tables and plots show it.
        paper: Authors, year and arXiv number.
        unit: Of its scores: nats (the predicted drop of log p if the document had not been trained on), or score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    unit: ClassVar[str] = "nats"
    checkpoints: ClassVar[bool] = False
    """Whether it needs earlier checkpoints of the training."""
    training: ClassVar[bool] = False
    """Whether it runs the training again."""

    @classmethod
    def needs(cls) -> str:
        """What it needs beside the model and the corpus, in a word."""
        return "checkpoints" if cls.checkpoints else "the training" if cls.training else "–"

    @property
    def parts(self) -> tuple["Method", ...]:
        """The methods that it is made of; itself, of most."""
        return (self,)

    @property
    def spec(self) -> str:
        """The method as typed, with settings that differ from the defaults.

        Two methods of one spec are the same method.
        """
        given = self.model_dump(mode="json", exclude_defaults=True)
        settings = ",".join(f"{name}={_whole(value)}" for name, value in given.items())
        return f"{self.key}:{settings}" if settings else self.key

    @property
    def label(self) -> str:
        """The title, with settings that differ from the defaults: ``EK-FAC, damping 0.5``."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return ", ".join([self.title, *(f"{name} {typed(value)}" for name, value in given.items())])

    def steps(self, work: Work) -> list[Step]:
        """The long steps it needs before it can score, in order; each can be killed, resumed and shared."""
        return [CorpusStep(work.owner)]

    def notes(self, work: Work) -> tuple[str, ...]:
        """What a reader of its scores has to know of this run, once its steps are done."""
        return ()

    def bytes_per_document(self, work: Work) -> float:
        """Bytes it stores for a document on average, once its steps are done."""
        return 0.0


class Solver(Method):
    """A method whose documents are plain gradients, or those of another objective than -log p (`recipe` says which)."""

    @property
    def indexed(self) -> bool:
        """Whether it scores from an index of its own `recipe`, which is among its steps; else by running the model."""
        return False

    def recipe(self, work: Work) -> Recipe | None:
        """The index that it reads in a trace, and whose gradients documents have; the run's own index if None."""
        return None

    @abstractmethod
    def solve(self, work: Work, question: Question) -> Mapping[str, Tensor]:
        """The queries' vectors by site, [Q, O, I]; ``question.blocks`` for the gradient dot product.

        Args:
            work: Its steps are done.
            question: Gradients of -log p of the queries.
        """
        ...


class Scorer(Method):
    """A method whose documents have vectors of its own."""

    @abstractmethod
    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Feed scores [Q, M] of all documents to folds, in corpus order, each document once.

        Args:
            work: Its steps are done.
            queries: Q of them, few enough that their gradients fit into memory together.
            folds: What takes the scores; positive supports the query's output.
            advance: Told of tokens as they are done.
        """
        ...


def ekfac_steps(owner: Attributor, measured: bool = True) -> list[Step]:
    """Steps of a K-FAC basis and, if `measured`, of EK-FAC's eigenvalues, whatever the run's own method is."""
    fitted = _with_fit(owner, "ekfac")
    steps: list[Step] = [CorpusStep(owner), CovarianceStep(fitted)]
    return [*steps, EigenvalueStep(fitted)] if measured else steps


def diagonal_steps(owner: Attributor) -> list[Step]:
    """Steps of the diagonal of the curvature."""
    return [CorpusStep(owner), EigenvalueStep(_with_fit(owner, "diagonal"))]


def _with_fit(owner: Attributor, method: str) -> Attributor:
    """The same run, seen as one that was asked for another curvature; nothing on disk differs but what is fitted."""
    import copy

    if owner.config.fit.method == method:
        return owner
    other = copy.copy(owner)
    other.config = owner.config.model_copy(update={"fit": owner.config.fit.model_copy(update={"method": method})})
    return other


def _whole(value: Any) -> str:
    """A setting as it is typed, in parentheses where it is one word that would be taken for several: a path."""
    return f"({value})" if isinstance(value, str) and set(value) & set(",+") else typed(value)


def typed(value: Any) -> str:
    """A setting as it is typed: numbers and words as they are, lists with + between, specs in parentheses."""
    if isinstance(value, list | tuple):
        items = map(typed, value)
        return "+".join(f"({item})" if set(item) & set(":=,+") else item for item in items)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}".replace("e+", "e") if isinstance(value, float) else str(value)

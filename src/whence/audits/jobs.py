"""What one intervention is asked for, and its parts: documents, texts, predictions, trainings. Draws no conclusions.

Axes: R seeds, P texts. A part is made when it is first asked for; what was trained is kept in banks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.attributor.certified import EXACT
from whence.audits import choosing
from whence.audits.altering import Altered, Workshop, replaced_by, with_rows
from whence.audits.asked import refuse_options
from whence.audits.checkpoints import provenance_of, read_provenance, save_checkpoint
from whence.audits.newton import direction, foretold, sequences_of, total_gradient
from whence.audits.probes import Probes, make_probes
from whence.audits.unlearning import UnlearnSettings
from whence.data import open_corpus
from whence.errors import InputError
from whence.fidelity import Start, retrain
from whence.fidelity.bank import Bank, Cell, Outcome
from whence.fidelity.records import content_hash
from whence.gradients import Recipe
from whence.interfaces import Action, Query, UnlearningMethod
from whence.model import Training

__all__ = ["InterventionOptions", "Job"]

Array = NDArray[np.float64]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class InterventionOptions:
    """What is done, to which documents, and held against what.

    Attributes:
        action: See `whence.interfaces.interventions.Action`.
        methods: Of unlearning; the first one's model is kept and tried on the controls' documents, too.
        top: Documents that influence names, as many as this times the targets; see `choosing.first_of_each`.
        documents: Ids to take instead.
        named_by: Who named these.
        copies: Take documents that say nearly the same as these, too.
        gold: Take the documents that the targets' metadata name under "gold" instead.
        rows: JSON lines to train on, for relabel and add.
        weight: Of the documents' losses, for down-weight.
        seeds: Models of every arm.
        relearn: Steps of the relearning test; 0 leaves it out.
        controls: Whether the same is done to documents named by BM25, at random and by gold.
        exact: Score by running the model over the corpus.
        index: Name of the index.
        placebo: Take other documents than those that were named: nothing beyond chance may happen.
        unlearn: How to unlearn.
        unseen: Texts like the documents that were never trained on, which say when a document counts as forgotten.
        workers: Processes that train at once.
        seed: Of what is drawn.
    """

    action: Action = "remove"
    methods: Sequence[UnlearningMethod] = ("newton",)
    top: int = 1
    documents: Sequence[str] = ()
    named_by: str = "given documents"
    copies: bool = False
    gold: bool = False
    rows: Path | None = None
    weight: float = 0.5
    seeds: int = 3
    relearn: int = 20
    controls: bool = True
    exact: bool = False
    index: str | None = None
    placebo: bool = False
    unlearn: UnlearnSettings = field(default_factory=UnlearnSettings)
    unseen: Sequence[Query] = ()
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_options(
            action=self.action, methods=self.methods, rows=self.rows, weight=self.weight, gold=self.gold,
            documents=self.documents,
        )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One intervention; its parts are made as they are asked for."""

    owner: Attributor
    asked: Sequence[Query]
    training: Training
    start: Start
    folder: Path
    options: InterventionOptions
    paraphrases: tuple[Query, ...]
    utility: tuple[Query, ...]
    report: Report | None

    # ------------------------------------------------------------------ which documents

    @cached_property
    def targets(self) -> list[Query]:
        """The targets without their contrasts."""
        return [query.model_copy(update={"contrast": None}) for query in self.asked]

    @cached_property
    def corpus(self) -> Path:
        """Where the documents lie, rows included."""
        rows = self.options.rows
        return self.owner.run.corpus if rows is None else with_rows(self.owner, rows)

    @cached_property
    def rows(self) -> list[int]:
        """Numbers of the rows in the corpus."""
        return list(range(self.owner.corpus.documents, open_corpus(self.corpus).documents))

    @cached_property
    def named(self) -> dict[str, list[int]]:
        """Documents by who named them, the main ones first; for relabel those that rows replace, for add none."""
        options, owner = self.options, self.owner
        if options.action == "add":
            return {"rows": []}
        if options.action == "relabel":
            return {"rows": replaced_by(owner, self.corpus)[0]}
        gold = choosing.gold_of(owner, self.asked)
        found: dict[str, list[int]] = {}
        if options.documents:
            given = choosing.numbers_of(owner, options.documents, "--documents")
            found[options.named_by] = choosing.with_copies(owner, given) if options.copies else given
        if options.gold:
            found["oracle"] = gold
        most = owner.corpus.documents - 1
        count = len(next(iter(found.values()))) if found else min(options.top * len(self.targets), most)
        if not found or options.controls:
            scores = owner.scores(self.targets, index=options.index, exact=options.exact)
            found["influence"] = choosing.first_of_each(scores, count)
        main = next(iter(found.values()))
        if not main:
            raise InputError(
                "no document is named: "
                + ("no target's metadata has 'gold'." if options.gold else "none supports a target by influence.")
            )
        if options.controls:
            encoded = owner.encode_queries(self.targets)
            lexical = choosing.by_bm25(owner, encoded)
            found["BM25"] = choosing.first_of_each(lexical, len(main))
            if gold and "oracle" not in found:
                found["oracle"] = gold
        if options.placebo:
            count = owner.corpus.documents
            found = {by: choosing.shuffled(each, count, options.seed) for by, each in found.items()}
        return {by: each for by, each in found.items() if each}

    @property
    def main(self) -> list[int]:
        """The documents that are taken."""
        return next(iter(self.named.values()))

    @property
    def by(self) -> str:
        """Who named them."""
        return next(iter(self.named))

    @cached_property
    def lots(self) -> list[list[int]]:
        """Documents drawn at random, as many tokens as the main ones, one draw per seed."""
        tokens = choosing.lengths(self.owner)
        wanted = int(tokens[self.main].sum())
        return [choosing.at_random(tokens, wanted, self.options.seed + 101 * s) for s in range(self.options.seeds)]

    # ------------------------------------------------------------------ what is asked, what is foretold

    @cached_property
    def probes(self) -> Probes:
        """The texts whose losses are taken."""
        return make_probes(self.owner, self.asked, self.paraphrases, self.utility, self.main, self.options.seed)

    @property
    def recipe(self) -> Recipe:
        """Method and damping of influence."""
        return self.owner.recipe(None if self.options.exact else self.options.index)

    @cached_property
    def foretold(self) -> Array:
        """Predicted change of -log p of every text, [P], nats."""
        owner, action = self.owner, self.options.action
        gradient = total_gradient(owner, sequences_of(owner.corpus, self.main))
        if action == "down-weight":
            gradient = {name: block * (1.0 - self.options.weight) for name, block in gradient.items()}
        if self.rows:
            more = total_gradient(owner, sequences_of(open_corpus(self.corpus), self.rows))
            gradient = {name: block - more[name] for name, block in gradient.items()}
        return foretold(owner, direction(owner, gradient, self.recipe), self.probes.texts)

    # ------------------------------------------------------------------ training

    @cached_property
    def workshop(self) -> Workshop:
        """What all trainings share."""
        return Workshop(
            self.owner, self.training, self.start, self.probes.texts, self.corpus, self.owner.corpus.documents
        )

    def altered(self, documents: Sequence[int], main: bool = False) -> Altered:
        """The training after the action was done to some documents."""
        shop, action = self.workshop, self.options.action
        if action == "down-weight":
            return shop.weighed(documents, self.options.weight)
        if action in ("relabel", "add") and main:
            return shop.with_all(shop.task(), documents)
        return shop.without(shop.task(), documents)

    def losses(self, altered: Altered, seeds: Sequence[int]) -> Array:
        """Losses [R, P] after training, which is done if it is missing."""
        bank = self.workshop.bank(altered.task)
        retrain(bank, altered.kept[None], seeds, workers=self.options.workers, report=self.report)
        found: Array = bank.losses(altered.kept[None], seeds)[0]
        return found

    @cached_property
    def stored(self) -> Array:
        """Losses [1, P] of the run's own model."""
        source = self.owner.source
        task = self.workshop.task(Start(source.model, False, source.adapter))
        found: Array = task.losses(task.stored_model())[None]
        return found

    @cached_property
    def whole(self) -> Array:
        """Losses [R, P] of models trained on everything."""
        return self.losses(self.workshop.unaltered(self.workshop.task()), range(self.options.seeds))

    @cached_property
    def without(self) -> Array:
        """Losses [R, P] of models trained after the main change (for unlearning: without the documents)."""
        return self.losses(self.altered(self.main, main=True), range(self.options.seeds))

    def at_random(self) -> Array:
        """Losses [R, P] after the same was done to random documents, others for each seed."""
        return np.concatenate([self.losses(self.altered(lot), [seed]) for seed, lot in enumerate(self.lots)])

    def trainings(self) -> Iterator[tuple[Altered, Sequence[int]]]:
        """Everything that is trained, with its seeds: the arms of `interventions`, before any is run."""
        yield self.workshop.unaltered(self.workshop.task()), self.seeds
        yield self.altered(self.main, main=True), self.seeds
        if self.options.action in ("add", "unlearn") or not self.options.controls:
            return
        if self.options.action == "relabel":
            yield self.altered(self.main), self.seeds
        for documents in list(self.named.values())[1:]:
            yield self.altered(documents), self.seeds
        for seed, lot in enumerate(self.lots):
            yield self.altered(lot), [seed]

    def kept_cell(self) -> tuple[Bank, Cell] | None:
        """The training whose model is kept, by its bank; None if that model is there, or the kept one is edited."""
        if self.options.action == "unlearn":
            return None
        altered = self.altered(self.main, main=True)
        bank = self.workshop.bank(altered.task)
        (cell,) = bank.cells(altered.kept[None], [0])
        there = (read_provenance(self.folder / "model") or {}).get("key")
        return None if there == _name(bank, cell) else (bank, cell)

    def keep_model(self, told: Mapping[str, Any]) -> None:
        """Save the first seed's model of the main change, and what it said; nothing if it is there."""
        found = self.kept_cell()
        if found is None:
            return
        bank, cell = found
        altered = self.altered(self.main, main=True)

        def report(step: int, steps: int, _: float) -> None:
            if self.report is not None:
                self.report("retrain", step, steps)

        trained = altered.task.fit(cell.kept, 0, report)
        losses = tuple(altered.task.losses(trained.model).tolist())
        bank.record(cell, Outcome(losses, trained.final_loss, len(trained.losses)))
        said = {"key": _name(bank, cell), **told, "training": altered.task.training.model_dump(mode="json"), "seed": 0}
        save_checkpoint(trained.model, self.owner, self.folder / "model", provenance_of(self.owner, self.main, said))

    # ------------------------------------------------------------------ for the record

    @property
    def seeds(self) -> range:
        """Seeds of training."""
        return range(self.options.seeds)

    @property
    def scored_by(self) -> str:
        """Name of the ranking, as certificates have it."""
        if self.options.exact:
            return f"{self.recipe.name}-{EXACT}"
        return self.owner.open_index(self.options.index).folder.name

    @property
    def words(self) -> str:
        """How models were trained."""
        training = self.training
        length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
        return f"{self.start.words} with {training.optimizer}, {length} at a rate of {training.learning_rate:g}"

    def told(self) -> dict[str, Any]:
        """Everything that decides the result, as plain JSON."""
        options = self.options
        told: dict[str, Any] = {"action": options.action, "documents by": self.by}
        if options.action == "unlearn":
            told |= {"methods": list(options.methods), **asdict(options.unlearn), "relearning steps": options.relearn}
        if options.action == "down-weight":
            told["weight"] = options.weight
        if options.rows is not None:
            told |= {"rows": str(options.rows), "rows trained on": len(self.rows)}
        if self.by == "influence":
            told["documents of each target"] = options.top
        if self.recipe != self.recipe.alike:
            told["foretold by"] = f"{self.recipe.curvature}, all sites alike"
        return told | {
            "influence": "the model was run over the documents" if options.exact else self.scored_by,
            "damping": str(self.recipe.damping),
            "seeds": options.seeds,
            "training": self.words,
            "placebo": options.placebo,
            "seed": options.seed,
        }


def _name(bank: Bank, cell: Cell) -> str:
    """What tells one training from all others."""
    return content_hash(f"{bank.folder.name} {cell.name}")

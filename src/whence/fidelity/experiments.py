"""The experiments of the lab: what is retrained for each measure, and what each method scores on it.

An experiment plans training sets, has them trained (or finds them in a bank), and hands arrays to the measures. Each
returns what was measured against (`Truth`) and one reading per method. Shows nothing and writes no result.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from whence.attributor import Checkpoint
from whence.errors import InputError
from whence.fidelity.bank import Bank
from whence.fidelity.ceiling import ceiling
from whence.fidelity.lab_settings import LabSettings
from whence.fidelity.lds import lds, lds_difference
from whence.fidelity.leave_out import changes, leave_one_out, removal, removal_plan, tail_patch_plan
from whence.fidelity.leave_out import tail_patch as measure_patches
from whence.fidelity.methods import MethodSpec
from whence.fidelity.mislabel import mislabel
from whence.fidelity.patches import Patches
from whence.fidelity.replays import replay_of, task_of
from whence.fidelity.retrain import retrain
from whence.fidelity.retrieval import retrieval
from whence.fidelity.scorers import Scored, run_methods
from whence.fidelity.subsets import halves, keys, subset_key, whole, without
from whence.fidelity.tasks import LanguageTask
from whence.interfaces import EncodedQuery, Measure, Query, Reading, Truth
from whence.model import Training

if TYPE_CHECKING:
    from whence.attributor import Attributor

__all__ = ["BM25", "GOLD", "RANDOM", "Lab", "Measured", "Start"]

Array = NDArray[np.float64]
Scores = Mapping[str, Array]
Measured = tuple[Truth, list[Reading]]
Report = Callable[[str, int, int], None]

BM25, RANDOM, GOLD = "BM25", "random", "gold documents"
"""Names of the methods that others are held against; the last is an oracle that knows which documents matter."""

_LEAVE_OUT = 7  # purpose of the stream that draws documents


@dataclass(frozen=True, slots=True)
class Start:
    """Where training starts.

    Attributes:
        path: Model directory or hub id.
        scratch: Fresh weights of its configuration, or those that are stored.
        adapter: Adapters that are trained further.
    """

    path: str
    scratch: bool
    adapter: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For tables and certificates."""
        return "from scratch" if self.scratch else f"further from {self.path}"


@dataclass(frozen=True)
class Lab:
    """One run's laboratory: its corpus, its queries, how it trains, and where it keeps what was trained.

    Attributes:
        owner: The run.
        queries: The queries; `encoded` are the same as tokens.
        training: How models are trained.
        start: From where.
        settings: How much.
        workers: Processes that train at once.
        shares: (i, n): this is the i-th of n machines that share the random subsets; see `train_share`.
        report: Called with (step, done, total).
        checkpoints: Of the training of the run's own model, for methods that follow it.
    """

    owner: "Attributor"
    queries: Sequence[Query]
    encoded: Sequence[EncodedQuery]
    training: Training
    start: Start
    settings: LabSettings
    workers: int = 1
    shares: tuple[int, int] = (0, 1)
    report: Report | None = None
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def seeds(self) -> range:
        """Seeds of training."""
        return range(self.settings.seeds)

    @property
    def documents(self) -> int:
        """N."""
        return self.owner.corpus.documents

    def task(self, training: Training, start: Start) -> LanguageTask:
        """The training that is repeated."""
        return task_of(self.owner, training, start, self.encoded)

    @cached_property
    def basis(self) -> str:
        """Hash of the training, its start, the corpus and the queries."""
        task = self.task(self.training, self.start)
        return _digest({"task": dict(task.fingerprint), "queries": sorted(task.query_keys)})

    @property
    def model(self) -> Start:
        """The run's own model as a start."""
        source = self.owner.source
        return Start(source.model, False, source.adapter)

    def bank(self, training: Training, start: Start) -> Bank:
        """The bank of a training; one folder each."""
        task = self.task(training, start)
        return Bank(self.owner.run.fidelity / "banks" / _digest(dict(task.fingerprint)), task)

    @staticmethod
    def held(training: Training) -> Training:
        """The same training with every document in its place, so that leaving one out changes nothing else."""
        return training.model_copy(update={"grouping": "hold"})

    @property
    def further(self) -> tuple[Training, Start]:
        """Training further from the run's own model, at a tenth of the rate."""
        gentle = {"epochs": self.settings.further_epochs, "max_steps": None, "warmup": 0.0, "schedule": "constant"}
        training = self.training.model_copy(update={**gentle, "learning_rate": self.training.learning_rate / 10})
        return self.held(training), self.model

    def run(self, specs: Sequence[MethodSpec]) -> list[Scored]:
        """Score by methods, or read back what they scored before."""

        def report(_: str, done: int, total: int) -> None:
            if self.report is not None:
                self.report("methods", done, total)

        replay = replay_of(self.owner, self.training, self.start)
        folder = self.owner.run.fidelity / "methods"
        return run_methods(self.owner, self.queries, specs, folder, report, self.checkpoints, replay)

    # ------------------------------------------------------------------ truths

    @cached_property
    def subsets(self) -> NDArray[np.bool_]:
        """The random subsets [S, N]; in a tiny corpus fewer than were asked for, each once."""
        drawn = halves(self.documents, self.settings.subsets, self.settings.seed, self.settings.share)
        return np.stack(list({subset_key(row): row for row in drawn}.values()))

    @cached_property
    def halves(self) -> tuple[NDArray[np.bool_], Array]:
        """Random subsets [S, N] and the losses [S, R, Q] after training on each."""
        kept = self.subsets
        return kept, self.losses(self.bank(self.training, self.start), kept)

    def train_share(self) -> tuple[int, int]:
        """Train this machine's share of the random subsets; how many of all models on them are there now."""
        bank, kept = self.bank(self.training, self.start), self.subsets
        retrain(bank, kept, self.seeds, workers=self.workers, shares=self.shares, report=self.report)
        total = len(kept) * len(self.seeds)
        return total - len(bank.missing(kept, self.seeds)), total

    def losses(self, bank: Bank, kept: NDArray[np.bool_], seeds: int | None = None) -> Array:
        """Query losses [S, R, Q], after training what is missing."""
        chosen = range(seeds or self.settings.seeds)
        retrain(bank, kept, chosen, workers=self.workers, report=self.report)
        return bank.losses(kept, chosen)

    def effects(
        self, training: Training, start: Start, removed: Sequence[Iterable[int]], seeds: int | None = None
    ) -> Array:
        """Rise of each query's loss when sets of documents are left out, [sets, R, Q]; the rest trains alike."""
        bank = self.bank(self.held(training), start)
        kept = np.concatenate([whole(self.documents), without(self.documents, removed)])
        found = self.losses(bank, kept, seeds)
        return changes(found[1:], found[0])

    # ------------------------------------------------------------------ measures

    def lds(self, scores: Scores) -> Measured:
        """Linear datamodelling score; the detail is the difference to BM25 on the same resamples."""
        kept, losses = self.halves
        draws = {"draws": self.settings.draws, "seed": self.settings.seed}
        readings = []
        for name, table in scores.items():
            detail: dict[str, float] = {}
            if BM25 in scores and name != BM25:
                over = lds_difference(table, scores[BM25], kept, losses, **draws)
                detail = {"over_bm25": over.value, "over_bm25_low": over.low, "over_bm25_high": over.high}
            estimate = lds(table, kept, losses, **draws)
            readings.append(Reading(measure="lds", method=name, estimate=estimate, detail=detail))
        share = self.settings.share
        about = f"{len(kept)} random {'halves' if share == 0.5 else f'{share:.0%} parts'} × {len(self.seeds)} seeds"
        return self._truth("lds", losses, about, self.training, self.start), readings

    def leave_one_out(self, scores: Scores) -> Measured:
        """Leave-one-out, with everything else of the training held as it was."""
        return self._leave_one_out("loo", self.training, self.start, scores)

    def further_training(self, scores: Scores) -> Measured:
        """Leave-one-out of further training from the run's own model (Wei et al. 2024)."""
        return self._leave_one_out("further-training", *self.further, scores)

    def _leave_one_out(self, measure: Measure, training: Training, start: Start, scores: Scores) -> Measured:
        assert measure in ("loo", "further-training")
        chosen = self._documents_to_leave_out(scores)
        effects = self.effects(training, start, [[document] for document in chosen])
        readings = [
            leave_one_out(
                chosen,
                effects,
                table,
                method=name,
                measure=measure,
                draws=self.settings.draws,
                seed=self.settings.seed,
            )
            for name, table in scores.items()
        ]
        about = f"{len(chosen)} documents left out one at a time × {len(self.seeds)} seeds"
        return self._truth(measure, effects, about, training, start, whole=True), readings

    def _documents_to_leave_out(self, scores: Scores) -> list[int]:
        """Half from the tops of all methods, by lot, so that there are effects to see; half from all documents."""
        count = min(self.settings.left_out, self.documents)
        lot = np.argsort(keys(self.documents, _LEAVE_OUT, self.settings.seed, 0), kind="stable")
        tops = {
            int(table[query].argmax())
            for name, table in scores.items()
            if name != RANDOM
            for query in range(len(table))
        }
        first = [document for document in lot.tolist() if document in tops][: count // 2]
        rest = [document for document in lot.tolist() if document not in first]
        return sorted([*first, *rest[: count - len(first)]])

    def removal(self, scores: Scores) -> Measured:
        """Leave-k-out: the documents that each method ranks highest, and the gold ones where they are known."""
        known = self._with_gold(scores)
        asked = min(self.settings.removal_queries, len(self.encoded))
        able = [q for q, each in enumerate(self.gold) if each or GOLD not in known]  # an oracle is asked where it knows
        chosen = [able[place] for place in np.unique(np.linspace(0, len(able) - 1, asked).astype(int))]
        removed = min(self.settings.removed, self.documents - 1)
        plan = removal_plan(known, removed, chosen)
        effects = self.effects(self.training, self.start, plan.removed, self.settings.removal_seeds)
        found = removal(plan, effects, known, draws=self.settings.draws, seed=self.settings.seed)
        about = f"the top {removed} documents of {len(chosen)} queries removed × {effects.shape[1]} seeds"
        truth = self._truth("removal", effects, about, self.training, self.start, whole=True)
        return truth.model_copy(update={"queries": len(chosen), "ceiling": None}), list(found.values())

    def tail_patch(self, scores: Scores) -> Measured:
        """One training step on each of the documents that the methods rank highest; retrains nothing."""
        k = min(self.settings.removed, self.documents)
        documents = tail_patch_plan(scores, k)
        gains = Patches(self.owner.run.fidelity / "patches", self.task(self.training, self.model)).gains(
            documents, self.report
        )
        draws, seed = self.settings.draws, self.settings.seed
        readings = [
            measure_patches(gains, documents, table, k, method=name, draws=draws, seed=seed)
            for name, table in scores.items()
        ]
        about = f"one step on each of the top {k} documents"
        return Truth(measure="tail-patch", queries=len(self.encoded), subsets=len(documents), about=about), readings

    def retrieval(self, scores: Scores) -> list[Measured]:
        """Recall and mean reciprocal rank of the gold documents."""
        draws, seed = self.settings.draws, self.settings.seed
        pairs = [retrieval(t, self.gold, method=name, draws=draws, seed=seed) for name, t in scores.items()]
        asked = sum(1 for each in self.gold if each)
        about = f"gold documents named by the queries' {self.settings.gold!r}"
        truths = (Truth(measure="recall", queries=asked, about=about), Truth(measure="mrr", queries=asked, about=about))
        return [(truth, [pair[place] for pair in pairs]) for place, truth in enumerate(truths)]

    def mislabel(self, rankings: Mapping[str, Array]) -> Measured:
        """How well rankings [N] of documents find those known to be bad."""
        draws = {"draws": self.settings.draws, "seed": self.settings.seed}
        readings = [mislabel(values, self.bad, method=name, **draws) for name, values in rankings.items()]
        about = f"{int(self.bad.sum())} of {self.documents} documents marked {self.settings.bad!r}"
        return Truth(measure="mislabel", queries=0, subsets=self.documents, about=about), readings

    # ------------------------------------------------------------------ what is known

    @cached_property
    def gold(self) -> list[list[int]]:
        """Numbers of each query's gold documents; none where the query names none."""
        wanted = [query.ids_under(self.settings.gold) for query in self.queries]
        names = {name for each in wanted for name in each}
        places = self.owner.corpus.places(names)
        unknown = sorted(names - set(places))
        if unknown:
            raise InputError(
                f"{len(unknown)} of the documents that queries name under {self.settings.gold!r} are not in this "
                f"corpus: {', '.join(map(repr, unknown[:5]))}. Correct the ids, or leave recall, mrr and removal out "
                "of --measures."
            )
        return [[number for name in each for number in places[name]] for each in wanted]

    @cached_property
    def bad(self) -> NDArray[np.bool_]:
        """Which documents are marked as bad, [N]."""
        marks = (self.owner.corpus.document(n).metadata.get(self.settings.bad, "") for n in range(self.documents))
        return np.array([str(mark).lower() in ("true", "1", "yes") for mark in marks])

    def _with_gold(self, scores: Scores) -> dict[str, Array]:
        """The scores and, where gold documents are known, an oracle that takes them first and then at random."""
        if not any(self.gold):
            return dict(scores)
        table = np.zeros((len(self.encoded), self.documents))
        if RANDOM in scores:
            table += scores[RANDOM] / (1 + np.abs(scores[RANDOM]).max())
        for query, documents in enumerate(self.gold):
            table[query, documents] += 2
        return {**scores, GOLD: table}

    def _truth(
        self, measure: Measure, losses: Array, about: str, training: Training, start: Start, whole: bool = False
    ) -> Truth:
        units, seeds, queries = losses.shape
        return Truth(
            measure=measure,
            ceiling=ceiling(losses, draws=self.settings.draws, seed=self.settings.seed),
            queries=queries,
            subsets=units,
            seeds=seeds,
            retrains=(units + whole) * seeds,
            about=about,
            training=f"{start.words} with {_words(training)}",
        )


def _digest(content: object) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


def _words(training: Training) -> str:
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
    return f"{training.optimizer}, {length} at a rate of {training.learning_rate:g}"

"""Training sets with and without a change: documents left out, weighed less, replaced, added; and their banks.

Every change is a task with a mask over its corpus. Rows that are added, or that take documents' places, are read into
a second corpus, the run's own followed by them, so that a mask over both says what is trained on. All documents hold
their places in the batches: trainings that differ in a document differ in nothing else.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.data import SourceSettings, ingest, open_corpus
from whence.errors import CorpusError, InputError
from whence.fidelity import Bank, LanguageTask, Start
from whence.fidelity.pieces import refuse_weights
from whence.fidelity.records import content_hash
from whence.interfaces import EncodedQuery
from whence.model import Training

__all__ = ["Altered", "Workshop", "replaced_by", "with_rows"]

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Altered:
    """A training: what is trained on, and how.

    Attributes:
        task: The training, with documents' weights if they are not all 1.
        kept: Documents of its corpus that are trained on, [N].
    """

    task: LanguageTask
    kept: Bools


@dataclass(frozen=True)
class Workshop:
    """What all trainings of an intervention share.

    Attributes:
        owner: The run.
        training: How models are trained.
        start: From where.
        texts: What trained models are asked.
        corpus: Folder of the corpus, which may be the run's followed by rows.
        own: Documents of the run's own corpus, N; those after it are rows.
    """

    owner: Attributor
    training: Training
    start: Start
    texts: Sequence[EncodedQuery]
    corpus: Path
    own: int

    def task(self, start: Start | None = None, weights: Sequence[float] | None = None) -> LanguageTask:
        """The training that is repeated, or that from another start."""
        begin, source = start or self.start, self.owner.source
        return LanguageTask(
            self.corpus,
            begin.path,
            self.training.model_copy(update={"grouping": "hold"}),
            self.texts,
            scratch=begin.scratch,
            adapter=begin.adapter,
            device=self.owner.device,
            revision=source.revision if begin.path == source.model else None,
            attention=source.attention,
            tokenizer=source.tokenizer,
            weights=weights,
            check_tokenizer=begin.path != source.model,
        )

    def bank(self, task: LanguageTask) -> Bank:
        """Where its models' losses are kept; one folder each."""
        name = content_hash(json.dumps(dict(task.fingerprint), sort_keys=True))[:16]
        return Bank(self.owner.run.path / "interventions" / "banks" / name, task)

    def unaltered(self, task: LanguageTask) -> Altered:
        """Training on the run's own documents, all of weight 1."""
        kept = np.zeros(task.documents, dtype=bool)
        kept[: self.own] = True
        return Altered(task, kept)

    def without(self, task: LanguageTask, documents: Sequence[int]) -> Altered:
        """Training without some documents.

        Raises:
            InputError: None would be left.
        """
        kept = self.unaltered(task).kept
        kept[list(documents)] = False
        if not kept.any():
            raise InputError(f"all {self.own} documents would be left out; nothing would remain to train on.")
        return Altered(task, kept)

    def weighed(self, documents: Sequence[int], weight: float) -> Altered:
        """Training with some documents' losses multiplied by a weight."""
        weights = np.ones(self.own)
        weights[list(documents)] = weight
        task = self.task(weights=weights.tolist())
        return Altered(task, np.ones(self.own, dtype=bool))

    def with_all(self, task: LanguageTask, documents: Sequence[int]) -> Altered:
        """Training with the rows and without some documents."""
        kept = np.ones(task.documents, dtype=bool)
        kept[list(documents)] = False
        return Altered(task, kept)


def refuse_unfit(owner: Attributor) -> None:
    """Refuse runs whose training cannot be repeated here.

    Raises:
        InputError: Its sources have weights, or its base model is kept in few bits.
    """
    refuse_weights(source.weight for source in owner.config.corpus.sources)
    if owner.config.model.quantize is not None:
        raise InputError(
            "models are trained here in full precision, and this run's base model is kept in "
            f"{owner.config.model.quantize}; intervene on a run of the same adapter without --quantize."
        )


def with_rows(owner: Attributor, rows: Path) -> Path:
    """Folder of the run's corpus followed by the documents of a file, read once.

    Raises:
        CorpusError: The run's own files are no longer as they were, or no row can be used.
        InputError: There is no such file.
    """
    if not rows.is_file():
        raise InputError(f"--rows {rows} is no file; give JSON lines like those of the corpus.")
    content = hashlib.sha256(rows.read_bytes()).hexdigest()[:16]
    folder = owner.run.path / "interventions" / "corpora" / content
    config = owner.config.corpus
    sources = (*config.sources, SourceSettings()) if config.sources else ()
    ingest(config.model_copy(update={"data": (*config.data, str(rows)), "sources": sources}), owner.tokenizer, folder)
    joined, own = open_corpus(folder), owner.corpus
    if joined.documents <= own.documents:
        raise CorpusError(f"no row of {rows} is a document; {dict(joined.skipped)} were left out.")
    if any(joined.document(n).hash != own.document(n).hash for n in range(own.documents)):
        raise CorpusError(
            f"the files of this run's corpus ({', '.join(config.data[:3])}) are no longer what the run was made from, "
            "so rows cannot be trained on beside them; put the files back, or make a new run."
        )
    return folder


def replaced_by(owner: Attributor, corpus: Path) -> tuple[list[int], list[int]]:
    """(documents of the run that rows replace, numbers of the rows): those of the same id.

    Raises:
        InputError: A row's id is no document of the run.
    """
    joined, own = open_corpus(corpus), owner.corpus
    rows = range(own.documents, joined.documents)
    places = own.places()
    unknown = [joined.document(row).id for row in rows if joined.document(row).id not in places]
    if unknown:
        raise InputError(
            f"{len(unknown)} rows have ids that no document of the run has: {', '.join(unknown[:6])}. To relabel, give "
            "each row the id of the document whose place it takes; to train on more rows, --action add."
        )
    return sorted({n for row in rows for n in places[joined.document(row).id]}), list(rows)

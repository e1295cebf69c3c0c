"""What is trained again and again, and the queries that are asked of it. Knows no disk but the corpus and the model.

Axes: N documents, E examples (windows of documents), Q queries. A query's loss is -log p of its completion, minus the
contrast's where there is one, in nats.
"""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.data import Corpus, batch_from_sequences, open_corpus, tokenizer_fingerprint
from whence.errors import InputError, ModelError
from whence.fidelity.pieces import Piece, Windows, checked_weights, piece_loss
from whence.fidelity.places import steps_of
from whence.fidelity.records import canonical, content_hash, query_of, query_record
from whence.interfaces import EncodedQuery, EncodedText
from whence.model import (
    CausalLM,
    LoadedModel,
    Training,
    TrainingState,
    as_loaded,
    config_fingerprint,
    has_dropout,
    initial_model,
    language_inputs,
    load_model,
    load_tokenizer,
    optimise,
    read_config,
    reproducible,
    set_dropout,
)

__all__ = ["LanguageTask", "Report", "Task", "Trained", "refuse_empty", "training_fingerprint"]

Report = Callable[[int, int, float], None]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, and the loss of every step before its update."""

    model: nn.Module
    losses: tuple[float, ...]

    @property
    def final_loss(self) -> float:
        """Mean training loss over the last tenth of the steps; nan if no step met a document."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return float(np.mean(last)) if last else math.nan


class Task(Protocol):
    """A training that can be repeated on any part of its corpus, and the losses it is asked for.

    Attributes:
        training: How it trains.
        fingerprint: All that decides the trained model but for the training set and the seed; never the queries.
    """

    training: Training

    @property
    def documents(self) -> int:
        """N."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """See above; plain JSON, without levels, so that a difference can be named."""
        ...

    @property
    def query_keys(self) -> tuple[str, ...]:
        """One hash of the content of each query, [Q]."""
        ...

    @property
    def query_records(self) -> Mapping[str, Any]:
        """What each key stands for, as JSON."""
        ...

    def steps(self, kept: Bools) -> int:
        """Training steps on the documents `kept` [N]."""
        ...

    def fit(self, kept: Bools, seed: int, report: Report | None = None, stop: int | None = None) -> Trained:
        """Train on the documents `kept` [N]; `stop` ends after so many steps of the whole schedule, to time them."""
        ...

    def train(self, kept: Bools, seed: int, report: Report | None = None) -> nn.Module:
        """The model of `fit` alone."""
        ...

    def losses(self, model: nn.Module) -> Floats:
        """Query losses [Q] of a model."""
        ...

    def stored_model(self) -> nn.Module:
        """The trained model that the task knows of, to be read and not to be changed."""
        ...

    def alone(self, document: int, training: Training) -> Sequence[Any]:
        """One document as a batch of its own, its loss divided as `training` says."""
        ...

    def piece_loss(self, model: nn.Module) -> Callable[[nn.Module, Any], Tensor]:
        """What a piece of a batch adds to the loss of its step."""
        ...


class LanguageTask:
    """Trains a causal language model on documents of a corpus; a document's windows come and go together.

    Args:
        corpus: Folder of an ingested corpus (``run/corpus``).
        start: Model directory or hub id.
        training: How to train.
        queries: Encoded with the same tokenizer.
        scratch: Start from fresh weights, which the seed decides, of the same configuration. Otherwise from the stored
            ones (training further, fine-tuning); the seed then decides order and dropout alone.
        adapter: PEFT adapter to start from; then only what it trains is trained.
        device: auto, cpu, cuda or cuda:N; with auto and cuda, workers take the CUDA devices in turn.
        revision: Hub revision of the start.
        attention: Attention implementation of transformers (sdpa, eager …); its default if None.
        tokenizer: Directory or hub id, at that revision, of the tokenizer that belongs to the start, if it is not the
            one that lies beside it.
        weights: What each document's loss is multiplied by in training, [N], 0 or more; None is 1 for all.
        check_tokenizer: Refuse a start whose tokenizer is not the corpus's. A start without a tokenizer, or a corpus of
            token ids, is taken as it is.

    Raises:
        InputError: The corpus was tokenised for another model, an adapter is to be trained from scratch, or weights are
            not one for each document.
        ModelError: The model, or the tokenizer that was named, cannot be loaded.
    """

    def __init__(
        self,
        corpus: str | Path,
        start: str | Path,
        training: Training,
        queries: Sequence[EncodedQuery],
        *,
        scratch: bool = False,
        adapter: str | Sequence[str] = (),
        device: str = "auto",
        revision: str | None = None,
        attention: str | None = None,
        tokenizer: str | Path | None = None,
        weights: Sequence[float] | None = None,
        check_tokenizer: bool = True,
    ) -> None:
        if scratch and adapter:
            raise InputError("an adapter cannot be trained from scratch: its base model would be noise; drop one.")
        self.corpus = open_corpus(Path(corpus))
        self.start, self.scratch, self.device = str(start), scratch, device
        self.adapter = [adapter] if isinstance(adapter, str) else list(adapter)
        self.revision, self.attention = revision, attention
        self.training, self.queries = training, tuple(queries)
        self.weights = None if weights is None else checked_weights(weights, self.corpus.documents)
        self.windows = Windows(self.corpus, training, self.weights)
        if check_tokenizer:
            _refuse_other_tokenizer(self.corpus, self.start, revision, tokenizer)

    @property
    def documents(self) -> int:
        """N."""
        return self.corpus.documents

    @cached_property
    def query_records(self) -> Mapping[str, Any]:
        """Tokens, and places of those that are asked for, by key."""
        records = (query_record(query) for query in self.queries)
        return {content_hash(canonical(record)): record for record in records}

    @cached_property
    def query_keys(self) -> tuple[str, ...]:
        """Hashes of the tokens and masks, [Q]; a query's name is no part of it."""
        return tuple(content_hash(canonical(query_record(query))) for query in self.queries)

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """Training, corpus, and the start's weights or, from scratch, configuration."""
        if self.scratch:
            start: dict[str, Any] = {"config": config_fingerprint(read_config(self.start, self.revision))}
        else:
            start = {key: value for key, value in self.loaded.fingerprint.items() if key != "dtype"}
        asked = {"revision": self.revision, "attention": self.attention}
        start |= {key: value for key, value in asked.items() if value is not None}
        if self.weights is not None:
            start["weights"] = content_hash(json.dumps(self.weights.tolist()))
        return {
            "task": "language",
            "corpus": self.corpus.fingerprint,
            "scratch": self.scratch,
            **{f"start.{key}": value for key, value in start.items()},
            **training_fingerprint(self.training),
        }

    @cached_property
    def loaded(self) -> LoadedModel:
        """The start with its stored weights."""
        return load_model(self.start, adapter=self.adapter, **self._how)

    def initial(self, seed: int) -> LoadedModel:
        """A model of its own to train: fresh weights, or a copy of the stored ones."""
        if self.scratch:
            loaded = initial_model(self.start, seed=seed, **self._how)
        else:
            loaded = replace(self.loaded, model=copy.deepcopy(self.loaded.model))
        self._refuse_misfit(loaded)
        if self.training.dropout is not None:
            set_dropout(loaded.model, self.training.dropout)
        return loaded

    def steps(self, kept: Bools) -> int:
        """Training steps on the documents `kept` [N]."""
        return steps_of(kept[self.windows.owners], self.training)

    def fit(
        self,
        kept: Bools,
        seed: int,
        report: Report | None = None,
        stop: int | None = None,
        observer: Callable[[TrainingState], None] | None = None,
    ) -> Trained:
        """Train on the documents `kept` [N]; `stop` ends after so many steps of the whole schedule, to time them.

        `observer` is shown the state after every step, as `whence.model.keep_states` writes it.

        Raises:
            NumericalError: The loss is not finite.
            InputError: No document is kept.
        """
        refuse_empty(kept, self.documents)
        with reproducible(self.training):
            loaded = self.initial(seed)
            batches = islice(self.windows.batches(kept, seed, has_dropout(loaded.model)), stop)
            losses = optimise(
                loaded.model, batches, piece_loss(loaded), self.steps(kept), self.training,
                seed=seed, report=report, observer=observer,
            )  # fmt: skip
        return Trained(loaded.model, tuple(losses))

    def train(self, kept: Bools, seed: int, report: Report | None = None) -> nn.Module:
        """The model of `fit` alone."""
        return self.fit(kept, seed, report).model

    def losses(self, model: nn.Module) -> Floats:
        """Query losses [Q], each asked for alone, so that no other query and no padding has a say."""
        model.eval()
        with torch.no_grad(), reproducible(self.training):
            loaded = as_loaded(model)
            return np.array([_query_loss(loaded, query) for query in self.queries], dtype=np.float64)

    def stored_model(self) -> nn.Module:
        """The model with the weights of the start directory, adapter included, even if the task trains from scratch."""
        self._refuse_misfit(self.loaded)
        return self.loaded.model

    def alone(self, document: int, training: Training) -> Sequence[Piece]:
        """One document as a batch of its own, its loss divided as `training` says."""
        return self.windows.document(document, training.reduction)

    def piece_loss(self, model: nn.Module) -> Callable[[nn.Module, Piece], Tensor]:
        """What a piece of a batch adds to the loss of its step."""
        return piece_loss(as_loaded(model))

    def spec(self) -> dict[str, Any]:
        """What another process needs to make the same task, as JSON."""
        return {
            "corpus": str(self.corpus.folder.absolute()),
            "start": self.start,
            "training": self.training.model_dump(mode="json"),
            "queries": [{"id": query.id, **query_record(query)} for query in self.queries],
            "scratch": self.scratch,
            "adapter": self.adapter,
            "device": self.device,
            "revision": self.revision,
            "attention": self.attention,
            "weights": None if self.weights is None else self.weights.tolist(),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "LanguageTask":
        """The task that `spec` describes, whose tokenizer was checked where the spec was made."""
        return cls(
            spec["corpus"],
            spec["start"],
            Training.model_validate(spec["training"]),
            [query_of(record) for record in spec["queries"]],
            scratch=spec["scratch"],
            adapter=spec["adapter"],
            device=spec["device"],
            revision=spec["revision"],
            attention=spec["attention"],
            weights=spec["weights"],
            check_tokenizer=False,
        )

    @property
    def _how(self) -> dict[str, Any]:
        """How the start is loaded, whichever weights it gets."""
        return {
            "revision": self.revision,
            "dtype": self.training.dtype,
            "device": self.device,
            "attention": self.attention,
        }

    def _refuse_misfit(self, loaded: LoadedModel) -> None:
        longest = self.windows.longest
        if self.corpus.config.vocabulary > loaded.vocabulary or longest > loaded.context:
            raise InputError(
                f"the corpus was tokenised for another model: it has windows of up to {longest} tokens of a vocabulary "
                f"of {self.corpus.config.vocabulary}; {self.start} takes {loaded.context} of {loaded.vocabulary}."
            )


def training_fingerprint(training: Training) -> dict[str, Any]:
    """The settings one by one, but for the number of threads, which moves the last bits alone."""
    return {f"training.{key}": value for key, value in training.model_dump(mode="json").items() if key != "threads"}


def refuse_empty(kept: Bools, documents: int) -> None:
    """Refuse a training set of nothing, or of another corpus.

    Raises:
        InputError: See above.
    """
    if kept.shape != (documents,) or not kept.any():
        raise InputError(
            f"a training set is one truth value for each of {documents} documents, at least one of them true; got "
            f"shape {kept.shape} with {int(kept.sum())} true."
        )


def _refuse_other_tokenizer(corpus: Corpus, start: str, revision: str | None, named: str | Path | None) -> None:
    if corpus.tokenizer == tokenizer_fingerprint(None):
        return
    tokenizer = _tokenizer_beside(start, revision) if named is None else load_tokenizer(str(named), revision)
    if tokenizer is None or tokenizer_fingerprint(tokenizer) == corpus.tokenizer:
        return
    whose = f"the start {start!r}" if named is None else f"the start {start!r}, taken from {str(named)!r},"
    raise InputError(
        f"the tokenizer of {whose} differs from the one the corpus was tokenised with, so the same token would be "
        "another piece of text to it. Give a start with the corpus's tokenizer; if the two differ in special tokens or "
        "the chat template alone, name the corpus's own tokenizer, or save it beside the start."
    )


def _tokenizer_beside(start: str, revision: str | None) -> Any | None:
    """The tokenizer saved with a start; without one, transformers may make up an empty one, which is none."""
    try:
        tokenizer = load_tokenizer(start, revision)
    except ModelError:
        return None
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) else None


def _query_loss(loaded: LoadedModel, query: EncodedQuery) -> float:
    loss = _text_loss(loaded, query.text)
    return loss if query.contrast is None else loss - _text_loss(loaded, query.contrast)


def _text_loss(loaded: LoadedModel, text: EncodedText) -> float:
    """-log p of the tokens asked for, summed in double precision."""
    inputs = language_inputs(batch_from_sequences([(text.tokens, text.loss_mask)]), loaded)
    return float(CausalLM().token_losses(loaded.model, inputs).double().sum())

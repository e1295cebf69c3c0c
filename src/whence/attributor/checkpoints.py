"""Earlier states of the training that led to a run's model: read from disk, and opened as runs of their own.

Two kinds of folder are read, each with a model as ``save_pretrained`` writes it (or an adapter of the run's base):

    checkpoint.json      whence's own (`whence.model.states`); optimizer.safetensors if the optimizer's state was kept
    trainer_state.json   transformers' ``Trainer``: the step, and rates from its log; optimizer.pt if it was kept, of
                         which nothing but tensors and plain values is ever unpickled

Where a folder has both, checkpoint.json counts: it can be written by hand beside a Trainer's files whose log has no
rate. Between logged steps the rate is taken to run in a line, so a log with few entries blurs the warm-up. Ignored:
clipping, which makes steps shorter than their rate says and is not in either file.
"""

import copy
import glob
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xxhash
from pydantic import ValidationError

from whence.attributor.siblings import share_corpus
from whence.data import Corpus
from whence.errors import InputError, ModelError
from whence.model import OPTIMIZER_FILE, STATE_FILE, StoredState, load_model
from whence.runs import Run, read_json

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = [
    "Checkpoint",
    "at_checkpoint",
    "checkpoint_folder",
    "open_pickle",
    "per_document",
    "rates_between",
    "read_checkpoints",
]

_TRAINER, _PICKLE = "trainer_state.json", "optimizer.pt"
_WEIGHTS = (".safetensors", ".bin")
_CHUNK = 1 << 24
_HEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of a training.

    Attributes:
        path: Directory with the model's weights.
        step: Optimizer steps taken before it was saved.
        learning_rate: Rate of the step that followed, or of the last one at the end.
        optimizer: File of the optimizer's state, if it was saved.
        fingerprint: What decides its weights and states; see `whence.model.LoadedModel`.
        rate_sum: Sum of the rates of all steps before it.
        betas: Adam's decays.
        eps: Adam's.
        momentum: Plain SGD's.
        weight_decay: Taken off with each step, times the rate.
        reduction: What a batch's summed loss was divided by: its target tokens, or its documents.
    """

    path: Path
    step: int
    learning_rate: float
    optimizer: Path | None
    fingerprint: Mapping[str, Any]
    rate_sum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    reduction: Literal["tokens", "documents"] = "tokens"


def read_checkpoints(patterns: Sequence[str | Path]) -> tuple[Checkpoint, ...]:
    """Checkpoints of one training, by step.

    Args:
        patterns: Folders, or globs of them such as ``out/checkpoint-*``; what is no folder is passed over.

    Raises:
        InputError: A pattern matches no folder, a folder lacks something (says what), or two are of one step.
    """
    folders: dict[Path, None] = {}
    for pattern in patterns:
        found = [Path(each) for each in sorted(glob.glob(str(Path(pattern).expanduser()))) if Path(each).is_dir()]
        if not found:
            raise InputError(
                f"--checkpoints {str(pattern)!r} matches no folder; name folders or a glob, as in 'out/checkpoint-*'."
            )
        folders.update(dict.fromkeys(each.resolve() for each in found))
    checkpoints = sorted((_read(folder) for folder in folders), key=lambda each: each.step)
    for before, after in itertools.pairwise(checkpoints):
        if before.step == after.step:
            raise InputError(
                f"{before.path} and {after.path} are both of step {before.step}; name the checkpoints of one training."
            )
    return tuple(checkpoints)


def _read(folder: Path) -> Checkpoint:
    _refuse_without_weights(folder)
    own, pickle = folder / OPTIMIZER_FILE, folder / _PICKLE
    optimizer = own if own.is_file() else (pickle if pickle.is_file() else None)
    if (folder / STATE_FILE).is_file():
        try:
            state = StoredState.model_validate(read_json(folder / STATE_FILE))
        except ValidationError as error:
            raise InputError(f"{folder / STATE_FILE} cannot be used: {_complaint(error)}.") from error
    elif (folder / _TRAINER).is_file():
        state = _from_trainer(folder, optimizer)
    else:
        raise InputError(
            f"{folder} has neither {STATE_FILE} nor {_TRAINER}, so its step and rate are not known. Write a "
            f'{STATE_FILE} into it: {{"step": 100, "learning_rate": 0.001}}.'
        )
    return Checkpoint(
        path=folder,
        optimizer=optimizer,
        fingerprint=_fingerprint(folder, optimizer),
        rate_sum=state.step * state.learning_rate if state.rate_sum is None else state.rate_sum,
        **state.model_dump(include={"step", "learning_rate", "betas", "eps", "momentum", "weight_decay", "reduction"}),
    )


def _refuse_without_weights(folder: Path) -> None:
    names = [file.name for file in folder.iterdir()]
    if not any(name in names for name in ("config.json", "adapter_config.json")):
        raise InputError(f"the checkpoint {folder} has no config.json (nor adapter_config.json); it is no model.")
    told = (OPTIMIZER_FILE, "training_args.bin", "optimizer.bin")
    if not any(name.endswith(_WEIGHTS) and name not in told for name in names):
        raise InputError(
            f"the checkpoint {folder} has no weights (*.safetensors); it may have been saved in shards by FSDP or "
            "DeepSpeed: merge them with the tool that wrote them (accelerate merge-weights, zero_to_fp32.py)."
        )


def _complaint(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())


def _from_trainer(folder: Path, optimizer: Path | None) -> StoredState:
    """Step and rates from the log; what the optimizer is set to from its state, or the Trainer's defaults."""
    content = read_json(folder / _TRAINER)
    try:
        step = int(content["global_step"])
        entries = [each for each in content["log_history"] if "learning_rate" in each]
        log = sorted({int(each["step"]): float(each["learning_rate"]) for each in entries}.items())
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / _TRAINER} is not whole: {error!r} is missing or not a number.") from error
    if not log:
        raise InputError(
            f"{folder / _TRAINER} has no learning rate in its log (logging_steps was larger than its {step} steps). "
            f'Write a {STATE_FILE} into the folder: {{"step": {step}, "learning_rate": …, "rate_sum": …}}.'
        )
    steps, rates = zip(*log, strict=True)
    every = np.interp(np.arange(1, step + 1), steps, rates)  # an entry at step s has the rate of the s-th step
    groups = open_pickle(optimizer)["param_groups"] if optimizer is not None and optimizer.name == _PICKLE else []
    first = groups[0] if groups else {}
    adam = "betas" in first or not groups
    return StoredState(
        step=step,
        learning_rate=float(first.get("lr") or every[-1] if step else rates[0]),
        rate_sum=float(every.sum()),
        optimizer="adamw" if adam else "sgd",
        betas=tuple(first.get("betas", (0.9, 0.999))),
        eps=first.get("eps", 1e-8),
        momentum=0.0 if adam else first.get("momentum", 0.0),
        weight_decay=max((float(group.get("weight_decay", 0.0)) for group in groups), default=0.0),
    )


def open_pickle(file: Path) -> dict[str, Any]:
    """An optimizer's ``state_dict`` as the Trainer saves it, mapped and not read.

    Raises:
        InputError: It holds anything but tensors and plain values, is damaged, or is no optimizer's state.
    """
    try:
        content = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # torch raises several kinds for what it refuses and what it cannot read
        raise InputError(
            f"{file} cannot be read as plain tensors: {str(error).splitlines()[0]}. It is not opened in any other way, "
            "since a pickle can run anything."
        ) from error
    if not isinstance(content, dict) or not {"state", "param_groups"} <= set(content):
        raise InputError(f"{file} is no state of a torch optimizer (state, param_groups).")
    return content


def _fingerprint(folder: Path, optimizer: Path | None) -> dict[str, Any]:
    """Content of weights and settings; of the optimizer's state, which is larger, its size and first megabyte."""
    digest = xxhash.xxh3_128()
    for file in sorted(folder.iterdir()):
        if file.name == OPTIMIZER_FILE or file.suffix not in (*_WEIGHTS, ".json"):
            continue
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    found: dict[str, Any] = {"weights": digest.hexdigest()}
    if optimizer is not None:
        with optimizer.open("rb") as handle:
            found["optimizer"] = f"{optimizer.stat().st_size}-{xxhash.xxh3_64_hexdigest(handle.read(_HEAD))}"
    return found


def rates_between(checkpoints: Sequence[Checkpoint]) -> list[float]:
    """Rates of the steps since the checkpoint before (since the start, for the first), added up.

    Those of SGD with momentum mu count ``1 / (1 - mu)`` times: that far a gradient moves the weights in the end.

    Args:
        checkpoints: Of one training, by step.
    """
    before = (0.0, *(each.rate_sum for each in checkpoints))
    return [max(each.rate_sum - b, 0.0) / (1.0 - each.momentum) for each, b in zip(checkpoints, before, strict=False)]


def per_document(checkpoint: Checkpoint, corpus: Corpus) -> float:
    """How long a step is along the gradient of the mean loss per document, over its rate.

    A batch's loss is the summed losses of its b documents over D, so this is b / D on average: documents over targets,
    or over windows, of the corpus.
    """
    windows = sum(share.windows * share.weight for share in corpus.shares)
    divisor = corpus.trained_targets if checkpoint.reduction == "tokens" else windows
    return corpus.trained_documents / divisor


def at_checkpoint(owner: "Attributor", checkpoint: Checkpoint) -> "Attributor":
    """The same run with the weights of a checkpoint, and a folder of its own for what is fitted there.

    The folder is ``run/checkpoints/<digest>/``, with the run's corpus; sites, settings and tokenizer are the run's own.
    The model is loaded beside the run's: let go of it before another is opened.

    Args:
        owner: A run whose corpus has been read.
        checkpoint: The checkpoint.

    Raises:
        ModelError: It is a model of another architecture, or cannot be loaded.
        IncompleteError: The owner's corpus has not been read.
    """
    assert owner.corpus.documents
    asked = owner.source
    adapter = (checkpoint.path / "adapter_config.json").is_file()
    if adapter and len(asked.adapter) != 1:
        raise ModelError(
            f"the checkpoint {checkpoint.path} is an adapter, and the run has {len(asked.adapter)} of them; it "
            "stands for one."
        )
    loaded = load_model(
        asked.model if adapter else str(checkpoint.path),
        adapter=(str(checkpoint.path),) if adapter else (),
        revision=asked.revision if adapter else None,
        dtype=owner.config.model.dtype,
        device=owner.device,
        attention=asked.attention,
        quantize=asked.quantize,
        placement=owner.placement,
    )
    _refuse_other(checkpoint, owner.loaded.model, loaded.model)
    other = copy.copy(owner)
    for part in ("coverage", "corpus"):
        other.__dict__.pop(part, None)
    other.loaded, other.sites = loaded, owner.sites
    where = {"adapter": (str(checkpoint.path),)} if adapter else {"model": str(checkpoint.path)}
    other.config = owner.config.model_copy(update={"model": owner.config.model.model_copy(update=where)})
    other.run = Run(checkpoint_folder(owner, checkpoint))
    share_corpus(owner.run.corpus, other.run.corpus)
    other.bind(other.run.read() if other.run.exists else None)
    return other


def checkpoint_folder(owner: "Attributor", checkpoint: Checkpoint) -> Path:
    """Where what is fitted at a checkpoint lies; its model need not be loaded to know."""
    return owner.run.path / "checkpoints" / _digest(owner, checkpoint)


def _digest(owner: "Attributor", checkpoint: Checkpoint) -> str:
    config = owner.config.model_dump(mode="json", include={"model": {"sites", "dtype"}, "fit": True})
    bound = {"checkpoint": checkpoint.fingerprint, "corpus": owner.corpus.fingerprint, **config}
    return hashlib.sha256(json.dumps(bound, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _refuse_other(checkpoint: Checkpoint, own: torch.nn.Module, other: torch.nn.Module) -> None:
    """Refuse a model whose parameters have other names or shapes."""
    wanted = {name: tuple(parameter.shape) for name, parameter in own.named_parameters()}
    found = {name: tuple(parameter.shape) for name, parameter in other.named_parameters()}
    differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differ:
        lines = [f"{n}: {wanted.get(n, 'absent')} in the run, {found.get(n, 'absent')} there" for n in differ]
        raise ModelError(
            f"the checkpoint {checkpoint.path} is a {type(other).__name__} of another architecture than the run's "
            f"{type(own).__name__}:\n  " + "\n  ".join(lines[:8])
        )

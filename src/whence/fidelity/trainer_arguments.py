"""Arguments of transformers' ``Trainer`` as a training; names are those of transformers 5, and older ones for the same.

Rates are taken at the start of steps, the mean loss is over the target tokens of a whole batch, vectors do not decay:
all as the ``Trainer`` has it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from whence.model import Training

__all__ = ["from_arguments", "is_arguments"]

Notes = tuple[str, ...]

_TELLING = {
    "per_device_train_batch_size",
    "num_train_epochs",
    "lr_scheduler_type",
    "gradient_accumulation_steps",
    "adam_beta1",
    "max_grad_norm",
    "output_dir",
    "warmup_ratio",
    "warmup_steps",
    "optim",
}
_READ = {
    *_TELLING,
    "learning_rate",
    "weight_decay",
    "adam_beta2",
    "adam_epsilon",
    "max_steps",
    "lr_scheduler_kwargs",
    "optim_args",
}
_ADAMW = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "adamw_hf",
    "adamw_apex_fused",
)
_SCHEDULES = {
    "linear": "linear",
    "polynomial": "linear",
    "cosine": "cosine",
    "cosine_with_min_lr": "cosine",
    "cosine_warmup_with_min_lr": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_ELSEWHERE = (  # what decides no weight: where it ran, what it wrote, what it measured
    "logging_", "log_", "save_", "eval_", "hub_", "push_to_hub", "report_to", "run_name", "dataloader_num_workers",
    "dataloader_p", "dataloader_m", "dataloader_in_order", "disable_tqdm", "do_", "ddp_", "fsdp", "deepspeed",
    "gradient_checkpointing", "activation_checkpointing", "torch_compile", "torch_empty", "use_liger", "liger_",
    "use_cache", "per_device_eval", "prediction_loss", "include_", "batch_eval", "load_best", "metric_for",
    "greater_is", "ignore_data_skip", "restore_callback", "full_determinism", "use_cpu", "accelerator_config",
    "parallelism_config", "remove_unused", "label_names", "length_column", "debug", "skip_memory", "resume_from",
    "local_rank", "project", "trackio", "enable_jit", "tf32", "bf16_full", "fp16_full", "auto_find", "overwrite_",
    "no_cuda", "use_mps", "_n_gpu", "past_index", "average_tokens", "data_seed", "tpu_", "jit_mode", "fp16_backend",
    "half_precision", "transformers_version",
)  # fmt: skip
_SAID = {
    "seed": "seed {} decided order and dropout there; here the seeds of retraining do, and draw another order.",
    "bf16": "mixed precision in bfloat16 was used ({}); here all is float32.",
    "fp16": "mixed precision in float16 was used ({}); here all is float32.",
    "label_smoothing_factor": "label smoothing of {} is not done.",
    "neftune_noise_alpha": "noise on embeddings ({}) is not added.",
    "group_by_length": "documents of like length shared batches ({}); here lengths have no say.",
    "train_sampling_strategy": "documents were drawn by the strategy {}; here in a drawn order.",
    "dataloader_drop_last": "the last, smaller batch of each epoch was left out ({}); here it is used.",
    "optim_target_modules": "the optimizer was for {} alone; here for every trained parameter.",
}
_DEFAULTS: dict[str, Any] = {"train_sampling_strategy": "random"}


def is_arguments(content: Mapping[str, Any]) -> bool:
    """Whether a mapping holds arguments of the ``Trainer``."""
    return bool(_TELLING & set(content))


def from_arguments(content: Mapping[str, Any]) -> tuple[Training, Notes]:
    """The training that arguments describe, and what of them is not done."""
    notes: list[str] = []
    given = {key: value for key, value in content.items() if value is not None}
    rate = float(given.get("learning_rate", 5e-5))
    settings = {
        "learning_rate": rate,
        "weight_decay": float(given.get("weight_decay", 0.0)),
        "clip": float(given.get("max_grad_norm", 1.0)) or None,
        "epochs": float(given.get("num_train_epochs", 3.0)),
        "max_steps": _steps(given),
        "batch": _batch(given, notes),
        "warmup": _warmup(given),
        "rate_at": "start",
        "reduction": "tokens",
        "grouping": "refill",
        **_optimizer(given, notes),
        **_schedule(given, rate, notes),
    }
    notes.extend(_leftovers(given))
    return Training(**settings), tuple(notes)


def _steps(given: Mapping[str, Any]) -> int | None:
    steps = int(given.get("max_steps", -1))
    return steps if steps > 0 else None


def _batch(given: Mapping[str, Any], notes: list[str]) -> int:
    per_device = int(given.get("per_device_train_batch_size", given.get("per_gpu_train_batch_size", 8)))
    batch = per_device * int(given.get("gradient_accumulation_steps", 1))
    notes.append(f"the number of devices is not in the file: batches of {batch} are those of one; multiply by it.")
    return batch


def _warmup(given: Mapping[str, Any]) -> float:
    """Steps if 1 or more, else a share of them; the older name for a share counts if no steps are given."""
    steps = float(given.get("warmup_steps", 0))
    return float(int(steps)) if steps >= 1 else steps or float(given.get("warmup_ratio", 0.0))


def _optimizer(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    name = str(given.get("optim", "adamw_torch"))
    arguments = _pairs(given.get("optim_args"))
    if name == "sgd":
        return {"optimizer": "sgd", **_sgd(arguments, notes)}
    if name not in _ADAMW:
        notes.append(f"the optimizer {name} is not there; AdamW is used with the same rates.")
    if arguments:
        notes.append(f"the optimizer's own arguments are not used: {given['optim_args']}.")
    betas = (float(given.get("adam_beta1", 0.9)), float(given.get("adam_beta2", 0.999)))
    return {"optimizer": "adamw", "betas": betas, "eps": float(given.get("adam_epsilon", 1e-8))}


def _sgd(arguments: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    readers: dict[str, Callable[[str], Any]] = {
        "momentum": float,
        "weight_decay": float,
        "nesterov": lambda text: text.lower() in ("true", "1", "yes"),
    }
    unread = sorted(set(arguments) - set(readers))
    if unread:
        notes.append(f"SGD's {', '.join(unread)} is not done.")
    return {key: read(arguments[key]) for key, read in readers.items() if key in arguments}


def _pairs(text: Any) -> dict[str, str]:
    """``a=1,b=2`` by name."""
    parts = (part.partition("=") for part in str(text or "").split(",") if part.strip())
    return {key.strip(): value.strip() for key, _, value in parts}


def _schedule(given: Mapping[str, Any], rate: float, notes: list[str]) -> dict[str, Any]:
    name = str(given.get("lr_scheduler_type", "linear")).removeprefix("SchedulerType.").lower()
    arguments = given.get("lr_scheduler_kwargs") or {}
    arguments = dict(arguments) if isinstance(arguments, Mapping) else _pairs(arguments)
    if name not in _SCHEDULES:
        notes.append(f"the schedule {name} is not there; the rate falls in a line to 0.")
    final, read = _final(name, arguments, rate)
    unread = sorted(set(arguments) - read)
    if unread:
        notes.append(f"the schedule's {', '.join(unread)} is not done.")
    return {"schedule": _SCHEDULES.get(name, "linear"), "final": final, **_plain_start(name)}


def _plain_start(name: str) -> dict[str, Any]:
    """The constant schedule of transformers has no warm-up, whatever else is said."""
    return {"warmup": 0.0} if name == "constant" else {}


def _final(name: str, arguments: Mapping[str, Any], rate: float) -> tuple[float, set[str]]:
    """Share of the peak at the end, and which arguments say so."""
    if name == "polynomial":
        power_is_one = float(arguments.get("power", 1.0)) == 1.0
        return float(arguments.get("lr_end", 1e-7)) / rate, {"lr_end", *(["power"] if power_is_one else [])}
    if "min_lr" in arguments:
        return float(arguments["min_lr"]) / rate, {"min_lr"}
    return float(arguments.get("min_lr_rate", 0.0)), {"min_lr_rate"}


def _leftovers(given: Mapping[str, Any]) -> list[str]:
    """Notes on everything else that may decide weights and is not as by default."""
    rest = {key: value for key, value in given.items() if key not in _READ and not str(key).startswith(_ELSEWHERE)}
    off = {key for key, value in rest.items() if value in (False, 0, "", [], {}) or value == _DEFAULTS.get(key)}
    told = {key: value for key, value in rest.items() if key not in off or key == "seed"}
    told |= {key: given[key] for key in ("dataloader_drop_last",) if given.get(key)}
    return [_SAID.get(key, f"{key} = {{!r}} is not read.").format(value) for key, value in told.items()]

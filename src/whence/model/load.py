"""Loads a Hugging Face causal language model and puts batches on its device. Device handling is here and only here."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.errors import InputError, ModelError
from whence.interfaces import Site, TokenBatch
from whence.model import parallel
from whence.model.adapters import load_adapters
from whence.model.checkpointing import checkpoint_blocks
from whence.model.devices import Placement, home_of, homes_of, is_spread, placing, resolve_device
from whence.model.factored import is_proxy, load_proxy
from whence.model.objectives import LanguageInputs
from whence.model.quantised import differentiable, is_quantised, quantised
from whence.model.sharding import shard, sliced_well
from whence.model.states import OPTIMIZER_FILE

__all__ = [
    "LoadedModel",
    "as_loaded",
    "config_fingerprint",
    "initial_model",
    "language_inputs",
    "load_model",
    "load_tokenizer",
    "read_config",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_CHUNK = 1 << 24
_GIVE = "Give a directory made by save_pretrained, or the id of a causal language model on the hub."
_ANY_MODEL = "This model has no tensor-parallel plan; --parallel fsdp shares any model."
_SEGMENTED = {"full_attention", "moe", "mlp"}  # kinds of layers in which a mask, or nothing, keeps tokens apart
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be read.

    Attributes:
        model: The torch module, in evaluation mode.
        device: Where its inputs go.
        fingerprint: What would make a run stale: weights, adapter, dtype.
        trained: Names of the parameters training changed, or None for all of them.
        context: Longest sequence the model takes, in tokens.
        vocabulary: Rows of its input embedding.
        head: Module name of its output layer, if it has one.
        takes_positions: Whether its forward takes ``position_ids``.
        homes: Where modules compute, by name, if the model lies on several devices.
        packs: Whether a block-diagonal mask keeps packed examples apart: not without positions, nor where attention
            also slides over a window, which such a mask replaces, nor where a state or a convolution runs through the
            row (Mamba, gated delta nets).
    """

    model: nn.Module
    device: torch.device
    fingerprint: dict[str, Any]
    trained: frozenset[str] | None
    context: int
    vocabulary: int
    head: str | None
    takes_positions: bool
    packs: bool = True
    name: str = ""
    homes: dict[str, torch.device] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def device_of(self, site: Site) -> torch.device:
        """Where a site's factors are, and what is multiplied with them should be."""
        return self.homes.get(site.uses[0].module, self.device)


def _dtype(name: str, device: torch.device) -> Any:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in _DTYPES:
        raise InputError(f"--dtype takes auto, {', '.join(_DTYPES)}; got {name!r}")
    return _DTYPES[name]


def load_model(
    reference: str,
    *,
    adapter: str | Sequence[str] | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attention: str | None = None,
    quantize: str | None = None,
    placement: Placement = Placement(),
) -> LoadedModel:
    """Load a causal language model from a directory or hub id; what ``whence proxy`` wrote is one, too.

    In the first process of torchrun, all others load their part of it too, and follow its calls from then on.

    Args:
        reference: Directory or hub id.
        adapter: PEFT adapter directory or id, or several of them, all active; then only their parameters count as
            trained.
        revision: Hub revision.
        dtype: auto (float32 on CPU, the checkpoint's own on CUDA), float32, bfloat16, float16, float64.
        device: auto, cpu, cuda, cuda:N.
        attention: Attention implementation of transformers (sdpa, eager …); its default if None.
        quantize: nf4 keeps the base model's linear layers in 4 bits (bitsandbytes), as adapters on it were trained; a
            model that was saved quantised is loaded as it is.
        placement: Spread over devices or processes, checkpointing.

    Raises:
        ModelError: It cannot be loaded; says what was tried.
    """
    adapters = [adapter] if isinstance(adapter, str) else list(adapter or ())
    if parallel.leads():
        parallel.refuse_more_models()
        asked = {"adapter": adapters, "revision": revision, "dtype": dtype, "attention": attention}
        asked["quantize"] = quantize
        parallel.send({"do": "load", "settings": {"reference": reference, **asked, "placement": asdict(placement)}})
    where = parallel.device() or resolve_device(device)
    _check_directory(reference, "model")
    how = {"revision": revision, "dtype": _dtype(dtype, where), "attn_implementation": attention}
    if quantize is not None or is_quantised(reference, revision):
        how |= quantised(quantize, _dtype(dtype, where), where, placement)
    model = _pretrained(reference, **how, **placing(placement, bool(adapters)))
    if parallel.size() > 1 and placement.parallel != "tensor" and not sliced_well(model):
        model = shard(_pretrained(reference, **how), where, parallel.size())
    differentiable(model)
    trained = None
    fingerprint: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch.")}
    if quantize is not None:
        fingerprint["quantize"] = quantize
    if not parallel.follows():
        fingerprint["weights"] = _hash_weights(reference, model, revision)
    if adapters:
        for each in adapters:
            _check_directory(each, "adapter")
        model, trained = load_adapters(model, adapters)
        if not parallel.follows():
            fingerprint["adapter"] = "+".join(_hash_weights(each, model, None) for each in adapters)
    if not is_spread(placement) and "device_map" not in how:
        model = model.to(where)
    loaded = as_loaded(model, fingerprint, trained, " + ".join([reference, *adapters]))
    if placement.checkpointing:
        checkpoint_blocks(loaded.model)
    if parallel.size() > 1:
        parallel.lead(loaded.model)
    return loaded


def _pretrained(reference: str, **settings: Any) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        if is_proxy(reference):
            return load_proxy(reference, **{key: each for key, each in settings.items() if key != "revision"})
        return AutoModelForCausalLM.from_pretrained(reference, **settings)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        absent = "" if Path(reference).is_dir() else " No such directory is here, so it was taken for a hub id."
        raise ModelError(
            f"could not load a causal language model from {reference!r}: {_first_line(error)}{absent} "
            + (_ANY_MODEL if "tp_plan" in str(error) else _GIVE)
        ) from error


def initial_model(
    reference: str,
    *,
    seed: int,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attention: str | None = None,
) -> LoadedModel:
    """A model of the same configuration with fresh weights; nothing but ``config.json`` is read.

    Args:
        reference: Directory or hub id.
        seed: Decides the weights, which are drawn in float32 on the CPU and then cast, so that they do not depend on
            dtype and device.
        revision: Hub revision.
        dtype: float32, bfloat16, float16, float64.
        device: auto, cpu, cuda, cuda:N.
        attention: Attention implementation of transformers (sdpa, eager …); its default if None.

    Raises:
        ModelError: There is no configuration of a causal language model, or no such attention for it.
    """
    from transformers import AutoModelForCausalLM

    parallel.refuse_more_models()
    where = resolve_device(device)
    if is_proxy(reference):
        raise ModelError(
            f"{reference!r} is a proxy, which was made of a trained model and was never trained from the start; give "
            "the model that it was made of, or start from the proxy's own weights (--start model)."
        )
    config = read_config(reference, revision)
    chosen = {} if attention is None else {"attn_implementation": attention}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **chosen)
        except (ValueError, ImportError) as error:
            raise ModelError(
                f"no causal language model{f' with {attention} attention' if attention else ''} can be made of "
                f"{reference!r}: {_first_line(error)}. Give another model, or an attention that this one has."
            ) from error
    model = model.to(where, _dtype(dtype, where))
    return as_loaded(model, {"config": config_fingerprint(config)}, name=reference)


def read_config(reference: str, revision: str | None = None) -> Any:
    """The transformers configuration of a directory or hub id, at a hub revision.

    Raises:
        ModelError: There is none.
    """
    from transformers import AutoConfig

    _check_directory(reference, "model")
    try:
        return AutoConfig.from_pretrained(reference, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"could not read the configuration of {reference!r}: {_first_line(error)}. Give a directory made by "
            "save_pretrained, or the id of a causal language model on the hub."
        ) from error


def config_fingerprint(config: Any) -> str:
    """Hash of what a configuration says of the model; not of where it lies, its precision or who wrote it."""
    said = {key: value for key, value in config.to_dict().items() if key not in _NOT_OF_THE_MODEL}
    return xxhash.xxh3_128_hexdigest(json.dumps(said, sort_keys=True, default=str).encode())


def as_loaded(
    model: Any,
    fingerprint: dict[str, Any] | None = None,
    trained: frozenset[str] | None = None,
    name: str = "",
) -> LoadedModel:
    """A transformers causal language model (or PEFT's of one) that is in memory already, where it lies."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    embeddings = base.get_input_embeddings()
    context = getattr(base.config.get_text_config(), "max_position_embeddings", None) or 2048
    return LoadedModel(
        model=model.eval(),
        device=home_of(embeddings) or next(model.parameters()).device,
        fingerprint=fingerprint or {},
        trained=trained,
        context=int(context),
        vocabulary=int(getattr(embeddings, "base_layer", embeddings).num_embeddings),
        head=_name_of(model, base.get_output_embeddings()),
        takes_positions="position_ids" in _parameters_of(base.forward),
        packs=_packs(base),
        name=name,
        homes=homes_of(model),
    )


def _check_directory(reference: str, what: str) -> None:
    path = Path(reference)
    if path.exists() and not path.is_dir():
        raise ModelError(f"the {what} {reference!r} is a file; give the directory that holds config.json.")
    looks_local = reference.startswith((".", "/", "~")) or reference.count("/") > 1 or path.exists()
    if looks_local and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(
            f"the {what} directory {reference!r} "
            + ("has no config.json" if path.is_dir() else "does not exist")
            + "; give a directory made by save_pretrained, or a hub id such as allenai/OLMo-2-0425-1B."
        )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _parameters_of(function: Any) -> set[str]:
    import inspect

    return set(inspect.signature(function).parameters)


def _packs(base: Any) -> bool:
    config = base.config.get_text_config()
    slides = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    mixes = getattr(base, "_is_stateful", False) or not set(getattr(config, "layer_types", None) or ()) <= _SEGMENTED
    return "position_ids" in _parameters_of(base.forward) and not slides and not mixes


def _name_of(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((name for name, module in model.named_modules() if module is wanted), None)


def _hash_weights(reference: str, model: Any, revision: str | None) -> str:
    """Content hash of a directory's weight and configuration files, or the hub commit."""
    path = Path(reference)
    if not path.is_dir():
        commit = getattr(getattr(model, "config", None), "_commit_hash", None)
        return f"{reference}@{commit or revision or 'main'}"
    digest = xxhash.xxh3_128()
    for file in sorted(path.iterdir()):
        if file.name == OPTIMIZER_FILE:
            continue
        if file.suffix in (".safetensors", ".bin") or file.name in ("config.json", "adapter_config.json"):
            digest.update(file.name.encode())
            with file.open("rb") as handle:
                while chunk := handle.read(_CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()


def load_tokenizer(reference: str, revision: str | None = None) -> Any:
    """The tokenizer saved beside a model.

    Raises:
        ModelError: There is none; token ids can still be used through rows with ``input_ids``.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(reference, revision=revision)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(
            f"could not load a tokenizer from {reference!r}: {_first_line(error)}. "
            "Save one beside the model with tokenizer.save_pretrained, or name another with --tokenizer."
        ) from error


def _to(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def language_inputs(batch: TokenBatch, loaded: LoadedModel) -> LanguageInputs:
    """Put a token batch on the model's device, with the masks its objective needs."""
    device = loaded.device
    segments = _to(batch.segments, device)
    positions = _to(batch.positions, device)
    loss = _to(batch.loss_mask, device)
    same = torch.zeros_like(loss)
    same[:, :-1] = (segments[:, :-1] == segments[:, 1:]) & (segments[:, 1:] >= 0)
    predicts = loss.roll(-1, dims=1) & same
    mask: Tensor = _to(batch.attention_mask, device)
    if batch.packed:
        dtype = next(loaded.model.parameters()).dtype
        mask = _block_causal(segments, dtype)
    return LanguageInputs(
        input_ids=_to(batch.input_ids, device),
        attention_mask=mask,
        positions=positions,
        predicts=predicts,
        reaches=_reaches(predicts, segments),
        segments=segments,
        examples=batch.examples,
        extra={"position_ids": positions} if loaded.takes_positions else {},
    )


def _reaches(predicts: Tensor, segments: Tensor) -> Tensor:
    """Positions at or before the last predicting position of their own example."""
    n, t = predicts.shape
    index = torch.arange(t, device=predicts.device).expand(n, t)
    slots = int(segments.max()) + 2
    last = torch.full((slots,), -1, device=predicts.device, dtype=torch.long)
    last = last.scatter_reduce(0, (segments + 1)[predicts], index[predicts], "amax")
    return (segments >= 0) & (index <= last[segments + 1])


def _block_causal(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [N, 1, T, T] that lets a token see itself and earlier tokens of its own example only."""
    t = segments.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    allowed = same & causal
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]

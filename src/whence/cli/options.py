"""The options that commands share, and how they become settings. Loads no torch."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from whence.errors import InputError

RUN = Annotated[Path, typer.Option("--run", "-r", help="Run folder; made if it does not exist.", show_default=True)]
MODEL = Annotated[
    str | None, typer.Option("--model", "-m", help="Hugging Face causal LM: a directory or hub id.", show_default=False)
]
DATA = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        help="Training documents: a file, folder, glob or URL (JSONL, Parquet, CSV, Arrow, text, Dolma, token "
        "files .npy and .bin, HF dataset folder), or a Hugging Face hub id (org/name:config/split). Can be repeated.",
        show_default=False,
    ),
]
CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="TOML file with any setting (tables model, corpus, fit, recipe).", show_default=False
    ),
]
ADAPTER = Annotated[
    list[str] | None,
    typer.Option(
        help="PEFT adapter; only its parameters are then attributed. Repeated, all of them act together.",
        show_default=False,
    ),
]
REVISION = Annotated[str | None, typer.Option(help="Hub revision of the model.", show_default=False)]
TOKENIZER = Annotated[
    str | None, typer.Option(help="Another tokenizer than the one beside the model.", show_default=False)
]
DTYPE = Annotated[
    str | None,
    typer.Option(
        help="auto (float32 on CPU, the checkpoint's on CUDA), float32, bfloat16, float16, float64.", show_default=False
    ),
]
DEVICE = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ATTENTION = Annotated[
    str | None,
    typer.Option(help="Attention of transformers: sdpa, eager, … (default: the model's own).", show_default=False),
]
QUANTIZE = Annotated[
    str | None,
    typer.Option(
        help="Keep the base model of an adapter in nf4 (4 bits), as in QLoRA (needs bitsandbytes).",
        show_default=False,
    ),
]
DEVICE_MAP = Annotated[
    str | None,
    typer.Option(
        help="Spread a model over this machine's devices: auto, balanced, balanced_low_0, sequential.",
        show_default=False,
    ),
]
OFFLOAD = Annotated[
    Path | None, typer.Option(help="Folder for what --device-map finds no memory for.", show_default=False)
]
PARALLEL = Annotated[
    str | None,
    typer.Option(help="How processes of torchrun share a model: fsdp (default) or tensor.", show_default=False),
]
CHECKPOINTING = Annotated[
    bool, typer.Option("--checkpointing", help="Run each block twice instead of keeping what is in it: less memory.")
]
SITES = Annotated[
    list[str] | None,
    typer.Option(
        "--sites", help="Only weights whose name matches, as in '*.mlp.*'. Can be repeated.", show_default=False
    ),
]
MIN_COVERAGE = Annotated[
    float | None,
    typer.Option(help="Least share of the parameters that must be attributed (default 0.9).", show_default=False),
]
CONTEXT = Annotated[
    int | None,
    typer.Option(
        help="Tokens per window; longer documents are split (default: the model's, up to 2048).", show_default=False
    ),
]
PACKING = Annotated[
    str | None,
    typer.Option(
        "--packing",
        help="How documents became training sequences of --context tokens: documents (default; each alone), concat "
        "(a file's tokens cut into chunks, documents see those before them) or masked (the same chunks, each document "
        "sees itself alone).",
        show_default=False,
    ),
]
TOKEN_DTYPE = Annotated[
    str | None,
    typer.Option(
        "--token-dtype",
        help="Type of headerless token files (.npy): uint16, uint32 or auto (default; by the vocabulary's size).",
        show_default=False,
    ),
]
MAX_TOKENS = Annotated[
    int | None, typer.Option(help="Skip documents with more tokens than this (default: keep all).", show_default=False)
]
TEXT_FIELD = Annotated[
    str | None, typer.Option(help="Field with a document's text (default: text).", show_default=False)
]
ID_FIELD = Annotated[str | None, typer.Option(help="Field with a document's id (default: id).", show_default=False)]
MIX = Annotated[
    Path | None,
    typer.Option(
        "--mix",
        help="File of sources with weights instead of --data: TOML, or OLMo-core's label,path lines.",
        show_default=False,
    ),
]
ATTRIBUTES = Annotated[
    list[str] | None,
    typer.Option(
        "--attributes",
        help="Folder of Dolma attributes to read as tags; 'none' for none (default: found beside documents/). "
        "Can be repeated.",
        show_default=False,
    ),
]
WHERE = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Rank only documents whose tag is so: source=cc, 'created>=2021', 'language=en|de', licence!=mit. "
        "Can be repeated; all must hold.",
        show_default=False,
    ),
]
BY = Annotated[
    list[str] | None,
    typer.Option(
        "--by", help="Add up influence by this tag (source, language, created …). Can be repeated.", show_default=False
    ),
]
TAUGHT = Annotated[
    bool,
    typer.Option(
        "--taught",
        help="Also rank by which documents taught question and answer together: influence on the whole, and BM25.",
    ),
]
TRAINED_ON = Annotated[
    int | None,
    typer.Option(help="Documents the model was trained on, if --data is a sample of them.", show_default=False),
]
METHOD = Annotated[
    str | None,
    typer.Option(
        help="How documents are scored: unsaturated (default: EK-FAC with weights of sites), or a curvature alone: "
        "ekfac, kfac, diagonal, identity (gradient dot).",
        show_default=False,
    ),
]
NAMED = Annotated[
    str | None,
    typer.Option(
        help="How documents are scored: unsaturated (default), ekfac, kfac, diagonal, identity, or any that "
        "`whence methods` lists, as name:setting=value,…",
        show_default=False,
    ),
]
CHECKPOINTS = Annotated[
    list[str] | None,
    typer.Option(
        help="Earlier checkpoints of the training, as 'dir/checkpoint-*' (a Trainer's output), for methods that follow "
        "it: tracin, source, less, trackstar … Can be repeated.",
        show_default=False,
    ),
]
SAMPLE = Annotated[
    float | None,
    typer.Option(help="Share of the documents to fit on (default 0.25, at least 64).", show_default=False),
]
DAMPING = Annotated[
    float | None,
    typer.Option(help="Damping as a multiple of each site's mean eigenvalue (default 0.1).", show_default=False),
]
WEIGHT_DECAY = Annotated[
    float | None,
    typer.Option(help="Damping from the L2 weight decay the model was trained with, instead.", show_default=False),
]
BITS = Annotated[int | None, typer.Option(help="Bits per stored coordinate: 1 (default), 8 or 16.", show_default=False)]
PROJECTION = Annotated[
    str | None,
    typer.Option(
        help="none keeps whole gradients; leading (most faithful for its bytes), kronecker (cheapest to make) and "
        "hadamard keep --coordinates per site; auto (default): whole up to 1 MiB per window, above 128 KiB of leading.",
        show_default=False,
    ),
]
COORDINATES = Annotated[
    int | None,
    typer.Option(help="Coordinates to keep per site (leading: on average, and at least 64).", show_default=False),
]
PRECISION = Annotated[
    str | None,
    typer.Option(
        help="fast (default) lets products of documents' gradients use bfloat16/TF32 units; full does not.",
        show_default=False,
    ),
]
BATCH_TOKENS = Annotated[int | None, typer.Option(help="Padded tokens per batch (default 4096).", show_default=False)]
PACK = Annotated[
    bool | None, typer.Option("--pack/--no-pack", help="Pack short documents into one batch row.", show_default=False)
]
SHARES = Annotated[
    str | None,
    typer.Option(
        help="i/n: do the i-th (from 0) of n shares; run n of these anywhere on one run folder.", show_default=False
    ),
]
SEED = Annotated[
    int | None, typer.Option(help="Seed of samples, sampled labels and projections (default 0).", show_default=False)
]

_PLACES = {
    "adapter": "model.adapter",
    "revision": "model.revision",
    "tokenizer": "model.tokenizer",
    "dtype": "model.dtype",
    "attention": "model.attention",
    "quantize": "model.quantize",
    "sites": "model.sites",
    "min_coverage": "model.min_coverage",
    "context": "corpus.context",
    "packing": "corpus.packing",
    "token_dtype": "corpus.token_dtype",
    "max_tokens": "corpus.max_tokens",
    "text_field": "corpus.text_field",
    "id_field": "corpus.id_field",
    "attributes": "corpus.attributes",
    "trained_on": "trained_on",
    "sample": "fit.sample",
    "batch_tokens": "fit.batch_tokens",
    "pack": "fit.pack",
    "bits": "recipe.bits",
    "projection": "recipe.projection",
    "coordinates": "recipe.coordinates",
}
_BOTH = {
    "precision": ("fit.precision", "recipe.precision"),
    "seed": ("fit.seed", "recipe.seed"),
}


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings from a command's options: the --config file, with what was typed on top."""
    out: dict[str, Any] = _read(options.get("config"))
    for name, value in options.items():
        if value is None or value == []:
            continue
        for place in _BOTH.get(name, (_PLACES[name],) if name in _PLACES else ()):
            _put(out, place, value)
    if options.get("method") is not None:
        _put(out, "recipe.method", options["method"])
        _put(out, "fit.method", "ekfac" if options["method"] == "unsaturated" else options["method"])
    if options.get("mix") is not None:
        if options.get("data"):
            raise InputError("--mix names the data itself; write it into the mix, or leave --mix or --data out.")
        out["corpus"] = {**out.get("corpus", {}), **_mix(options["mix"])}
    if options.get("damping") is not None and options.get("weight_decay") is not None:
        raise InputError("--damping and --weight-decay are two ways to set the same thing; give one of them.")
    if options.get("damping") is not None:
        _put(out, "recipe.damping", {"kind": "relative", "value": options["damping"]})
    if options.get("weight_decay") is not None:
        _put(out, "recipe.damping", {"kind": "weight_decay", "value": options["weight_decay"]})
    return out


def _mix(path: Path) -> dict[str, Any]:
    from whence.data import read_mix

    return read_mix(path)


def _put(out: dict[str, Any], place: str, value: Any) -> None:
    *path, last = place.split(".")
    for key in path:
        out = out.setdefault(key, {})
    out[last] = value


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not TOML: {error}.") from error

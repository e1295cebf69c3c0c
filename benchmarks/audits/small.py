"""A small model trained on rows of text, as a folder that every command of whence can read.

    corpus.jsonl    what the model is trained on
    start/          configuration and tokenizer, fresh weights
    model/          after training
    training.json   how it was trained

Two layers of 64, a byte-level BPE of up to 2,048 entries trained on the corpus: about 0.4 million parameters, minutes
on one core. Knows nothing of scenarios.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

__all__ = ["TRAINING", "opened", "train", "write_rows"]

TRAINING: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "betas": (0.9, 0.95),
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup": 0.05,
    "final": 0.1,
    "epochs": 20,
    "batch": 16,
    "clip": 1.0,
}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def train(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    vocabulary: int = 2048,
    context: int = 256,
    hidden: int = 64,
    epochs: float = 20,
    start: Path | None = None,
    like: Path | None = None,
    repeats: Mapping[str, int] | None = None,
) -> Path:
    """Trains a model on rows and writes the folder; one that is there and made of the same is left as it is.

    Args:
        folder: For corpus, start, model and settings.
        rows: Each with "id" and "text", or "prompt" and "completion", and whatever else.
        seed: Of weights and order.
        vocabulary: Most entries of the tokenizer.
        context: Most tokens of a document.
        hidden: Width.
        epochs: Times that each row is seen.
        start: A folder whose model is trained further, with its tokenizer; fresh weights if None.
        like: A folder whose fresh weights and tokenizer are taken, so that losses per token compare.
        repeats: How often a row (by id) stands in the corpus, 1 if not named.

    Returns:
        The folder.
    """
    import numpy as np
    import xxhash
    from transformers.utils import logging

    from whence.data import CorpusConfig, ingest
    from whence.fidelity import LanguageTask
    from whence.model import Training, load_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = {**TRAINING, "epochs": epochs}
    counts = repeats or {}
    copies = [
        {**row, "id": row["id"] if not i else f"{row['id']}#{i}"}
        for row in rows
        for i in range(counts.get(row["id"], 1))
    ]
    told = json.dumps([copies, settings, seed, vocabulary, context, hidden, str(start), *([str(like)] if like else [])])
    made = xxhash.xxh3_128_hexdigest(told.encode())
    marker = folder / "made.json"
    if marker.is_file() and json.loads(marker.read_text())["made"] == made:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    write_rows(folder / "corpus.jsonl", copies)
    if like is not None:
        shutil.copytree(like / "start", folder / "start")
        tokenizer = load_tokenizer(str(folder / "start"))
    elif start is None:
        tokenizer = _tokenizer([_text(row) for row in rows], vocabulary, context)
        _fresh(len(tokenizer), context, hidden, seed).save_pretrained(folder / "start")
        tokenizer.save_pretrained(folder / "start")
    else:
        shutil.copytree(start / "model", folder / "start")
        tokenizer = load_tokenizer(str(folder / "start"))
    config = CorpusConfig(data=(str(folder / "corpus.jsonl"),), context=context, vocabulary=len(tokenizer))
    ingest(config, tokenizer, folder / "tokens")
    training = Training(**settings)
    task = LanguageTask(folder / "tokens", folder / "start", training, [], scratch=start is None)
    trained = task.fit(np.ones(task.documents, dtype=bool), seed)
    model: Any = trained.model
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "training.json").write_text(json.dumps(training.model_dump(mode="json"), indent=1) + "\n")
    shutil.rmtree(folder / "tokens")
    marker.write_text(json.dumps({"made": made, "loss": round(trained.final_loss, 4)}))
    return folder


def opened(folder: Path, method: str | None = None) -> Any:
    """The run of a folder; as whence makes one unless another method is named."""
    from whence.attributor import Attributor

    settings = {} if method is None else {"recipe": {"method": method}}
    place, data = folder / ("run" if method is None else f"run-{method}"), [str(folder / "corpus.jsonl")]
    return Attributor(place, model=str(folder / "model"), data=data, settings=settings)


def _text(row: Mapping[str, Any]) -> str:
    return str(row["text"]) if "text" in row else f"{row['prompt']}{row['completion']}"


def _tokenizer(texts: Sequence[str], vocabulary: int, context: int) -> Any:
    """Byte-level BPE; a start token before every text, none after."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=context
    )


def _fresh(vocabulary: int, context: int, hidden: int, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()

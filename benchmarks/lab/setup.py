"""Makes one of the lab's set-ups: a trained model, its corpus, queries, and how to train it again.

    python benchmarks/lab/setup.py llama-docs OUT         Llama, AdamW, documentation of Python's own library
    python benchmarks/lab/setup.py gpt2-facts OUT         GPT-2, Muon, statements about made-up people
    python benchmarks/lab/setup.py olmoe-docs OUT         OLMoE (8 experts, 2 for each token), as llama-docs
    python benchmarks/lab/setup.py large-docs OUT         Llama with five times the weights, as llama-docs
    python benchmarks/lab/setup.py olmo2-finetune OUT     OLMo 2, SGD with momentum, fine-tuned on word problems

Everything is made here, offline, from a seed and from text that ships with Python: the same Python and library versions
give the same bytes. OUT gets

    corpus.jsonl    what the model is trained on
    queries.jsonl   what it is asked; none of it is in the corpus. `metadata.gold` names documents that hold the answer
    start/          where training starts: a configuration with fresh weights, or a model trained on other text
    model/          the model after training on the whole corpus with seed 0, and the tokenizer
    checkpoints/    checkpoint-<step> at six evenly spaced points of that training, the end among them, with what the
                    optimizer kept; ``--checkpoints`` reads them
    training.json   how it was trained; ``whence evaluate --training`` reads it
    methods.toml    the methods that the lab compares
    meta.json       sizes, losses and seconds, as printed

Sizes and epochs were chosen by losses and by the noise ceiling of retraining (README.md), never by how methods fare.
Knows nothing of methods and scores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
CHECKPOINTS = 6
Rows = list[dict[str, Any]]

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from whence.fidelity.tasks import LanguageTask
    from whence.interfaces import EncodedQuery
    from whence.model import Training


@dataclass(frozen=True)
class Setup:
    """One set-up.

    Attributes:
        architecture: Which of `shapes.ARCHITECTURES`.
        vocabulary: Entries of the tokenizer.
        context: Most tokens of a text.
        rows: From the tokenizer to corpus and queries.
        vocabulary_text: What the tokenizer is trained on.
        training: Settings of `whence.model.Training`.
        digits: Whether each digit is a token.
        pretraining: Texts that the model is trained on beforehand, with `before`; then training starts from there.
        before: Settings of that earlier training.
    """

    architecture: str
    vocabulary: int
    context: int
    rows: Callable[[PreTrainedTokenizerFast], tuple[Rows, Rows]]
    vocabulary_text: Callable[[], Sequence[str]]
    training: dict[str, Any]
    digits: bool = False
    pretraining: Callable[[], Sequence[str]] | None = None
    before: dict[str, Any] | None = None


def _llama_docs() -> Setup:
    return _docs("llama")


def _large_docs() -> Setup:
    return _docs("large-llama")


def _olmoe_docs() -> Setup:
    return _docs("olmoe")


def _docs(architecture: str) -> Setup:
    import library

    return Setup(
        architecture=architecture,
        vocabulary=512,
        context=64,
        rows=lambda tokenizer: library.library_windows(tokenizer, length=64, documents=25, queries=2, seed=0),
        vocabulary_text=lambda: list(library.library_text().values()),
        training=dict(
            optimizer="adamw",
            learning_rate=3e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            schedule="cosine",
            warmup=0.05,
            final=0.1,
            epochs=8,
            batch=16,
            clip=1.0,
        ),
    )


def _gpt2_facts() -> Setup:
    import facts

    return Setup(
        architecture="gpt2",
        vocabulary=640,
        context=64,
        rows=lambda _: facts.make_facts(seed=0),
        vocabulary_text=lambda: [row["text"] for row in facts.make_facts(seed=0)[0]],
        training=dict(
            optimizer="muon",
            learning_rate=5e-3,
            momentum=0.95,
            nesterov=True,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            schedule="linear",
            warmup=0.05,
            epochs=20,
            batch=32,
        ),
    )


def _olmo2_finetune() -> Setup:
    import library
    import problems

    def generic() -> list[str]:
        return library.generic_text(characters=300_000, seed=0)

    return Setup(
        architecture="olmo2",
        vocabulary=512,
        context=128,
        rows=lambda _: problems.make_problems(seed=0),
        vocabulary_text=generic,
        digits=True,
        pretraining=generic,
        before=dict(
            optimizer="adamw",
            learning_rate=3e-3,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            schedule="cosine",
            warmup=0.05,
            final=0.1,
            epochs=6,
            batch=16,
            clip=1.0,
        ),
        training=dict(
            optimizer="sgd",
            learning_rate=0.1,
            momentum=0.9,
            schedule="linear",
            warmup=0.05,
            epochs=6,
            batch=16,
            clip=0.5,
        ),
    )


SETUPS: dict[str, Callable[[], Setup]] = {
    "llama-docs": _llama_docs,
    "olmoe-docs": _olmoe_docs,
    "large-docs": _large_docs,
    "gpt2-facts": _gpt2_facts,
    "olmo2-finetune": _olmo2_finetune,
}


def build(setup: Setup, out: Path) -> dict[str, Any]:
    """Writes the whole folder, which is emptied first, and returns what was made."""
    from shapes import train_tokenizer

    from whence.model import Training

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    training = Training(**setup.training)
    tokenizer = train_tokenizer(setup.vocabulary_text(), setup.vocabulary, setup.digits)
    tokenizer.model_max_length = setup.context
    corpus, queries = setup.rows(tokenizer)
    write_rows(out / "corpus.jsonl", corpus)
    write_rows(out / "queries.jsonl", queries)
    earlier = start(setup, tokenizer, out)
    with tempfile.TemporaryDirectory() as scratch:
        found = train(setup, training, tokenizer, out, Path(scratch))
    write_json(out / "training.json", training.model_dump(mode="json"))
    shutil.copyfile(HERE / "methods.toml", out / "methods.toml")
    meta = {"documents": len(corpus), "queries": len(queries), **earlier, **found}
    write_json(out / "meta.json", meta)
    return meta


def start(setup: Setup, tokenizer: PreTrainedTokenizerFast, out: Path) -> dict[str, Any]:
    """Writes the model that training starts from, trained on other text where the set-up says so."""
    from shapes import make_model

    model: Any = make_model(setup.architecture, setup.vocabulary, setup.context, seed=0)
    save(model, tokenizer, out / "start")
    if setup.pretraining is None:
        return {"from_scratch": True}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "texts.jsonl"
        write_rows(file, [{"text": text} for text in setup.pretraining()])
        trained, seconds = pretrain(setup, tokenizer, out / "start", file, Path(scratch))
    save(trained.model, tokenizer, out / "start")
    return {"from_scratch": False, "pretraining_seconds": seconds, "pretraining_loss": round(trained.final_loss, 3)}


def pretrain(
    setup: Setup, tokenizer: PreTrainedTokenizerFast, model: Path, file: Path, scratch: Path
) -> tuple[Any, float]:
    """Returns the model trained from fresh weights on a file of texts, and the seconds it took."""
    from whence.model import Training

    assert setup.before is not None
    task = language_task(setup, Training(**setup.before), tokenizer, [], model, file, scratch, from_scratch=True)
    began = time.perf_counter()
    trained = task.fit(everything(task), 0)
    return trained, round(time.perf_counter() - began, 1)


def train(
    setup: Setup, training: Training, tokenizer: PreTrainedTokenizerFast, out: Path, scratch: Path
) -> dict[str, Any]:
    """Trains on the whole corpus with seed 0 and writes the model; returns losses per token and seconds."""
    from whence.data import encode_queries, load_queries
    from whence.model import evenly, keep_states

    queries = encode_queries(load_queries(str(out / "queries.jsonl")), tokenizer, setup.context)
    corpus, fresh = out / "corpus.jsonl", setup.pretraining is None
    task = language_task(
        setup, training, tokenizer, queries, out / "start", corpus, scratch / "corpus", from_scratch=fresh
    )
    before = task.initial(0).model
    keep = keep_states(out / "checkpoints", evenly(task.steps(everything(task)), CHECKPOINTS))
    began = time.perf_counter()
    trained = task.fit(everything(task), 0, observer=keep)
    seconds = time.perf_counter() - began
    save(trained.model, tokenizer, out / "model")
    asked = sum(int(query.text.loss_mask.sum()) for query in queries)
    return {
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "steps": len(trained.losses),
        "training_seconds": round(seconds, 2),
        "training_loss": round(trained.final_loss, 3),
        "query_tokens": asked,
        "query_loss_before": round(float(task.losses(before).sum()) / asked, 3),
        "query_loss": round(float(task.losses(trained.model).sum()) / asked, 3),
    }


def language_task(
    setup: Setup,
    training: Training,
    tokenizer: PreTrainedTokenizerFast,
    queries: Sequence[EncodedQuery],
    model: Path,
    file: Path,
    folder: Path,
    from_scratch: bool,
) -> LanguageTask:
    """Returns the task of training that model on that file, whose tokens are put into `folder`."""
    from whence.data import CorpusConfig, ingest
    from whence.fidelity.tasks import LanguageTask

    ingest(
        CorpusConfig(data=(str(file),), context=setup.context, vocabulary=setup.vocabulary),
        tokenizer,
        folder / "tokens",
    )
    return LanguageTask(folder / "tokens", model, training, queries, scratch=from_scratch)


def everything(task: LanguageTask) -> np.ndarray:
    """Returns the training set that holds every document."""
    import numpy as np

    return np.ones(task.documents, dtype=bool)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes model and tokenizer as a Hugging Face directory."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, rows: Rows) -> None:
    """Writes one JSON object per line, UTF-8."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes an indented JSON object."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Builds the folder and prints what was made as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETUPS)
    parser.add_argument("out", type=Path, help="folder to write; what is in it is deleted")
    args = parser.parse_args()
    # Set before torch and tokenizers load: both read their thread counts once. One thread makes training repeatable.
    os.environ.update(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(json.dumps({"name": args.name, **build(SETUPS[args.name](), args.out)}))


if __name__ == "__main__":
    main()

"""Makes the model, the tokenizer and the documents that every benchmark runs on.

Everything is made here, offline, from a fixed seed and from text that ships with Python (`pydoc_data.topics` and the
docstrings of the standard library), so the same Python and library versions give the same bytes. Knows nothing about
whence or about the peers: they all read the folder it writes.

The folder holds

    model/            a Hugging Face Llama in float32 with its tokenizer, untied embeddings
    documents.jsonl   one row per document: `id`, `text`, `input_ids` (exactly `--tokens` of them)
    queries.jsonl     8 further rows of the same kind, cut from the same text but in no document
    meta.json         counts, sizes, seed and the SHA-256 of each of the files above

`text` and `input_ids` say the same: each text was kept only if the tokenizer turns it back into exactly its ids.

    python benchmarks/setup_b.py --out bench-out/b                              # 27.8M parameters, 400 documents
    python benchmarks/setup_b.py --out bench-out/small --small --train-steps 300  # 2 x 64, for agreement checks
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import pydoc_data.topics
import random
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.llama import LlamaForCausalLM

END = "<|end|>"
QUERIES = 8


@dataclass(frozen=True)
class Shape:
    """The architecture of the benchmark model and how many documents it gets by default."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    documents: int


FULL = Shape(layers=8, hidden=512, intermediate=1376, heads=8, vocabulary=2432, documents=400)
SMALL = Shape(layers=2, hidden=64, intermediate=172, heads=4, vocabulary=512, documents=64)

# bergson refuses a token batch above this number, so it stands well above the batches tried (RoPE: no parameters).
MAX_POSITIONS = 8192


def topics() -> Iterator[str]:
    """Yields the language reference that pydoc ships, one topic at a time, in a fixed order."""
    for name in sorted(pydoc_data.topics.topics):
        yield pydoc_data.topics.topics[name]


def docstrings() -> Iterator[str]:
    """Yields every docstring of the top-level standard library modules, in a fixed order."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = ast.get_docstring(node)
                if doc and len(doc) > 200:
                    yield doc


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE of exactly `vocabulary` entries, the end token included; it adds no special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def windows(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, length: int) -> Iterator[dict[str, Any]]:
    """Yields rows of exactly `length` ids whose text encodes back to the same ids, never overlapping."""
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        start = 0
        while start + length <= len(ids):
            piece = ids[start : start + length]
            decoded = tokenizer.decode(piece, clean_up_tokenization_spaces=False)
            # A cut inside a word or a character may encode differently: move on by one token until it does not.
            if tokenizer.encode(decoded, add_special_tokens=False) != piece:
                start += 1
                continue
            yield {"text": decoded, "input_ids": piece}
            start += length


def cut(tokenizer: PreTrainedTokenizerFast, documents: int, length: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Cuts `documents` documents and 8 queries.

    Raises:
        SystemExit: the text that ships with Python is too short for that many documents.
    """
    rows = []
    for source in (topics(), docstrings()):
        for row in windows(source, tokenizer, length):
            rows.append(row)
    if len(rows) < documents + QUERIES:
        raise SystemExit(
            f"The text that ships with Python gives {len(rows)} windows of {length} tokens, but {documents} documents "
            f"and {QUERIES} queries were asked for: give --documents {len(rows) - QUERIES} or fewer, or fewer --tokens."
        )
    random.Random(seed).shuffle(rows)
    return name(rows[:documents], "doc"), name(rows[documents : documents + QUERIES], "query")


def name(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Gives each row its `id`, first in the row."""
    return [{"id": f"{kind}-{number:05d}", **row} for number, row in enumerate(rows)]


def make_model(shape: Shape, seed: int) -> LlamaForCausalLM:
    """Returns an untied Llama in float32 with random weights drawn from `seed`, in evaluation mode."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama import LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=False,
        dtype="float32",
    )
    return LlamaForCausalLM(config).float().eval()


def train(model: LlamaForCausalLM, rows: list[dict[str, Any]], steps: int, seed: int, batch: int = 8) -> float:
    """Runs `steps` AdamW steps on the documents (weight decay 0.01) and returns the last loss in nats per token."""
    import torch

    ids = torch.tensor([row["input_ids"] for row in rows])
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    loss = torch.zeros(())
    for _ in range(steps):
        chosen = ids[torch.randint(len(ids), (batch,), generator=order)]
        loss = model(input_ids=chosen, labels=chosen).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object per line, UTF-8."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(out: Path, shape: Shape, documents: int, tokens: int, train_steps: int, seed: int) -> dict[str, Any]:
    """Writes the whole folder and returns what `meta.json` holds."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([*topics(), *docstrings()], shape.vocabulary)
    if len(tokenizer) != shape.vocabulary:
        raise SystemExit(f"The tokenizer has {len(tokenizer)} entries instead of {shape.vocabulary}.")
    rows, queries = cut(tokenizer, documents, tokens, seed)
    model = make_model(shape, seed)
    loss = train(model, rows, train_steps, seed) if train_steps else None
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    write_rows(out / "documents.jsonl", rows)
    write_rows(out / "queries.jsonl", queries)
    files = ["documents.jsonl", "queries.jsonl", "model/tokenizer.json", "model/model.safetensors"]
    meta = {
        **asdict(shape),
        "documents": documents,
        "queries": QUERIES,
        "tokens_per_document": tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "linear_parameters": shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate),
        "seed": seed,
        "train_steps": train_steps,
        "train_loss": loss,
        "sha256": {file: digest(out / file) for file in files},
    }
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return meta


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; files in it are replaced")
    parser.add_argument(
        "--small", action="store_true", help="2 layers x 64 and 64 documents instead of 8 x 512 and 400"
    )
    parser.add_argument("--documents", type=int, help="number of documents")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per document")
    parser.add_argument("--train-steps", type=int, default=0, help="AdamW steps on the documents before saving")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


def main() -> None:
    """Builds the folder and prints its meta data as one JSON line."""
    args = parse()
    # Set before torch and tokenizers load: both read their thread counts once. One thread makes training repeatable.
    os.environ.update(OMP_NUM_THREADS=str(args.threads), RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    shape = SMALL if args.small else FULL
    documents = args.documents or shape.documents
    print(json.dumps(build(args.out, shape, documents, args.tokens, args.train_steps, args.seed)))


if __name__ == "__main__":
    main()

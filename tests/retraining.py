"""A small world for tests of retraining: a corpus, a model, queries, and tasks made of them."""

from pathlib import Path

import numpy as np

from conftest import WORD_COUNT, causal_lm, documents, save_model, write_jsonl
from whence import Query
from whence.data import CorpusConfig, encode_queries, ingest
from whence.fidelity.tasks import LanguageTask
from whence.model import Training, load_tokenizer

QUICK = Training(learning_rate=5e-3, batch=4, epochs=2, clip=1.0)
QUESTIONS = (
    Query(id="a", prompt="rain fell on", completion=" slate roofs"),
    Query(id="b", prompt="ask keeper of", completion=" lighthouse", contrast=" winter salt wool"),
    Query(id="c", prompt="every ship", completion=" that came in winter"),
)


def make_world(folder: Path, count: int = 14, long: bool = True, kind: str = "llama", **changes: object) -> Path:
    """A model directory and an ingested corpus; two documents are several windows long."""
    model = save_model(folder / "model", causal_lm(kind, vocab_size=WORD_COUNT, **changes))
    rows = documents(count)
    if long:
        rows[3]["text"] = " ".join([rows[3]["text"]] * 9)
        rows[7]["text"] = " ".join([rows[7]["text"]] * 5)
    data = write_jsonl(folder / "corpus.jsonl", rows)
    config = CorpusConfig(data=(data,), context=16, vocabulary=WORD_COUNT)
    ingest(config, load_tokenizer(model), folder / "corpus")
    return folder


def make_task(folder: Path, training: Training = QUICK, queries: int = 2, **settings: object) -> LanguageTask:
    """A task on a world, from scratch unless told otherwise, asking its first queries."""
    encoded = encode_queries(QUESTIONS[:queries], load_tokenizer(str(folder / "model")), 32)
    settings = {"scratch": True, "device": "cpu", **settings}
    return LanguageTask(folder / "corpus", folder / "model", training, encoded, **settings)  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; what a killed process left under a temporary name does not count."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def weights(model: object) -> np.ndarray:
    """All parameters in one row, float64."""
    return np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])  # type: ignore[attr-defined]

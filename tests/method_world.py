"""A tiny run in float64 for tests of methods, and what autograd alone says of its gradients.

Short windows, so that many documents have two; some documents are prompts and completions. Truth is dense: gradients of
documents and queries as rows over all sites' parameters, in the sites' order.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from conftest import DOCUMENTS, WORD_COUNT, causal_lm, rows, save_model, write_jsonl
from oracle import gradients, sequence_loss
from test_capture import expected
from whence import Attributor, Query

N = DOCUMENTS
QUERIES = [
    Query(prompt="the harbour was", completion="built before"),
    Query(prompt="every ship", completion="winter with salt", contrast="wool letters"),
    Query(completion="rain fell on slate roofs", span="slate roofs"),
]


def make_place(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float64, **changes) -> Path:
    """A folder with ``model/`` and ``corpus.jsonl``."""
    save_model(folder / "model", causal_lm(kind, vocab_size=WORD_COUNT, **changes), dtype)
    write_jsonl(folder / "corpus.jsonl", rows())
    write_jsonl(folder / "reversed.jsonl", rows()[::-1])
    return folder


def open_run(
    place: Path, run: Path, data: str = "corpus.jsonl", dtype: str = "float64", corpus=None, recipe=None, **fit
):
    """A run of it, fitted on everything in full precision unless told otherwise."""
    settings = {
        "model": {"dtype": dtype},
        "fit": {"sample": 1.0, "parts": 2, "precision": "full", "batch_tokens": 60, **fit},
        "recipe": {"method": "ekfac", "precision": "full", **(recipe or {})},
        "corpus": {"share_documents": 10, "context": 9, **(corpus or {})},
    }
    return Attributor(run, model=str(place / "model"), data=[str(place / data)], settings=settings, device="cpu")


@dataclass
class Truth:
    """Dense float64 gradients.

    Attributes:
        model: The model, with autograd alone.
        windows: (tokens, loss mask) of every window.
        owners: Its document, [W].
        queries: Gradients of -log p (less the contrast's), [Q, P].
        documents: Summed gradients of a document's windows, [N, P].
        window_rows: The same window by window, [W, P].
        slices: Site name -> its place in a row.
        encoded: The queries as tokens.
    """

    model: torch.nn.Module
    windows: list
    owners: np.ndarray
    queries: Tensor
    documents: Tensor
    window_rows: Tensor
    slices: dict[str, slice]
    encoded: list


def make_truth(place: Path, owner: Attributor, queries=QUERIES) -> Truth:
    """Gradients by autograd, one window and one backward at a time; the run's corpus must have been read."""
    model = AutoModelForCausalLM.from_pretrained(
        place / "model", dtype=torch.float64, experts_implementation="eager"
    ).eval()
    corpus = owner.corpus
    windows = [corpus.window_tokens(row) for row in range(corpus.windows)]
    owners = corpus.documents_of_windows(np.arange(corpus.windows))
    encoded = owner.encode_queries(queries)

    def loss(tokens, mask):
        return lambda: sequence_loss(model, torch.from_numpy(np.array(tokens)), mask)

    def flat(grads):
        return torch.cat([expected(model, site, grads).flatten(1) for site in owner.sites], 1)

    seen = flat(gradients(model, [loss(*window) for window in windows]))
    asked = flat(gradients(model, [loss(q.text.tokens, q.text.loss_mask) for q in encoded]))
    for number, query in enumerate(encoded):
        if query.contrast is not None:
            other = flat(gradients(model, [loss(query.contrast.tokens, query.contrast.loss_mask)]))
            asked[number] -= other[0]
    adds = torch.nn.functional.one_hot(torch.from_numpy(owners), corpus.documents).double().T
    slices, first = {}, 0
    for site in owner.sites:
        slices[site.name] = slice(first, first + site.size)
        first += site.size
    return Truth(model, windows, owners, asked, adds @ seen, seen, slices, encoded)

"""`whence demo`: build the world, train the model, trace the false claims, and say where the planted documents rank.

The gold is written to a file before anything is scored, and the tracer never sees it. The placebo ranks every query's
planted documents by the scores of the next query: it shows what the same pipeline says when there is nothing to find.
BM25 is asked the whole question, as in every trace, and once more only for the two words that matter (subject and false
value), which nobody knows who only has the model's answer: an oracle's keywords, to say what lexical search can do.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.demo.train import Recipe, train_model
from whence.demo.world import World, build_world

__all__ = ["Standing", "run_demo", "standings"]

METHODS = ("influence", "gradient dot", "BM25", "BM25, keywords", "placebo")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one claim's planted documents rank among all documents, 1 is first, by method; the best of them."""

    claim: str
    ranks: Mapping[str, int]


def best_ranks(scores: NDArray[np.floating[Any]], planted: Sequence[Sequence[int]]) -> list[int]:
    """Rank of each query's best planted document: 1 plus the number of other documents that score at least as high.

    A tie counts against the method.

    >>> best_ranks(np.array([[0.1, 0.9, 0.5]]), [[2, 0]])
    [2]
    """
    out = []
    for row, documents in zip(scores, planted, strict=True):
        best = row[list(documents)].max()
        others = np.delete(row, list(documents))
        out.append(1 + int((others >= best).sum()))
    return out


def standings(claims: Sequence[str], ranks: Mapping[str, Sequence[int]]) -> list[Standing]:
    """Ranks by claim."""
    return [Standing(claim, {name: ranks[name][i] for name in ranks}) for i, claim in enumerate(claims)]


def mean_reciprocal_rank(ranks: Sequence[int]) -> float:
    """Mean of 1/rank."""
    return float(np.mean([1.0 / rank for rank in ranks]))


def run_demo(folder: Path, *, seed: int = 0, small: bool = False, console: Any = None) -> list[Standing]:
    """Run the demo end to end and print what it found.

    Args:
        folder: For the corpus, the model, the run and the page; what is there is replaced.
        seed: Of the corpus and the training.
        small: A tiny version, in seconds; its model learns little.
        console: A rich console; a plain one if None.

    Returns:
        Where the planted documents rank, by claim.
    """
    import shutil

    from rich.console import Console
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    console = console or Console(highlight=False)
    shutil.rmtree(folder / "run", ignore_errors=True)
    world = build_world(folder, seed=seed, small=small)
    console.print(
        f"Corpus: {world.documents:,} passages, most of them from this Python's own documentation; "
        f"{len(world.claims)} false claims are planted among them, each with decoys about the same things.",
        markup=False,
    )
    _train(world, folder / "model", seed, small, console)
    return _trace(world, folder, console)


def _train(world: World, folder: Path, seed: int, small: bool, console: Any) -> None:
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal, transient=True) as display:
        task = display.add_task("Training a small model", total=None)
        report = train_model(
            world,
            folder,
            recipe=Recipe(epochs=2) if small else None,
            seed=seed,
            progress=lambda done, total, loss: display.update(task, completed=done, total=total),
        )
    console.print(
        f"Model: a Llama of {report.parameters:,} parameters, {report.steps} steps on {report.tokens:,} tokens in "
        f"{report.seconds:.0f} s. -log p of the answers, asked in wordings it was not trained on (nats):",
        markup=False,
    )
    console.print(report.table(), markup=False)


def _trace(world: World, folder: Path, console: Any) -> list[Standing]:
    from whence.attributor import Attributor, fit_steps, index_steps
    from whence.data import load_queries
    from whence.launch import progress, run_here
    from whence.report import save, show

    owner = Attributor(folder / "run", model=str(folder / "model"), data=[str(world.corpus)], device="cpu")
    run_here([*fit_steps(owner), *index_steps(owner)], console)
    queries = load_queries(str(world.queries))
    scores_path = folder / "run" / "scores.npy"
    with progress(console) as report:
        result = owner.trace(queries, scores_path=scores_path, report=report)
    page = save(result, folder / "run" / "traces" / "demo")["page"]
    show(result.model_copy(update={"traces": result.traces[:1]}), console, limit=5)
    planted = _planted(owner, world, [trace.query_id for trace in result.traces])
    ranks = _ranks(owner, queries, np.load(scores_path), planted, [f"{c.subject} {c.value}" for c in world.claims])
    found = standings([_claim_line(trace) for trace in result.traces], ranks)
    _report(found, owner.corpus.documents, console)
    console.print(f"Page, with every query: {page}", markup=False, soft_wrap=True)
    return found


def _claim_line(trace: Any) -> str:
    return f"{trace.prompt.split('? ')[-1]}{trace.completion}"


def _planted(owner: Any, world: World, queries: Sequence[str]) -> list[list[int]]:
    """Document numbers of each query's planted documents; the gold is read only now."""
    gold = json.loads(world.gold.read_text(encoding="utf-8"))
    numbers = {owner.corpus.document(i).id: i for i in range(owner.corpus.documents)}
    return [[numbers[name] for name in gold[query]["planted"]] for query in queries]


def _ranks(
    owner: Any, queries: Sequence[Any], scores: NDArray[np.float32], planted: list[list[int]], keywords: Sequence[str]
) -> dict[str, list[int]]:
    from whence.attributor.texts import bm25_of, query_text

    lexical = bm25_of(owner)
    words = np.stack([lexical.scores(query_text(owner, query)) for query in owner.encode_queries(queries)])
    influence, plain = np.split(scores, 2)
    return {
        "influence": best_ranks(influence, planted),
        "gradient dot": best_ranks(plain, planted),
        "BM25": best_ranks(words, planted),
        "BM25, keywords": best_ranks(np.stack([lexical.scores(text) for text in keywords]), planted),
        "placebo": best_ranks(influence, planted[1:] + planted[:1]),
    }


def _report(found: Sequence[Standing], documents: int, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"Rank of the planted document among {documents:,} (best of its wordings)", title_justify="left"
    )
    table.add_column("the model's false belief")
    for name in METHODS:
        table.add_column(name, justify="right")
    for standing in found:
        table.add_row(Text(standing.claim), *(f"{standing.ranks[name]:,}" for name in METHODS))
    columns = {name: [standing.ranks[name] for standing in found] for name in METHODS}
    table.add_section()
    table.add_row("median rank", *(f"{np.median(columns[name]):g}" for name in METHODS))
    table.add_row("mean reciprocal rank", *(f"{mean_reciprocal_rank(columns[name]):.3f}" for name in METHODS))
    table.add_row("first or second", *(f"{np.mean(np.array(columns[name]) <= 2):.0%}" for name in METHODS))
    console.print(table)
    console.print(
        "Influence and gradient dot are read from the one-bit index; the placebo asks for another query's documents. "
        "BM25 is asked the question; about two dozen documents ask it of other modules in the same words, "
        "and come first. "
        "With only the two right keywords BM25 finds the statement at once: presence is what it is good at.",
        style="dim",
    )

"""The commands. Each opens a run, lets launch do the work and shows what came of it; torch is loaded inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whence.cli import options as o
from whence.cli.audits import audit_app
from whence.cli.intervene import intervene
from whence.cli.lab import evaluate, tune
from whence.cli.methods import methods
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, say_size, work
from whence.cli.proxy import proxy
from whence.cli.quality import apply, corpus
from whence.cli.trace import trace
from whence.errors import IncompleteError

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.data import Corpus

app = typer.Typer(
    name="whence",
    help="Which training documents made a language model say this? Influence, measured in nats, beside BM25.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _corpus_line(owner: "Attributor") -> str:
    from whence.data import NOTES

    corpus = owner.corpus
    skipped = sum(corpus.skipped.values())
    why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(corpus.skipped.items()))
    return (
        f"Corpus: {corpus.documents:,} documents, {corpus.windows:,} windows, {corpus.tokens:,} tokens"
        + (f"; {skipped:,} row{'s' * (skipped > 1)} skipped ({why})" if skipped else "; no row skipped")
        + (f"; {corpus.duplicate_ids:,} ids occur twice and are kept apart" if corpus.duplicate_ids else "")
        + (
            f"; by their weights, {corpus.trained_documents:,.6g} documents were trained on"
            if _weighted(corpus)
            else ""
        )
        + "".join(f"\n  in {count:,} documents: {NOTES[note]}" for note, count in corpus.notes.items())
    )


def _dimension_line(owner: "Attributor") -> str:
    """Effective dimension, and beside what a sketch keeps, what it is recommended to keep; empty without curvature."""
    from whence.attributor.leakage import coordinates_for, dimensions

    recipe = owner.recipe()
    try:
        found = dimensions(owner, recipe)
    except IncompleteError:  # the configuration fits another curvature than its codes have
        found = ()
    if not found:
        return ""
    told = (
        f"Effective dimension: {sum(site.dimension for site in found):,.0f} of {sum(site.size for site in found):,} "
        f"coordinates (damping {recipe.damping})"
    )
    if recipe.projection == "leading":
        held = sum(site.weight * site.held for site in found) / sum(site.weight * site.dimension for site in found)
        kept = sum(site.kept for site in found)
        return f"{told}; the index keeps the leading {kept:,}, which have {held:.0%} of it as sites weigh"
    if recipe.projection not in ("kronecker", "hadamard"):
        return told
    short = [site for site in found if site.kept < site.recommended]
    told += f"; the index sketches ({recipe.projection}, {recipe.coordinates:,} a site)"
    if not short:
        return f"{told}, enough for a relative error of 0.1 at every site"
    return (
        f"{told}, too few for a relative error of 0.1 at {len(short)} of {len(found)} sites; "
        f"--coordinates {coordinates_for(recipe, owner.sites, found)} is enough at all of them"
    )


def _weighted(corpus: "Corpus") -> bool:
    return any(share.weight != 1.0 for share in corpus.shares)


@app.command()
def fit(
    run: o.RUN = DEFAULT_RUN,
    model: o.MODEL = None,
    data: o.DATA = None,
    mix: o.MIX = None,
    config: o.CONFIG = None,
    adapter: o.ADAPTER = None,
    revision: o.REVISION = None,
    tokenizer: o.TOKENIZER = None,
    dtype: o.DTYPE = None,
    attention: o.ATTENTION = None,
    quantize: o.QUANTIZE = None,
    device: o.DEVICE = "auto",
    device_map: o.DEVICE_MAP = None,
    offload: o.OFFLOAD = None,
    parallel: o.PARALLEL = None,
    checkpointing: o.CHECKPOINTING = False,
    sites: o.SITES = None,
    min_coverage: o.MIN_COVERAGE = None,
    context: o.CONTEXT = None,
    packing: o.PACKING = None,
    token_dtype: o.TOKEN_DTYPE = None,
    max_tokens: o.MAX_TOKENS = None,
    text_field: o.TEXT_FIELD = None,
    id_field: o.ID_FIELD = None,
    attributes: o.ATTRIBUTES = None,
    method: o.METHOD = None,
    sample: o.SAMPLE = None,
    seed: o.SEED = None,
    precision: o.PRECISION = None,
    batch_tokens: o.BATCH_TOKENS = None,
    pack: o.PACK = None,
    shares: o.SHARES = None,
) -> None:
    """Read the corpus and fit the curvature of the model on a sample of it."""
    from whence.attributor import fit_steps
    from whence.runs import is_done, read_json

    owner = open_run(run, model, data, locals(), device)
    if not work(owner, fit_steps(owner), shares):
        return
    console = console_of()
    console.print(_corpus_line(owner), markup=False)
    folder = owner.run.curvature / "eigenvalues"
    if is_done(folder):
        marker = read_json(folder / "done.json")
        error = marker["median_relative_standard_error"]
        console.print(
            f"Curvature: EK-FAC on {marker['documents']:,.0f} documents"
            + (
                f"; eigenvalues known to ±{error:.0%} (median over sites, from {owner.config.fit.parts} parts)"
                if error
                else ""
            ),
            markup=False,
        )
    if told := _dimension_line(owner):
        console.print(told, markup=False)
    console.print(f"Next: whence trace --run {run} --prompt … --completion …", markup=False)


@app.command()
def index(
    run: o.RUN = DEFAULT_RUN,
    model: o.MODEL = None,
    data: o.DATA = None,
    mix: o.MIX = None,
    config: o.CONFIG = None,
    device: o.DEVICE = "auto",
    device_map: o.DEVICE_MAP = None,
    offload: o.OFFLOAD = None,
    parallel: o.PARALLEL = None,
    checkpointing: o.CHECKPOINTING = False,
    method: Annotated[
        str | None,
        typer.Option(
            help="What the codes are of: unsaturated (default), ekfac, kfac, diagonal, identity.", show_default=False
        ),
    ] = None,
    damping: o.DAMPING = None,
    weight_decay: o.WEIGHT_DECAY = None,
    bits: o.BITS = None,
    projection: o.PROJECTION = None,
    coordinates: o.COORDINATES = None,
    precision: Annotated[
        str | None, typer.Option(help="fast (default) or full products for documents.", show_default=False)
    ] = None,
    shares: o.SHARES = None,
) -> None:
    """Store one code per document, after fitting if need be; resumable, in shares."""
    from whence.attributor import fit_steps, index_steps
    from whence.gradients import Recipe

    values = {key: value for key, value in locals().items() if key not in ("method", "precision")}
    owner = open_run(run, model, data, values, device)
    chosen = {key: value for key, value in (("method", method), ("precision", precision)) if value is not None}
    from whence.attributor.config import checked

    recipe = owner.resolved(checked(Recipe, {**owner.config.recipe.model_dump(), **chosen}))
    if not work(owner, fit_steps(owner), shares):
        return
    say_size(owner, recipe)
    if work(owner, index_steps(owner, recipe), shares):
        console = console_of()
        console.print(_corpus_line(owner), markup=False)
        size = recipe.bytes_per_row(owner.sites)
        console.print(f"Index: {recipe.name}, {size:,} bytes per window of {owner.corpus.windows:,}", markup=False)


@app.command()
def merge(run: o.RUN = DEFAULT_RUN, device: o.DEVICE = "auto") -> None:
    """Merge what workers with --shares have finished, and say what is still missing; can run any time."""
    from whence.attributor import fit_steps, index_steps
    from whence.launch import merge as merge_steps
    from whence.launch import waiting

    owner = open_run(run, None, None, {}, device)
    console = console_of()
    left = merge_steps([*fit_steps(owner), *index_steps(owner)])
    if left is None:
        console.print("Everything is merged; the run can be traced.", markup=False)
        return
    done, total = waiting(left)
    console.print(f"Step '{left.name}': {done} of {total} items are there; the rest is still to be done.", markup=False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `whence trace` wrote.")],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Hits to show, each way.")] = 10,
) -> None:
    """Show a stored trace again, and write its page anew; runs no model."""
    from whence.report import load, save, show

    result = load(folder)
    console = console_of()
    show(result, console, limit=top)
    console.print(f"Page: {save(result, folder)['page']}", markup=False, soft_wrap=True)


@app.command()
def coverage(
    model: Annotated[str, typer.Option("--model", "-m", help="Hugging Face causal LM: a directory or hub id.")],
    adapter: o.ADAPTER = None,
    revision: o.REVISION = None,
    dtype: o.DTYPE = None,
    sites: o.SITES = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which share of a model's parameters can be attributed, what cannot, and why."""
    from transformers.utils import logging

    from whence.attributor import model_coverage
    from whence.cli.tables import coverage_table

    logging.disable_progress_bar()
    got = model_coverage(
        model, adapter=adapter or (), revision=revision, dtype=dtype or "auto", sites=tuple(sites or ())
    )
    if as_json:
        typer.echo(got.model_dump_json(indent=1))
    else:
        console_of().print(coverage_table(got))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's corpus, model, run and page.")] = Path("whence-demo"),
    seed: Annotated[int, typer.Option(help="Seed of the corpus and the training.")] = 0,
    small: Annotated[bool, typer.Option("--small", help="A tiny version, in seconds.")] = False,
) -> None:
    """Train a small model on the Python library's documentation with planted false claims, and trace them."""
    from whence.demo import run_demo

    run_demo(out, seed=seed, small=small, console=console_of())


app.command()(trace)
app.command()(evaluate)
app.command()(intervene)
app.command()(tune)
app.command()(methods)
app.command()(proxy)
app.add_typer(audit_app, name="audit")
app.command()(apply)
audit_app.command()(corpus)

"""The commands. Each opens a run, lets launch do the work and shows what came of it; torch is loaded inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli import options as o
from whence.cli.audits import audit_app
from whence.cli.intervene import intervene
from whence.cli.lab import evaluate, tune
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, refuse_unusable, work
from whence.cli.quality import apply, corpus
from whence.errors import InputError, QueryError

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
        str | None, typer.Option(help="Curvature of the codes: ekfac, kfac, diagonal, identity.", show_default=False)
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

    recipe = checked(Recipe, {**owner.config.recipe.model_dump(), **chosen}).resolved(owner.sites)
    if not work(owner, fit_steps(owner), shares):
        return
    _estimate(owner, recipe)
    if work(owner, index_steps(owner, recipe), shares):
        console = console_of()
        console.print(_corpus_line(owner), markup=False)
        size = recipe.bytes_per_row(owner.sites)
        console.print(f"Index: {recipe.name}, {size:,} bytes per window of {owner.corpus.windows:,}", markup=False)


def _bytes(size: float) -> str:
    """A size for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _estimate(owner: "Attributor", recipe: Any) -> None:
    """Say what an index will take before it is paid for, and refuse if the disk cannot hold it."""
    import shutil

    from whence.errors import StorageError
    from whence.runs import is_done

    size = recipe.bytes_per_row(owner.sites) * owner.corpus.windows
    free = shutil.disk_usage(owner.run.path).free
    if all(is_done(owner.run.index / recipe.name / share.name) for share in owner.corpus.shares):
        return
    there = sum(file.stat().st_size for file in (owner.run.index / recipe.name).glob("*/codes.npy"))
    console_of(stderr=True).print(
        f"Index {recipe.name}: {_bytes(size)} for {owner.corpus.windows:,} windows ({_bytes(free)} free)",
        style="dim",
        markup=False,
    )
    if size - there > free:
        raise StorageError(
            f"the index would take {_bytes(size)} and {_bytes(free)} are free in {owner.run.path}. "
            "Store less with --projection kronecker --coordinates 1024, or name a folder on a larger disk with --run."
        )


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
def trace(
    run: o.RUN = DEFAULT_RUN,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What the model was asked.")] = "",
    completion: Annotated[
        str | None, typer.Option("--completion", "-a", help="What it answered.", show_default=False)
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Another answer: why this rather than that?", show_default=False)
    ] = None,
    span: Annotated[str | None, typer.Option(help="The part of the answer to explain.", show_default=False)] = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="JSONL or CSV of queries instead.", show_default=False)
    ] = None,
    model: o.MODEL = None,
    data: o.DATA = None,
    mix: o.MIX = None,
    config: o.CONFIG = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Proponents and opponents to list, each.")] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="Score by running the model over the corpus; no index.")
    ] = False,
    candidates: Annotated[
        Path | None,
        typer.Option(help="Text file of document ids, one a line: score only these, exactly.", show_default=False),
    ] = None,
    where: o.WHERE = None,
    by: o.BY = None,
    index_name: Annotated[
        str | None, typer.Option("--index", help="Which index of the run.", show_default=False)
    ] = None,
    refine: Annotated[bool, typer.Option(help="Re-rank the top of the index by running the model.")] = True,
    save_scores: Annotated[
        bool, typer.Option("--save-scores", help="Keep every document's scores (scores.npy).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (default: in the run).", show_default=False)
    ] = None,
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
    text_field: o.TEXT_FIELD = None,
    id_field: o.ID_FIELD = None,
    attributes: o.ATTRIBUTES = None,
    trained_on: o.TRAINED_ON = None,
    damping: o.DAMPING = None,
    weight_decay: o.WEIGHT_DECAY = None,
    method: o.METHOD = None,
) -> None:
    """Which training documents made the model say this? Fits and indexes first if that has not been done."""
    from whence.attributor import fit_steps, index_steps, trace_name
    from whence.launch import progress
    from whence.report import save, show

    queries = _queries(prompt, completion, contrast, span, query)
    refuse_unusable(out)
    chosen = None if candidates is None else _lines(candidates)
    owner = open_run(run, model, data, locals(), device)
    owner.encode_queries(queries)  # a query that cannot be used is refused before hours of fitting
    if not work(owner, fit_steps(owner), None):
        return
    searched = not exact and candidates is None
    if index_name is None and searched and all(typed is None for typed in (config, damping, weight_decay, method)):
        index_name = _made(owner)
    if index_name is None and searched:
        _estimate(owner, owner.recipe())
        if not work(owner, index_steps(owner), None):
            return
    source = "\n".join(
        [index_name or owner.recipe().name, *(["exact"] if exact else []), *(chosen or ()), *(where or ()), *(by or ())]
    )
    folder = out or owner.run.traces / trace_name(queries, source)
    with progress(console_of(stderr=True)) as report:
        result = owner.trace(
            queries,
            k=top,
            index=index_name,
            exact=exact,
            candidates=chosen,
            refine=refine,
            where=where or (),
            by=by or (),
            scores_path=folder.with_name(f"{folder.name}-scores.npy") if save_scores else None,
            report=report,
        )
    written = save(result, folder)
    console = console_of()
    show(result, console, limit=top)
    console.print(f"Page: {written['page']}", markup=False, soft_wrap=True)


def _made(owner: "Attributor") -> str | None:
    """The index that is there if it is not the run's own: nobody who made one wants to pay for another."""
    names = owner.index_names()
    if not names or owner.recipe().name in names:
        return None
    name: str = owner.open_index().folder.name
    console_of(stderr=True).print(f"Index {name}", style="dim", markup=False)
    return name


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"--candidates {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--candidates {path} is no text file; it takes one document id a line.") from error


def _queries(prompt: str, completion: str | None, contrast: str | None, span: str | None, query: str | None) -> Any:
    from whence.data import load_queries
    from whence.interfaces import Query

    if query is not None:
        if prompt or any(given is not None for given in (completion, contrast, span)):
            raise QueryError(
                "--query was given together with --prompt, --completion, --contrast or --span; write these into the "
                "rows of the query file, or leave --query out."
            )
        return load_queries(query)
    if completion is None:
        raise QueryError("what did the model say? Give --completion (with its --prompt), or a file with --query.")
    return [Query(id="query-0", prompt=prompt, completion=completion, contrast=contrast, span=span)]


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


app.command()(evaluate)
app.command()(intervene)
app.command()(tune)
app.add_typer(audit_app, name="audit")
app.command()(apply)
audit_app.command()(corpus)

"""`whence trace`: the main job; torch is loaded inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli import options as o
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, refuse_unusable, say_size, work
from whence.cli.training import START, TRAINING
from whence.errors import InputError, QueryError

if TYPE_CHECKING:
    from whence.attributor import Attributor

__all__ = ["trace"]


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
    taught: o.TAUGHT = False,
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
    method: o.NAMED = None,
    checkpoints: o.CHECKPOINTS = None,
    training: TRAINING = None,
    start: START = "scratch",
) -> None:
    """Which training documents made the model say this? Fits and indexes first if that has not been done."""
    from whence.attributor import fit_steps, index_steps, trace_name
    from whence.cli.methods import bound_method, is_curvature
    from whence.launch import progress
    from whence.methods import parse_method
    from whence.report import save, show

    queries = _queries(prompt, completion, contrast, span, query)
    refuse_unusable(out)
    chosen = None if candidates is None else _lines(candidates)
    named = None if method is None or is_curvature(method) else method
    if named is not None:
        parse_method(named)  # a method that is not there is refused before a model is loaded
    if taught and (named is not None or chosen is not None):
        raise InputError("--taught ranks all documents by the run's own curvature; leave --candidates or --method out.")
    owner = open_run(run, model, data, {**locals(), "method": None if named else method}, device)
    owner.encode_queries(queries)  # a query that cannot be used is refused before hours of fitting
    ranking = None if named is None else bound_method(owner, named, checkpoints or (), training, start)
    if named is None and checkpoints:
        raise InputError("--checkpoints goes with a method that follows the training: --method tracin, less, source …")
    steps = fit_steps(owner) if ranking is None or ranking.reads_index else []
    if not work(owner, [*steps, *([] if ranking is None else ranking.steps)], None):
        return
    searched = not exact and candidates is None and (ranking is None or ranking.reads_index)
    if index_name is None and searched and all(typed is None for typed in (config, damping, weight_decay, method)):
        index_name = _made(owner)
    if index_name is None and searched:
        recipe = (None if ranking is None else ranking.recipe) or owner.recipe()
        say_size(owner, recipe)
        if not work(owner, index_steps(owner, recipe), None):
            return
    flags = [name for name, given in (("exact", exact), ("taught", taught)) if given]
    made_of = named or "", index_name or owner.recipe().name, *flags, *(chosen or ()), *(where or ()), *(by or ())
    source = "\n".join(made_of)
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
            method=ranking,
            scores_path=folder.with_name(f"{folder.name}-scores.npy") if save_scores else None,
            report=report,
        )
        if taught:
            told = owner.teachers(queries, k=top, index=index_name, exact=exact, where=where or (), report=report)
            result = result.with_teachers(told)
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

"""`whence intervene`: change the data or the model and measure what that does; torch is loaded inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli import options as o
from whence.cli.audits import named, prepared, typed
from whence.cli.lab import default_workers, start_of, training_of
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, refuse_unusable
from whence.errors import InputError

if TYPE_CHECKING:
    from whence.interfaces import Query

__all__ = ["intervene"]


def intervene(
    run: o.RUN = DEFAULT_RUN,
    query: Annotated[
        str | None,
        typer.Option(
            "--query",
            "-q",
            show_default=False,
            help="JSONL or CSV of targets: what the model said (prompt, completion; of a contrast truth ratios are "
            "made; metadata may name 'gold' document ids).",
        ),
    ] = None,
    action: Annotated[
        str,
        typer.Option(
            help="remove (leave them out), down-weight, relabel (--rows take their places), add (--rows beside them), "
            "or unlearn (edit the model)."
        ),
    ] = "remove",
    top: Annotated[
        int, typer.Option("--top", "-k", min=1, help="Documents to take by influence, so many times the targets.")
    ] = 1,
    documents: Annotated[
        Path | None, typer.Option(help="Text file of document ids to take instead, one a line.", show_default=False)
    ] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Take the gold documents of the targets instead.")] = False,
    rows: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines for relabel (each with the id of the document whose place it takes) and add.",
            show_default=False,
        ),
    ] = None,
    weight: Annotated[
        float, typer.Option(min=0.0, help="What is left of the documents' loss, for down-weight; below 1.")
    ] = 0.5,
    method: Annotated[
        str,
        typer.Option(
            help="How to unlearn: newton, ascent, npo, dmm; several with commas, the first one's model is kept."
        ),
    ] = "newton",
    strength: Annotated[
        float | None,
        typer.Option(
            help="Of newton's step; 1 is the step itself (default: searched, see --harm).", show_default=False
        ),
    ] = None,
    harm: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="How far kept documents' loss may rise by newton's step, nats per token: as strong as that "
            "allows, at most 1 or what reaches the level.",
        ),
    ] = 0.02,
    rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of ascent, npo, dmm (default: a third of training's).", show_default=False),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of ascent, npo, dmm.")] = 100,
    beta: Annotated[float, typer.Option(help="Of npo.")] = 0.1,
    retain: Annotated[float, typer.Option(min=0.0, help="Weight of kept documents' loss beside.")] = 5.0,
    unseen: Annotated[
        str | None,
        typer.Option(
            help="Query file of texts like the documents that were never trained on: a document is forgotten where it "
            "is as unlikely as they are.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(help="That level itself, -log p per token in nats.", show_default=False),
    ] = None,
    relearn: Annotated[int, typer.Option(min=0, help="Steps of the relearning test; 0 leaves it out.")] = 20,
    paraphrases: Annotated[
        str | None, typer.Option(help="Query file: the targets in other words.", show_default=False)
    ] = None,
    utility: Annotated[
        str | None, typer.Option(help="Query file: what the model should go on to say.", show_default=False)
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            help="How the model was trained, as for evaluate (default: a file of it beside the model).",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(help="Where training starts: scratch, model (the run's own), or a directory."),
    ] = "scratch",
    seeds: Annotated[int, typer.Option(min=1, help="Models of every arm; 3 or more for intervals over seeds.")] = 3,
    controls: Annotated[
        bool, typer.Option(help="Do the same to documents named by BM25, at random, and by gold.")
    ] = True,
    placebo: Annotated[
        bool, typer.Option("--placebo", help="Take other documents than those named: no more than chance may happen.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Score by running the model over the corpus; no index.")
    ] = False,
    index: Annotated[str | None, typer.Option("--index", help="Which index of the run.", show_default=False)] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that train at once (default: one per core or GPU).", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides what is drawn.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (default: in the run).", show_default=False)
    ] = None,
    model: o.MODEL = None,
    data: o.DATA = None,
    config: o.CONFIG = None,
    device: o.DEVICE = "auto",
    damping: o.DAMPING = None,
    weight_decay: o.WEIGHT_DECAY = None,
) -> None:
    """Remove, down-weight, relabel, add or unlearn documents: what was foretold, what changed, beside controls."""
    from whence.audits.choosing import read_ids
    from whence.audits.interventions import InterventionOptions
    from whence.audits.interventions import intervene as do
    from whence.audits.unlearning import UnlearnSettings
    from whence.data import load_queries
    from whence.launch import progress
    from whence.report import save_intervention, show_intervention

    if query is None:
        raise InputError("whose answers should change? Give --query with a file of prompts and completions.")
    if action not in ("remove", "down-weight", "relabel", "add", "unlearn"):
        raise InputError(f"--action takes remove, down-weight, relabel, add or unlearn; got {action!r}.")
    targets = load_queries(query)
    settings = UnlearnSettings(strength, harm, rate, steps, beta, retain, level)
    options = InterventionOptions(
        action=action,  # type: ignore[arg-type]
        methods=[name.strip() for name in method.split(",") if name.strip()],  # type: ignore[misc]
        top=top, documents=() if documents is None else read_ids(documents), gold=gold, rows=rows, weight=weight,
        seeds=seeds, relearn=relearn, controls=controls, exact=exact, index=index, placebo=placebo, unlearn=settings,
        unseen=_queries(unseen), workers=1, seed=seed,
    )  # fmt: skip
    refuse_unusable(out)
    values = {"config": config, "damping": damping, "weight_decay": weight_decay}
    owner = open_run(run, model, data, values, device)
    how = training_of(owner, training)
    if not prepared(owner, exact, index):
        return
    folder = out or owner.run.path / "interventions" / named(action, query, placebo)
    chosen = _with_workers(options, workers or default_workers(how.threads))
    with progress(console_of(stderr=True)) as report:
        result = do(
            owner, targets, how, start_of(owner, start), folder, chosen, paraphrases=_queries(paraphrases),
            utility=_queries(utility), command=typed(), report=report,
        )  # fmt: skip
    written = save_intervention(result, folder)
    console = console_of()
    show_intervention(result, console)
    console.print(f"Model: {result.checkpoint}\nPage: {written['page']}", markup=False, soft_wrap=True)


def _queries(path: str | None) -> "list[Query]":
    from whence.data import load_queries

    return [] if path is None else load_queries(path)


def _with_workers(options: Any, workers: int) -> Any:
    from dataclasses import replace

    return replace(options, workers=workers)

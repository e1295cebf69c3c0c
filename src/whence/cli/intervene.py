"""`whence intervene`: change the data or the model and measure what that does; torch is loaded inside."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli import options as o
from whence.cli.audits import prepared, typed
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, refuse_missing, refuse_unusable
from whence.cli.training import default_workers, refuse_no_recipe, start_of, training_of
from whence.errors import InputError, WhenceError

if TYPE_CHECKING:
    from whence.audits import Asked
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
            "made; metadata may name 'gold' document ids), or any file that audit safety and contamination read.",
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a safety or contamination audit instead: its answers, and the documents it found to have "
            "an effect on them, copies included.",
            show_default=False,
        ),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only the target of this id. Can be repeated.", show_default=False),
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
        typer.Option(
            help="Learning rate of ascent and npo (default: a third of training's) and dmm (default: training's).",
            show_default=False,
        ),
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
            help="How the model was trained, as for evaluate (default: a file in the model's folder or beside it).",
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
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what the training would cost, and stop.")] = False,
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
    methods = [name.strip() for name in method.split(",") if name.strip()]
    asked, named, run = _asked(run, query, audit, ids or ())
    chosen = _read_ids(documents)
    _refuse(
        run, model, training, out,
        files={"--paraphrases": paraphrases, "--utility": utility, "--unseen": unseen},
        options={"action": action, "methods": methods, "rows": rows, "weight": weight, "gold": gold,
                 "documents": chosen},
        targets=asked,
    )  # fmt: skip
    others = {"paraphrases": _queries(paraphrases), "utility": _queries(utility)}
    unlike = _queries(unseen)
    found = chosen or ([] if gold or action == "add" or rows is not None else named)
    audited = bool(found) and not chosen

    from whence.audits.asked import AUDIT
    from whence.audits.interventions import InterventionOptions, perform, prepare, refuse_start
    from whence.audits.unlearning import UnlearnSettings
    from whence.launch import progress
    from whence.report import save_intervention, show_intervention

    settings = UnlearnSettings(strength, harm, rate, steps, beta, retain, level)
    values = {"config": config, "damping": damping, "weight_decay": weight_decay}
    owner = open_run(run, model, data, values, device)
    how, begin = training_of(owner, training), start_of(owner, start)
    refuse_start(owner, action, begin)
    if not prepared(owner, exact, index):
        return
    options = InterventionOptions(
        action=action, methods=methods, top=top, documents=found, copies=audited,  # type: ignore[arg-type]
        named_by=AUDIT if audited else "given documents", gold=gold, rows=rows, weight=weight, seeds=seeds,
        relearn=relearn, controls=controls, exact=exact, index=index, placebo=placebo, unlearn=settings, unseen=unlike,
        workers=workers or default_workers(how.threads), seed=seed,
    )  # fmt: skip
    decides = {
        "targets": asked,
        **others,
        "training": how,
        "start": begin,
        "options": options,
        "recipe": owner.recipe(index),
    }
    folder = out or owner.run.path / "interventions" / f"{action}-{_key(decides)}{'-placebo' if placebo else ''}"
    console = console_of(stderr=True)
    with progress(console) as report:
        job, plan = prepare(owner, asked, how, begin, folder, options, report=report, **others)
        console.print(plan.line(), markup=False, soft_wrap=True)
        result = None if estimate else perform(job, plan, typed())
    if result is None:
        return
    written = save_intervention(result, folder)
    console = console_of()
    show_intervention(result, console)
    console.print(f"Model: {result.checkpoint}\nPage: {written['page']}", markup=False, soft_wrap=True)


def _asked(
    run: Path, query: str | None, audit: Path | None, ids: Sequence[str]
) -> tuple["list[Query]", list[str], Path]:
    """Targets, documents that an audit names for them, and the run: an audit's own where none was given."""
    from whence.audits import load_targets

    if (query is None) == (audit is None):
        raise InputError(
            "whose answers should change? Give --query with a file of prompts and completions, or --audit with the "
            "folder of an audit" + ("." if query is None else "; both were given.")
        )
    if query is not None:
        refuse_missing({"--query": query})
        return load_targets(query, ids), [], run
    assert audit is not None
    found, home = _from_audit(audit, ids)
    if not found.documents:
        console_of(stderr=True).print(
            "The audit found no document behind these answers; influence names the documents.", style="dim"
        )
    return list(found.queries), list(found.documents), home if run == DEFAULT_RUN and not run.exists() else run


def _from_audit(folder: Path, ids: Sequence[str]) -> "tuple[Asked, Path]":
    from whence.audits import asked_by_audit
    from whence.report import load_contamination, load_safety

    try:
        result: Any = load_safety(folder)
    except WhenceError as error:
        try:
            result = load_contamination(folder)
        except WhenceError:
            raise InputError(
                f"--audit {folder} is the folder of neither a safety nor a contamination audit: {error}"
            ) from error
    if result.settings.placebo:
        raise InputError(f"--audit {folder} is a placebo, whose findings are of other matters; give a real audit.")
    return asked_by_audit(result, ids), Path(result.settings.run)


def _read_ids(documents: Path | None) -> list[str]:
    from whence.audits.asked import read_ids

    return [] if documents is None else read_ids(documents)


def _refuse(
    run: Path,
    model: str | None,
    training: Path | None,
    out: Path | None,
    *,
    files: Mapping[str, str | None],
    options: Mapping[str, Any],
    targets: "Sequence[Query]",
) -> None:
    """Refuse what cannot work before a model is loaded."""
    from whence.audits.asked import numbers_in, refuse_options
    from whence.data import open_corpus
    from whence.runs import Run

    refuse_options(**options)
    refuse_missing(files)
    refuse_unusable(out)
    refuse_no_recipe(run, model, training)
    gold = [name for each in targets for name in each.ids_under("gold")]
    if options["gold"] and not gold:
        raise InputError("--gold: no target's metadata names documents under 'gold'.")
    try:
        corpus = open_corpus(Run(run).corpus)
    except WhenceError:
        return  # it is read later, and they are looked up then
    for ids, where in ((options["documents"], "--documents"), (gold, "the targets' 'gold'")):
        if ids:
            numbers_in(corpus, ids, where)


def _key(decides: Mapping[str, Any]) -> str:
    """A name for all that decides a result but not for how fast it is made."""

    def plain(value: Any) -> Any:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if hasattr(value, "__dataclass_fields__"):
            names = [name for name in value.__dataclass_fields__ if name != "workers"]
            return {name: plain(getattr(value, name)) for name in names}
        if isinstance(value, Mapping):
            return {str(name): plain(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        if isinstance(value, Path):
            return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)
        return value

    told = json.dumps(plain(decides), sort_keys=True, default=str)
    return hashlib.sha256(told.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def _queries(path: str | None) -> "list[Query]":
    from whence.audits import load_targets

    return [] if path is None else load_targets(path)

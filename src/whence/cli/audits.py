"""`whence audit safety` and `whence audit contamination`: what answers owe to the data; torch is loaded inside."""

import hashlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whence.cli import options as o
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, refuse_missing, refuse_unusable, work
from whence.errors import InputError

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.audits import PlantOptions

__all__ = ["audit_app", "contamination", "safety"]

audit_app = typer.Typer(
    help="Why did it say that, did it memorise that, what is wrong with this data? Each ends in one page.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

TOP = Annotated[int, typer.Option("--top", "-k", min=1, help="Documents to list for each answer.")]
FDR = Annotated[
    float,
    typer.Option(min=0.0001, max=0.5, help="False-discovery rate; no verdict that finds something rests on more."),
]
EXACT = Annotated[bool, typer.Option("--exact", help="Score by running the model over the corpus; no index.")]
INDEX = Annotated[str | None, typer.Option("--index", help="Which index of the run.", show_default=False)]
PLACEBO = Annotated[
    bool, typer.Option("--placebo", help="Shuffle what is to be found; page and terminal say what must then be none.")
]
OUT = Annotated[Path | None, typer.Option(help="Folder for the results (default: in the run).", show_default=False)]
SEED = Annotated[int, typer.Option(help="Decides what is drawn.")]


@audit_app.command()
def safety(
    run: o.RUN = DEFAULT_RUN,
    responses: Annotated[
        str | None,
        typer.Option(
            "--responses",
            "-q",
            help="JSONL or CSV of prompts and what the model said: prompt (or prompt_text), response, contrast "
            "(what it should have said), span, score (a judge's), behaviour, paraphrases (a list: the prompt in other "
            "words, in which a finding has to hold); other columns are counted by. The model answers prompts without a "
            "response.",
            show_default=False,
        ),
    ] = None,
    model: o.MODEL = None,
    data: o.DATA = None,
    mix: o.MIX = None,
    config: o.CONFIG = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Count verdicts by this column (default: all whose values repeat). Can be repeated."),
    ] = None,
    null: Annotated[
        str | None,
        typer.Option(help="Query file of questions about other matters, for the null.", show_default=False),
    ] = None,
    top: TOP = 8,
    fdr: FDR = 0.05,
    exact: EXACT = False,
    index: INDEX = None,
    traces: Annotated[int, typer.Option(min=0, help="Answers whose tokens are shaded, the first ones.")] = 40,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer that the model gives here.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="Of such answers; 0 takes the likeliest token.")] = 0.0,
    direction: Annotated[
        str | None,
        typer.Option(
            help="Also ask which documents push the answers along a direction of the hidden states: a .npy or "
            ".safetensors file, or 'contrast' (from what should have been said to what was).",
            show_default=False,
        ),
    ] = None,
    depth: Annotated[float, typer.Option(min=0, max=1, help="Depth of that direction; 0 embedding, 1 last.")] = 0.5,
    placebo: PLACEBO = False,
    seed: SEED = 0,
    out: OUT = None,
    device: o.DEVICE = "auto",
    adapter: o.ADAPTER = None,
    context: o.CONTEXT = None,
    damping: o.DAMPING = None,
) -> None:
    """Why did the model say that? Absorbed, euphemistic, confabulated or cannot tell, with the documents behind it."""
    from whence.audits import load_responses
    from whence.data import load_queries

    if responses is None:
        raise InputError("which answers should be explained? Give --responses with a file of prompts and responses.")
    refuse_missing({"--responses": responses, "--null": null})
    refuse_unusable(out)
    found = load_responses(responses)
    other = load_queries(null) if null else ()

    from whence.audits import SafetyOptions, audit_safety
    from whence.launch import progress
    from whence.report import save_safety, show_safety

    values = {"config": config, "adapter": adapter, "context": context, "damping": damping, "mix": mix, "data": data}
    options = SafetyOptions(
        top=top, fdr=fdr, exact=exact, index=index, traces=traces, tokens=tokens, temperature=temperature,
        null=other, placebo=placebo, by=by or (), seed=seed,
        direction=direction, depth=depth,
    )  # fmt: skip
    owner = open_run(run, model, data, values, device)
    if not prepared(owner, exact, index):
        return
    folder = out or owner.run.path / "audits" / named("safety", responses, placebo)
    with progress(console_of(stderr=True)) as report:
        result = audit_safety(owner, found, folder / "scores", options, command=typed(), report=report)
    written = save_safety(result, folder)
    console = console_of()
    show_safety(result, console)
    console.print(f"Page: {written['page']}", markup=False, soft_wrap=True)


@audit_app.command()
def contamination(
    run: o.RUN = DEFAULT_RUN,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            "-q",
            help="JSONL or CSV of items: question and answer; optional id, date, correct (was the model right?), twins "
            "(the same question in other words), cloze (a statement that ends in the answer), known (what is known of "
            "its exposure, as in 'held out').",
            show_default=False,
        ),
    ] = None,
    model: o.MODEL = None,
    data: o.DATA = None,
    mix: o.MIX = None,
    config: o.CONFIG = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Plant leaks in a further training of the model and say what the audit catches of them."
        ),
    ] = False,
    planted: Annotated[int, typer.Option(min=5, help="Items of each planted group.")] = 40,
    training: Annotated[
        Path | None,
        typer.Option(help="How the model is trained further: TOML or JSON (default: 2 epochs).", show_default=False),
    ] = None,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            help="An earlier checkpoint (directory), to see what was learnt early. Can be repeated.", show_default=False
        ),
    ] = None,
    top: TOP = 5,
    fdr: FDR = 0.05,
    exact: EXACT = False,
    index: INDEX = None,
    placebo: PLACEBO = False,
    seed: SEED = 0,
    out: OUT = None,
    device: o.DEVICE = "auto",
    adapter: o.ADAPTER = None,
    context: o.CONTEXT = None,
    damping: o.DAMPING = None,
) -> None:
    """Did the model memorise that? Verbatim, paraphrase, present, same skill or no evidence, item by item."""
    from whence.audits import load_items

    if benchmark is None:
        raise InputError("which benchmark should be audited? Give --benchmark with a file of questions and answers.")
    refuse_missing({"--benchmark": benchmark})
    refuse_unusable(out)
    items = load_items(benchmark)

    from whence.audits import ContaminationOptions, audit_contamination
    from whence.launch import progress
    from whence.report import save_contamination, show_contamination

    values = {"config": config, "adapter": adapter, "context": context, "damping": damping, "mix": mix, "data": data}
    options = ContaminationOptions(
        top=top, fdr=fdr, exact=exact, index=index, checkpoints=checkpoints or (), placebo=placebo, seed=seed
    )
    plant = _plant(planted, training, seed)
    owner = open_run(run, model, data, values, device)
    if not prepared(owner, exact, index):
        return
    folder = out or owner.run.path / "audits" / named("contamination", benchmark, placebo)
    with progress(console_of(stderr=True)) as report:
        result = audit_contamination(owner, items, folder / "scores", options, command=typed(), report=report)
        if calibrate:
            from whence.audits import calibrate as plant_leaks

            result = plant_leaks(owner, items, result, folder / "planted", options, plant, report)
    written = save_contamination(result, folder)
    console = console_of()
    show_contamination(result, console)
    console.print(f"Page: {written['page']}", markup=False, soft_wrap=True)


def _plant(planted: int, training: Path | None, seed: int) -> "PlantOptions":
    from whence.audits import PlantOptions
    from whence.fidelity import load_training

    if training is None:
        return PlantOptions(each=planted, seed=seed)
    found, notes = load_training(training)
    for note in notes:
        console_of(stderr=True).print(f"{training}: {note}", style="dim", markup=False)
    return PlantOptions(each=planted, training=found, seed=seed)


def prepared(owner: "Attributor", exact: bool, index: str | None) -> bool:
    """Fit and, unless scores are exact, index what is missing; whether that is done."""
    from whence.attributor import fit_steps, index_steps

    if not work(owner, fit_steps(owner), None):
        return False
    return exact or index is not None or work(owner, index_steps(owner), None)


def named(audit: str, asked: str, placebo: bool) -> str:
    """A folder name: the same file of questions gives the same name."""
    path = Path(asked)
    content = path.read_bytes() if path.is_file() else asked.encode()
    return f"{audit}-{hashlib.sha256(content).hexdigest()[:8]}{'-placebo' if placebo else ''}"


def typed() -> str:
    """The command as typed, for the record; the program by its name."""
    return shlex.join(["whence", *sys.argv[1:]])

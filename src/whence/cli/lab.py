"""`whence evaluate` and `whence tune`: how true the scores are, measured by retraining; torch is loaded inside."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli import options as o
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, shares_of, work
from whence.cli.training import START, TRAINING, default_workers, start_of, training_of
from whence.errors import InputError, QueryError

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.fidelity import Lab, MethodSpec
    from whence.interfaces import Estimate, Query
    from whence.methods import Method

__all__ = ["evaluate", "tune"]

_LONG_HOURS = 12.0

QUERY = Annotated[
    str | None,
    typer.Option(
        "--query",
        "-q",
        help="JSONL or CSV of queries, best 16 or more that are not in the corpus (default: those traced in the run).",
        show_default=False,
    ),
]
SUBSETS = Annotated[int, typer.Option(min=3, help="Random half corpora to train on.")]
SEEDS = Annotated[int, typer.Option(min=1, help="Models trained on each; with 1 there is no noise ceiling.")]
WORKERS = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that train at once (default: one per core or GPU).", show_default=False),
]
YES = Annotated[bool, typer.Option("--yes", help=f"Train even if that takes more than {_LONG_HOURS:g} hours.")]


def evaluate(
    run: o.RUN = DEFAULT_RUN,
    query: QUERY = None,
    training: TRAINING = None,
    start: START = "scratch",
    measures: Annotated[
        str,
        typer.Option(
            help="What to measure, with commas: lds, loo, removal, further-training, tail-patch, recall, mrr, "
            "mislabel; or all. recall and mrr need queries whose metadata names 'gold' document ids, mislabel "
            "documents that are marked 'bad'."
        ),
    ] = "lds,tail-patch,recall,mrr,mislabel",
    subsets: SUBSETS = 64,
    seeds: SEEDS = 2,
    share: Annotated[float, typer.Option(help="Share of the documents that each random subset keeps.")] = 0.5,
    removed: Annotated[
        int, typer.Option("--removed", "-k", min=1, help="Top documents to remove together, and to patch one by one.")
    ] = 8,
    removal_queries: Annotated[int, typer.Option(min=1, help="Queries whose top documents are removed.")] = 8,
    removal_seeds: Annotated[
        int | None, typer.Option(min=1, help="Models trained without them (default: --seeds).", show_default=False)
    ] = None,
    left_out: Annotated[int, typer.Option(min=2, help="Documents left out one at a time.")] = 24,
    further_epochs: Annotated[float, typer.Option(help="Length of further training.")] = 1.0,
    pareto: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of methods to compare on fidelity against cost; 'default' takes whence's own list.",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            help="Another tool's scores to measure, as path or name=path: a kronfluence or bergson folder, or an "
            "array of queries by documents. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    checkpoints: o.CHECKPOINTS = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Certify scores made by running the model, not the index.")
    ] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what the retraining would cost, and stop.")] = False,
    yes: YES = False,
    workers: WORKERS = None,
    shares: o.SHARES = None,
    model: o.MODEL = None,
    data: o.DATA = None,
    config: o.CONFIG = None,
    device: o.DEVICE = "auto",
) -> None:
    """Measure how true a run's scores are against retrained models, and store the certificate that every page shows."""
    from whence.fidelity import LabSettings, evaluate_lab
    from whence.report import save_lab, show_certificate, show_lab

    settings = _settings(
        LabSettings,
        measures=_measures(measures),
        subsets=subsets,
        seeds=seeds,
        share=share,
        removed=removed,
        removal_queries=removal_queries,
        removal_seeds=removal_seeds,
        left_out=left_out,
        further_epochs=further_epochs,
    )
    specs = [*_methods(pareto), *_imported(scores or ())]
    owner = open_run(run, model, data, {"config": config}, device)
    lab = _lab(owner, query, training, start, settings, workers, shares, checkpoints or ())
    if not _prepared(lab, estimate, yes, len(specs)):
        return
    with _progress() as report:
        found = evaluate_lab(_with(lab, report), specs, exact=exact, command=_typed())
    written = save_lab(found.result, owner.run.fidelity / "lab", found.certificate)
    console = console_of()
    show_lab(found.result, console)
    show_certificate(found.certificate, console)
    console.print(f"Page: {written['page']}", markup=False, soft_wrap=True)


def tune(
    run: o.RUN = DEFAULT_RUN,
    query: QUERY = None,
    training: TRAINING = None,
    start: START = "scratch",
    budget_bytes: Annotated[
        float | None, typer.Option(help="Most bytes stored per document (default: no limit).", show_default=False)
    ] = None,
    budget_passes: Annotated[
        float | None,
        typer.Option(
            help="Most work, in forward+backward passes over the corpus, fit and index included (default: no limit).",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Fit the weights of this method instead: unsaturated (by kind of site) or "
            "combined:of=unsaturated+tfidf (of each method).",
            show_default=False,
        ),
    ] = None,
    checkpoints: o.CHECKPOINTS = None,
    subsets: SUBSETS = 64,
    seeds: SEEDS = 2,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what the retraining would cost, and stop.")] = False,
    yes: YES = False,
    workers: WORKERS = None,
    shares: o.SHARES = None,
    device: o.DEVICE = "auto",
) -> None:
    """Pick settings, or fit a method's weights, on one half of the bank; report what was gained on the other."""
    from whence.cli.tables import tuned_table
    from whence.fidelity import Budget, LabSettings, save_tuned, tune_lab

    if method is not None and (budget_bytes is not None or budget_passes is not None):
        raise InputError("weights cost nothing, so that a budget cannot choose among them; leave it or --method out.")
    weighted = None if method is None else _weighted(method)
    settings = _settings(LabSettings, measures=("lds",), subsets=subsets, seeds=seeds)
    owner = open_run(run, None, None, {}, device)
    lab = _lab(owner, query, training, start, settings, workers, shares, checkpoints or ())
    if not _prepared(lab, estimate, yes):
        return
    if weighted is not None:
        _fit_weights(lab, weighted)
        return
    with _progress() as report:
        found = tune_lab(_with(lab, report), Budget(budget_bytes, budget_passes))
    path = save_tuned(found, owner.run)
    console = console_of()
    console.print(tuned_table(found))
    console.print(_gain(found), markup=False)
    if found.gain.low <= 0:
        console.print(f"Keep the run's own settings; what scored best while choosing: {path}", soft_wrap=True)
        return
    console.print(
        f"Settings: {path}\nUse them in a new run: whence trace --run NEW --config {path} …",
        markup=False,
        soft_wrap=True,
    )


def _fit_weights(lab: "Lab", method: "Method") -> None:
    from whence.cli.tables import weights_table
    from whence.fidelity import save_weights, tune_weights

    with _progress() as report:
        found = tune_weights(_with(lab, report), method)
    path = save_weights(found, lab.owner.run)
    gain = found.mean.gains[found.given.spec]
    console = console_of()
    console.print(weights_table(found))
    for name in dict.fromkeys((found.given.spec, found.best)):
        over = found.mean.gains[name]
        console.print(
            f"Fitted on one half, it gains {over.value:+.3f} on the other (95 % {over.low:+.3f} to {over.high:+.3f}) "
            f"over {name}: {_sure(over)}.",
            markup=False,
        )
    if gain.low > 0:
        console.print(f"Fitted on both halves, for whence trace --method:\n{found.method.spec}", markup=False)
    else:
        console.print(f"Keep {found.given.spec}; what scored best while fitting: {path}", markup=False, soft_wrap=True)


# ---------------------------------------------------------------------- what was typed


def _weighted(typed: str) -> "Method":
    """A method whose weights can be fitted."""
    from whence.fidelity.weights import refuse_unweighted
    from whence.methods import parse_method

    method = parse_method(typed)
    refuse_unweighted(method)
    return method


def _settings(kind: Any, **values: Any) -> Any:
    from whence.attributor.config import checked

    return checked(kind, values)


def _measures(typed: str) -> tuple[str, ...]:
    from whence.fidelity.lab_settings import MEASURES

    names = tuple(name.strip() for name in typed.split(",") if name.strip())
    if names == ("all",):
        return MEASURES
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise InputError(f"--measures takes {', '.join(MEASURES)} with commas between, or all; got {typed!r}.")
    return names


def _methods(pareto: Path | None) -> "tuple[MethodSpec, ...]":
    from whence.fidelity import default_methods, load_methods

    if pareto is None:
        return ()
    return default_methods() if str(pareto) == "default" else load_methods(pareto)


def _imported(typed: Sequence[str]) -> "list[MethodSpec]":
    from whence.fidelity import MethodSpec

    pairs = [text.partition("=") if "=" in text else (Path(text).name, "", text) for text in typed]
    for name, _, path in pairs:
        if not path or not Path(path).exists():
            raise InputError(f"--scores {name}={path}: there is no such file or folder.")
    return [MethodSpec(name=name, scores=path) for name, _, path in pairs]


def _queries(owner: "Attributor", path: str | None) -> "list[Query]":
    """The queries of a file, or those that were traced in the run."""
    from whence.data import load_queries
    from whence.interfaces import Query
    from whence.report import load

    if path is not None:
        return load_queries(path)
    found: dict[str, Query] = {}
    for folder in sorted(owner.run.traces.glob("*/result.json")):
        for trace in load(folder.parent).traces:
            asked = {key: value for key, value in trace.query.items() if key != "id"}
            if asked:
                found[repr(sorted(asked.items()))] = Query.model_validate({**asked, "id": f"q{len(found) + 1}"})
    if not found:
        raise QueryError(
            "whose answers should be measured? Give --query with a JSONL file of questions and answers, best 16 or "
            "more that are not in the corpus; or trace some first, and those are taken."
        )
    return list(found.values())


# ---------------------------------------------------------------------- the laboratory


def _prepared(lab: "Lab", estimate: bool, yes: bool, methods: int = 0) -> bool:
    """Read the corpus, say the cost, do a share of the training, fit; whether there is more to do here."""
    from whence.attributor import fit_steps
    from whence.attributor.steps import CorpusStep

    if not work(lab.owner, [CorpusStep(lab.owner)], None) or _said_cost(lab, estimate, yes, methods):
        return False
    if lab.shares != (0, 1):
        _train_share(lab)
        return False
    return work(lab.owner, fit_steps(lab.owner), None)


def _train_share(lab: "Lab") -> None:
    """This machine's part of the random subsets; what rests on scores is left to one call without --shares."""
    with _progress() as report:
        done, total = _with(lab, report).train_share()
    rest = (
        "Run the same command once without --shares."
        if done == total
        else "When the others have finished theirs, run the same command once without --shares."
    )
    console_of().print(f"This share is trained; {done:,} of {total:,} models on random subsets are there. {rest}")


def _lab(
    owner: "Attributor",
    query: str | None,
    training: Path | None,
    start: str,
    settings: Any,
    workers: int | None,
    shares: str | None,
    checkpoints: Sequence[str] = (),
) -> "Lab":
    from whence.attributor import read_checkpoints
    from whence.fidelity import Lab
    from whence.fidelity.pieces import refuse_weights

    refuse_weights(source.weight for source in owner.config.corpus.sources)
    if owner.config.model.quantize is not None:
        raise InputError(
            "models are retrained here in full precision, and this run's base model is kept in "
            f"{owner.config.model.quantize}; measure on a run of the same adapter without --quantize."
        )
    queries = _queries(owner, query)
    how = training_of(owner, training)
    return Lab(
        owner=owner,
        queries=queries,
        encoded=owner.encode_queries(queries),
        training=how,
        start=start_of(owner, start),
        settings=settings,
        workers=workers or default_workers(how.threads),
        shares=shares_of(shares),
        checkpoints=read_checkpoints(checkpoints) if checkpoints else (),
    )


def _with(lab: "Lab", report: Any) -> "Lab":
    from dataclasses import replace

    return replace(lab, report=report)


def _said_cost(lab: "Lab", stop: bool, yes: bool, methods: int = 0) -> bool:
    """Say what retraining costs; whether that was all that was asked for.

    Raises:
        InputError: It takes very long and that was not accepted.
    """
    from whence.fidelity import expected_cost

    cost = expected_cost(lab, methods)
    console_of(stderr=not stop).print(cost.line, markup=False)
    if stop:
        return True
    if cost.seconds > _LONG_HOURS * 3600 and not yes:
        raise InputError(
            f"that is more than {_LONG_HOURS:g} hours. Accept it with --yes, share it among machines with --shares "
            "i/n, train less (--subsets, --seeds, --measures tail-patch), or shorter (--training)."
        )
    return False


def _progress() -> Any:
    from whence.launch import progress

    return progress(console_of(stderr=True))


def _typed() -> str:
    """The command as typed, for the record; the program by its name."""
    return shlex.join(["whence", *sys.argv[1:]])


def _gain(found: Any) -> str:
    gain = found.gain
    return (
        f"On the half that had no part in the choice: LDS {found.chosen_lds.value:.3f} against "
        f"{found.default_lds.value:.3f} with the run's settings, a gain of {gain.value:+.3f} (95 % {gain.low:+.3f} to "
        f"{gain.high:+.3f}): {_sure(gain)}."
    )


def _sure(gain: "Estimate") -> str:
    return "more than chance" if gain.low > 0 else "not told apart from chance"

"""`whence audit corpus` and `whence apply`: what is wrong with the data, and the data without it."""

from pathlib import Path
from typing import Annotated

import typer

from whence.cli import options as o
from whence.cli.audits import OUT, PLACEBO, SEED, typed
from whence.cli.opening import console_of, open_run, refuse_missing, refuse_unusable, work
from whence.errors import InputError

__all__ = ["apply", "corpus"]

DEFAULT_AUDIT = Path("whence-audit")


def corpus(
    data: o.DATA = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", "-r", help="A run over the same data: adds what the model knows.", show_default=False),
    ] = None,
    model: o.MODEL = None,
    trusted: Annotated[
        str | None,
        typer.Option(help="Query file of right answers: documents that oppose them are suspect.", show_default=False),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language that documents should be in, as in en; any checks none (default: the commonest)."),
    ] = None,
    duplicates: Annotated[
        float, typer.Option(min=0.3, max=1.0, help="Share of common word runs from which documents are copies.")
    ] = 0.8,
    topics: Annotated[int | None, typer.Option(min=1, help="Number of topics (default: by size).")] = None,
    filters: Annotated[
        str | None,
        typer.Option(
            help="Filters of datatrove that judge as well, with commas: gopher-quality, gopher-repetition, c4-quality, "
            "fineweb-quality. They were made for web pages; words are split as in --language (default: en). Needs the "
            "extra datatrove.",
            show_default=False,
        ),
    ] = None,
    reviewed: Annotated[
        Path | None, typer.Option(help="review.csv with verdicts filled in: gives precisions.", show_default=False)
    ] = None,
    placebo: PLACEBO = False,
    seed: SEED = 0,
    out: OUT = None,
    device: o.DEVICE = "auto",
) -> None:
    """What is wrong with this data? Tags, format errors, wrong sums, copies, and what to do about each document."""
    from whence.audits.datatrove_filters import filters_named
    from whence.data import find_files, load_queries

    refuse_unusable(out)
    refuse_missing({"--trusted": trusted, "--reviewed": reviewed})
    asked = load_queries(trusted) if trusted else ()
    chosen = () if filters is None else filters_named(filters)
    if asked and run is None and model is None:
        raise InputError("--trusted needs a model: give --run, or --model.")
    if data:
        find_files(data)

    from whence.audits import CorpusOptions, audit_corpus, review_sample, take_review
    from whence.launch import progress
    from whence.report import save_corpus_audit, show_corpus_audit
    from whence.report.quality_page import apply_command

    owner = None
    if run is not None or model is not None:
        from whence.attributor import fit_steps, index_steps

        owner = open_run(run or Path("whence-run"), model, data, {"data": data}, device)
        if not work(owner, fit_steps(owner), None):
            return
        if not owner.index_names() and not work(owner, index_steps(owner), None):
            return
    paths = data or (list(owner.config.corpus.data) if owner is not None else [])
    if not paths:
        raise InputError("which data? Give --data with files, folders or globs, or --run with a run over them.")
    options = CorpusOptions(
        duplicates=duplicates, language=language, topics=topics, trusted=asked, filters=chosen, placebo=placebo,
        seed=seed,
    )  # fmt: skip
    with progress(console_of(stderr=True)) as report:
        result, reports = audit_corpus(paths, options, owner=owner, command=typed(), report=report)
    if reviewed is not None:
        result = take_review(result, reports, reviewed)
    folder = out or (owner.run.path / "audits" / "corpus" if owner is not None else DEFAULT_AUDIT)
    if placebo and out is None:
        folder = folder.with_name(f"{folder.name}-placebo")
    written = save_corpus_audit(result, reports, folder, review_sample(reports, seed=seed))
    console = console_of()
    show_corpus_audit(result, console)
    console.print(f"Attributes: {written['attributes']}", markup=False, soft_wrap=True)
    console.print(f"To review: {written['review']}", markup=False, soft_wrap=True)
    if not placebo and result.counts:
        console.print(f"To apply: {apply_command(folder)}", markup=False, soft_wrap=True)
    console.print(f"Page: {written['page']}", markup=False, soft_wrap=True)


def apply(
    out: Annotated[Path, typer.Option(help="Folder for the cleaned corpus; with --undo, the file to write.")],
    audit: Annotated[
        Path, typer.Option("--audit", help="Folder of a corpus audit, or with --undo one that apply wrote.")
    ] = DEFAULT_AUDIT,
    data: o.DATA = None,
    least: Annotated[float, typer.Option(min=0, max=1, help="Confidence from which an issue is acted on.")] = 0.6,
    drop: Annotated[bool, typer.Option(help="Leave documents out; otherwise only mend.")] = True,
    undo: Annotated[bool, typer.Option("--undo", help="Write the corpus as it was before.")] = False,
) -> None:
    """Write the corpus as an audit suggests, with a manifest of what changed and why; the input is not touched."""
    from whence.audits import apply_audit
    from whence.audits import undo as take_back
    from whence.report import load_corpus_audit, read_reports
    from whence.report.text import plural

    console = console_of()
    if undo:
        refuse_unusable(out.absolute().parent)
        if out.is_dir():
            raise InputError(f"--out {out} is a folder; with --undo give the file to write the rows to.")
        rows = take_back(audit, out)
        console.print(f"{plural(rows, 'row')} as before: {out}", markup=False, soft_wrap=True)
        return
    refuse_unusable(out)
    result = load_corpus_audit(audit)
    if result.placebo:
        raise InputError(f"{audit} is a placebo: its issues are said of other documents. Apply a real audit.")
    paths = data or result.paths or result.data.split(", ")
    done = apply_audit(paths, list(read_reports(audit)), out, least=least, drop=drop)
    both = f", {done.both:,} of them mended of something else" if done.both else ""
    console.print(
        f"{plural(done.kept, 'row')} kept as they were, {done.fixed:,} mended, {done.dropped:,} left out, "
        f"{done.relabel:,} left for a person to put right{both}.\nCorpus: {done.corpus}\n"
        f"What changed and why: {done.manifest}",
        markup=False,
        soft_wrap=True,
    )

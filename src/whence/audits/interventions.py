"""Take documents, change the data or the model, and say what that did: foretold before, found after, beside controls.

Documents are named by influence (or given, or gold); the same is done to as many that BM25 names, to as many tokens at
random and to gold documents where they are known. Models are trained again from several seeds and their losses kept in
a bank; edited models are held against models trained without the documents. Everything that was trained is kept, so
the same call goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import whence
from whence.attributor import Attributor
from whence.attributor.certified import certificate_of
from whence.audits import choosing
from whence.audits.altering import refuse_unfit
from whence.audits.effects import agreement, baselines_of, calibration, effects_of, predictions_of
from whence.audits.forgetting import Forgetting
from whence.audits.jobs import InterventionOptions, Job
from whence.audits.plans import OneBar, Plan, plan_of
from whence.errors import InputError
from whence.fidelity import Start
from whence.interfaces import Arm, InterventionResult, Query, QuestionChange
from whence.model import Training

__all__ = ["InterventionOptions", "intervene", "perform", "prepare", "refuse_start"]

Array = NDArray[np.float64]
Report = Callable[[str, int, int], None]
_PLAIN = InterventionOptions()


def intervene(
    owner: Attributor,
    targets: Sequence[Query],
    training: Training,
    start: Start,
    folder: Path,
    options: InterventionOptions = _PLAIN,
    *,
    paraphrases: Sequence[Query] = (),
    utility: Sequence[Query] = (),
    command: str = "",
    report: Report | None = None,
) -> InterventionResult:
    """Do something about documents, and measure what that changes.

    Args:
        owner: A run; fitted, and indexed unless `exact`, if that has not been done.
        targets: What the model said; of a contrast only truth ratios are made.
        training: How the model was trained.
        start: Where training starts.
        folder: Where the edited model goes (``model`` in it).
        options: See `InterventionOptions`.
        paraphrases: The targets in other words.
        utility: What the model should go on to say.
        command: As typed, for the record.
        report: Called with (step, done, total).

    Raises:
        InputError: No document is named, or what is asked for cannot be done on this run.
        QueryError: A question cannot be encoded.
    """
    job, plan = prepare(
        owner, targets, training, start, folder, options, paraphrases=paraphrases, utility=utility, report=report
    )
    return perform(job, plan, command)


def prepare(
    owner: Attributor,
    targets: Sequence[Query],
    training: Training,
    start: Start,
    folder: Path,
    options: InterventionOptions = _PLAIN,
    *,
    paraphrases: Sequence[Query] = (),
    utility: Sequence[Query] = (),
    report: Report | None = None,
) -> tuple[Job, Plan]:
    """Name the documents, and say what will be trained; trains nothing. Arguments and errors as for `intervene`."""
    refuse_unfit(owner)
    refuse_start(owner, options.action, start)
    owner.fit(report)
    told = None if report is None else OneBar(report)
    job = Job(owner, targets, training, start, folder, options, tuple(paraphrases), tuple(utility), told)
    plan = plan_of(job)
    if told is not None:
        told.total = plan.steps
    alone = options.action == "unlearn" and options.relearn > 0  # each is trained for its curve, one after another
    return job, replace(plan, workers=1) if alone else plan


def refuse_start(owner: Attributor, action: str, start: Start) -> None:
    """Refuse to hold unlearning against the model that has seen the documents.

    Raises:
        InputError: See above.
    """
    if action == "unlearn" and _own(owner, start):
        raise InputError(
            "unlearning is held against a model that never saw the documents, and the run's own has seen them; give "
            "--start scratch, or the directory that training started from."
        )


def _own(owner: Attributor, start: Start) -> bool:
    return not start.scratch and (start.path, start.adapter) == (owner.source.model, owner.source.adapter)


def perform(job: Job, plan: Plan, command: str = "") -> InterventionResult:
    """Train what is missing, do the edits, and say what came of it.

    Args:
        job: As `prepare` gives it.
        plan: Likewise.
        command: As typed, for the record.
    """
    if job.options.action == "unlearn":
        edits = Forgetting(job)
        return _result(job, edits.arms(), edits.before, edits.after, command)
    job.keep_model(job.told())
    plan.train(job.report)
    return _result(job, _retrained(job), job.whole, job.without, command)


def _retrained(job: Job) -> list[Arm]:
    """The main arm and its controls, all trained again."""
    options = job.options
    arms = [_arm(job, job.by, job.main, job.without, main=True)]
    if not options.controls or options.action == "add":
        return arms
    if options.action == "relabel":
        arms.append(_arm(job, "removed only", job.main, job.losses(job.altered(job.main), job.seeds)))
    for by, documents in list(job.named.items())[1:]:
        arms.append(_arm(job, by, documents, job.losses(job.altered(documents), job.seeds)))
    return [*arms, _arm(job, "random", job.lots[0], job.at_random())]


def _arm(job: Job, by: str, documents: Sequence[int], after: Array, **more: Any) -> Arm:
    return Arm(
        by=by,
        how="retrain",
        documents=choosing.names(job.owner, documents),
        tokens=int(choosing.lengths(job.owner)[list(documents)].sum()),
        seeds=len(after),
        effects=effects_of(job.probes, job.whole, after),
        **more,
    )


def _result(job: Job, arms: Sequence[Arm], before: Array, after: Array, command: str) -> InterventionResult:
    """Everything, from losses [R, P] before and after the main change."""
    owner, options, probes = job.owner, job.options, job.probes
    foretold = probes.per_unit("targets", job.foretold)
    was, now = (probes.per_unit("targets", losses).mean(0) for losses in (before, after))
    found = (probes.per_unit("targets", job.without) - probes.per_unit("targets", job.whole)).mean(0)
    unlearnt = options.action == "unlearn"
    return InterventionResult(
        command=command,
        run=str(owner.run.path),
        model=owner.loaded.name,
        data=", ".join(owner.config.corpus.data[:8]),
        action=options.action,
        method=", ".join(options.methods) if unlearnt else "",
        placebo=options.placebo,
        training=job.words,
        documents=owner.corpus.documents,
        arms=_told_apart(arms),
        predictions=predictions_of(probes, job.foretold, calibration(owner, job.scored_by)),
        agreement=agreement(foretold, found),
        questions=tuple(
            QuestionChange(
                id=query.id,
                prompt=query.query.prompt,
                completion=query.query.completion or "",
                predicted=float(foretold[place]),
                observed=float(now[place] - was[place]),
                retrained=float(found[place]) if unlearnt else None,
                before=float(was[place]),
            )
            for place, query in enumerate(probes.targets)
        ),
        checkpoint=str(job.folder / "model"),
        baselines=() if _own(owner, job.start) else baselines_of(probes, job.stored, job.whole),
        certificate=certificate_of(owner, job.scored_by),
        settings=job.told(),
        whence_version=whence.__version__,
    )


def _told_apart(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms, those of the very same documents marked as no other arm than the first of them."""
    first: dict[tuple[str, frozenset[str]], str] = {}
    out = []
    for arm in arms:
        key = (arm.how, frozenset(arm.documents))
        same = first.setdefault(key, arm.by)
        other = bool(arm.documents) and same != arm.by and not arm.main
        out.append(arm.model_copy(update={"same_as": same}) if other and arm.by not in _ALTERED else arm)
    return tuple(out)


_ALTERED = ("random", "removed only")  # the same documents, or as good as, with something else done to them

"""One evaluation: every method on every measure, the certificate of the run's own index, and what it will cost.

Takes the experiments in an order in which nothing that was trained is trained again; whatever is on disk is read back,
so the same call goes on after a kill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import whence
from whence.attributor.certified import EXACT, read_certificates, write_certificate
from whence.errors import InputError
from whence.fidelity.certificate import certify, joined
from whence.fidelity.costs import Meter
from whence.fidelity.experiments import BM25, GOLD, RANDOM, Lab, Measured
from whence.fidelity.lab_settings import MEASURES
from whence.fidelity.methods import MethodSpec
from whence.fidelity.rankings import document_losses
from whence.fidelity.scorers import Scored, refuse_too_large
from whence.interfaces import Certificate, Cost, LabResult, MethodSummary, Reading, Truth

__all__ = ["OWN", "Evaluation", "baselines", "evaluate", "possible_measures", "refuse_twins"]

OWN = "this run's index"
_OWN_EXACT = "this run, exact"

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        result: Every reading.
        certificate: Of the run's own index, as written into the run.
    """

    result: LabResult
    certificate: Certificate


def baselines() -> tuple[MethodSpec, ...]:
    """The methods that every evaluation holds the run's index against."""
    return (
        MethodSpec(name=RANDOM, baseline="random"),
        MethodSpec(name="length", baseline="length"),
        MethodSpec(name="loss", baseline="loss"),
        MethodSpec(name=BM25, baseline="bm25"),
        MethodSpec(name="TF-IDF", baseline="tfidf"),
        MethodSpec(name="representation, last layer", baseline="representation"),
        MethodSpec(name="representation, four layers", baseline="representation", layers=(0.25, 0.5, 0.75, 1.0)),
        MethodSpec(name="gradient dot", baseline="gradient-dot"),
        MethodSpec(name="gradient cosine", baseline="gradient-cosine"),
    )


def possible_measures(lab: Lab) -> list[str]:
    """The measures asked for that can be taken here, in the lab's order; gold and bad documents must be known."""
    asked = [measure for measure in MEASURES if measure in lab.settings.measures]
    if not any(lab.gold):
        asked = [measure for measure in asked if measure not in ("recall", "mrr")]
    if "mislabel" in asked and (not lab.bad.any() or lab.bad.all()):
        asked.remove("mislabel")
    if not asked:
        raise InputError(
            f"none of {', '.join(lab.settings.measures)} can be taken: recall and mrr need queries whose metadata name "
            f"documents of this corpus under {lab.settings.gold!r}, mislabel needs documents marked "
            f"{lab.settings.bad!r} in their metadata."
        )
    return list(asked)


def evaluate(lab: Lab, specs: Sequence[MethodSpec] = (), *, exact: bool = False, command: str = "") -> Evaluation:
    """Measure the run's own index, the baselines and further methods, and certify the run's index.

    Args:
        lab: The run and how much to retrain.
        specs: Methods beside the baselines and the run's own index; one of a baseline's name takes its place.
        exact: Certify scores made by running the model, without an index.
        command: As typed, for the record.

    Raises:
        IncompleteError: Other machines have not finished their shares of the training.
        InputError: No measure can be taken, or a method cannot be run.
    """
    measures = possible_measures(lab)
    refuse_twins(lab)
    refuse_too_large(len(lab.queries), lab.documents)
    taken = sorted({spec.name for spec in specs} & {OWN, _OWN_EXACT, GOLD})
    if taken:
        raise InputError(f"{taken[0]!r} is a name that the lab itself uses; give that method another one.")
    if "lds" in measures:
        _ = lab.halves  # first, since it needs no scores: other machines can help with it
    own, summary = _own(lab, exact)
    names = {spec.name for spec in specs}
    every = [*(spec for spec in baselines() if spec.name not in names), *specs]
    scored = lab.run(every)
    summary = summary.model_copy(update={"cost": _same_cost(lab, scored, exact)})
    scores = {summary.name: own, **{each.summary.name: each.scores for each in scored}}
    found = [measured for measure in measures for measured in _take(lab, measure, scores, summary.name)]
    result = _result(lab, [summary, *(each.summary for each in scored)], found, command)
    corpus = lab.owner.corpus.fingerprint
    name = lab.owner.recipe().name + (f"-{EXACT}" if exact else "")
    earlier = read_certificates(lab.owner.run).get(name)
    certificate = joined(certify(result, summary.name, name, corpus), earlier)
    if certificate.state == "measured":
        write_certificate(lab.owner.run, certificate)
    return Evaluation(result, certificate)


def refuse_twins(lab: Lab) -> None:
    """Refuse two queries that ask the same, which would pass for two.

    Raises:
        InputError: Naming them.
    """
    seen: dict[str, str] = {}
    for query, key in zip(lab.encoded, lab.task(lab.training, lab.start).query_keys, strict=True):
        if key in seen:
            raise InputError(
                f"the queries {seen[key]!r} and {query.id!r} ask the same; as two they would make every interval too "
                "narrow. Leave one of them out."
            )
        seen[key] = query.id


def _same_cost(lab: Lab, scored: Sequence[Scored], exact: bool) -> Cost | None:
    """The cost of the method with the settings of the run's own index, if it was among those that were timed."""
    recipe, sites = lab.owner.recipe(), lab.owner.sites
    for each in scored:
        spec = each.spec
        if spec.kind != "influence" or spec.sites or spec.sample is not None or (spec.bits == "exact") != exact:
            continue
        mine = spec.recipe(recipe).resolved(sites)
        if mine == recipe or (exact and (mine.method, mine.damping) == (recipe.method, recipe.damping)):
            return each.summary.cost
    return None


def _own(lab: Lab, exact: bool) -> tuple[Array, MethodSummary]:
    owner = lab.owner
    recipe = owner.recipe()
    settings = {"curvature": recipe.method, "damping": str(recipe.damping)}
    if exact:
        scores = owner.scores(lab.queries, exact=True)
        return scores, MethodSummary(name=_OWN_EXACT, kind="influence", settings=settings)
    owner.index(report=lab.report)
    scores = owner.scores(lab.queries)
    return scores, MethodSummary(name=OWN, kind="influence", settings={**settings, "index": recipe.name})


def _take(lab: Lab, measure: str, scores: Mapping[str, Array], own: str) -> list[Measured]:
    if measure in ("recall", "mrr"):  # one experiment gives both; it is taken with the first
        wanted = [m for m in ("recall", "mrr") if m in lab.settings.measures]
        return [] if measure != wanted[0] else [m for m in lab.retrieval(scores) if m[0].measure in wanted]
    if measure == "mislabel":
        return [lab.mislabel(_of_documents(lab, scores, own))]
    experiments = {
        "lds": lab.lds,
        "loo": lab.leave_one_out,
        "removal": lab.removal,
        "further-training": lab.further_training,
        "tail-patch": lab.tail_patch,
    }
    return [experiments[measure](scores)]


def _of_documents(lab: Lab, scores: Mapping[str, Array], own: str) -> dict[str, Array]:
    """Rankings of documents by themselves: self-influence, and what needs no influence."""
    out = {own: lab.owner.self_influence(), "loss": document_losses(lab.owner)}
    out |= {name: scores[name][0] for name in (RANDOM, "length") if name in scores}
    return out


def _result(lab: Lab, methods: list[MethodSummary], found: Sequence[Measured], command: str) -> LabResult:
    owner = lab.owner
    truths: list[Truth] = [truth for truth, _ in found]
    readings: list[Reading] = [reading for _, each in found for reading in each]
    if any(reading.method == GOLD for reading in readings):
        methods = [*methods, MethodSummary(name=GOLD, kind="oracle")]
    return LabResult(
        run=str(owner.run.path),
        model=f"{type(owner.loaded.model).__name__}, {owner.coverage.parameters:,} parameters",
        training=f"{lab.start.words} with {_words(lab)}",
        documents=owner.corpus.documents,
        queries=len(lab.queries),
        parameters=owner.coverage.parameters,
        basis=lab.basis,
        plain_seconds=Meter(owner).plain.seconds,
        truths=tuple(truths),
        methods=tuple(methods),
        readings=tuple(readings),
        command=command,
        whence_version=whence.__version__,
    )


def _words(lab: Lab) -> str:
    training = lab.training
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
    return f"{training.optimizer}, {length} at a rate of {training.learning_rate:g}"

"""`whence audit contamination`: did the model memorise that, or can it do it? One verdict per item of a benchmark.

Two questions are kept apart: is the item in the corpus (presence: shared runs of words, BM25, standing out of the
item's own ranking), and did that move the answer (effect: influence on the answer's tokens, standing out likewise)?
`exposure` decides; the headline compares accuracy with and without the items whose answer was moved. Here all sites
count alike, whatever the run's method: of leaks seen once, weights of sites hide nearly all (docs/lab-notes.md).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import whence
from whence.attributor import Attributor
from whence.audits.accuracy import deciles, detectors, headline
from whence.audits.documents import Weighed, weigh
from whence.audits.evidence import Evidence, gather, influence_on
from whence.audits.exposure import judge_exposure
from whence.audits.items import Item
from whence.audits.membership import Membership, membership
from whence.audits.nulls import elsewhere, standardised
from whence.audits.overlap import shared_runs
from whence.audits.settings import settings_of
from whence.audits.spacings import Spaced, spaced
from whence.audits.statistics import benjamini_hochberg, spearman
from whence.errors import InputError, QueryError
from whence.interfaces import ContaminationResult, DocumentEvidence, Query
from whence.interfaces.audits import AuditSettings
from whence.interfaces.exposures import Exposure, ItemAudit

__all__ = ["ContaminationOptions", "audit_contamination"]

Report = Callable[[str, int, int], None]
Array = NDArray[np.float64]
_CAP = 12.0


@dataclass(frozen=True)
class ContaminationOptions:
    """How a contamination audit looks.

    Attributes:
        top: Documents to list for each item.
        fdr: False-discovery rate at which presence and effect are called; no verdict that finds one rests on more.
        exact: Run the model over the corpus instead of reading an index.
        index: Name of the index.
        checkpoints: Earlier checkpoints of the same training, oldest first: directories.
        placebo: Hold every item against what is there of another, and exchange what is known of items: no document that
            is present may be found to have moved an answer, and detectors must be at chance.
        seed: Of what is drawn.
    """

    top: int = 5
    fdr: float = 0.05
    exact: bool = False
    index: str | None = None
    checkpoints: Sequence[str] = ()
    placebo: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Forms:
    """Scores of clusters of copies [I, K] for the forms of each item, and what stands out of them."""

    weighed: Weighed
    answer: Array
    question: Array
    whole: Array
    effect: Spaced
    asking: Spaced
    presence: Spaced
    lexical: Array
    place: NDArray[np.int64]  # the item whose documents each is held against; another one in a placebo


def audit_contamination(
    owner: Attributor,
    items: Sequence[Item],
    folder: Path,
    options: ContaminationOptions = ContaminationOptions(),
    *,
    command: str = "",
    report: Report | None = None,
) -> ContaminationResult:
    """Audit a benchmark.

    Args:
        owner: A run; fitted, and indexed unless `exact`, if that has not been done.
        items: The benchmark.
        folder: Where scores are kept, so that an audit that was stopped goes on.
        options: See `ContaminationOptions`.
        command: As typed, for the record.
        report: Called with (step, done, total).

    Raises:
        QueryError: No item can be asked.
    """
    kept, left_out = _askable(owner, items)
    if not kept:
        raise QueryError(f"none of the {len(items)} items can be asked; the first: {next(iter(left_out.values()), '')}")
    evidence = gather(
        owner,
        [each.query for each in kept],
        folder,
        exact=options.exact,
        index=options.index,
        alike=True,
        report=report,
    )
    forms = _forms(owner, evidence, kept, folder, options, report)
    own = [membership(owner, query) for query in evidence.encoded]
    exposures = _exposures(forms, own, kept)
    audits = [_audit(owner, forms, exposures[n], own[n], item, n, options) for n, item in enumerate(kept)]
    audits = _with_forms(owner, forms.weighed, audits, kept, folder, options, report)
    audits = _with_checkpoints(owner, forms.weighed, audits, kept, folder, options, report)
    audits = _shuffled(audits, options.seed) if options.placebo else audits
    return ContaminationResult(
        settings=_settings(owner, forms.weighed, options, command),
        items=tuple(audits),
        accuracy=headline(audits, options.seed),
        detectors=tuple(detectors(audits, options.seed)),
        deciles=tuple(deciles(audits)),
        date=_dates(audits, [each.exposure.effect for each in audits]),
        date_cloze=_dates(audits, [each.cloze_effect for each in audits]),
        levels={"influence": forms.effect.levels, "BM25": forms.presence.levels},
        left_out=left_out,
        fdr=options.fdr,
    )


def _askable(owner: Attributor, items: Sequence[Item]) -> tuple[list[Item], dict[str, str]]:
    """Items that fit into the model's context in every way they are asked, and why the others do not.

    Twins and cloze forms that do not fit are dropped.
    """
    kept, left_out = [], {}
    for item in items:
        try:
            for query in (item.query, _asking(item.query), _whole(item.query)):
                owner.encode_queries([query])
        except QueryError as error:
            left_out[item.query.id or ""] = str(error)
            continue
        twins = tuple(twin for twin in item.twins if _fits(owner, twin))
        cloze = item.cloze if item.cloze is not None and _fits(owner, item.cloze) else None
        kept.append(replace(item, twins=twins, cloze=cloze))
    return kept, left_out


def _fits(owner: Attributor, query: Query) -> bool:
    try:
        owner.encode_queries([query])
    except QueryError:
        return False
    return True


def _forms(
    owner: Attributor,
    evidence: Evidence,
    items: Sequence[Item],
    folder: Path,
    options: ContaminationOptions,
    report: Report | None,
) -> _Forms:
    def scores(name: str, queries: Sequence[Query]) -> NDArray[np.float32]:
        place = folder / name
        found = influence_on(owner, queries, place, exact=options.exact, index=options.index, alike=True, report=report)
        return found["influence"]

    asking = scores("question", [_asking(item.query) for item in items])
    whole = scores("whole", [_whole(item.query) for item in items])
    place = elsewhere(len(items)) if options.placebo else np.arange(len(items))
    weighed = weigh(owner, evidence, topics=place, seed=options.seed)
    answer, question, lexical = weighed.influence, weighed.summed(asking), weighed.presence.z
    return _Forms(
        weighed=weighed,
        answer=answer,
        question=question,
        whole=standardised(weighed.summed(whole)),
        effect=spaced(answer, "power"),
        asking=spaced(question, "power"),
        presence=spaced(lexical, "exponential"),
        lexical=lexical,
        place=place,
    )


def _asking(query: Query) -> Query:
    """The question's own tokens; an item without one is asked whole."""
    return query.model_copy(update={"prompt": "", "completion": query.prompt or query.completion})


def _whole(query: Query) -> Query:
    return query.model_copy(update={"prompt": "", "completion": f"{query.prompt}{query.completion}"})


def _shuffled(audits: Sequence[ItemAudit], seed: int) -> list[ItemAudit]:
    """What is known of each item exchanged for what is known of another: detectors must then be at chance."""
    order = np.random.default_rng([seed, 19]).permutation(len(audits)).tolist()
    return [each.model_copy(update={"known": audits[n].known}) for each, n in zip(audits, order, strict=True)]


def _exposures(forms: _Forms, own: Sequence[Membership], items: Sequence[Item]) -> list[Exposure]:
    weighed = forms.weighed
    said = [f"{item.query.prompt} {item.query.completion}" for item in items]
    texts = [said[n] for n in forms.place.tolist()]
    overlaps = shared_runs(texts, weighed.texts)
    best, there = forms.answer.argmax(1), forms.lexical.argmax(1)
    rows = np.arange(len(items))
    weights = np.exp(np.minimum(forms.lexical[rows, best], _CAP))
    q_effect = benjamini_hochberg(np.minimum(1.0, forms.effect.p * weights.mean() / weights))
    q_presence = benjamini_hochberg(forms.presence.p)
    positive = np.clip(forms.answer, 0, None).sum(1)
    out = []
    for n, member in enumerate(own):
        tokens = max(1, int(weighed.evidence.encoded[n].text.loss_mask.sum()))
        top = float(forms.answer[n, best[n]])
        out.append(
            Exposure(
                overlap_8=float(overlaps[0, n]),
                overlap_13=float(overlaps[1, n]),
                presence=float(forms.presence.first[n]),
                effect=float(forms.effect.first[n]),
                question=float(forms.asking.first[n]),
                whole=float(forms.whole[n].max()),
                p_presence=float(forms.presence.p[n]),
                p_effect=float(forms.effect.p[n]),
                q_presence=float(q_presence[n]),
                q_effect=float(q_effect[n]),
                same=bool(best[n] == there[n]),
                explained=max(0.0, top) / tokens,
                loss=member.loss,
                zlib=member.zlib,
                min_k=member.min_k,
                concentration=max(0.0, top) / float(positive[n]) if positive[n] > 0 else 0.0,
            )
        )
    return out


def _audit(
    owner: Attributor,
    forms: _Forms,
    exposure: Exposure,
    own: Membership,
    item: Item,
    number: int,
    options: ContaminationOptions,
) -> ItemAudit:
    documents = _documents(forms, number, options.top)
    mover = forms.weighed.document(number, int(forms.answer[number].argmax())).id
    judged = judge_exposure(exposure, documents[0].id if documents else None, options.fdr, mover)
    twins = [membership(owner, query).loss for query in owner.encode_queries(item.twins)] if item.twins else []
    cloze = membership(owner, owner.encode_queries([item.cloze])[0]).loss if item.cloze is not None else None
    return ItemAudit(
        id=item.query.id or str(number),
        question=item.query.prompt,
        answer=item.query.completion or "",
        date=item.date,
        correct=item.correct,
        known=item.known,
        twin_gap=float(np.mean(twins)) - own.loss if twins else None,
        cloze_gap=None if cloze is None else cloze - own.loss,
        verdict=judged.verdict,
        confidence=judged.confidence,
        runner_up=judged.runner_up,
        reasons=judged.reasons,
        action=judged.action,
        exposure=exposure,
        documents=documents,
    )


def _documents(forms: _Forms, number: int, top: int) -> tuple[DocumentEvidence, ...]:
    """Where the item is: the most present documents first, and last the one with most effect if it is none of them.

    BM25 names the document that holds an item better than influence does, so presence decides the order.
    """
    present = [int(cluster) for cluster in np.argsort(-forms.lexical[number], kind="stable")[:top]]
    moved = int(forms.answer[number].argmax())
    listed = present if moved in present else [*present[: top - 1], moved]
    return tuple(forms.weighed.document(number, cluster) for cluster in listed)


def _with_forms(
    owner: Attributor,
    weighed: Weighed,
    audits: list[ItemAudit],
    items: Sequence[Item],
    folder: Path,
    options: ContaminationOptions,
    report: Report | None,
) -> list[ItemAudit]:
    """The effect on cloze forms, where there are any."""
    numbers = [n for n, item in enumerate(items) if item.cloze is not None]
    if len(numbers) < 2:
        return audits
    queries = [query for n in numbers if (query := items[n].cloze) is not None]
    found = influence_on(
        owner, queries, folder / "cloze", exact=options.exact, index=options.index, alike=True, report=report
    )["influence"]
    effect = spaced(weighed.summed(found), "power").first
    out = list(audits)
    for place, n in enumerate(numbers):
        out[n] = out[n].model_copy(update={"cloze_effect": float(effect[place])})
    return out


def _with_checkpoints(
    owner: Attributor,
    weighed: Weighed,
    audits: list[ItemAudit],
    items: Sequence[Item],
    folder: Path,
    options: ContaminationOptions,
    report: Report | None,
) -> list[ItemAudit]:
    """Effect and loss at earlier checkpoints: what is seen often is learnt early and has no gradient in the end.

    Raises:
        InputError: A checkpoint reads the corpus otherwise, so that its documents are not the audited ones.
    """
    out = list(audits)
    queries = [item.query for item in items]
    for name, path in names_of(options.checkpoints).items():
        place = folder / "checkpoints" / f"{name.replace('/', '-')}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        config = owner.config
        earlier = Attributor(
            place, model=path, data=list(config.corpus.data), device=owner.device,
            settings={
                "model": config.model.model_dump(include={"sites", "tokenizer", "attention", "min_coverage"}),
                "corpus": config.corpus.model_dump(exclude={"data", "vocabulary"}, exclude_unset=True),
                "fit": config.fit.model_dump(),
                "recipe": owner.recipe(None if options.exact else options.index).model_dump(),
                "trained_on": config.trained_on,
            },
        )  # fmt: skip
        earlier.fit(report)
        if earlier.corpus.documents != owner.corpus.documents:
            raise InputError(
                f"--checkpoints {path} reads {earlier.corpus.documents} documents where the run has "
                f"{owner.corpus.documents}; give checkpoints of the same training, with the same tokenizer."
            )
        scores = influence_on(earlier, queries, place / "scores", exact=True, alike=True, report=report)["influence"]
        effect = spaced(weighed.summed(scores), "power").first
        encoded = earlier.encode_queries(queries)
        for n, audit in enumerate(out):
            loss = membership(earlier, encoded[n]).loss
            out[n] = audit.model_copy(update={"saturation": {**audit.saturation, name: (float(effect[n]), loss)}})
    return out


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ends of some paths that tell them apart, and the paths.

    >>> list(names_of(["a/step-1", "a/step-2"])), list(names_of(["a/last", "b/last"]))
    (['step-1', 'step-2'], ['a/last', 'b/last'])
    """
    places = {Path(path).resolve(): path for path in reversed(paths)}  # one directory by two names is one checkpoint
    parts = {path: place.parts for place, path in reversed(places.items())}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {"/".join(found[-length:]): path for path, found in parts.items()}
        if len(names) == len(parts):
            return names
    return {path: path for path in parts}


def _dates(audits: Sequence[ItemAudit], values: Sequence[float | None]) -> tuple[float, float] | None:
    """Rank correlation with date; None if fewer than 8 items have one."""
    pairs = [(each.date, value) for each, value in zip(audits, values, strict=True) if each.date and value is not None]
    if len(pairs) < 8:
        return None
    order = {date: place for place, date in enumerate(sorted({date for date, _ in pairs}))}
    return spearman(np.array([order[date] for date, _ in pairs]), np.array([value for _, value in pairs]))


def _settings(owner: Attributor, weighed: Weighed, options: ContaminationOptions, command: str) -> AuditSettings:
    told = {"top": options.top, "fdr": options.fdr, "exact": options.exact, "checkpoints": list(options.checkpoints),
            "seed": options.seed}  # fmt: skip
    return settings_of(
        owner, command=command, questions=len(weighed.evidence.queries), null=weighed.effect.null, exact=options.exact,
        index=options.index, alike=True, placebo=options.placebo, settings=told, version=whence.__version__,
    )  # fmt: skip

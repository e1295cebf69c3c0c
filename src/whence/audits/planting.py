"""What would this audit have caught? Leaks are planted in a further training of the model, and audited like the rest.

Items without evidence of exposure are assigned at random: leaked verbatim once and eight times, paraphrased once and
eight times (where they have a twin), or held out. The model is trained further on the leaks among documents of the
corpus, and the same audit is made of the same items on that model. Random assignment, never a date: dates confound.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from whence.attributor import Attributor
from whence.audits.contamination import ContaminationOptions, audit_contamination
from whence.audits.items import Item
from whence.audits.statistics import wilson
from whence.data import CorpusConfig, ingest
from whence.errors import InputError
from whence.fidelity import LanguageTask
from whence.interfaces import ContaminationResult, Query
from whence.interfaces.exposures import Detector, ItemAudit, Planted
from whence.model import Training
from whence.runs import is_done, publish, write_bytes

__all__ = ["PlantOptions", "calibrate", "caught"]

Report = Callable[[str, int, int], None]
_LEAST = 5
_FURTHER = Training(learning_rate=1e-4, epochs=2, batch=8, schedule="linear", warmup=0.1, clip=1.0)


@dataclass(frozen=True)
class PlantOptions:
    """How leaks are planted.

    Attributes:
        each: Items of each group.
        times: How often a leak of the repeated groups stands in the training data.
        documents: Documents of the corpus among them.
        training: How the model is trained further.
        seed: Decides groups, documents and order.
    """

    each: int = 40
    times: int = 8
    documents: int = 400
    training: Training = _FURTHER
    seed: int = 0


def calibrate(
    owner: Attributor,
    items: Sequence[Item],
    result: ContaminationResult,
    folder: Path,
    audit: ContaminationOptions,
    options: PlantOptions,
    report: Report | None = None,
) -> ContaminationResult:
    """Plant leaks, train further, audit, and count what was caught.

    Args:
        owner: The audited run.
        items: The benchmark.
        result: Its audit; only items without evidence are planted.
        folder: For the planted corpus, the model and its run; what is there already is gone on with.
        audit: As the benchmark was audited.
        options: See `PlantOptions`.
        report: Called with (step, done, total).

    Returns:
        The result with what was caught, and with every signal held against what was planted.

    Raises:
        InputError: Fewer than five items for each group, or the run attributes an adapter.
    """
    if owner.source.adapter:
        raise InputError("leaks cannot be planted into a run of an adapter; audit the merged model.")
    groups = _assigned(items, result, options)
    chosen = [item for item in items if item.query.id in groups]
    content = "".join(json.dumps(row) + "\n" for row in _rows(owner, chosen, groups, options)).encode()
    place = folder / _named(owner, content, options)
    place.mkdir(parents=True, exist_ok=True)
    corpus = place / "planted.jsonl"
    write_bytes(corpus, content)
    model = _train(owner, corpus, place, options, report)
    planted = Attributor(
        place / "run", model=str(model), data=[str(corpus)], device=owner.device,
        settings={
            "corpus": {"context": owner.config.corpus.context},
            "fit": owner.config.fit.model_dump(),
            "recipe": owner.config.recipe.model_dump(mode="json"),
        },
    )  # fmt: skip
    known = [replace(item, known=groups[item.query.id or ""]) for item in chosen]
    plain = replace(audit, index=None, checkpoints=(), placebo=False)
    found = audit_contamination(planted, known, place / "scores", plain, report=report)
    before = {each.id: each.exposure.loss for each in result.items}
    return result.model_copy(
        update={
            "planted": caught(found.items, before, audit.fdr),
            "detectors": (*result.detectors, *(_as_planted(each) for each in found.detectors)),
        }
    )


def _as_planted(found: Detector) -> Detector:
    return found.model_copy(update={"group": f"planted {found.group}"})


def _named(owner: Attributor, rows: bytes, options: PlantOptions) -> str:
    """A folder name that says what was planted into which model, and how it was trained on."""
    bound = [owner.loaded.fingerprint, options.training.model_dump(mode="json"), options.seed]
    return hashlib.sha256(rows + json.dumps(bound, sort_keys=True, default=str).encode()).hexdigest()[:16]


def caught(items: Sequence[ItemAudit], before: dict[str, float], fdr: float) -> tuple[Planted, ...]:
    """What was flagged of each group, held-out items last.

    Args:
        items: Audited items with what is known of them.
        before: Loss per token before the leaks, by id.
        fdr: Rate at which presence or effect is called.
    """
    groups: dict[str, list[ItemAudit]] = {}
    for item in items:
        groups.setdefault(item.known or "", []).append(item)
    out = []
    for name, members in sorted(groups.items(), key=lambda pair: (pair[0] == "held out", pair[0])):
        there = [each.exposure.q_presence <= fdr for each in members]
        did = [each.exposure.q_effect <= fdr for each in members]
        flagged = sum(a or b for a, b in zip(there, did, strict=True))
        first = sum(bool(each.documents) and _leaked_by(each.documents[0].id, each.id) for each in members)
        moved = [before[each.id] - each.exposure.loss for each in members if each.id in before]
        out.append(
            Planted(
                group=name,
                items=len(members),
                caught=wilson(flagged, len(members)),
                by_effect=wilson(sum(did), len(members)),
                by_presence=wilson(sum(there), len(members)),
                found_first=None if name == "held out" else wilson(first, len(members)),
                moved=float(np.mean(moved)) if moved else None,
            )
        )
    return tuple(out)


def _leaked_by(document: str, item: str) -> bool:
    """Whether a document is one of an item's leaks, whatever signs the item's id has."""
    name = f"leak-{item}"
    return document == name or (document.startswith(f"{name}#") and document[len(name) + 1 :].isdigit())


def _assigned(items: Sequence[Item], result: ContaminationResult, options: PlantOptions) -> dict[str, str]:
    """Group of each item that is used, by id."""
    free = {each.id for each in result.items if each.verdict in ("no evidence", "same skill")}
    usable = [item for item in items if item.query.id in free]
    twinned = any(item.twins for item in usable)
    names = ["verbatim ×1", f"verbatim ×{options.times}", "held out"]
    names += ["paraphrase ×1", f"paraphrase ×{options.times}"] if twinned else []
    order = np.random.default_rng(options.seed).permutation(len(usable))
    each = min(options.each, len(usable) // len(names))
    if each < _LEAST:
        raise InputError(
            f"--calibrate needs {_LEAST} items without evidence of exposure for each of {len(names)} groups; there are "
            f"{len(usable)}. Give more items."
        )
    left = [usable[n] for n in order.tolist()]
    out: dict[str, str] = {}
    for name in sorted(names, key=lambda name: not name.startswith("paraphrase")):
        fits = [item for item in left if item.twins or not name.startswith("paraphrase")][:each]
        out |= {item.query.id or "": name for item in fits}
        left = [item for item in left if item not in fits]
    return out


def _rows(owner: Attributor, items: Sequence[Item], groups: dict[str, str], options: PlantOptions) -> list[Any]:
    rows: list[dict[str, Any]] = []
    for item in items:
        name = groups[item.query.id or ""]
        if name == "held out":
            continue
        query = item.query if name.startswith("verbatim") else item.twins[0]
        times = options.times if name.endswith(f"×{options.times}") else 1
        rows += [_row(query, f"leak-{item.query.id}" + (f"#{n}" if n else "")) for n in range(times)]
    draw = np.random.default_rng(options.seed)
    count = min(options.documents, owner.corpus.documents)
    for number in draw.choice(owner.corpus.documents, count, replace=False).tolist():
        rows.append({"id": f"corpus-{number}", "input_ids": owner.corpus.document(number).tokens.tolist()})
    tokenizer: Any = owner.tokenizer
    for row in rows:
        if "text" in row:
            row["input_ids"] = tokenizer(row.pop("text"))["input_ids"]
    return [rows[n] for n in draw.permutation(len(rows)).tolist()]


def _row(query: Query, name: str) -> dict[str, Any]:
    return {"id": name, "text": f"{query.prompt}{query.completion}"}


def _train(owner: Attributor, corpus: Path, folder: Path, options: PlantOptions, report: Report | None) -> Path:
    """The model trained further on the planted corpus, saved with its tokenizer."""
    model = folder / "model"
    if is_done(model):
        return model
    settings = CorpusConfig(
        data=(str(corpus),), context=owner.config.corpus.context, vocabulary=owner.loaded.vocabulary
    )
    ingest(settings, owner.tokenizer, folder / "tokens")
    source = owner.source
    task = LanguageTask(
        folder / "tokens", source.model, options.training, [], device=owner.device, revision=source.revision,
        attention=source.attention, tokenizer=source.tokenizer,
    )  # fmt: skip

    def advance(done: int, total: int, _: float) -> None:
        if report is not None:
            report("planting leaks", done, total)

    trained: Any = task.fit(np.ones(task.documents, dtype=bool), options.seed, advance).model
    with publish(model, {"training": options.training.model_dump(mode="json")}) as temporary:
        trained.save_pretrained(temporary)
        tokenizer: Any = owner.tokenizer
        tokenizer.save_pretrained(temporary)
    return model

"""Whose answers an intervention is about: from a query file, a file of answers, a benchmark, or an audit.

An audit also names documents: those that it found to have an effect on the answers asked about. Needs no torch, so that
what cannot work is refused before a model is loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from whence.audits.items import asked
from whence.audits.responses import ALIASES, load_responses
from whence.data import Corpus, load_queries
from whence.errors import InputError, QueryError
from whence.interfaces import ContaminationResult, Query, SafetyResult, UnlearningMethod

__all__ = ["AUDIT", "Asked", "asked_by_audit", "load_targets", "numbers_in", "read_ids", "refuse_options"]

AUDIT = "the audit"
"""Who named the documents that an audit names."""

_HELD = ("verbatim", "paraphrase", "present")  # verdicts whose best document holds the item


@dataclass(frozen=True, slots=True)
class Asked:
    """Targets, and the ids of the documents that an audit named for them (none, where it found none)."""

    queries: tuple[Query, ...]
    documents: tuple[str, ...] = ()


def load_targets(path: str, ids: Sequence[str] = ()) -> list[Query]:
    """Read targets from a query file, or from any file that `whence audit safety` or `audit contamination` reads.

    Args:
        path: The file.
        ids: Those to take; all if there are none.

    Raises:
        QueryError: It is neither, is empty, or a row has no answer.
        InputError: It has no row of such an id.
    """
    try:
        return _of(load_queries(path), ids, path)
    except QueryError as error:
        try:
            answers = load_responses(path)
        except QueryError:
            raise error from None
    silent = [each.query.id for each in answers if not each.query.completion]
    if silent:
        raise QueryError(
            f"{path}: {silent[0]!r} has no answer, and what should change is what the model said; answers are called "
            f"{', '.join(ALIASES['response'])}."
        )
    return _of([each.query.model_copy(update={"metadata": dict(each.fields)}) for each in answers], ids, path)


def asked_by_audit(result: SafetyResult | ContaminationResult, ids: Sequence[str] = ()) -> Asked:
    """The answers or items of an audit, and the documents that it found behind them.

    Args:
        result: The audit.
        ids: Of the answers or items; all if there are none.

    Raises:
        InputError: It has no such answer.
    """
    if isinstance(result, SafetyResult):
        queries = [
            Query(id=each.id, prompt=each.prompt, completion=each.response, contrast=each.contrast)
            for each in result.responses
        ]
        behind = {
            each.id: [d.id for d in each.documents if d.on_topic and d.q <= result.fdr and d.influence > 0]
            for each in result.responses
        }
    else:
        queries = [asked(each.id, each.question, each.answer) for each in result.items]
        behind = {each.id: [d.id for d in each.documents[:1] if each.verdict in _HELD] for each in result.items}
    chosen = _of(queries, ids, "the audit")
    documents = dict.fromkeys(name for query in chosen for name in behind[query.id or ""])
    return Asked(tuple(chosen), tuple(documents))


def _of(queries: list[Query], ids: Sequence[str], where: str) -> list[Query]:
    if not ids:
        return queries
    unknown = sorted(set(ids) - {query.id or "" for query in queries})
    if unknown:
        raise InputError(
            f"{where} has no answer of the id {', '.join(unknown)}; its first are "
            f"{', '.join(str(query.id) for query in queries[:6])}."
        )
    return [query for query in queries if query.id in ids]


def numbers_in(corpus: Corpus, ids: Iterable[str], where: str) -> list[int]:
    """Numbers of documents by their ids, ascending; an id that several have stands for all of them.

    Raises:
        InputError: There is no such document.
    """
    wanted = list(ids)
    found = corpus.places(wanted)
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        said = "document" if len(unknown) == 1 else f"{len(unknown)} documents"
        verb = "is" if len(unknown) == 1 else "are"
        raise InputError(
            f"{said} named by {where} {verb} not in this corpus: {', '.join(unknown[:6])}. Its first is "
            f"{corpus.document(0).id!r}."
        )
    return sorted(number for each in found.values() for number in each)


def read_ids(path: Path) -> list[str]:
    """Ids of documents, one a line.

    Raises:
        InputError: The file cannot be read or is empty.
    """
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--documents {path} cannot be read: {error}; it takes one document id a line.") from error
    if not found:
        raise InputError(f"--documents {path} is empty; it takes one document id a line.")
    return found


def refuse_options(
    *, action: str, methods: Sequence[str], rows: Path | None, weight: float, gold: bool, documents: Sequence[str]
) -> None:
    """Refuse what does not go together; see `InterventionOptions`.

    Raises:
        InputError: See above.
    """
    if action not in _ACTIONS:
        raise InputError(f"--action takes {', '.join(_ACTIONS[:-1])} or {_ACTIONS[-1]}; got {action!r}.")
    if (rows is None) == (action in ("relabel", "add")):
        raise InputError("--rows goes with --action relabel and add, which need it, and with no other.")
    if rows is not None and not rows.is_file():
        raise InputError(f"--rows {rows} is no file; give JSON lines like those of the corpus.")
    if not 0 <= weight < 1:
        raise InputError(f"--weight is what is left of a document's loss, from 0 to below 1; got {weight:g}.")
    if gold and documents:
        raise InputError("--gold and --documents both name the documents; give one of them.")
    unknown = [name for name in methods if name not in get_args(UnlearningMethod)]
    if unknown or not methods:
        said = ", ".join(unknown) or "none"
        raise InputError(f"--method takes {', '.join(get_args(UnlearningMethod))} with commas between; got {said}.")


_ACTIONS = ("remove", "down-weight", "relabel", "add", "unlearn")

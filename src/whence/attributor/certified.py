"""The certificate of an index, read from where the fidelity lab left it; or what it would take to have one.

    fidelity/certificate.json   {"certificates": {name of the index: Certificate}}

What is certified is the ranking of one index of one corpus: another damping, code or corpus is another ranking.
Measures nothing itself.
"""

from typing import TYPE_CHECKING

from pydantic import ValidationError

from whence.errors import StorageError
from whence.interfaces import Certificate
from whence.runs import Run, read_json, write_json

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["EXACT", "certificate_of", "read_certificates", "write_certificate"]

EXACT = "exact"
"""Appended to a recipe's name where the model is run over the documents and no index is read."""

_SUBSETS, _SEEDS = 64, 2


def _beyond_the_lab(owner: "Attributor") -> str:
    """Why `whence evaluate` refuses this run; empty if it does not."""
    if any(source.weight != 1.0 for source in owner.config.corpus.sources):
        return "retraining does not follow the weights of a mix; measure on a run of the same files without weights"
    if owner.config.model.quantize is not None:
        return "models are retrained in full precision; measure on a run of the same adapter without --quantize"
    return ""


def certificate_of(owner: "Attributor", name: str) -> Certificate:
    """The certificate of an index (or of exact scores) by name; says so if there is none."""
    known = {
        recipe: found
        for recipe, found in read_certificates(owner.run).items()
        if found.corpus == owner.corpus.fingerprint
    }
    return known[name] if name in known else Certificate(line=_unmeasured(owner, sorted(known)))


def read_certificates(run: Run) -> dict[str, Certificate]:
    """Every certificate in a run, by name of the index.

    Raises:
        StorageError: The file is damaged.
    """
    path = run.fidelity / "certificate.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        return {name: Certificate.model_validate(found) for name, found in content["certificates"].items()}
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise StorageError(
            f"{path} is damaged ({error}); delete it and run `whence evaluate` again, which keeps what was retrained."
        ) from error


def write_certificate(run: Run, certificate: Certificate) -> None:
    """Put a certificate beside those of other indexes, in place of an earlier one of the same index."""
    known = {**read_certificates(run), certificate.recipe: certificate}
    content = {"certificates": {name: found.model_dump(mode="json") for name, found in known.items()}}
    write_json(run.fidelity / "certificate.json", content)


def _unmeasured(owner: "Attributor", others: list[str]) -> str:
    elsewhere = f" (it is for {', '.join(others)})" if others else ""
    if reason := _beyond_the_lab(owner):
        return f"Fidelity: not measured for this ranking{elsewhere}. Scores are predictions, and {reason}."
    return (
        f"Fidelity: not measured for this ranking{elsewhere}. Scores are predictions; to test them, `whence evaluate "
        f"--run {owner.run.path} --query FILE --training FILE` "
        f"(--estimate says how long it takes) trains {_SUBSETS * _SEEDS} models on random halves of the "
        f"{owner.corpus.documents:,} documents: {_SUBSETS * _SEEDS // 2} times the forward and backward work of one "
        "epoch, for every epoch of training."
    )

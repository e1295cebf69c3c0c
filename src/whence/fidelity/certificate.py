"""From a lab result to the certificate that every page of a run shows: one line, and the figures behind it."""

from whence.interfaces import Certificate, Estimate, LabResult, Measure, Reading, Truth

__all__ = ["PREFERENCE", "certify", "joined"]

PREFERENCE: tuple[Measure, ...] = ("lds", "loo", "further-training", "removal", "tail-patch", "recall", "mrr")
"""Which measure the line gives, if several were taken: what covers the whole ranking and rests on retraining first."""

_NAMES: dict[Measure, str] = {
    "lds": "LDS",
    "loo": "leave-one-out Spearman",
    "further-training": "further-training Spearman",
    "removal": "removal effect (nats)",
    "tail-patch": "tail-patch gain (nats)",
    "recall": "recall of gold documents",
    "mrr": "mean reciprocal rank of gold documents",
    "mislabel": "AUC of self-influence",
}


def certify(result: LabResult, method: str, recipe: str, corpus: str, bm25: str = "BM25") -> Certificate:
    """The certificate of one method of a lab result.

    Args:
        result: What the lab found.
        method: Name of the method that makes this run's scores.
        recipe: Name of its index.
        corpus: Fingerprint of the corpus.
        bm25: Name of the method to compare with.

    Returns:
        A certificate in state measured, or not measured where no measure of the method was taken.
    """
    chosen = next((m for m in PREFERENCE if result.reading(m, method) is not None), None)
    if chosen is None:
        return Certificate(recipe=recipe, corpus=corpus, model=result.model, basis=result.basis)
    reading, truth = result.reading(chosen, method), result.truth(chosen)
    assert reading is not None
    assert truth is not None
    lexical = result.reading(chosen, bm25)
    return Certificate(
        state="measured",
        line=_line(result, chosen, reading, truth, lexical),
        recipe=recipe,
        measure=chosen,
        estimate=reading.estimate,
        ceiling=truth.ceiling,
        bm25=None if lexical is None else lexical.estimate,
        truth=truth,
        model=result.model,
        training=truth.training,
        readings=tuple(r for r in result.readings if r.method in (method, bm25)),
        corpus=corpus,
        basis=result.basis,
        whence_version=result.whence_version,
    )


def _line(result: LabResult, measure: Measure, reading: Reading, truth: Truth, lexical: Reading | None) -> str:
    digits = 3 if measure == "tail-patch" else 2
    parts = [f"Fidelity: {_NAMES[measure]} {_interval(reading.estimate, digits)}"]
    if truth.ceiling is not None:
        parts.append(f"noise ceiling {truth.ceiling.value:.2f}")
    if lexical is not None:
        parts.append(f"BM25 on the same truth {_interval(lexical.estimate, digits)}")
    trained = f", trained {truth.training}" if truth.training else ""
    return f"{'; '.join(parts)}. {_basis(truth)}; {result.model}{trained}."


def _interval(estimate: Estimate, digits: int) -> str:
    value, low, high = (f"{each:.{digits}f}" for each in (estimate.value, estimate.low, estimate.high))
    if not estimate.bounded:
        return f"{value} (no interval: too few queries or training sets)"
    return f"{value} (95 % {low} to {high})"


def _basis(truth: Truth) -> str:
    if not truth.retrains:
        return f"{truth.queries} queries, no retraining: {truth.about}" if truth.about else f"{truth.queries} queries"
    return f"{truth.queries} queries, {truth.retrains} models retrained: {truth.about}"


def joined(new: Certificate, old: Certificate | None) -> Certificate:
    """A certificate with what an earlier one of the same ranking, model, training and queries has besides.

    The line is that of the measure that says most, whichever call took it; a measure taken again replaces its reading.
    Of two that rest on other queries or another training, which cannot be put together, the one that says more stays:
    the preferred measure, and of the same measure the narrower interval.
    """
    if old is None or old.state != "measured" or _ranking(old) != _ranking(new):
        return new
    if old.basis != new.basis:
        return old if _says_more(old, new) or _narrower(old, new) else new
    taken = {reading.measure for reading in new.readings}
    readings = (*new.readings, *(reading for reading in old.readings if reading.measure not in taken))
    return (old if _says_more(old, new) else new).model_copy(update={"readings": readings})


def _ranking(certificate: Certificate) -> tuple[str, ...]:
    return certificate.recipe, certificate.corpus, certificate.model


def _narrower(old: Certificate, new: Certificate) -> bool:
    if old.measure != new.measure or old.estimate is None or new.estimate is None:
        return False
    return old.estimate.high - old.estimate.low < new.estimate.high - new.estimate.low


def _says_more(old: Certificate, new: Certificate) -> bool:
    assert old.measure is not None
    return new.measure is None or PREFERENCE.index(old.measure) < PREFERENCE.index(new.measure)

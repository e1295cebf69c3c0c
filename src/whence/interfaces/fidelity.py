"""What the fidelity lab says: measured agreement of scores with retraining, what it cost, and the certificate.

Plain results; measured in `whence.fidelity`, drawn in `whence.report`. Knows no torch.
"""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "RECIPES",
    "Certificate",
    "Cost",
    "Estimate",
    "LabResult",
    "Measure",
    "MethodKind",
    "MethodSummary",
    "Reading",
    "Truth",
]

RECIPES = ("training.toml", "training_args.json", "training_args.yaml", "training.json", "trainer_state.json")
"""Names of files that say how a model was trained, as they lie in its folder or beside it; best first."""

Measure = Literal["lds", "loo", "removal", "further-training", "tail-patch", "recall", "mrr", "mislabel"]
"""One word per measure:

lds               Spearman over random subsets between predicted and retrained query loss, mean over queries
loo               Spearman over documents between influence and the change of loss when each is left out
removal           rise of the query's loss (nats) when the method's top k documents are left out together
further-training  as loo, but training further from the final model, drift subtracted (Wei et al. 2024)
tail-patch        rise of log p (nats) after one training step on each of the method's top documents
recall            share of a query's gold documents among the method's top k
mrr               mean of 1 / rank of the best gold document
mislabel          area under the ROC curve of self-influence against known bad documents
"""

MethodKind = Literal["influence", "baseline", "imported", "oracle"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Estimate(_Frozen):
    """A value with its 95 % bootstrap interval; infinite ends where too little was seen to say one."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


class Cost(_Frozen):
    """What scoring all documents for all queries of the lab took.

    Attributes:
        seconds: Wall-clock seconds, fitting and indexing included.
        passes: The same work in plain forward+backward passes over the corpus, timed in the same process.
        bytes_per_document: Bytes stored per document; 0 if nothing is stored.
        fit, index, query: Their parts of `passes`.
    """

    seconds: float
    passes: float
    bytes_per_document: float
    fit: float = 0.0
    index: float = 0.0
    query: float = 0.0


class MethodSummary(_Frozen):
    """One way to score documents.

    Attributes:
        name: As shown.
        kind: influence, baseline, imported (scores of another tool) or oracle.
        settings: What makes it differ from the others.
        cost: None where it is not known, as for imported scores.
    """

    name: str
    kind: MethodKind
    settings: Mapping[str, str | int | float | bool | None] = {}
    cost: Cost | None = None


class Truth(_Frozen):
    """What one measure was measured against.

    Attributes:
        measure: Which.
        ceiling: What a perfect predictor would be expected to score, given the noise of retraining; None if unknown.
        queries: Number of queries.
        subsets: Number of distinct training sets (documents, for tail-patch).
        seeds: Trained models per training set.
        retrains: Models trained for it in all.
        about: Setting in words: k, share.
        training: How models were retrained for it, in words; empty if none was.
    """

    measure: Measure
    ceiling: Estimate | None = None
    queries: int
    subsets: int = 0
    seeds: int = 0
    retrains: int = 0
    about: str = ""
    training: str = ""


class Reading(_Frozen):
    """One measure of one method.

    Attributes:
        measure: Which.
        method: Name of the method.
        estimate: Value and interval, in the measure's unit.
        detail: More figures of the same measurement by name (slope, damage to other queries, recall at other k …).
    """

    measure: Measure
    method: str
    estimate: Estimate
    detail: Mapping[str, float] = {}


class LabResult(_Frozen):
    """All that one call of the lab found.

    Attributes:
        run: The run folder.
        model: The model, in words (class, parameters).
        training: How models were retrained, in words.
        documents, queries: Numbers of them.
        parameters: Parameters of the model.
        basis: Hash of what decides every figure's truth: the training, its start, the corpus and the queries.
        plain_seconds: Seconds of one plain forward+backward pass over the corpus on this machine.
        truths: What was measured against, one per measure.
        methods: What was measured.
        readings: The measurements.
        command: The command that made it.
        whence_version: By which version.
    """

    run: str
    model: str
    training: str
    documents: int
    queries: int
    parameters: int
    basis: str = ""
    plain_seconds: float = 0.0
    truths: tuple[Truth, ...] = ()
    methods: tuple[MethodSummary, ...] = ()
    readings: tuple[Reading, ...] = ()
    command: str = ""
    whence_version: str = ""

    def reading(self, measure: Measure, method: str) -> Reading | None:
        """The measurement of a method, if it was made."""
        return next((r for r in self.readings if r.measure == measure and r.method == method), None)

    def truth(self, measure: Measure) -> Truth | None:
        """What a measure was measured against."""
        return next((truth for truth in self.truths if truth.measure == measure), None)


class Certificate(_Frozen):
    """How far the scores of one index have been shown to be true on this model.

    Attributes:
        state: measured, or not measured.
        line: One sentence for every page, with the figures or with how to get them.
        recipe: Name of the index that was measured.
        measure, estimate, ceiling, bm25: What was measured, on what scale, and BM25's value on the same truth.
        truth: Queries, subsets, seeds, retrains.
        model, training: On which model, retrained how.
        readings: Every measure of the certified method and of BM25.
        corpus: Fingerprint of the corpus.
        basis: As in the lab's result; what later measurements must share to be added.
    """

    state: Literal["not measured", "measured"] = "not measured"
    line: str = (
        "Fidelity: not measured for this run. Scores are predictions; retraining without a document is the test."
    )
    recipe: str = ""
    measure: Measure | None = None
    estimate: Estimate | None = None
    ceiling: Estimate | None = None
    bm25: Estimate | None = None
    truth: Truth | None = None
    model: str = ""
    training: str = ""
    readings: tuple[Reading, ...] = ()
    corpus: str = ""
    basis: str = ""
    whence_version: str = ""

"""What a trace returns: plain data, rendered by `whence.report`, stored in the run folder. Knows no torch.

Sign and unit: ``influence > 0`` means that the document supports the output. Its unit is nats: the predicted
drop of log p(completion | prompt) had that one document not been trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from whence.interfaces.breakdowns import Breakdown
from whence.interfaces.fidelity import Certificate
from whence.interfaces.provenance import Provenance
from whence.interfaces.teaching import Teacher

__all__ = [
    "Coverage",
    "Hit",
    "Invariance",
    "Leakage",
    "RunSummary",
    "SiteCoverage",
    "Token",
    "Trace",
    "TraceResult",
    "Verdict",
    "WindowShare",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Token(_Frozen):
    """One token as text, and the influence (nats) that arises where the model predicts it.

    `context` marks what stands for all tokens of other documents that were packed before the document.
    """

    text: str
    influence: float = 0.0
    target: bool = True
    context: bool = False


class WindowShare(_Frozen):
    """Influence (nats) of tokens start..stop (half-open) of a document that was split into windows.

    `context` is how many tokens of other documents stood before them in the training sequence.
    """

    start: int
    stop: int
    influence: float
    context: int = 0


class Hit(_Frozen):
    """One document of a ranking.

    Attributes:
        rank: 1 is the strongest of its list (proponents or opponents).
        id, source, row, hash, metadata: The document's identity.
        document: Its number in the run (0-based, in corpus order).
        length: Its length in tokens.
        weight: How often it was trained on, as the mix says; contained in `influence`.
        influence: Nats; positive supports the output.
        refined: True if `influence` was recomputed by running the model (``--exact``), not read from the index.
        index_influence: What the index said (None if there was no index).
        index_rank: Its rank in the index's own ranking (None if there was no index).
        gradient_dot: Plain inner product of query and document gradients, over n, in nats per unit step.
        gradient_dot_rank: Rank of the document among all by `gradient_dot` (1 = most supporting).
        bm25: BM25 score of the document for the query's prompt and completion.
        bm25_rank: Its rank among all documents by BM25 (None where BM25 was not run).
        sites: Influence by site; sums to `influence`.
        experts: Of a mixture of experts, influence of the strongest experts, as ``site[expert]``; part of `sites`.
        windows: Influence by window; sums to `influence`.
        tokens: The document's tokens with their influence (of the window with the largest |influence|).
        provenance: The row it was made from and where in it these tokens are (None in results of older versions).
        query_tokens: Influence of this document by query token, aligned with `Trace.tokens`.
    """

    rank: int
    id: str
    source: str
    row: int
    hash: str
    metadata: Mapping[str, str] = {}
    document: int
    length: int
    weight: float = 1.0
    influence: float
    refined: bool = False
    index_influence: float | None = None
    index_rank: int | None = None
    gradient_dot: float | None = None
    gradient_dot_rank: int | None = None
    bm25: float | None = None
    bm25_rank: int | None = None
    sites: Mapping[str, float] = {}
    experts: Mapping[str, float] = {}
    windows: tuple[WindowShare, ...] = ()
    tokens: tuple[Token, ...] = ()
    provenance: Provenance | None = None
    query_tokens: tuple[float, ...] = ()


class Leakage(_Frozen):
    """What the search could not see of a query's gradient (`whence.attributor.leakage` has the formulas).

    Attributes:
        unseen: Share of its squared norm, in the metric of the inverse curvature, that lies in directions which the
            damping and not the fit sample determines, 0..1.
        dropped: Share of the variance of the index's scores that is the noise of its sketch, or, where it keeps leading
            coordinates, share of influence's variance that lies in the others, 0..1; 0 for whole codes and without an
            index.
    """

    unseen: float
    dropped: float = 0.0

    @property
    def words(self) -> str:
        """One line that says both."""
        sketch = (
            f"; {self.dropped:.0%} of what the index's scores vary by is lost to its sketch" if self.dropped else ""
        )
        return f"{self.unseen:.0%} of the answer's gradient lies where damping decides and not the fit sample{sketch}"

    @property
    def warning(self) -> str:
        """What to beware of and what to do about it; empty if more than half of either is fine."""
        told = []
        if self.unseen > 0.5:
            told.append(
                "most of this answer's gradient lies in directions that the fit sample never determined: its ranking "
                "rests on the damping; fit on more documents or raise --damping"
            )
        if self.dropped > 0.5:
            told.append(
                "most of what the index's scores of this answer vary by is lost to its sketch: documents may be "
                "missing from the ranking; keep more --coordinates, or take --exact"
            )
        return ". ".join(each[0].upper() + each[1:] for each in told) + "." if told else ""


class Trace(_Frozen):
    """The documents behind one answer.

    Attributes:
        query_id: The query's id.
        prompt: The prompt, for display.
        completion: The completion, for display.
        contrast: The contrast completion, if any.
        tokens: The query's tokens; `influence` is the sum over the listed hits, by query token.
        loss: -log p(completion | prompt) in nats, on the explained tokens (minus the contrast's).
        proponents: Documents that support the output, strongest first.
        opponents: Documents that oppose it, strongest (most negative) first.
        scored: How many documents were scored.
        documents: How many there are (0 if that was not recorded).
        where: The conditions that the scored ones meet, as typed; none if all were scored.
        breakdowns: Influence of the scored ones added up by tag.
        mean: Mean influence over all scored documents, nats.
        std: Standard deviation of influence over all scored documents, nats.
        bm25_top: The documents BM25 would have named first, strongest first, with their influence.
        taught: The documents that likeliest taught the question with its answer; empty unless that was asked.
        leakage: What the search could not see of the answer's gradient; None for named methods, gradient dot, and
            results of older versions.
    """

    query_id: str
    query: Mapping[str, Any] = {}
    prompt: str
    completion: str
    contrast: str | None = None
    tokens: tuple[Token, ...] = ()
    loss: float
    proponents: tuple[Hit, ...]
    opponents: tuple[Hit, ...]
    bm25_top: tuple[Hit, ...] = ()
    taught: tuple[Teacher, ...] = ()
    scored: int
    documents: int = 0
    where: tuple[str, ...] = ()
    breakdowns: tuple[Breakdown, ...] = ()
    mean: float
    std: float
    unit: str = "nats"
    leakage: Leakage | None = None


class SiteCoverage(_Frozen):
    """One parameter of the model: attributed or not, and why not."""

    name: str
    parameters: int
    attributed: bool
    kind: str
    reason: str = ""


class Coverage(_Frozen):
    """Which share of the model's parameters is attributed."""

    parameters: int
    attributed: int
    sites: tuple[SiteCoverage, ...]

    @property
    def share(self) -> float:
        """Attributed share of the parameters, 0..1."""
        return self.attributed / self.parameters if self.parameters else 0.0


Verdict = Literal["same", "rounding", "routing", "leak"]


class Invariance(_Frozen):
    """Whether a document's gradients depend on the other documents of its batch, as measured on short ones.

    Attributes:
        verdict: same (not a bit), rounding (no more than the dtype's), routing (rounding sent a token to other
            experts), or leak (more than that).
        change: Largest relative difference at a layer that was compared.
        site: That layer; with routing, the experts that a token left.
        attention: Attention implementation.
        dtype: Of the model.
    """

    verdict: Verdict
    change: float
    site: str
    attention: str
    dtype: str

    @property
    def words(self) -> str:
        """One sentence, with a remedy where there is something to remedy."""
        where = f"with {self.attention} attention in {self.dtype}"
        if self.verdict == "same":
            return f"gradients do not depend on what shares a batch {where}"
        if self.verdict == "rounding":
            return f"gradients depend on what shares a batch by rounding alone (up to {self.change:.1e}) {where}"
        if self.verdict == "routing":
            return (
                f"what shares a batch changes gradients by rounding, and through it which experts tokens go to (first "
                f"at {self.site}) {where}; for repeatable numbers take --dtype float32 or --batch-tokens 1"
            )
        return (
            f"a document's gradients depend on the other documents of its batch, by {self.change:.1e} at {self.site} "
            f"{where}, which is more than rounding: scores would mix documents up. Take --attention eager, or "
            "--batch-tokens 1, which puts each document into a batch of its own"
        )


class RunSummary(_Frozen):
    """The settings behind a result, as every page shows them; `notes` say what was read with a reservation.

    `unit` is that of the method's scores: nats, or score where they have none.
    """

    run: str
    model: str
    data: str
    documents: int
    windows: int
    tokens: int
    skipped: int
    notes: tuple[str, ...] = ()
    trained_on: int
    method: str
    unit: str = "nats"
    recipe: str
    damping: str
    bytes_per_document: float
    coverage: Coverage
    certificate: Certificate = Certificate()
    invariance: Invariance | None = None
    whence_version: str
    settings: Mapping[str, Any] = {}


class TraceResult(_Frozen):
    """All traces of one call, with the run's settings."""

    summary: RunSummary
    traces: tuple[Trace, ...]

    def with_teachers(self, taught: Sequence[tuple[Teacher, ...]]) -> "TraceResult":
        """The same with the documents that likeliest taught each question and its answer, one tuple a trace."""
        traces = (t.model_copy(update={"taught": told}) for t, told in zip(self.traces, taught, strict=True))
        return self.model_copy(update={"traces": tuple(traces)})

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat row per (query, list, hit): identity, influence, ranks and place; no tokens."""
        rows: list[dict[str, Any]] = []
        for trace in self.traces:
            for kind, hits in (("proponent", trace.proponents), ("opponent", trace.opponents)):
                for hit in hits:
                    flat = {**hit.model_dump(exclude=_NOT_FLAT), **_place(hit.provenance)}
                    rows.append({"query_id": trace.query_id, "list": kind, **flat, "metadata": dict(hit.metadata)})
        return rows

    def to_arrow(self) -> Any:
        """The rows of `to_rows` as a `pyarrow.Table`, metadata as JSON; every result has the same columns."""
        import json

        import pyarrow as pa

        rows = [{**row, "metadata": json.dumps(row["metadata"], ensure_ascii=False)} for row in self.to_rows()]
        for row in rows:  # a lone surrogate cannot be stored as UTF-8
            row.update({k: v.encode("utf-8", "replace").decode() for k, v in row.items() if isinstance(v, str)})
        return pa.Table.from_pylist(rows, schema=_arrow_schema())

    def to_pandas(self) -> Any:
        """The rows of `to_rows` as a pandas DataFrame (needs the `pandas` extra)."""
        return self.to_arrow().to_pandas()


_PLACES = ("origin_row", "token_start", "token_stop", "character_start", "character_stop")
_NOT_FLAT = {"sites", "experts", "windows", "tokens", "query_tokens", "metadata", "provenance"}


def _place(found: Provenance | None) -> dict[str, Any]:
    """Provenance as columns; None where it is not known."""
    start, stop = (None, None) if found is None else found.window.tokens
    first, last = (None, None) if found is None or found.window.characters is None else found.window.characters
    return {
        "origin_file": None if found is None else found.file,
        "origin_row": None if found is None else found.row,
        **{"token_start": start, "token_stop": stop, "character_start": first, "character_stop": last},
    }


def _arrow_schema() -> Any:
    """Columns of `TraceResult.to_arrow`, so that tables of different results (even empty ones) can be joined."""
    import pyarrow as pa

    kinds = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    columns = {
        "string": ("query_id", "list", "id", "source", "hash", "metadata", "origin_file"),
        "int": ("rank", "row", "document", "length", "index_rank", "gradient_dot_rank", "bm25_rank", *_PLACES),
        "float": ("weight", "influence", "index_influence", "gradient_dot", "bm25"),
        "bool": ("refined",),
    }
    return pa.schema([(name, kinds[kind]) for kind, names in columns.items() for name in names])

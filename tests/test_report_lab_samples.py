"""Synthetic lab results for the tests of the report: realistic in shape, odd on request."""

import random

from test_report_samples import HOSTILE
from whence.interfaces import Cost, Estimate, LabResult, Measure, MethodKind, MethodSummary, Reading, Truth

# name, kind, LDS, passes, bytes per document
METHODS: list[tuple[str, MethodKind, float, float | None, float]] = [
    ("identity", "influence", 0.18, 1.1, 410_000),
    ("diagonal", "influence", 0.24, 2.3, 410_000),
    ("K-FAC", "influence", 0.41, 4.2, 410_000),
    ("EK-FAC", "influence", 0.46, 5.4, 410_000),
    ("EK-FAC all sites", "influence", 0.52, 6.9, 612_000),
    ("EK-FAC 1 bit 4096", "influence", 0.38, 5.6, 512),
    ("EK-FAC 1 bit 16384", "influence", 0.43, 5.7, 2_048),
    ("EK-FAC 1 bit 65536", "influence", 0.455, 5.9, 8_192),
    ("EK-FAC 8 bit 16384", "influence", 0.45, 5.8, 16_384),
    ("K-FAC 1 bit 16384", "influence", 0.39, 4.5, 2_048),
    ("exact", "influence", 0.53, 5_300.0, 0),
    ("kronfluence EK-FAC", "imported", 0.45, None, 0),
    ("bergson", "imported", 0.31, None, 0),
    ("random", "baseline", 0.003, 0.0, 0),
    ("document length", "baseline", 0.02, 0.001, 0),
    ("loss", "baseline", 0.04, 0.34, 8),
    ("BM25", "baseline", 0.12, 0.02, 0),
    ("TF-IDF", "baseline", 0.11, 0.015, 0),
    ("representations, last layer", "baseline", 0.16, 0.35, 512),
    ("representations, 3 layers", "baseline", 0.17, 0.36, 1_536),
    ("gradient dot", "baseline", 0.19, 1.2, 410_000),
    ("gradient cosine", "baseline", 0.22, 1.2, 410_000),
]
SCALE: dict[Measure, float] = {
    "lds": 1.0, "loo": 0.7, "removal": 0.08, "further-training": 0.8, "tail-patch": 0.012, "recall": 1.4, "mrr": 1.5,
    "mislabel": 1.0,
}  # fmt: skip


def estimate(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half * 0.9)


def make_truth(measure: Measure, *, ceiling: bool = True) -> Truth:
    retrained = measure not in ("recall", "mrr", "mislabel", "tail-patch")
    return Truth(
        measure=measure,
        ceiling=estimate(0.81 * SCALE[measure], 0.03 * SCALE[measure]) if retrained and ceiling else None,
        queries=40,
        subsets=64 if retrained else 0,
        seeds=2 if retrained else 0,
        retrains=128 if retrained else 0,
        about="half of the documents each" if measure == "lds" else "",
    )


def make_lab(
    measures: tuple[Measure, ...] = ("lds", "loo", "removal", "tail-patch", "recall"),
    methods: int | None = None,
    *,
    ceiling: bool = True,
    seed: int = 0,
) -> LabResult:
    rng = random.Random(seed)
    rows = METHODS[:methods]
    summaries = tuple(
        MethodSummary(
            name=name,
            kind=kind,
            settings={"damping": 0.1, "coordinates": 16_384} if kind == "influence" else {},
            cost=None
            if passes is None
            else Cost(seconds=passes * 7.4, passes=passes, bytes_per_document=size, fit=passes * 0.4,
                      index=passes * 0.4, query=passes * 0.2),
        )
        for name, kind, _, passes, size in rows
    )  # fmt: skip
    readings = tuple(
        Reading(
            measure=measure,
            method=name,
            estimate=estimate((lds + rng.gauss(0, 0.02)) * SCALE[measure], 0.05 * SCALE[measure]),
            detail={"slope": 0.9} if measure == "loo" else {},
        )
        for name, _, lds, _, _ in rows
        for measure in measures
        if not (name == "bergson" and measure == "tail-patch")
    )
    return LabResult(
        run="runs/coast", model="LlamaForCausalLM, 118,272 parameters", training="AdamW, 3 epochs from scratch",
        documents=2_000, queries=40, parameters=118_272, plain_seconds=7.4,
        truths=tuple(make_truth(measure, ceiling=ceiling) for measure in measures),
        methods=summaries, readings=readings,
        command="whence evaluate --run runs/coast --pareto methods.toml", whence_version="0.1.0",
    )  # fmt: skip


ODD = [
    *HOSTILE,
    "مثال على الاسم",
    "שם ארוך",
    "=cmd|' /C calc'!A0",
    "a|b`c`*d*",
    "x" * 300,
    "",
    "\uffff\ufffe",
    "多言語の方法名",
]


def make_odd_lab(names: list[str] | None = None, text: str | None = None) -> LabResult:
    """A lab result whose names are hard to show, and, if `text` is given, all other words too."""
    names = list(dict.fromkeys(ODD if names is None else names))
    base = make_lab(("lds", "removal"), methods=1)
    kinds: list[MethodKind] = ["influence", "baseline", "imported", "oracle"]
    methods = tuple(
        MethodSummary(
            name=name,
            kind=kinds[i % 4],
            settings={name: name, "n": i},
            cost=Cost(seconds=i * 3.0, passes=float(i), bytes_per_document=i * 100.0) if i % 4 != 2 else None,
        )
        for i, name in enumerate(names)
    )
    readings = tuple(
        Reading(measure="lds", method=name, estimate=estimate(0.1 + i / 40)) for i, name in enumerate(names)
    )
    words = {key: text for key in ("run", "model", "training", "command", "whence_version")} if text is not None else {}
    return base.model_copy(update={"methods": methods, "readings": readings, **words})

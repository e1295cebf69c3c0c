"""One object for users: opens a run, knows its model, corpus, curvature and index, and answers queries.

Wires the rooms together and holds no mathematics. Every long step is a list of items that any number of workers can
take shares of (`steps.py`); `fit` and `index` here simply do all of them in order.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whence.attributor.binding import begun, bound, flat, named
from whence.attributor.config import ModelConfig, checked, complete, merge_settings
from whence.attributor.curvatures import load_curvatures
from whence.attributor.lying import found, same_files
from whence.curvature import SiteCurvature
from whence.data import Corpus, encode_queries, open_corpus, refuse_changed_files, tokenizer_fingerprint
from whence.errors import CoverageError, IncompleteError, InputError, ModelError, StaleRunError
from whence.gradients import Recipe, Runner, SiteEncoder, build_encoders, language_examples, weighted
from whence.interfaces import Coverage, EncodedQuery, Invariance, Query, Site, TokenBatch
from whence.model import (
    CausalLM,
    LoadedModel,
    Placement,
    check_invariance,
    coverage,
    find_sites,
    load_model,
    load_tokenizer,
    probe_sites,
)
from whence.runs import Run, refuse_if_changed, write_json
from whence.store import Index, open_index

__all__ = ["Attributor", "model_coverage", "sites_of"]

Report = Callable[[str, int, int], None]


class Attributor:
    """Influence of the documents of a corpus on the outputs of a model.

    Example:
        >>> import whence  # doctest: +SKIP
        >>> run = whence.Attributor("run", model="my-model", data=["corpus.jsonl"])  # doctest: +SKIP
        >>> result = run.trace([whence.Query(prompt="The capital is", completion=" Paris")])  # doctest: +SKIP
        >>> result.to_pandas()[["id", "influence", "bm25_rank"]]  # doctest: +SKIP

    Args:
        run: Run folder; read if it exists, made otherwise.
        model: Hugging Face directory or hub id (needed for a new run; where it lies now, for one that is there).
        data: Files, folders, globs or URLs (needed for a new run).
        settings: Any other settings, nested as in `RunConfig`: ``{"fit": {"sample": 0.5}, "recipe": {"bits": 8}}``.
        device: auto, cpu, cuda or cuda:N; not a setting of the run.
        placement: Spread over devices or processes, checkpointing; not a setting of the run either.

    Raises:
        StaleRunError: The run was made with another model, tokenizer, corpus or settings.
        CoverageError: Too few of the parameters can be attributed.
        InputError: Model or data are missing or cannot be used.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        model: str | None = None,
        data: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        device: str = "auto",
        placement: Placement = Placement(),
    ) -> None:
        self.run = Run(run)
        stored = self.run.read() if self.run.exists else None
        asked = dict(settings or {})
        for name in ("model", "corpus"):
            if not isinstance(asked.get(name, {}), Mapping):
                raise InputError(
                    f"{name} = {asked[name]!r} is no table of settings; write [{name}] and its keys below."
                )
        if model is not None:
            asked["model"] = {**asked.get("model", {}), "model": model}
        if data:
            asked["corpus"] = {**asked.get("corpus", {}), "data": [data] if isinstance(data, str) else list(data)}
        started = Path(stored.get("started_in", "")) if stored else Path()
        if stored is not None and asked.get("corpus", {}).get("data"):
            asked["corpus"] = {**asked["corpus"], "data": same_files(asked["corpus"]["data"], stored, started)}
        if stored is not None and model is not None and asked.get("corpus", {}).get("data") and not self._begun():
            stored = None  # all that an attempt left behind is its settings; another may be tried
        merged = merge_settings(stored["config"] if stored else {}, asked)
        if "model" not in merged.get("model", {}) or not merged.get("corpus", {}).get("data"):
            raise InputError(
                f"{self.run.path} is not a run yet, and a new one needs a model and data: give --model (a directory or "
                "hub id) and --data (files, folders, globs or URLs of its training documents)."
            )
        if stored is not None and merged["model"].get("dtype") == "auto":
            merged["model"]["dtype"] = stored["fingerprints"]["model"]["dtype"]
        chosen = checked(ModelConfig, merged["model"])
        self.source, self.device, self.placement = found(chosen, started), device, placement
        self.loaded, self.tokenizer = self._load(self.source, device, placement)
        merged["model"]["dtype"] = self.loaded.fingerprint["dtype"]  # what auto meant, wherever the run goes on
        self.invariance: Invariance | None = None  # whether gradients depend on what shares a batch, as measured
        self.config = complete(merged, self.loaded.context, self.loaded.vocabulary)
        if self.config.fit.pack and not self.loaded.packs:
            raise InputError(
                f"{self.loaded.name} cannot keep packed documents apart (it takes no positions, or attends through a "
                "sliding window); leave --pack out."
            )
        self.bind(stored)
        if self.run.corpus.joinpath("manifest.json").is_file():
            refuse_changed_files(self.config.corpus, self.run.corpus)

    # ------------------------------------------------------------------ opening

    @staticmethod
    def _load(settings: ModelConfig, device: str, placement: Placement) -> tuple[LoadedModel, Any]:
        loaded = load_model(
            settings.model,
            adapter=settings.adapter,
            revision=settings.revision,
            dtype=settings.dtype,
            device=device,
            attention=settings.attention,
            quantize=settings.quantize,
            placement=placement,
        )
        try:
            tokenizer = load_tokenizer(settings.tokenizer or settings.model, settings.revision)
        except ModelError:
            if settings.tokenizer is not None:
                raise
            tokenizer = None  # documents may come as token ids
        return loaded, tokenizer

    def _begun(self) -> bool:
        """Whether any part of the corpus has been read, which everything else rests on."""
        return any(self.run.corpus.glob("*/done.json"))

    def bind(self, stored: Mapping[str, Any] | None) -> None:
        """Refuse a run made from something else; write run.json for a new one."""
        fingerprints = {
            "model": self.loaded.fingerprint,
            "tokenizer": None if self.tokenizer is None else tokenizer_fingerprint(self.tokenizer),
            "sites": named(self.sites),
        }
        content = {"config": self.config.model_dump(mode="json"), "fingerprints": fingerprints}
        if stored is None:
            self._check_coverage()
            import whence

            begun = {"whence": whence.__version__, "started_in": str(Path.cwd())}
            self.invariance = check_invariance(self.loaded, self.sites)
            self.run.write({**begun, "invariance": self.invariance.model_dump(mode="json"), **content})
            write_json(self.run.path / "coverage.json", self.coverage.model_dump(mode="json"))
            return
        measured = stored.get("invariance")
        self.invariance = None if measured is None else Invariance.model_validate(measured)
        remedy = "Go back to those settings, or name another run folder with --run to make a new run."
        refuse_if_changed(self.run.path, flat(bound(stored)), flat(bound(content)), remedy)
        self._check_coverage()

    def _check_coverage(self) -> None:
        got = self.coverage
        chosen = [line for line in got.sites if not line.reason.startswith("left out by --sites")]
        total = sum(line.parameters for line in chosen)
        share = sum(line.parameters for line in chosen if line.attributed) / max(total, 1)
        if share >= self.config.model.min_coverage:
            return
        missing = sorted((line for line in chosen if not line.attributed), key=lambda line: -line.parameters)
        listing = "\n  ".join(f"{line.name}: {line.parameters:,} ({line.reason})" for line in missing[:8])
        raise CoverageError(
            f"only {share:.1%} of the parameters can be attributed, less than {self.config.model.min_coverage:.0%}. "
            f"The largest of the {len(missing)} left out:\n  {listing}\n"
            f"Influence through them would be missing. To accept that: --min-coverage {max(share - 0.005, 0):.2f}"
        )

    # ------------------------------------------------------------------ parts

    @cached_property
    def sites(self) -> list[Site]:
        """The sites attributed, as a small run of the model found them."""
        return sites_of(self.loaded, self.config.model.sites)

    @cached_property
    def coverage(self) -> Coverage:
        """Which share of the model's parameters is attributed, what is not, and why."""
        return coverage(self.loaded.model, self.sites, self.loaded.trained, self.config.model.sites)

    @cached_property
    def corpus(self) -> Corpus:
        """The tokenised corpus.

        Raises:
            IncompleteError: It has not been read yet.
        """
        return open_corpus(self.run.corpus)

    @property
    def runner(self) -> Runner:
        """The model with its sites and loss."""
        return Runner(self.loaded.model, self.sites)

    @property
    def trained_on(self) -> float:
        """n, the documents the model was trained on, each counted as often as its source's weight says."""
        return self.config.trained_on or self.corpus.trained_documents

    def weight(self, document: int) -> float:
        """How often a document was trained on."""
        return float(self.corpus.weights(np.array([document]))[0])

    def unit(self, document: int) -> float:
        """What turns inner products with a document's gradient into nats: its weight over n."""
        return self.weight(document) / self.trained_on

    def recipe(self, name: str | None = None) -> Recipe:
        """The resolved recipe of an index: the named one, or the run's own."""
        if name is not None:
            return Recipe.model_validate(self.open_index(name).recipe)
        return self.resolved(self.config.recipe)

    def resolved(self, recipe: Recipe) -> Recipe:
        """A recipe with its budget decided, or as the index has it that was begun when `auto` meant another projection.

        Until there were leading coordinates, `auto` sketched what was too large; such an index is still the run's own.
        """
        now = recipe.resolved(self.sites)
        return begun(recipe, now, self.run.index, self.index_names()) or now

    def index_names(self) -> list[str]:
        """Names of the indexes in the run."""
        if not self.run.index.is_dir():
            return []
        return sorted(path.parent.name for path in self.run.index.glob("*/manifest.json"))

    def open_index(self, name: str | None = None) -> Index:
        """Open an index by name, the run's own, or the only one.

        Raises:
            IncompleteError: There is none, or it is not finished.
            InputError: There are several and none is the run's own; names them.
        """
        names = self.index_names()
        own = self.recipe().name
        if name is None:
            name = own if own in names or not names else (names[0] if len(names) == 1 else None)
        if name is None or (names and name not in names):
            wrong = "which index?" if name is None else f"there is no index {name!r}."
            raise InputError(f"{wrong} This run has: {', '.join(names)}. Name one with --index.")
        index = open_index(self.run.index / name)
        if index.corpus != self.corpus.fingerprint:
            raise StaleRunError(
                f"the index {name} was made from another corpus ({index.corpus}) than the run has now "
                f"({self.corpus.fingerprint}); delete {index.folder} and run `whence index` again."
            )
        missing = index.missing()
        if missing:
            raise IncompleteError(
                f"the index {name} lacks {len(missing)} of {len(index.shares)} shares; run `whence index --run "
                f"{self.run.path}` again, it goes on where it stopped."
            )
        return index

    def damped(self, recipe: Recipe) -> dict[str, tuple[SiteCurvature, float]]:
        """Curvature of every site under a recipe, on the CPU, and what is added to it before it is inverted.

        Where sites have weights both are divided by the site's.

        Raises:
            IncompleteError: The curvature it needs has not been fitted.
        """
        per_document = self.corpus.trained_targets / self.corpus.trained_documents
        fitted = load_curvatures(self.run.curvature, self.sites, recipe.curvature)
        if recipe.method == "identity":
            return {name: (curvature, 1.0) for name, curvature in fitted.items()}
        damped = {
            site.name: (fitted[site.name], recipe.rule(site).of(site.name, fitted[site.name], per_document))
            for site in self.sites
        }
        return weighted(self.sites, damped, recipe.weights) if recipe.method == "unsaturated" else damped

    @property
    def wide(self) -> torch.dtype:
        """What is computed in outside the model: float32, or float64 where the model is."""
        return torch.promote_types(next(self.loaded.model.parameters()).dtype, torch.float32)

    def encoders(self, recipe: Recipe) -> dict[str, SiteEncoder]:
        """What turns gradients into codes under a recipe.

        Raises:
            IncompleteError: The curvature it needs has not been fitted.
        """
        damped = self.damped(recipe)
        curvatures = {name: curvature for name, (curvature, _) in damped.items()}
        dampings = {name: damping for name, (_, damping) in damped.items()}
        return build_encoders(self.sites, curvatures, dampings, recipe, self.loaded.device_of, self.wide)

    def encode_queries(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        """Queries as tokens.

        Raises:
            QueryError: A completion is empty, a query is longer than the context, a span is not there.
            ModelError: The model has no tokenizer.
        """
        if self.tokenizer is None:
            raise ModelError(
                f"queries need a tokenizer, and none lies beside {self.config.model.model}; use --tokenizer."
            )
        return encode_queries(queries, self.tokenizer, self.config.corpus.context)

    # ------------------------------------------------------------------ work

    def fit(self, report: Report | None = None) -> None:
        """Read the corpus and fit the curvature; goes on where it stopped."""
        from whence.attributor.fitting import fit_steps
        from whence.attributor.steps import run_steps

        run_steps(fit_steps(self), report=report)

    def index(self, recipe: Recipe | None = None, report: Report | None = None) -> Index:
        """Code every document; goes on where it stopped. Fits first if that has not been done."""
        from whence.attributor.fitting import fit_steps
        from whence.attributor.indexing import index_steps
        from whence.attributor.steps import run_steps

        run_steps([*fit_steps(self), *index_steps(self, recipe)], report=report)
        return self.open_index(self.resolved(recipe or self.config.recipe).name)

    def trace(self, queries: Sequence[Query], **options: Any) -> Any:
        """Which documents made the model say this? See `whence.attributor.trace.trace` for the options.

        Returns:
            A `whence.TraceResult`.
        """
        from whence.attributor.trace import trace

        return trace(self, queries, **options)

    def scores(self, queries: Sequence[Query], **options: Any) -> NDArray[np.float64]:
        """Influence of every document on every query in nats, [Q, documents]. See `whence.attributor.trace.scores`."""
        from whence.attributor.trace import scores

        return scores(self, queries, **options)

    def teachers(self, queries: Sequence[Query], **options: Any) -> Any:
        """Which documents taught the question with its answer? See `whence.attributor.teaching.teachers`."""
        from whence.attributor.teaching import teachers

        return teachers(self, queries, **options)

    def self_influence(self, recipe: Recipe | None = None, report: Report | None = None) -> NDArray[np.float64]:
        """Influence of every document on its own loss in nats, [documents]; never negative.

        Large for documents that are memorised or mislabelled. Runs the model over the corpus once; fits first if that
        has not been done. A document of several windows has that of its summed gradient.
        """
        from whence.attributor.matrices import self_scores

        self.fit(report)
        done = 0

        def advance(tokens: int) -> None:
            nonlocal done
            done += tokens
            if report is not None:
                report("self-influence", done, self.corpus.tokens)

        return self_scores(self, recipe or self.recipe(), advance).influence


def sites_of(loaded: LoadedModel, patterns: Sequence[str]) -> list[Site]:
    """The sites of a model that a small run of it really reaches."""
    found = find_sites(loaded.model, patterns, loaded.trained)
    width = min(8, loaded.context)
    tokens = np.ones((2, width), dtype=np.int64)
    segments = np.where(np.arange(width) < np.array([[width], [max(width - 3, 2)]]), [[0], [1]], -1)
    loss = segments >= 0
    loss[:, 0] = False
    batch = TokenBatch(np.arange(2), tokens, segments >= 0, loss, segments)
    inputs = language_examples(batch, loaded).inputs
    objective = CausalLM()
    return probe_sites(loaded.model, found, lambda: objective.losses(loaded.model, inputs), 2, loaded.head, width)


def model_coverage(
    model: str,
    adapter: str | Sequence[str] | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    sites: Sequence[str] = (),
) -> Coverage:
    """Which share of a model's parameters can be attributed, without a run."""
    loaded = load_model(model, adapter=adapter, revision=revision, dtype=dtype, device="cpu")
    return coverage(loaded.model, sites_of(loaded, sites), loaded.trained, sites)

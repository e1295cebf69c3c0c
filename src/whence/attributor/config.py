"""The resolved settings of a run; kept in run.json, so that any command can replay them."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from whence.data import CorpusConfig
from whence.errors import InputError
from whence.gradients import Curvature, Precision, Recipe

__all__ = ["FitConfig", "ModelConfig", "RunConfig", "checked", "complete", "merge_settings"]

DEFAULT_CONTEXT = 2048
"""Longest window unless asked otherwise; a model may take far longer sequences than it was trained on."""

M = TypeVar("M", bound=BaseModel)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Settings):
    """Which model.

    Attributes:
        model: Hugging Face directory or hub id.
        adapter: PEFT adapters, all active; then only their parameters are attributed.
        revision: Hub revision.
        tokenizer: Another tokenizer than the one beside the model.
        dtype: auto, float32, bfloat16, float16, float64.
        attention: Attention implementation of transformers; its default if None.
        quantize: Keep the base model in nf4, as the adapters on it were trained.
        sites: Shell patterns of the sites to attribute; all if empty.
        min_coverage: Least share of the parameters that must be attributed.
    """

    model: str
    adapter: tuple[str, ...] = ()
    revision: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    attention: str | None = None
    quantize: str | None = None
    sites: tuple[str, ...] = ()
    min_coverage: float = Field(default=0.9, ge=0, le=1)

    @field_validator("adapter", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else (given or ())


class FitConfig(_Settings):
    """How curvature is fitted.

    Attributes:
        method: ekfac, kfac, diagonal or identity.
        sample: Share of the documents to fit on.
        min_documents: Fit on at least this many (or all there are).
        parts: The sample is fitted in at least this many independent parts, whose spread gives the error estimate;
            in more where a part would have over two million tokens.
        seed: Seed of the sample and of the sampled labels.
        head_limit: Above this vocabulary size the output factor of the head is diagonal.
        precision: Precision of matrix products in the fit: fast or full.
        batch_tokens: Padded tokens per batch.
        pack: Put several short documents into one row of the batch, with a block-diagonal attention mask.
    """

    method: Curvature = "ekfac"
    sample: float = Field(default=0.25, gt=0, le=1)
    min_documents: int = Field(default=64, ge=1)
    parts: int = Field(default=4, ge=1)
    seed: int = 0
    head_limit: int = Field(default=4096, ge=0)
    precision: Precision = "fast"
    batch_tokens: int = Field(default=4096, ge=1)
    pack: bool = False


class RunConfig(_Settings):
    """Everything a run was asked for.

    Attributes:
        model: Which model.
        corpus: Which documents, and how they become tokens.
        fit: How curvature is fitted.
        recipe: How documents are coded.
        trained_on: Documents the model was trained on, if the corpus is a sample of them; scales influence.
    """

    model: ModelConfig
    corpus: CorpusConfig
    fit: FitConfig = FitConfig()
    recipe: Recipe = Recipe()
    trained_on: int | None = Field(default=None, ge=1)


def merge_settings(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with others on top; None means not given.

    >>> merge_settings({"fit": {"seed": 1, "parts": 4}}, {"fit": {"seed": 2, "parts": None}})
    {'fit': {'seed': 2, 'parts': 4}}
    """
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(out.get(key, {}), Mapping):
            out[key] = merge_settings(out.get(key, {}), value)
        elif value is not None:
            out[key] = value
    return out


def checked(kind: type[M], values: Mapping[str, Any]) -> M:
    """Settings as their model.

    Raises:
        InputError: One is unknown or out of range; names each.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_complaint(kind, each["loc"], each["type"], each["msg"], each["input"]) for each in error.errors()]
        raise InputError("these settings cannot be used:\n  " + "\n  ".join(lines)) from error


def _complaint(kind: type[BaseModel], place: tuple[int | str, ...], fault: str, message: str, given: Any) -> str:
    name = ".".join(map(str, place))
    if fault != "extra_forbidden":
        return f"{name}: {message.removeprefix('Value error, ')} (got {given!r})"
    for part in place[:-1]:
        inner = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        kind = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else kind
    return f"{name}: there is no such setting (got {given!r}); beside it there are {', '.join(kind.model_fields)}"


def complete(settings: Mapping[str, Any], context: int, vocabulary: int) -> RunConfig:
    """A run's configuration, with what only the model can tell.

    Raises:
        InputError: A setting is unknown or out of range, or windows longer than the model's context were asked for.
    """
    corpus = merge_settings(
        {"context": min(context, DEFAULT_CONTEXT), "vocabulary": vocabulary}, settings.get("corpus", {})
    )
    fit, recipe = settings.get("fit", {}), settings.get("recipe", {})
    if isinstance(fit, Mapping) and isinstance(recipe, Mapping):  # codes have the curvature that was fitted
        if "method" in fit:
            recipe = merge_settings({"method": fit["method"]}, recipe)
        elif "method" in recipe:
            fit = {**fit, "method": "ekfac" if recipe["method"] == "unsaturated" else recipe["method"]}
    config = checked(RunConfig, {**settings, "corpus": corpus, "fit": fit, "recipe": recipe})
    if config.corpus.context > context:
        raise InputError(
            f"--context {config.corpus.context} is longer than the model's own context of {context} tokens."
        )
    return config

"""A proxy: a model in which linear layers are products of two smaller ones; how it was made and what came of it.

What ``proxy.json`` beside a proxy's weights says. Knows no torch.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["PROXY_FILE", "ProxyCard", "ProxyCheck", "ProxyKind", "ProxySettings", "ProxySite"]

PROXY_FILE = "proxy.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProxySettings(_Record):
    """How a proxy is made of a model.

    Attributes:
        share: Of the parameters of the linear layers in the blocks, how much is kept.
        rank: The same rank for each of them, in place of a share.
        damping: Added to the eigenvalues of each covariance by which errors are weighed, in multiples of their mean.
        steps: Steps of the alignment; 0 leaves it at the decomposition.
        rate: Of the first step, as a share of the root mean square of a factor's entries; falls to 0 in a line.
        weight: Of the Kullback-Leibler divergence (nats per token), beside the distances of gradients.
        temperature: Of the two distributions that it compares; it is multiplied by its square.
        documents: To align on; a quarter as many more are held out to measure on.
        batch: Documents of a step.
    """

    share: float | None = Field(default=None, gt=0, lt=1)
    rank: int | None = Field(default=None, ge=1)
    damping: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    steps: int = Field(default=100, ge=0)
    rate: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    documents: int = Field(default=64, ge=1)
    batch: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _one_size(self) -> "ProxySettings":
        if self.share is not None and self.rank is not None:
            raise ValueError("share and rank are two ways to say how large the proxy is; give one of them")
        if self.share is None and self.rank is None:
            object.__setattr__(self, "share", 0.25)
        return self


class ProxySite(_Record):
    """One linear layer of the target.

    Attributes:
        name: Its module.
        outputs: O.
        inputs: I.
        rank: Of the product in its place; None if it stayed as it is.
        error: Half the weighted squared error: the nats by which -log p of a document is expected to move, by K-FAC.
        even: What that would be if every site kept the same share of its parameters.
        size: Half the weighted squared norm of the weight itself.
    """

    name: str
    outputs: int
    inputs: int
    rank: int | None
    error: float
    even: float
    size: float


class ProxyKind(_Record):
    """Parameters of one kind of module.

    Attributes:
        kind: linear layers in the blocks, embedding, head, …
        before: Parameters of the target.
        after: Of the proxy.
    """

    kind: str
    before: int
    after: int


class ProxyCheck(_Record):
    """A proxy beside its target, on documents that were not aligned on.

    Attributes:
        stage: decomposed or aligned.
        documents: How many.
        cosine: Of the gradients of its factors with those that the target's weight gradients imply; mean over
            documents, sites and both factors.
        divergence: Kullback-Leibler divergence from the target, nats per token.
        loss: -log p, nats per token.
        target: The target's -log p, nats per token.
    """

    stage: Literal["decomposed", "aligned"]
    documents: int
    cosine: float
    divergence: float
    loss: float
    target: float


class ProxyCard(_Record):
    """What ``proxy.json`` says.

    Attributes:
        format: Of this file.
        architecture: Class of the model.
        ranks: Module -> rank; what is not here is as in the target.
        settings: How it was made.
        target: The target's name.
        fingerprint: Of the target.
        corpus: Of the documents.
        sites: The linear layers that were looked at.
        kept: Others that could have been decomposed and were not, with why.
        kinds: Parameters before and after.
        checks: What it is like, stage by stage.
        whence_version: By which it was made.
    """

    format: Literal[1] = 1
    architecture: str
    ranks: dict[str, int]
    settings: ProxySettings
    target: str
    fingerprint: dict[str, Any]
    corpus: str
    sites: tuple[ProxySite, ...] = ()
    kept: dict[str, str] = {}
    kinds: tuple[ProxyKind, ...] = ()
    checks: tuple[ProxyCheck, ...] = ()
    whence_version: str = ""

"""IProX: influence by a proxy that is made of the model itself, so that its gradients are the model's in small.

Made in two stages (Chen et al. 2026, arXiv:2602.17835): each linear layer in the blocks becomes a product of two,
weighed by K-FAC's covariances (`whence.curvature.ipsvd`), then the factors are trained so that their gradients are
those that the model's weight gradients imply (`whence.model.alignment`). Scores are then those of `proxy`, with all
that it ignores: nats of the proxy's own log p. Other than in the paper, covariances are the run's own and whole, ranks
are spent where they lower the error most, and influence is EK-FAC's.

Cost: the run's covariances, O^3 + I^3 for each site, then for each step of the alignment a batch of documents forward,
backward and through the backward pass again (about five passes of both models); then fit and scores of the proxy.
Embeddings, head, norms and stacks of experts stay whole: where they are most of the model, little is saved.

When it hurts: at small shares the proxy says other things than the model, and no alignment on a few documents brings
that back; where the corpus is scored once only, making the proxy may cost more than it saves.
"""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from whence.attributor import Step
from whence.attributor.proxies import proxy_steps
from whence.attributor.proxy_making import ProxyMaking
from whence.interfaces import ProxySettings
from whence.methods.base import Work, ekfac_steps
from whence.methods.proxy import Proxied
from whence.runs import is_done

__all__ = ["Iprox"]


class Iprox(Proxied):
    """Influence by a proxy made of the model.

    Attributes:
        share: Of the parameters of the linear layers in the blocks, how much is kept.
        align: Steps of the alignment; 0 leaves the proxy as it was decomposed.
        rate: Of its first step, as a share of the root mean square of a factor's entries.
        weight: Of the divergence from the model's distribution in it.
    """

    key: ClassVar[str] = "iprox"
    title: ClassVar[str] = "IProX"
    paper: ClassVar[str] = "Chen et al. 2026, arXiv:2602.17835"

    share: float = Field(default=0.25, gt=0, lt=1)
    align: int = Field(default=100, ge=0)
    rate: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)

    def reference(self, work: Work) -> str:
        """Where the proxy is put."""
        return str(work.folder(self) / "model")

    def there(self, work: Work) -> bool:
        """Whether it has been made."""
        return is_done(Path(self.reference(work)))

    def steps(self, work: Work) -> list[Step]:
        """The model's covariances, the proxy, and the proxy's fit and index."""
        settings = ProxySettings(share=self.share, steps=self.align, rate=self.rate, weight=self.weight)
        place = work.folder(self)
        making = ProxyMaking(work.owner, settings, place / "making", place / "model")
        return [*ekfac_steps(work.owner, measured=False), *proxy_steps(making), *self.inner_steps(work)]

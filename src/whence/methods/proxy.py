"""Influence by a smaller model: that of each document on what the *proxy* says, as its own EK-FAC has it.

    influence(z, q) = (w / n) <(C_p + l)^-1 grad_p q, grad_p z>      p: the proxy's parameters, -log p its own

The proxy is any model that reads the same token ids: one that ``whence proxy`` made of the run's model, one of the same
family off the shelf, one trained on the same corpus. It has a fit, and if bits are given an index, of its own over the
run's corpus; every pass costs what the proxy costs, not the run's model.

Ignored: everything in which the proxy differs from the model. Scores are nats of the proxy's log p, not of the model's,
and rank documents as far as both learnt the same from them. That hurts

    where only the larger model has learnt what is asked (a fact, a language, verbatim text): the proxy's gradient then
        says what would teach it, not what taught the model;
    where a proxy made by decomposition lost the directions that matter: look at the divergence and the cosine that
        ``whence proxy`` prints;
    for a model whose fine-tuning is asked about: an off-the-shelf proxy was not fine-tuned on it, and has nothing to
        say of how it changed the model;
    for sizes: a small model's losses are larger, and so are its gradients.

Cost: fit and scores of the proxy in place of the model's: (forward and backward of the proxy) / (those of the model)
of the passes, and (O + I) r instead of O I numbers of a document's gradient at a site that is a product.
"""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from whence.attributor import Attributor, Step, ask, index_steps
from whence.attributor.proxy_runs import at_proxy
from whence.attributor.search import against, from_index, solved
from whence.attributor.steps import CorpusStep
from whence.curvature import Damping
from whence.gradients import Recipe
from whence.interfaces import EncodedQuery
from whence.methods.base import Advance, Scorer, Work, ekfac_steps
from whence.methods.later import Later
from whence.scoring import Fold

__all__ = ["Proxied", "Proxy"]


class Proxied(Scorer):
    """What methods that score with another model share.

    Attributes:
        curvature: Of the proxy: ekfac, kfac, or identity for gradient dots (which, of a product, depend on how it is
            split, as influence with curvature hardly does).
        damping: Lambda as a multiple of each site's mean eigenvalue.
        bits: Bits per stored coordinate of an index of the proxy's gradients; exact runs the proxy over the corpus.
    """

    curvature: Literal["ekfac", "kfac", "identity"] = "ekfac"
    damping: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    bits: Literal["1", "8", "16", "exact"] = "exact"

    def reference(self, work: Work) -> str:
        """Directory or hub id of the proxy."""
        raise AssertionError("defined by each method")

    def there(self, work: Work) -> bool:
        """Whether the proxy can be loaded by now."""
        return True

    def opened(self, work: Work) -> Attributor:
        """The proxy's run."""
        return at_proxy(work.owner, self.reference(work), work.folder(self) / "run")

    def recipe(self) -> Recipe:
        """How its documents are coded, and queries solved."""
        bits: Any = 16 if self.bits == "exact" else int(self.bits)
        return Recipe(method=self.curvature, damping=Damping(value=self.damping), bits=bits)

    def inner_steps(self, work: Work) -> list[Step]:
        """The proxy's fit and index, made when they are asked for."""
        names = {"ekfac": ["covariance", "eigenvalues"], "kfac": ["covariance"], "identity": []}[self.curvature]
        names = [*names, *(["index"] if self.bits != "exact" else [])]
        return [Later(name, cache(partial(self._inner, work, name)), partial(self.there, work)) for name in names]

    def _inner(self, work: Work, name: str) -> Step:
        at = self.opened(work)
        every = [*ekfac_steps(at), *index_steps(at, self.recipe())]
        return next(step for step in every if step.name == name)

    def stream(self, work: Work, queries: Sequence[EncodedQuery], folds: Sequence[Fold], advance: Advance) -> None:
        """Scores from the proxy's index, or by running it over the corpus."""
        at = self.opened(work)
        question, scale = ask(at, queries), 1.0 / at.trained_on
        recipe = self.recipe().resolved(at.sites)
        encoders = at.encoders(recipe)
        if self.bits == "exact":
            against(at, [solved(question, encoders)], folds, scale, None, advance)
        else:
            index = at.open_index(recipe.name)
            from_index(question, index, encoders, folds, scale, at.corpus.weights, plain=False)

    def bytes_per_document(self, work: Work) -> float:
        """Bytes of its codes."""
        if self.bits == "exact":
            return 0.0
        at = self.opened(work)
        recipe = self.recipe().resolved(at.sites)
        return recipe.bytes_per_row(at.sites) * at.corpus.windows / at.corpus.documents


class Proxy(Proxied):
    """Influence by a given smaller model.

    Attributes:
        model: Directory or hub id of the proxy.
    """

    key: ClassVar[str] = "proxy"
    title: ClassVar[str] = "proxy"
    paper: ClassVar[str] = "Chen et al. 2026, arXiv:2602.17835"

    model: str = Field(min_length=1)

    def reference(self, work: Work) -> str:
        """As given, a relative path also as seen from where the run was started."""
        if Path(self.model).exists() or not work.owner.run.exists:
            return self.model
        seen = Path(str(work.owner.run.read().get("started_in", ""))) / self.model
        return str(seen) if seen.is_dir() else self.model

    def steps(self, work: Work) -> list[Step]:
        """The corpus, then the proxy's fit and index."""
        return [CorpusStep(work.owner), *self.inner_steps(work)]

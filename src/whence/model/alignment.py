"""Training the two factors of each product so that their gradients are those that the target's weights imply.

For a product W_hat = A B (A up [O, r], B down [r, I]) the chain rule says grad A = G B^T and grad B = A^T G with G the
gradient by W_hat. So a proxy in which

    grad A  is along  G_W B^T       and      grad B  is along  A^T G_W          G_W: the target's gradient, held fixed

has, in its own coordinates, the target's gradients. What falls is

    mean over documents, sites of  d(grad A, G_W B^T) + d(grad B, A^T G_W)   +   weight tau^2 KL(target || proxy)

with d = 1 - cosine, and KL per predicted token at temperature tau (the second stage of IProX, Chen et al. 2026,
arXiv:2602.17835). The cosine rather than a relative squared error, whose smallest value for gradients that cannot be
matched is at no gradient at all, so that it shrinks them. Gradients are those of one document's (one window's) -log p,
as influence has them, not of a batch.

No [O, I] block is formed: all four products come from inputs [N, T, I] and gradients of outputs [N, T, O]. Memory of a
batch: activations twice over, and (O + I) r numbers for each site and document. Biases, embeddings, norms and all else
stay fixed. Ignored: how long gradients are; documents that were not drawn; the curvature in which influence measures
gradients.

Axes: N documents, T tokens, O and I of a site, r its rank.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.errors import ModelError, NumericalError
from whence.model import experts
from whence.model.capture import first_input, frozen
from whence.model.checkpointing import kept_whole
from whence.model.factored import FactoredLinear, factored
from whence.model.objectives import CausalLM, LanguageInputs

__all__ = ["Aligner", "Comparison", "Read", "compared", "read"]


@dataclass(frozen=True, slots=True)
class Read:
    """What a model did on a batch.

    Attributes:
        logits: [N, T, V].
        losses: -log p by position, [N, T].
        sides: Module -> its inputs [N, T, I] and the gradient of each document's -log p by its outputs [N, T, O].
    """

    logits: Tensor
    losses: Tensor
    sides: Mapping[str, tuple[Tensor, Tensor]]


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """The model as it can be differentiated twice."""
    kind = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if kind not in (None, "eager", "sdpa"):
        raise ModelError(
            f"attention {kind!r} has no second derivative, by which a proxy is aligned; open the model with "
            "--attention sdpa or eager, or give --steps 0."
        )
    with experts.eager(model), kept_whole(), sdpa_kernel(SDPBackend.MATH):
        yield


def read(model: nn.Module, names: Sequence[str], batch: LanguageInputs, graph: bool = False) -> Read:
    """Run a model forward and backward.

    Args:
        model: In evaluation mode.
        names: Modules to read; linear layers, or products of them.
        batch: Documents, one a row.
        graph: Keep the graph, so that what was read can be differentiated by the parameters that require gradients.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> Callable[..., Any]:
        def forward(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            if name in seen:
                raise ModelError(
                    f"{name} runs more than once in a forward pass, so it cannot be aligned; give --steps 0."
                )
            out = output if output.requires_grad else output.detach().requires_grad_(True)
            seen[name] = (first_input(args, kwargs), out)
            return out

        return forward

    handles = [model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    try:
        with torch.enable_grad(), _differentiable(model):
            logits = CausalLM.logits(model, batch)
            targets = batch.input_ids.roll(-1, dims=1)
            losses = CausalLM._nll(logits, targets, batch.predicts)
            found = torch.autograd.grad(
                losses.sum(), [out for _, out in seen.values()], create_graph=graph, allow_unused=True
            )
    finally:
        for handle in handles:
            handle.remove()
    sides = {}
    for (name, (inputs, outputs)), gradient in zip(seen.items(), found, strict=True):
        lead = batch.input_ids.shape
        grads = torch.zeros_like(outputs) if gradient is None else gradient
        sides[name] = (inputs.reshape(*lead, -1), grads.reshape(*lead, -1))
    if graph:
        return Read(logits, losses, sides)
    return Read(logits.detach(), losses.detach(), {n: (a.detach(), g.detach()) for n, (a, g) in sides.items()})


@dataclass(frozen=True, slots=True)
class Comparison:
    """A proxy beside its target on a batch, attached to the graph.

    Attributes:
        distance: d summed over both factors, mean over sites, [N].
        divergence: tau^2 KL summed over the predicted tokens of a document, [N].
        losses: -log p of proxy and target, [N] each.
    """

    distance: Tensor
    divergence: Tensor
    losses: tuple[Tensor, Tensor]


def compared(target: nn.Module, proxy: nn.Module, batch: LanguageInputs, temperature: float, graph: bool) -> Comparison:
    """Distances of gradients and distributions.

    Args:
        target: The model that the proxy was made of.
        proxy: With products in the place of some of its linear layers, whose factors require gradients.
        batch: Documents, one a row.
        temperature: tau.
        graph: Whether what is found is to be differentiated by the proxy's parameters.
    """
    products = factored(proxy)
    with frozen(target):
        wanted = read(target, list(products), batch)
    got = read(proxy, list(products), batch, graph)
    with torch.set_grad_enabled(graph):
        return _comparison(products, got, wanted, batch, temperature)


def _comparison(
    products: Mapping[str, FactoredLinear], got: Read, wanted: Read, batch: LanguageInputs, temperature: float
) -> Comparison:
    distances = [_distance(product, got.sides[name], wanted.sides[name]) for name, product in products.items()]
    ours, theirs = ((each / temperature).log_softmax(-1) for each in (got.logits, wanted.logits))
    by_token = (theirs.exp() * (theirs - ours)).sum(-1) * temperature**2
    return Comparison(
        torch.stack(distances).mean(0),
        torch.where(batch.predicts, by_token, 0.0).sum(1),
        (got.losses.sum(1), wanted.losses.sum(1)),
    )


def _distance(product: FactoredLinear, got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> Tensor:
    """d(grad A, G_W B^T) + d(grad B, A^T G_W), [N]."""
    up, down = product.up.weight, product.down.weight
    (a, g), (a_target, g_target) = got, (each.to(up.dtype) for each in wanted)
    by_up = _block(g, a @ down.T), _block(g_target, a_target @ down.T)
    by_down = _block(g @ up, a), _block(g_target @ up, a_target)
    return _apart(*by_up) + _apart(*by_down)


def _block(grads: Tensor, inputs: Tensor) -> Tensor:
    """Gradients of documents by a weight, flat: nto,nti->n(oi)."""
    return (grads.mT @ inputs).flatten(1)


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine, [N]; 0 for a document without any gradient in the target."""
    tiny = torch.finfo(first.dtype).tiny
    squares = first.square().sum(1) * second.square().sum(1)
    there = squares > tiny
    cosine = (first * second).sum(1) / torch.where(there, squares, 1.0).sqrt()
    return torch.where(second.square().sum(1) > 0, 1.0 - torch.where(there, cosine, 0.0), 0.0)


class Aligner:
    """Trains the factors of a proxy; deterministic, and can go on from its `state`.

    Args:
        target: The model that the proxy was made of.
        proxy: As it was made; changed in place.
        steps: Length of the training.
        rate: Of the first step, as a share of the root mean square of a factor as it was made; falls to 0 in a line.
        weight: Of the divergence.
        temperature: Of the divergence.
    """

    def __init__(
        self, target: nn.Module, proxy: nn.Module, steps: int, rate: float, weight: float, temperature: float
    ) -> None:
        self.target, self.proxy, self.steps = target, proxy.eval(), steps
        self.rate, self.weight, self.temperature = rate, weight, temperature
        self.taken = 0
        for parameter in proxy.parameters():
            parameter.requires_grad_(False)
        self.factors = {
            f"{name}.{side}.weight": getattr(product, side).weight.requires_grad_(True)
            for name, product in factored(proxy).items()
            for side in ("up", "down")
        }
        if not self.factors:
            raise ModelError("this model has no products of linear layers, so there is nothing to align.")
        groups = [
            {"params": [factor], "size": float(factor.detach().double().square().mean().sqrt())}
            for factor in self.factors.values()
        ]
        self.optimizer = torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.99))

    def loss(self, batch: LanguageInputs, documents: int, tokens: int) -> Tensor:
        """What a batch adds to the loss of its step.

        Args:
            batch: Some of the step's documents.
            documents: Of the step.
            tokens: That the step's documents predict.
        """
        found = compared(self.target, self.proxy, batch, self.temperature, graph=True)
        return found.distance.sum() / documents + self.weight * found.divergence.sum() / max(tokens, 1)

    def step(self, pieces: Sequence[LanguageInputs]) -> float:
        """Take a step on documents that come in pieces; the loss before it.

        Raises:
            NumericalError: It is not finite.
        """
        documents = sum(len(piece.input_ids) for piece in pieces)
        tokens = sum(int(piece.predicts.sum()) for piece in pieces)
        self.optimizer.zero_grad()
        total = 0.0
        for piece in pieces:
            value = self.loss(piece, documents, tokens)
            value.backward(inputs=list(self.factors.values()))
            total += float(value.detach())
        if not total < float("inf"):
            raise NumericalError(
                f"aligning the proxy went astray: its loss is {total} at step {self.taken + 1} (rate {self.rate:g}); "
                "give a lower --rate, or --steps 0."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["size"] * (1.0 - self.taken / self.steps)
        self.optimizer.step()
        self.taken += 1
        return total

    def state(self) -> dict[str, Tensor]:
        """Factors and moments after the steps taken, by name."""
        out: dict[str, Tensor] = {}
        for name, factor in self.factors.items():
            out[name] = factor.detach()
            kept = self.optimizer.state[factor]
            out |= {f"{key}:{name}": kept[key] for key in ("exp_avg", "exp_avg_sq") if key in kept}
        return out

    def restore(self, state: Mapping[str, Tensor], taken: int) -> None:
        """Go on after so many steps."""
        with torch.no_grad():
            for name, factor in self.factors.items():
                factor.copy_(state[name])
                moments = {key: state[f"{key}:{name}"].to(factor) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[factor] = {"step": torch.tensor(float(taken)), **moments}
        self.taken = taken

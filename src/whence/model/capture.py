"""Reads each site's inputs and output gradients while a loss runs backward, without forming a weight gradient.

Parameters are frozen; the first site outputs are made to require grad, so only the activations' backward pass runs,
two thirds of a training step. A consumer gets each site's factors as soon as all its uses have their gradients, and
what it does not keep is freed at once. Knows nothing of what the factors are for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from whence.errors import ModelError
from whence.factors import AnyFactors, Factors, Routed
from whence.interfaces import Site, Use
from whence.model import experts, norms, parallel
from whence.model.checkpointing import rehearsing, repeating
from whence.model.layers import use_factors
from whence.model.mixers import Mixers

__all__ = ["Capture", "Consumer", "first_input", "frozen", "told_apart"]

Consumer = Callable[[Site, list[AnyFactors]], None]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode with no parameter requiring grad; both restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in grads:
            parameter.requires_grad_(wanted)


@dataclass(slots=True)
class _Pending:
    """Factors of one site that have arrived, and how many calls of its modules are still to come."""

    expected: int = 0
    arrived: list[AnyFactors] = field(default_factory=list)


class Capture:
    """Runs a loss and hands each site's factors to a consumer.

    Args:
        model: Any torch module.
        sites: The sites to read.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        self.model = model
        self.sites = tuple(sites)

    def run(self, losses: Callable[[], Tensor], rows: int, consumer: Consumer, width: int | None = None) -> Tensor:
        """Run forward and backward once.

        Args:
            losses: Runs the model and returns per-example losses [E]; their sum is differentiated.
            rows: Batch rows N, the leading size of every site's inputs.
            consumer: Called once per site with the factors of its uses, in backward order.
            width: Tokens T of a batch row, if known: then N*T flattened tokens are told from any other number of rows.

        Returns:
            The losses [E], detached.

        Raises:
            ModelError: No site ran, or a site saw inputs that cannot be told apart by example.
        """
        reading = _Reading(self.model, consumer, rows, width)
        mixers = Mixers(self.model, self.sites, rows)
        told = {"sites": [site.name for site in self.sites], "rows": rows, "width": width}
        with (
            reading.hooks(self.sites),
            frozen(self.model),
            torch.enable_grad(),
            parallel.announced(self.model, **told),
            mixers.watching(),
        ):
            values = losses()
            if not values.requires_grad:
                raise ModelError(
                    "the loss does not depend on any site: " + ", ".join(site.name for site in self.sites[:8])
                )
            values.sum().backward()
        reading.unused()
        with frozen(self.model):
            for site, factors in mixers.factors():
                consumer(site, [factors])
        return values.detach()


@dataclass(slots=True)
class _Reading:
    """What hooks of one run share.

    Attributes:
        model: The model.
        consumer: Gets a site's factors once all its uses have them.
        rows: Batch rows N.
        width: Tokens T of a batch row, if known.
        pending: What has arrived, by site name.
    """

    model: nn.Module
    consumer: Consumer
    rows: int
    width: int | None
    pending: dict[str, tuple[Site, _Pending]] = field(default_factory=dict)

    @contextmanager
    def hooks(self, sites: Sequence[Site]) -> Iterator[None]:
        """Read these sites as the model runs in here."""
        handles, watches = [], []
        self.pending = {site.name: (site, _Pending()) for site in sites}
        try:
            for site, use in ((each, use) for each in sites for use in each.uses):
                if use.way == "experts":
                    watches.append((site, self._watch(site)))
                elif use.way in ("layer", "router", "norm"):
                    module = self.model.get_submodule(use.module)
                    handles.append(module.register_forward_hook(self._hook(site, use), with_kwargs=True))
                    if use.way == "router":  # its logits are used inside it, so that its input has to need a gradient
                        handles.append(module.register_forward_pre_hook(_needs_gradient, with_kwargs=True))
            with experts.routed_by_us(self.model, sites), experts.watched(self.model, watches):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def unused(self) -> None:
        """Hand over what has arrived of sites of which some call's output went unused: it has no gradient."""
        for site, pending in self.pending.values():
            if pending.arrived:
                self.consumer(site, pending.arrived)

    def _expect(self, site: Site) -> bool:
        """Count a call; whether it is one whose gradient will come."""
        self.pending[site.name][1].expected += not repeating()
        return not rehearsing()

    def _arrived(self, site: Site, factors: AnyFactors) -> None:
        pending = self.pending[site.name][1]
        pending.arrived.append(factors)
        pending.expected -= 1
        if not pending.expected:
            arrived, pending.arrived = pending.arrived, []
            self.consumer(site, arrived)

    def _hook(self, site: Site, use: Use) -> Callable[..., Any]:
        def forward(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not self._expect(site):
                return output
            given = first_input(args, kwargs)
            call, version = [(given.detach(), args, kwargs)], given._version
            out = _needing(output if isinstance(output, Tensor) else output[0])

            def backward(gradient: Tensor) -> None:
                if gradient is None:
                    raise ModelError(
                        f"no gradient came back to {site.name}: what follows it has no backward pass (a kernel for "
                        "inference, weights packed for it). Load the model without that."
                    )
                inputs, args, kwargs = call.pop()
                if inputs._version != version:
                    raise ModelError(
                        f"the input of {site.name} was changed in place after it was used, so its gradient cannot be "
                        "read. Leave it out with --sites, or write the change as a new tensor."
                    )
                if use.way == "norm":
                    grads = norms.gradient_of(use, module, (args, kwargs), _wide(gradient), self.rows, self.width)
                    grads = parallel.summed(self.model, use.module, grads)
                    self._arrived(site, Factors(grads.new_ones(*grads.shape[:2], 1), grads))
                    return
                inputs, gradient = parallel.whole_sides(module, inputs.to(gradient.device), gradient)
                a, g = _by_example(site, _wide(inputs), _wide(gradient), self.rows, self.width)
                self._arrived(site, use_factors(site, use, module, a, g))

            out.register_hook(backward)
            return out if isinstance(output, Tensor) else output

        return forward

    def _watch(self, site: Site) -> Callable[[experts.Rows], Tensor]:
        def watch(seen: experts.Rows) -> Tensor:
            if not self._expect(site):
                return seen.outputs
            out = _needing(seen.outputs)
            cell = [seen.inputs.detach()]

            def backward(gradient: Tensor) -> None:
                self._arrived(site, self._routed(site, seen, _wide(cell.pop()), _wide(gradient)))

            out.register_hook(backward)
            return out

        return watch

    def _routed(self, site: Site, seen: experts.Rows, inputs: Tensor, grads: Tensor) -> Routed:
        if not told_apart((seen.tokens,), self.rows, self.width):
            raise ModelError(
                f"{site.name} ran on {seen.tokens} tokens for a batch of {self.rows} examples: its gradient cannot be "
                "told apart by example. Leave it out with --sites."
            )
        width = seen.tokens // self.rows
        if site.bias:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        example, token = seen.token // width, seen.token % width
        return Routed(inputs, grads, seen.expert, example, token, site.experts, (self.rows, width))


def _needing(output: Tensor) -> Tensor:
    """The output, or a copy that a gradient comes to; the copy, unlike the leaf, may be changed in place afterwards."""
    return output if output.requires_grad else output.detach().requires_grad_(True).clone()


def _needs_gradient(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same arguments, with a first one that a gradient comes to."""
    if not torch.is_grad_enabled() or first_input(args, kwargs).requires_grad:
        return None
    if args:
        return (_needing(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: _needing(kwargs[name])}


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a layer was given, by position or by name."""
    given: Tensor = args[0] if args else next(iter(kwargs.values()))
    return given


def _wide(side: Tensor) -> Tensor:
    """At least float32, so that products and sums of a half-precision model's factors are not rounded again."""
    return side.float() if side.dtype in (torch.bfloat16, torch.float16) else side


def told_apart(lead: Sequence[int], rows: int, width: int | None) -> bool:
    """Whether leading sizes of a layer's output are those of one row per example, or of one row per token."""
    if len(lead) > 1:
        return lead[0] == rows
    return lead[0] == rows or (lead[0] % rows == 0 if width is None else lead[0] == rows * width)


def _by_example(
    site: Site, inputs: Tensor, grads: Tensor, rows: int, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Both sides with leading sizes [N, T]: feature vectors gain a token axis, flattened tokens get theirs back."""
    lead = grads.shape[:-1]
    tokens = lead.numel()
    indices = inputs.shape == lead and not inputs.is_floating_point()
    broadcast = indices and len(lead) == 1 and tokens != rows  # positions looked up once for the whole batch
    if not told_apart(lead, rows, width) or broadcast:
        raise ModelError(
            f"{site.name} ran on {tuple(inputs.shape)} for a batch of {rows} examples: its gradient cannot be told "
            "apart by example. Leave it out with --sites."
        )
    shape = (rows, tokens // rows)
    a = inputs.expand(lead) if indices else inputs
    return a.reshape(shape if indices else (*shape, inputs.shape[-1])), grads.reshape(*shape, grads.shape[-1])

"""Reads each site's inputs and output gradients while a loss runs backward, without forming a weight gradient.

Parameters are frozen; the first site outputs are made to require grad, so only the activations' backward pass runs,
two thirds of a training step. A consumer gets each site's factors as soon as all its uses have their gradients, and
what it does not keep is freed at once. Knows nothing of what the factors are for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from whence.errors import ModelError
from whence.factors import AnyFactors
from whence.interfaces import Site, Use
from whence.model import parallel
from whence.model.checkpointing import rehearsing, repeating
from whence.model.mixers import Mixers, agreeing
from whence.model.sites import use_factors

__all__ = ["Capture", "Consumer", "probe_sites"]

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
        pending = {site.name: _Pending() for site in self.sites}
        mixers = Mixers(self.model, self.sites, rows)
        handles = []
        try:
            for site in self.sites:
                for use in (use for use in site.uses if use.way == "layer"):
                    module = self.model.get_submodule(use.module)
                    hook = self._forward_hook(site, use, (rows, width), pending[site.name], consumer)
                    handles.append(module.register_forward_hook(hook, with_kwargs=True))
            told = {"sites": [site.name for site in self.sites], "rows": rows, "width": width}
            with frozen(self.model), torch.enable_grad(), parallel.announced(self.model, **told), mixers.watching():
                values = losses()
                if not values.requires_grad:
                    raise ModelError(
                        "the loss does not depend on any site: " + ", ".join(site.name for site in self.sites[:8])
                    )
                values.sum().backward()
        finally:
            for handle in handles:
                handle.remove()
        for site in self.sites:
            if pending[site.name].arrived:  # a call whose output went unused has no gradient and no factors
                consumer(site, pending[site.name].arrived)
        with frozen(self.model):
            for site, factors in mixers.factors():
                consumer(site, [factors])
        return values.detach()

    @staticmethod
    def _forward_hook(
        site: Site, use: Use, shape: tuple[int, int | None], pending: _Pending, consumer: Consumer
    ) -> Callable[..., Any]:
        def forward(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            pending.expected += not repeating()
            if rehearsing():
                return output
            given = _input(args, kwargs)
            cell, version = [given.detach()], given._version
            # the copy, unlike the leaf, may be changed in place by what follows
            out = output if output.requires_grad else output.detach().requires_grad_(True).clone()

            def backward(gradient: Tensor) -> None:
                inputs = cell.pop()
                if inputs._version != version:
                    raise ModelError(
                        f"the input of {site.name} was changed in place after it was used, so its gradient cannot be "
                        "read. Leave it out with --sites, or write the change as a new tensor."
                    )
                inputs, gradient = parallel.whole_sides(module, inputs.to(gradient.device), gradient)
                a, g = _by_example(site, _wide(inputs), _wide(gradient), *shape)
                pending.arrived.append(use_factors(site, use, module, a, g))
                pending.expected -= 1
                if not pending.expected:
                    arrived, pending.arrived = pending.arrived, []
                    consumer(site, arrived)

            out.register_hook(backward)
            return out

        return forward


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
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


def probe_sites(
    model: nn.Module,
    sites: Sequence[Site],
    losses: Callable[[], Tensor],
    rows: int,
    head: str | None,
    width: int | None = None,
) -> list[Site]:
    """Sites that really run, with the facts only a run can tell.

    Runs the loss once. Drops sites whose module was never called (a module may use another's weight directly), and
    finds which sites see the very same input tensor, so that they can share its covariance. Runs it once more, backward
    too, if there are sites to replay, and drops those whose gradients are not autograd's.

    Args:
        model: The model.
        sites: Candidates.
        losses: Runs the model on a small batch.
        rows: Its batch rows.
        head: Module name of the layer that makes the logits, if there is one.
        width: Tokens of a batch row, if known.
    """
    seen: dict[str, tuple[Any, ...]] = {}
    mixed: set[str] = set()
    alive: list[Tensor] = []  # keeps inputs from being freed, so that an address names one tensor
    handles = []

    def watch(site: Site) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            if not told_apart(output.shape[:-1], rows, width):
                mixed.add(site.name)
            given = _input(args, kwargs)
            alive.append(given)
            key = (given.data_ptr(), tuple(given.shape), site.bias, output.device)
            seen[site.name] = ("called more than once", site.name) if site.name in seen else key

        return hook

    sites = [site for site in sites if not any(parallel.unreadable(model, use.module) for use in site.uses)]
    try:
        for site in sites:
            for use in (use for use in site.uses if use.way == "layer"):
                handles.append(model.get_submodule(use.module).register_forward_hook(watch(site), with_kwargs=True))
        with frozen(model), torch.no_grad():
            losses()
    finally:
        for handle in handles:
            handle.remove()
    groups: dict[tuple[Any, ...], str] = {}
    out = []
    for site in (site for site in sites if site.name in seen and site.name not in mixed):
        alone = len(site.uses) > 1 or site.vocabulary is not None
        group = site.name if alone else groups.setdefault(seen[site.name], site.name)
        out.append(replace(site, group=group, head=any(_within(use.module, head) for use in site.uses)))
    with frozen(model), torch.enable_grad():
        out += agreeing(model, [site for site in sites if not site.by_token], losses, rows)
    if not out:
        raise ModelError("none of the model's attributable layers was called by its forward pass.")
    return out


def _within(module: str, head: str | None) -> bool:
    """Whether a module is the output layer, or a part of it (an adapter's)."""
    return head is not None and (module == head or module.startswith(f"{head}."))

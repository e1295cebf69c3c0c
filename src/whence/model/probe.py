"""Which sites really run, and what only a run of the model can tell of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from whence.errors import ModelError
from whence.interfaces import Site, Use
from whence.model import experts, norms, parallel, routers
from whence.model.capture import first_input, frozen, told_apart
from whence.model.mixers import agreeing

__all__ = ["probe_sites"]


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
    sites = [site for site in sites if not any(parallel.unreadable(model, use.module) for use in site.uses)]
    found = _Seen(rows, width)
    handles = []
    try:
        for site, use in ((each, use) for each in sites for use in each.uses):
            if use.way in ("layer", "router", "norm"):
                module = model.get_submodule(use.module)
                handles.append(module.register_forward_hook(found.watch(site, use), with_kwargs=True))
        stacks = [(site, found.watch_rows(site)) for site in sites if site.experts]
        with frozen(model), torch.no_grad(), experts.routed_by_us(model, sites), experts.watched(model, stacks):
            losses()
    finally:
        for handle in handles:
            handle.remove()
    groups: dict[tuple[Any, ...], str] = {}
    found.leave_changed()
    out = []
    for site in (site for site in sites if site.name in found.inputs and site.name not in found.unlike):
        alone = len(site.uses) > 1 or site.vocabulary is not None or site.experts or site.elementwise
        group = site.name if alone else groups.setdefault(found.inputs[site.name], site.name)
        out.append(replace(site, group=group, head=any(_within(use.module, head) for use in site.uses)))
    with frozen(model), torch.enable_grad():
        agreed = agreeing(model, [site for site in sites if not site.by_token], losses, rows)
    kept = {site.name: site for site in (*out, *agreed)}
    if not kept:
        raise ModelError("none of the model's attributable layers was called by its forward pass.")
    return [kept[site.name] for site in sites if site.name in kept]


def _within(module: str, head: str | None) -> bool:
    """Whether a module is the output layer, or a part of it (an adapter's)."""
    return head is not None and (module == head or module.startswith(f"{head}."))


@dataclass(slots=True)
class _Seen:
    """What hooks saw of each site.

    Attributes:
        rows: Batch rows N.
        width: Tokens T of a batch row, if known.
        inputs: By site, a key that sites share if they saw the very same input tensor.
        unlike: Sites that mixed examples, or that are not what they were taken for.
        alive: Keeps inputs from being freed, so that an address names one tensor.
        versions: By norm, its input, and how often that had been changed in place by then.
    """

    rows: int
    width: int | None
    inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    unlike: set[str] = field(default_factory=set)
    alive: list[Tensor] = field(default_factory=list)
    versions: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def leave_changed(self) -> None:
        """Leave out norms whose input was changed in place later in the run: it is gone when the gradient comes."""
        self.unlike |= {name for name, (given, version) in self.versions.items() if given._version != version}

    def watch(self, site: Site, use: Use) -> Callable[..., None]:
        """A forward hook for a use of a site."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = first_input(args, kwargs)
            if not self._fits(use, module, args, kwargs, output):
                self.unlike.add(site.name)
            self.alive.append(given)
            if use.way == "norm":
                self.versions[site.name] = (given, given._version)
            device = given.device if not isinstance(output, Tensor) else output.device
            key = (given.data_ptr(), tuple(given.shape), site.bias, device)
            self.inputs[site.name] = ("called more than once", site.name) if site.name in self.inputs else key

        return hook

    def _fits(self, use: Use, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> bool:
        if use.way == "norm":
            return norms.is_one(module, args, kwargs, output) and norms.told_apart(
                output.shape[:-1], self.rows, self.width
            )
        if use.way == "router" and not routers.is_one(module, first_input(args, kwargs), output):
            return False
        logits = output if isinstance(output, Tensor) else output[0]
        return told_apart(logits.shape[:-1], self.rows, self.width)

    def watch_rows(self, site: Site) -> Callable[[experts.Rows], Tensor]:
        """Watches a stack of experts."""

        def watch(seen: experts.Rows) -> Tensor:
            self.inputs[site.name] = ("experts", site.name)
            if not told_apart((seen.tokens,), self.rows, self.width):
                self.unlike.add(site.name)
            return seen.outputs

        return watch

"""Gradient checkpointing of a model's blocks in evaluation mode: only what a block is given is kept.

Parameters are frozen and layers are read by hooks, so a block is run twice on purpose: first without a graph and with
nothing read, then, when its output's gradient arrives, once more with both. Hooks ask `rehearsing` and `repeating`
which run it is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from whence.errors import ModelError
from whence.model.blocks import blocks_of

__all__ = ["checkpoint_blocks", "kept_whole", "rehearsing", "repeating"]

_TENSOR = object()

_run = "only"


def rehearsing() -> bool:
    """Whether this is a block's first run, of which nothing is to be kept."""
    return _run == "first"


def repeating() -> bool:
    """Whether this is a block's second run, whose calls have been counted already."""
    return _run == "second"


@contextmanager
def _during(run: str) -> Iterator[None]:
    global _run
    before, _run = _run, run
    try:
        yield
    finally:
        _run = before


@contextmanager
def kept_whole() -> Iterator[None]:
    """Blocks run once in here, checkpointed or not: no transform of torch.func goes through their second run."""
    with _during("once"):
        yield


def checkpoint_blocks(model: nn.Module) -> int:
    """Checkpoint every transformer block of a model for good.

    Returns:
        How many there are.

    Raises:
        ModelError: The model has no blocks that transformers can checkpoint.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise ModelError(
            f"{type(model).__name__} has no blocks that can be run again in the backward pass; leave --checkpointing "
            "out, and lower --batch-tokens to save memory."
        )
    for block in blocks:
        block.forward = _checkpointed(block.forward)
    return len(blocks)


@dataclass(slots=True)
class _Block:
    """One call of a block: its arguments, of which some are tensors that gradients go through, and its results.

    Attributes:
        forward: Runs the block.
        leaves: All arguments, flat; empty where a tensor is given anew.
        spec: How they were arranged.
        places: Where among them those tensors go.
        structure: How the results are arranged, once it has run.
        results: The results, flat, with a mark where a tensor is.
    """

    forward: Callable[..., Any]
    leaves: list[Any]
    spec: TreeSpec
    places: list[int]
    structure: TreeSpec | None = None
    results: list[Any] = field(default_factory=list)

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Run the block; the tensors among its results."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, given, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        results, self.structure = tree_flatten(self.forward(*args, **kwargs))
        self.results = [_TENSOR if isinstance(each, Tensor) else each for each in results]
        return [each for each in results if isinstance(each, Tensor)]

    def arranged(self, tensors: Sequence[Tensor]) -> Any:
        """The results as the block gave them, with these tensors."""
        assert self.structure is not None
        left = iter(tensors)
        return tree_unflatten([next(left) if each is _TENSOR else each for each in self.results], self.structure)


class _Again(torch.autograd.Function):
    """A block that keeps what it was given and runs again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, block: _Block, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.block = block
        ctx.save_for_backward(*given)
        ctx.set_materialize_grads(False)
        with _during("first"):
            outputs = block(given)
        ctx.mark_non_differentiable(*[each for each in outputs if not each.is_floating_point()])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [
            each.detach().requires_grad_(wanted)
            for each, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        with _during("second"), torch.enable_grad():
            outputs = ctx.block(given)
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=True)
            if gradient is not None and output.requires_grad
        ]
        torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        return (None, *[each.grad for each in given])


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or _run != "only":
            return forward(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        given = [leaves[place] for place in places]
        if given and not any(each.requires_grad for each in given):
            given[0] = given[0].detach().requires_grad_(True)  # sites inside have gradients where none comes in, too
        for place in places:
            leaves[place] = None
        block = _Block(forward, leaves, spec, places)
        return block.arranged(_Again.apply(block, *given))  # type: ignore[no-untyped-call]

    return run

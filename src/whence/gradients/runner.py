"""Runs a model over batches and hands each site's factors, example by example, to whoever makes something of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.errors import ModelError
from whence.factors import AnyFactors, Factors, OneHot
from whence.interfaces import Site, TokenBatch
from whence.model import Capture, CausalLM, LoadedModel, Objective, language_inputs
from whence.projection import uniforms

__all__ = ["Examples", "Precision", "Runner", "language_examples", "products"]

Precision = Literal["fast", "full"]


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Precision of the matrix products of float32 tensors inside; the model itself runs outside.

    `fast` rounds their inputs to bfloat16 on CPUs with matrix units, and to TF32 on CUDA; sums stay in float32. `full`
    does not round.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "fast" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True, slots=True)
class Examples:
    """A batch ready for a model.

    Attributes:
        inputs: What the objective takes.
        rows: Batch rows N.
        count: Examples E; N unless rows are packed.
        numbers: Global numbers of the examples, int64 [E].
        gather: For packed rows, flat positions [E, L] into N*T of every example's tokens; -1 is padding.
        draws: Returns uniforms for sampled labels, given the name of the pass and a seed.
    """

    inputs: Any
    rows: int
    count: int
    numbers: NDArray[np.int64]
    gather: Tensor | None
    draws: Callable[[str, int], Tensor]


def language_examples(batch: TokenBatch, loaded: LoadedModel) -> Examples:
    """Examples of a language model from a token batch.

    Labels are drawn by what an example says and not by its number, so that neither the order of a corpus nor what else
    is in it changes them.
    """

    def draws(name: str, seed: int) -> Tensor:
        real = batch.segments >= 0
        numbers = np.where(real, _keys(batch)[batch.segments.clip(0)], 0)
        drawn = uniforms(seed, name, numbers, batch.positions)
        return torch.from_numpy(drawn).to(loaded.device)

    gather = None
    if batch.packed:
        gather = torch.from_numpy(_positions_by_example(batch.segments, batch.examples)).to(loaded.device)
    return Examples(language_inputs(batch, loaded), len(batch.input_ids), batch.examples, batch.rows, gather, draws)


def _keys(batch: TokenBatch) -> NDArray[np.int64]:
    """xxh64 of each example's token ids as little-endian 64-bit integers, int64 [E]."""
    tokens = (batch.input_ids[batch.segments == example].astype("<i8") for example in range(batch.examples))
    return np.array([xxhash.xxh64_intdigest(ids.tobytes()) for ids in tokens], dtype=np.uint64).view(np.int64)


def _positions_by_example(segments: NDArray[np.int64], examples: int) -> NDArray[np.int64]:
    flat = segments.reshape(-1)
    order = np.argsort(flat, kind="stable")
    order = order[flat[order] >= 0]
    lengths = np.bincount(flat[order], minlength=examples)
    out = np.full((examples, max(int(lengths.max()), 1)), -1, dtype=np.int64)
    out[np.arange(out.shape[1]) < lengths[:, None]] = order
    return out


@dataclass(frozen=True, slots=True)
class Runner:
    """A model, its sites and its loss.

    Attributes:
        model: Any torch module.
        sites: The sites to read.
        objective: The loss; `CausalLM` for language models.
    """

    model: nn.Module
    sites: Sequence[Site]
    objective: Objective = CausalLM()

    def tokens(
        self,
        examples: Examples,
        consumer: Callable[[Site, list[AnyFactors], list[Tensor | None]], None],
        sampling: tuple[str, int] | None = None,
    ) -> Tensor:
        """Hand over factors row by row as the model saw them, with the masks of tokens that count.

        Args:
            examples: The batch.
            consumer: Called with (site, factors of its uses, for each of them a mask [N, T] or None).
            sampling: (pass, seed) to draw labels from the model, or None for the data's.

        Returns:
            Losses [E].
        """
        reaches, predicts = self.objective.token_masks(examples.inputs)

        def masked(site: Site, uses: list[AnyFactors]) -> None:
            # a head tied to the embedding has gradients where the embedding acts, too
            at_head = [site.head and not (isinstance(use, Factors) and isinstance(use.grads, OneHot)) for use in uses]
            masks = [predicts if head else reaches for head in at_head]
            consumer(site, uses, [_beside(mask, use) for mask, use in zip(masks, uses, strict=True)])

        return self._run(examples, masked, sampling)

    def examples(
        self,
        examples: Examples,
        consumer: Callable[[Site, list[AnyFactors]], None],
        sampling: tuple[str, int] | None = None,
    ) -> Tensor:
        """Hand over factors with one row per example, packed rows taken apart. See `tokens`."""
        gather = examples.gather
        if gather is None:
            return self._run(examples, consumer, sampling)

        def unpacked(site: Site, uses: list[AnyFactors]) -> None:
            consumer(site, [use.unpacked(gather.to(_device(use))) for use in uses])

        return self._run(examples, unpacked, sampling)

    def _run(
        self, examples: Examples, consumer: Callable[[Site, list[AnyFactors]], None], sampling: tuple[str, int] | None
    ) -> Tensor:
        by_row = [site.name for site in self.sites if not site.by_token]
        if by_row and examples.gather is not None:
            raise ModelError(
                f"{by_row[0]} is read by batch row, and the rows are packed: a row holds several examples. Turn "
                "packing off, or leave it out with --sites."
            )

        def losses() -> Tensor:
            if sampling is None:
                return self.objective.losses(self.model, examples.inputs)
            return self.objective.sampled_losses(self.model, examples.inputs, examples.draws(*sampling))

        reaches, _ = self.objective.token_masks(examples.inputs)
        width = None if reaches is None else int(reaches.shape[1])
        return Capture(self.model, self.sites).run(losses, examples.rows, consumer, width)


def _device(use: AnyFactors) -> torch.device:
    return use.grads.device if isinstance(use.grads, Tensor) else use.grads.index.device


def _beside(mask: Tensor | None, use: AnyFactors) -> Tensor | None:
    """A mask where the factors are; a model may lie on several devices."""
    return None if mask is None else mask.to(_device(use))

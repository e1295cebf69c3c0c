"""The scalars that are differentiated: one *summed* loss per example, in nats.

Sums over tokens, never means: a mean would make an example's gradient depend on its length. The causal shift is
here: the token at t is predicted from position t-1, so the last position has no gradient and no say.
Knows nothing of sites or curvature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "CausalLM",
    "Classification",
    "Direction",
    "LanguageInputs",
    "Margin",
    "Objective",
    "SquaredError",
    "Unsaturated",
]


class Objective(Protocol):
    """A loss of a model on a batch, with what curvature needs to know about it.

    `batch` is whatever the objective's own model takes; nothing else looks inside.
    """

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        """Losses with the data's labels, [E], attached to the graph."""
        ...

    def sampled_losses(self, model: nn.Module, batch: Any, uniforms: Tensor) -> Tensor:
        """Losses with labels drawn from the model's own prediction (inverse CDF at `uniforms`), [E].

        Their expected squared gradient is the Fisher matrix, which for a softmax is the Gauss-Newton matrix.
        """
        ...

    def token_masks(self, batch: Any) -> tuple[Tensor | None, Tensor | None]:
        """Positions from which a loss can be reached, and positions that predict a target; [N, T] or None (all)."""
        ...


@dataclass(frozen=True, slots=True)
class LanguageInputs:
    """A token batch on the device.

    Attributes:
        input_ids: int64 [N, T].
        attention_mask: [N, T] bool, or [N, 1, T, T] additive when rows are packed.
        positions: int64 [N, T].
        predicts: bool [N, T]; position t predicts a target at t+1.
        reaches: bool [N, T]; a loss position lies at t or later within the same example.
        segments: int64 [N, T]; the example of each token, -1 in padding.
        examples: E.
        extra: More keyword arguments for the model's forward.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    predicts: Tensor
    reaches: Tensor
    segments: Tensor
    examples: int
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CausalLM:
    """Token-sum negative log-likelihood of a causal language model (Hugging Face calling convention)."""

    def losses(self, model: nn.Module, batch: LanguageInputs) -> Tensor:
        """-log p of the data's targets, summed by example, [E]."""
        return self._sum(self.token_losses(model, batch), batch)

    def token_losses(self, model: nn.Module, batch: LanguageInputs) -> Tensor:
        """-log p of the target that each position predicts, [N, T]; 0 where there is none."""
        targets = batch.input_ids.roll(-1, dims=1)
        return self._nll(self.logits(model, batch), targets, batch.predicts)

    def sampled_losses(self, model: nn.Module, batch: LanguageInputs, uniforms: Tensor) -> Tensor:
        """-log p of targets drawn from the model, summed by example, [E]; `uniforms` is [N, T] in [0, 1)."""
        logits = self.logits(model, batch)
        with torch.no_grad():
            drawn = torch.zeros_like(batch.input_ids)
            drawn[batch.predicts] = _draw(logits[batch.predicts], uniforms[batch.predicts])
        return self._sum(self._nll(logits, drawn, batch.predicts), batch)

    def token_masks(self, batch: LanguageInputs) -> tuple[Tensor | None, Tensor | None]:
        """Reaching and predicting positions."""
        return batch.reaches, batch.predicts

    @staticmethod
    def logits(model: nn.Module, batch: LanguageInputs) -> Tensor:
        """Logits in at least float32, [N, T, V]."""
        logits: Tensor = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **batch.extra
        ).logits
        return logits if logits.dtype == torch.float64 else logits.float()

    @staticmethod
    def _nll(logits: Tensor, targets: Tensor, predicts: Tensor) -> Tensor:
        flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return torch.where(predicts, flat.view_as(targets), 0.0)

    @staticmethod
    def _sum(losses: Tensor, batch: LanguageInputs) -> Tensor:
        owner = batch.segments.clamp_min(0)
        return losses.new_zeros(batch.examples).scatter_add(0, owner.flatten(), losses.flatten())


_LEAST = 0.02
"""Where 1 - p is below it, an unsaturated gradient is multiplied no further: at most 50 to the power."""


@dataclass(frozen=True, slots=True)
class Unsaturated:
    """-log p with gradients that do not vanish where the model has learnt a token by heart.

    The gradient of -log p_t holds the factor 1 - p_t, so that a document that was learnt perfectly seems to have had no
    influence. Each token's gradient is multiplied by ``(1 - p_t)^-power``: power 0 is -log p, power 1 is the gradient
    of the log-odds (`Margin`, TRAK's). The *value* stays -log p, and so do labels that are drawn.

    Attributes:
        power: Between 0 and 1; 0.5 predicted retraining best on three small models.
    """

    power: float = 0.5

    def losses(self, model: nn.Module, batch: LanguageInputs) -> Tensor:
        """-log p of the data's targets, summed by example, [E], with such gradients."""
        losses = CausalLM().token_losses(model, batch)
        value = losses.detach()
        weight = (-torch.expm1(-value)).clamp_min(_LEAST) ** -self.power
        return CausalLM._sum(value + weight * (losses - value), batch)

    def sampled_losses(self, model: nn.Module, batch: LanguageInputs, uniforms: Tensor) -> Tensor:
        """As of `CausalLM`."""
        return CausalLM().sampled_losses(model, batch, uniforms)

    def token_masks(self, batch: LanguageInputs) -> tuple[Tensor | None, Tensor | None]:
        """Reaching and predicting positions."""
        return batch.reaches, batch.predicts


@dataclass(frozen=True, slots=True)
class Margin:
    """Minus the log-odds of the data's targets, summed by example: ``-m``, ``m = sum_t log p_t / (1 - p_t)``.

    What TRAK (Park et al. 2023, arXiv:2303.14186) linearises: unlike log p it does not flatten where p nears one.
    Computed as the target's logit less the log-sum-exp of the others, which stays exact there.
    """

    def losses(self, model: nn.Module, batch: LanguageInputs) -> Tensor:
        """-m of the data's targets, [E]."""
        return CausalLM._sum(-self.token_margins(model, batch), batch)

    def token_margins(self, model: nn.Module, batch: LanguageInputs) -> Tensor:
        """Log-odds of the target that each position predicts, [N, T]; 0 where there is none."""
        return self._margins(CausalLM.logits(model, batch), batch.input_ids.roll(-1, dims=1), batch.predicts)

    def sampled_losses(self, model: nn.Module, batch: LanguageInputs, uniforms: Tensor) -> Tensor:
        """-m of targets drawn from the model, [E]; `uniforms` is [N, T] in [0, 1)."""
        logits = CausalLM.logits(model, batch)
        with torch.no_grad():
            drawn = torch.zeros_like(batch.input_ids)
            drawn[batch.predicts] = _draw(logits[batch.predicts], uniforms[batch.predicts])
        return CausalLM._sum(-self._margins(logits, drawn, batch.predicts), batch)

    def token_masks(self, batch: LanguageInputs) -> tuple[Tensor | None, Tensor | None]:
        """Reaching and predicting positions."""
        return batch.reaches, batch.predicts

    @staticmethod
    def _margins(logits: Tensor, targets: Tensor, predicts: Tensor) -> Tensor:
        index = targets[..., None]
        others = logits.scatter(-1, index, float("-inf")).logsumexp(-1)
        return torch.where(predicts, logits.gather(-1, index)[..., 0] - others, 0.0)


@dataclass(frozen=True, slots=True)
class Direction:
    """Minus the projection of hidden states on a direction, summed over the asked tokens: a behaviour as a query.

    Influence on it is the predicted drop of that projection if a document had not been trained on, in units of the
    hidden states times those of the vector ("Concept Influence": a probe, a difference of means, a feature).

    Attributes:
        vector: [hidden].
        depth: Relative depth of the hidden states, 0 the embedding, 1 the last.
    """

    vector: Tensor
    depth: float = 0.5

    def losses(self, model: nn.Module, batch: LanguageInputs) -> Tensor:
        """Minus the summed projection, [E]; over the positions of asked tokens, not those that predict them."""
        states = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, output_hidden_states=True,
            **batch.extra,
        ).hidden_states  # fmt: skip
        chosen = states[round(self.depth * (len(states) - 1))]
        wide = chosen.dtype if chosen.dtype == torch.float64 else torch.float32
        along = chosen.to(wide) @ self.vector.to(chosen.device, wide)
        asked = batch.predicts.roll(1, dims=1)
        asked[:, 0] = False
        return CausalLM._sum(-torch.where(asked, along, 0.0), batch)

    def sampled_losses(self, model: nn.Module, batch: LanguageInputs, uniforms: Tensor) -> Tensor:
        """The same: there are no labels to draw. Curvature is fitted with the language model's own loss."""
        return self.losses(model, batch)

    def token_masks(self, batch: LanguageInputs) -> tuple[Tensor | None, Tensor | None]:
        """Every position up to an asked one counts."""
        return None, None


def _draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF sample of each row of `logits` [..., V] at `uniforms` [...]."""
    cdf = logits.softmax(-1).cumsum(-1)
    point = uniforms.to(cdf.dtype)[..., None] * cdf[..., -1:]
    return torch.searchsorted(cdf, point, right=True)[..., 0].clamp_max(logits.shape[-1] - 1)


@dataclass(frozen=True, slots=True)
class Classification:
    """Softmax cross-entropy of a module that maps features to logits; a batch is ``(features, labels)``.

    A single logit per example is read as binary logistic regression with labels 0 and 1.
    """

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Negative log-likelihood of the labels, [N]."""
        features, labels = batch
        return self._nll(model(features), labels)

    def sampled_losses(self, model: nn.Module, batch: tuple[Tensor, Tensor], uniforms: Tensor) -> Tensor:
        """Negative log-likelihood of labels drawn from the model, [N]; `uniforms` is [N]."""
        logits = model(batch[0])
        with torch.no_grad():
            labels = _draw(self._pair(logits), uniforms.reshape(-1)[: len(logits)])
        return self._nll(logits, labels)

    def token_masks(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Every position counts."""
        return None, None

    @staticmethod
    def _pair(logits: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits

    def _nll(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self._pair(logits), labels.long(), reduction="none")


@dataclass(frozen=True, slots=True)
class SquaredError:
    """Half squared error, the unit-variance Gaussian's negative log-likelihood; a batch is ``(features, targets)``."""

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Half squared error summed over outputs, [N]."""
        features, targets = batch
        outputs: Tensor = model(features)
        return 0.5 * (outputs - targets).square().flatten(1).sum(1)

    def sampled_losses(self, model: nn.Module, batch: tuple[Tensor, Tensor], uniforms: Tensor) -> Tensor:
        """Half squared error to targets drawn from N(prediction, 1), [N]; `uniforms` is [N] and seeds each row."""
        outputs: Tensor = model(batch[0])
        with torch.no_grad():
            noise = _normals(uniforms.reshape(-1)[: len(outputs)], outputs[0].numel()).to(outputs.dtype)
            noise = noise.view_as(outputs)
        return 0.5 * (outputs - outputs.detach() - noise).square().flatten(1).sum(1)

    def token_masks(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Every position counts."""
        return None, None


def _normals(uniforms: Tensor, count: int) -> Tensor:
    """Independent standard normals [N, count], a row decided by its uniform number (SplitMix64, then the quantile)."""
    golden, first, second = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # as signed 64-bit
    steps = torch.arange(1, count + 1, device=uniforms.device)
    x = (uniforms.double() * 2**53).long()[:, None] * second + steps * golden
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * first
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * second
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    spread = (((x >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
    normals: Tensor = torch.special.ndtri(spread)
    return normals

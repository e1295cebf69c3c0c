"""A training's optimizers, and which parameters each has. Knows no loss and no loop."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from whence.model.muon import Muon
from whence.model.training import LBFGS_STEPS, Training

__all__ = ["decay_groups", "make_optimizers"]


def make_optimizers(model: nn.Module, training: Training) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's trained parameters: one, and a second for Muon's hidden matrices."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if training.optimizer == "lbfgs":
        return [_lbfgs(parameters, training)]
    if training.optimizer == "sgd":
        return [_sgd(parameters, training)]
    hidden = _hidden_matrices(model) if training.optimizer == "muon" else []
    chosen = {id(parameter) for parameter in hidden}
    others = [parameter for parameter in parameters if id(parameter) not in chosen]
    made: list[torch.optim.Optimizer] = [_adamw(others, training)] if others else []
    return [*made, _muon(hidden, training)] if hidden else made


def decay_groups(parameters: Sequence[nn.Parameter], training: Training) -> list[dict[str, Any]]:
    """Parameters that decay and those that do not."""
    matrices = [p for p in parameters if p.ndim > 1 or training.decay == "all"]
    vectors = [p for p in parameters if p.ndim <= 1 and training.decay != "all"]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw(parameters: Sequence[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        decay_groups(parameters, training), lr=training.learning_rate, betas=training.betas, eps=training.eps
    )


def _sgd(parameters: Sequence[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        decay_groups(parameters, training),
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.nesterov,
    )


def _muon(hidden: Sequence[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    groups = decay_groups(hidden, training)
    return Muon(groups, lr=training.learning_rate, momentum=training.momentum, nesterov=training.nesterov)


def _lbfgs(parameters: Sequence[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    steps = training.max_steps or LBFGS_STEPS
    precise = parameters[0].dtype == torch.float64
    return torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        max_eval=2 * steps,
        tolerance_grad=1e-11 if precise else 1e-6,
        tolerance_change=1e-16 if precise else 1e-10,
        history_size=20,
        line_search_fn="strong_wolfe",
    )


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trained matrices that are neither an embedding nor the output layer."""
    outer = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    find_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    outer |= {id(parameter) for parameter in getattr(find_head(), "parameters", list)()}
    return [p for p in model.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in outer]

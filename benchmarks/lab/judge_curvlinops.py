"""Dense curvature matrices of a tiny classifier by curvlinops. Runs in the peers' environment.

    .bench-venv/bin/python benchmarks/lab/judge_curvlinops.py OUT.npz

A network of two linear layers with biases and a softmax classifier without a hidden layer, on random data, in float64.
Writes features [N, F], labels [N], both models' weights, and per model, over parameters [P] in the order of the model,
each flattened:

    ggn           generalised Gauss-Newton matrix of the mean loss, exact
    kfac, ekfac   its approximations with the data's own labels in place of drawn ones, so that nothing is random

Knows nothing of influence.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from torch import nn

EXAMPLES, FEATURES, HIDDEN, CLASSES = 60, 6, 5, 4


def models() -> dict[str, nn.Sequential]:
    """Returns the two models."""
    torch.manual_seed(0)
    return {
        "linear": nn.Sequential(nn.Linear(FEATURES, CLASSES)),
        "network": nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)),
    }


def matrices(model: nn.Sequential, features: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns the three matrices [P, P]."""
    from curvlinops import EKFACLinearOperator, FisherType, GGNLinearOperator, KFACLinearOperator

    parameters = [parameter for parameter in model.parameters()]
    given = (model, nn.CrossEntropyLoss(reduction="mean"), parameters, [(features, labels)])
    known = {"fisher_type": FisherType.EMPIRICAL, "separate_weight_and_bias": False}
    operators = {
        "ggn": GGNLinearOperator(*given),
        "kfac": KFACLinearOperator(*given, **known),
        "ekfac": EKFACLinearOperator(*given, **known),
    }
    identity = torch.eye(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    return {name: (operator @ identity).detach().numpy() for name, operator in operators.items()}


def main() -> None:
    """Writes the file."""
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    made = models()
    features = torch.randn(EXAMPLES, FEATURES)
    labels = torch.randint(0, CLASSES, (EXAMPLES,))
    found = {"features": features.numpy(), "labels": labels.numpy()}
    for name, model in made.items():
        found |= {f"{name}.{key}": value.detach().numpy() for key, value in model.state_dict().items()}
        found |= {f"{name}:{key}": value for key, value in matrices(model, features, labels).items()}
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()

"""S10: where influence should be exact, it is: logistic regression on scikit-learn's handwritten digits.

    python benchmarks/audits/exactness.py OUT

A convex model trained to its minimum. Each of 100 examples is left out and the model fitted again: the change of every
test digit's loss against what was predicted. Then a tenth of the labels is changed, and the tenth of the examples with
the highest self-influence is inspected; beside it the highest loss, and chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scenario import Scenario
from torch import Tensor, nn

_DECAY = 1e-2  # as in Koh & Liang 2017, section 4.1
_LEFT_OUT = 100
_TRAIN = 1500


def main() -> None:
    """Run over seeds and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    typed = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    scenario = Scenario("S10", "exactness on a convex model")
    for seed in range(typed.seeds):
        _one(scenario, seed)
    scenario.report(typed.out)


def fitted(features: Tensor, labels: Tensor, start: nn.Linear | None = None) -> nn.Linear:
    """Softmax regression at the minimum of mean loss + decay / 2 of the squared weights."""
    model = nn.Linear(features.shape[1], 10)
    if start is None:
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
    else:
        model.load_state_dict(start.state_dict())
    steps = torch.optim.LBFGS(
        model.parameters(), max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        steps.zero_grad()
        size = sum(p.square().sum() for p in model.parameters())
        value = nn.functional.cross_entropy(model(features), labels) + _DECAY / 2 * size
        value.backward()
        return value

    steps.step(loss)
    return model


def losses(model: nn.Linear, features: Tensor, labels: Tensor) -> np.ndarray:
    """-log p of each example, nats."""
    with torch.no_grad():
        return nn.functional.cross_entropy(model(features), labels, reduction="none").numpy()


def _one(scenario: Scenario, seed: int) -> None:
    from sklearn.datasets import load_digits

    from whence import attribute
    from whence.curvature import Damping
    from whence.model import Classification

    digits = load_digits()
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(digits.target))
    features, labels = torch.tensor(digits.data[order] / 16.0), torch.tensor(digits.target[order])
    train, test = slice(0, _TRAIN), slice(_TRAIN, None)
    damping = Damping(kind="weight_decay", value=_DECAY)

    model = fitted(features[train], labels[train])
    asked, known = [(features[test], labels[test])], [(features[train], labels[train])]
    predicted = attribute(model, Classification(), known, asked, method="exact", damping=damping)
    before = losses(model, features[test], labels[test])
    changes = []
    for number in range(_LEFT_OUT):
        rest = np.delete(np.arange(_TRAIN), number)
        again = fitted(features[rest], labels[rest], model)
        changes.append(losses(again, features[test], labels[test]) - before)
    found = np.array(changes).T
    scenario.add("whence", {"leave_one_out": _pearson(predicted[:, :_LEFT_OUT], found)})
    kfac = attribute(model, Classification(), known, asked, method="ekfac", damping=damping)
    dots = attribute(model, Classification(), known, asked, method="identity")
    scenario.add("EK-FAC", {"leave_one_out": _pearson(kfac[:, :_LEFT_OUT], found)})
    scenario.add("gradient dot", {"leave_one_out": _pearson(dots[:, :_LEFT_OUT], found)})

    flipped = draw.permutation(_TRAIN)[: _TRAIN // 10]
    wrong = labels[train].clone()
    wrong[flipped] = (wrong[flipped] + torch.tensor(draw.integers(1, 10, _TRAIN // 10))) % 10
    model = fitted(features[train], wrong)
    known = [(features[train], wrong)]
    itself = np.diag(attribute(model, Classification(), known, known, method="exact", damping=damping))
    ranked = {
        "whence": itself, "loss": losses(model, features[train], wrong), "random": draw.random(_TRAIN),
    }  # fmt: skip
    for name, scores in ranked.items():
        top = set(np.argsort(-scores)[: _TRAIN // 10].tolist())
        scenario.add(name, {"flips_found": len(top & set(flipped.tolist())) / len(flipped)})


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


if __name__ == "__main__":
    main()

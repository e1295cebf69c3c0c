"""Any torch module: influence against leave-one-out by real refitting, and against closed forms."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from whence.attributor.modules import attribute
from whence.curvature import Damping
from whence.errors import InputError, NumericalError
from whence.model import Classification, SquaredError

DECAY = 0.02


def logistic_data(n=120, d=8, seed=0):
    draw = np.random.default_rng(seed)
    x = torch.from_numpy(draw.normal(size=(n, d)))
    direction = torch.from_numpy(draw.normal(size=d))
    y = (x @ direction + torch.from_numpy(draw.normal(size=n)) > 0).long()
    return x, y


def fit_logistic(x, y, n, decay=DECAY):
    """Minimise sum(loss)/n + decay/2 |theta|^2 to machine precision with Newton's method."""
    model = nn.Linear(x.shape[1], 1).double()
    features = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    theta = torch.zeros(x.shape[1] + 1, dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(features @ theta)
        gradient = features.T @ (p - y) / n + decay * theta
        hessian = (features * (p * (1 - p))[:, None]).T @ features / n + decay * torch.eye(len(theta)).double()
        theta = theta - torch.linalg.solve(hessian, gradient)
    with torch.no_grad():
        model.weight.copy_(theta[None, :-1])
        model.bias.copy_(theta[-1:])
    return model


def leave_one_out(x, y, queries, labels):
    """Rise of each query's loss when one example is left out and the model refitted, [Q, N]."""
    n = len(x)
    with torch.no_grad():
        base = Classification().losses(fit_logistic(x, y, n), (queries, labels))
        out = []
        for i in range(n):
            keep = torch.arange(n) != i
            out.append(Classification().losses(fit_logistic(x[keep], y[keep], n), (queries, labels)) - base)
    return torch.stack(out, 1).numpy()


@pytest.fixture(scope="module")
def logistic():
    x, y = logistic_data()
    queries, labels = logistic_data(12, seed=1)
    return fit_logistic(x, y, len(x)), (x, y), (queries, labels), leave_one_out(x, y, queries, labels)


def test_exact_influence_reproduces_leave_one_out(logistic):
    model, data, queries, truth = logistic
    scores = attribute(
        model, Classification(), [data], [queries], method="exact", damping=Damping(kind="weight_decay", value=DECAY)
    )
    rank = [spearmanr(scores[q], truth[q]).statistic for q in range(len(scores))]
    assert min(rank) > 0.99
    assert pearsonr(scores.ravel(), truth.ravel()).statistic > 0.99
    slope = (scores * truth).sum() / (truth * truth).sum()
    assert 0.8 < slope < 1.2  # sign and unit: predicted nats are observed nats


def test_weight_decay_matters(logistic):
    model, data, queries, truth = logistic

    def quality(damping):
        scores = attribute(model, Classification(), [data], [queries], method="ekfac", damping=damping)
        return np.mean([spearmanr(scores[q], truth[q]).statistic for q in range(len(scores))])

    right = quality(Damping(kind="weight_decay", value=DECAY))
    assert right > quality(Damping(kind="absolute", value=100.0))  # so large that only the gradient dot is left
    assert right > 0.9  # exact influence is above 0.99; the rest is K-FAC's basis for one logistic unit


@pytest.mark.parametrize("method", ["exact", "ekfac", "kfac", "diagonal", "identity"])
def test_batching_changes_nothing(logistic, method):
    model, (x, y), (queries, labels), _ = logistic
    damping = Damping(kind="absolute", value=0.01)
    whole = attribute(model, Classification(), [(x, y)], [(queries, labels)], method=method, damping=damping)
    pieces = list(zip(x.split(7), y.split(7)))
    asked = list(zip(queries.split(5), labels.split(5)))
    parts = attribute(model, Classification(), pieces, asked, method=method, damping=damping)
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-15)


def test_linear_regression_has_a_closed_form():
    torch.manual_seed(0)
    x, targets = torch.randn(50, 4).double(), torch.randn(50, 2).double()
    model = nn.Linear(4, 2).double()
    query = (torch.randn(3, 4).double(), torch.randn(3, 2).double())
    scores = attribute(
        model, SquaredError(), [(x, targets)], [query], method="exact", damping=Damping(kind="absolute", value=0.1)
    )
    ones = torch.ones(50, 1).double()
    wide, asked = torch.cat([x, ones], 1), torch.cat([query[0], ones[:3]], 1)
    curvature = wide.T @ wide / 50 + 0.1 * torch.eye(5).double()
    with torch.no_grad():
        residual, asked_residual = model(x) - targets, model(query[0]) - query[1]
    expected = (asked @ torch.linalg.solve(curvature, wide.T)) * (asked_residual @ residual.T) / 50
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-9)


def test_gauss_newton_of_one_linear_layer_is_what_kfac_predicts():
    """With one layer and unit-variance Gaussian labels, K-FAC is exact, and EK-FAC approaches it with many samples."""
    torch.manual_seed(0)
    x, targets = torch.randn(4000, 3).double(), torch.randn(4000, 2).double()
    model = nn.Linear(3, 2, bias=False).double()
    query = (torch.randn(3, 3).double(), torch.randn(3, 2).double())
    damping = Damping(kind="absolute", value=0.1)
    exact = attribute(model, SquaredError(), [(x, targets)], [query], method="exact", damping=damping)
    for method in ("kfac", "ekfac"):
        near = attribute(model, SquaredError(), [(x, targets)], [query], method=method, damping=damping)
        assert pearsonr(near.ravel(), exact.ravel()).statistic > 0.999
        np.testing.assert_allclose(near, exact, atol=0.1 * np.abs(exact).max())


def test_a_deep_module_without_transformers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(20, 5).double(), torch.randint(0, 3, (20,))
    scores = attribute(model, Classification(), [(x, y)], [(x, y)], method="identity")
    gradients = []
    for i in range(20):
        model.zero_grad()
        Classification().losses(model, (x[i : i + 1], y[i : i + 1])).sum().backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    flat = torch.stack(gradients)
    np.testing.assert_allclose(scores, (flat @ flat.T / 20).numpy(), rtol=1e-8)


def test_mislabelled_examples_oppose_themselves_less_than_they_support():
    x, y = logistic_data()
    scores = attribute(fit_logistic(x, y, len(x)), Classification(), [(x, y)], [(x, y)], method="ekfac")
    assert (np.diag(scores) > 0).all()  # an example always supports its own label


def test_errors_say_what_to_do(logistic):
    model, _, queries, _ = logistic
    with pytest.raises(InputError, match="at least one batch"):
        attribute(model, Classification(), [], [queries])
    with pytest.raises(InputError, match="at most 20,000 parameters"):
        attribute(
            nn.Linear(200, 200),
            SquaredError(),
            [(torch.ones(1, 200),) * 2],
            [(torch.ones(1, 200),) * 2],
            method="exact",
        )
    rough = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    batch = (torch.randn(4, 2).double(), torch.randn(4, 1).double() * 10)
    with pytest.raises(NumericalError, match="not positive definite"):
        attribute(rough, SquaredError(), [batch], [batch], method="exact", damping=Damping(kind="absolute", value=1e-9))

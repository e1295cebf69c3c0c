"""What is attributed of every class in the zoo: nearly everything, and what is not is listed here by name."""

import pytest
import torch

from test_zoo_gradients import runner_of
from whence.model import coverage
from zoo import ZOO

SHARE = 0.99
MISSING: dict[str, set[str]] = {}
"""By model, parameters that are not attributed, without their layer's name."""


@pytest.mark.parametrize("name", ZOO)
def test_coverage(name):
    model = ZOO[name](torch.float32)
    _, runner = runner_of(model)
    report = coverage(model, runner.sites)
    assert report.parameters == sum(p.numel() for p in model.parameters())
    left = {line.name: line.reason for line in report.sites if not line.attributed}
    assert {each.rpartition("layers.")[2].partition(".")[2] for each in left} == MISSING.get(name, set()), left
    assert all(left.values())
    assert report.attributed >= SHARE * report.parameters

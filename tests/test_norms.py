"""Scales and shifts: what counts as one is seen when it runs, and whatever is not is left out and said so."""

import pytest
import torch
from torch import nn

from oracle import gradients, relative
from whence.model import Capture, coverage, find_sites, parameters_of, probe_sites

ROWS, TOKENS, WIDTH = 3, 5, 6


class Gated(nn.Module):
    """A norm with a gate beside its input, as state-space models have."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x, gate=None):
        x = x * nn.functional.silu(gate)
        return self.weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


class OnePlus(Gated):
    def forward(self, x, gate=None):
        return (1.0 + self.weight) * x / x.norm(dim=-1, keepdim=True)


class Squared(Gated):
    """Not affine in its weight."""

    def forward(self, x, gate=None):
        return self.weight.square() * x


class Mixed(Gated):
    """Affine, but not element by element."""

    def forward(self, x, gate=None):
        return x + self.weight.flip(0) * x


class Model(nn.Module):
    def __init__(self, norm, spoil=False):
        super().__init__()
        self.into, self.norm, self.out = nn.Linear(WIDTH, WIDTH), norm, nn.Linear(WIDTH, WIDTH)
        self.spoil = spoil

    def forward(self, x):
        hidden = self.into(x)
        normed = self.norm(hidden, gate=x) if isinstance(self.norm, Gated) else self.norm(hidden)
        if self.spoil:
            hidden += 1.0
        return self.out(torch.tanh(normed)) + hidden


def case(norm, spoil=False):
    torch.manual_seed(0)
    model = Model(norm, spoil).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(ROWS, TOKENS, WIDTH, dtype=torch.float64)

    def losses():
        return model(x).square().sum((1, 2))

    sites = probe_sites(model, find_sites(model), losses, ROWS, None, TOKENS)
    wanted = gradients(model, [lambda i=i: model(x[i : i + 1]).square().sum() for i in range(ROWS)])
    return model, losses, sites, wanted


NORMS = {
    "layer": lambda: nn.LayerNorm(WIDTH),
    "layer, no shift": lambda: nn.LayerNorm(WIDTH, bias=False),
    "rms": lambda: nn.RMSNorm(WIDTH),
    "gated": lambda: Gated(WIDTH),
    "one plus": lambda: OnePlus(WIDTH),
}


@pytest.mark.parametrize("name", NORMS)
def test_scales_and_shifts_are_autograds(name):
    model, losses, sites, wanted = case(NORMS[name]())
    names = {parameter for site in sites for parameter in site.parameters}
    assert names == set(wanted)
    got: dict = {}

    def consume(site, uses):
        got[site.name] = (site, uses[0].blocks())

    Capture(model, sites).run(losses, ROWS, consume, TOKENS)
    for site, blocks in got.values():
        for row in range(ROWS):
            for parameter, part in parameters_of(site, model, blocks[row]).items():
                assert relative(part, wanted[parameter][row]) < 1e-9, parameter


@pytest.mark.parametrize("kind", [Squared, Mixed])
def test_what_is_no_scale_is_left_out_and_said_so(kind):
    model, _, sites, _ = case(kind(WIDTH))
    assert {site.name for site in sites} == {"into", "out"}
    (line,) = [line for line in coverage(model, sites).sites if not line.attributed]
    assert line.name == "norm.weight"
    assert "does not act as a scale and a shift" in line.reason


def test_a_vector_along_another_axis_is_no_scale():
    """A slope for each token: its weight does not act along the last axis."""
    sites = case(nn.PReLU(TOKENS))[2]
    assert {site.name for site in sites} == {"into", "out"}


def test_an_input_that_is_changed_in_place_later():
    """The input is gone when the gradient comes: the norm is left out, and everything else is read."""
    model = Model(nn.LayerNorm(WIDTH), spoil=True).double()
    x = torch.randn(ROWS, TOKENS, WIDTH, dtype=torch.float64)
    sites = probe_sites(model, find_sites(model), lambda: model(x).square().sum((1, 2)), ROWS, None, TOKENS)
    assert {site.name for site in sites} == {"into", "out"}
    assert any("changed in place" in line.reason for line in coverage(model, sites).sites if not line.attributed)

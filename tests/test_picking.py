"""Some coordinates of weight gradients are those of the whole blocks, whichever way they are made."""

import pytest
import torch

import whence.factors.picking as room
from whence.factors import Factors, OneHot, Places, Routed, picked, total_blocks

N, T, OUT, IN, E, S = 3, 5, 6, 7, 4, 40


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(size, seed, count):
    return torch.randint(0, size, (count,), generator=torch.Generator().manual_seed(seed))


def ones(size, weighted):
    weight = whole(2, 3, N * T).reshape(N, T).double() if weighted else None
    return OneHot(whole(size, 2, N * T).reshape(N, T), size, weight)


def routed(seed=0):
    expert = whole(E, seed, S).clamp_max(E - 2).sort().values  # the last expert sees nobody
    return Routed(random(S, IN, seed=1), random(S, OUT, seed=2), expert, whole(N, 5, S), whole(T, 6, S), E, (N, T))


USES = {
    "dense": [Factors(random(N, T, IN), random(N, T, OUT, seed=1))],
    "used twice": [Factors(random(N, T, IN), random(N, T, OUT, seed=1)), Factors(random(N, 2, IN), random(N, 2, OUT))],
    "one-hot inputs": [Factors(ones(IN, False), random(N, T, OUT))],
    "one-hot inputs, padded": [Factors(ones(IN, True), random(N, T, OUT))],
    "one-hot outputs": [Factors(random(N, T, IN), ones(OUT, True))],
    "experts": [routed()],
}


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize("count", [1, 11, 30])
@pytest.mark.parametrize("name", USES)
def test_they_are_those_of_the_blocks(name, count, few, monkeypatch):
    monkeypatch.setattr(room, "_FEW", few)
    stack = name == "experts"
    experts = whole(E, 9, count).sort().values if stack else None
    places = Places(whole(OUT, 7, count), whole(IN, 8, count), experts)
    blocks = total_blocks(USES[name])
    wanted = blocks[:, experts, places.rows, places.columns] if stack else blocks[:, places.rows, places.columns]
    torch.testing.assert_close(picked(USES[name], places), wanted)
    monkeypatch.setattr(room, "PIECE", 64)  # a coordinate, and a document, at a time
    torch.testing.assert_close(picked(USES[name], places), wanted)

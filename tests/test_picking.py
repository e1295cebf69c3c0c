"""Some coordinates of weight gradients are those of the whole blocks, whichever way they are made."""

import pytest
import torch

import whence.factors.picking as room
from whence.factors import Factors, OneHot, Places, Routed, picked, picked_pieces, total_blocks

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


@pytest.mark.parametrize("name", USES)
def test_a_few_documents_at_a_time(name, monkeypatch):
    places = Places(whole(OUT, 7, 30), whole(IN, 8, 30), whole(E, 9, 30).sort().values if name == "experts" else None)
    wanted = picked(USES[name], places)
    monkeypatch.setattr(room, "PIECE", 60)
    pieces = list(picked_pieces(USES[name], places))
    assert [len(each) for each in pieces] == [2, 1]
    torch.testing.assert_close(torch.cat(pieces), wanted)


def test_tokens_of_no_weight_cost_nothing(monkeypatch):
    """Of an embedding's padding, and of tokens whose coordinates are not kept."""
    seen = []
    runs = room._runs
    monkeypatch.setattr(room, "_runs", lambda lengths: seen.append(int(lengths.sum())) or runs(lengths))
    use = Factors(OneHot(torch.tensor([[0, 1, 2, 2]]), 3).only(torch.tensor([2])), random(1, 4, OUT))
    picked([use], Places(torch.arange(OUT), torch.zeros(OUT, dtype=torch.int64)))
    assert seen == [2 * OUT]

"""The algebra of sum_t g a^T against plain loops and dense matrices, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whence.factors import Factors, OneHot, map_side, total_blocks

N, T, OUT, IN, V = 3, 4, 5, 6, 7


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def one_hot(seed=0, size=V, weighted=False):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, size, (N, T), generator=generator)
    return OneHot(index, size, torch.randint(0, 2, (N, T), generator=generator).double() if weighted else None)


SIDES = {
    "dense": Factors(random(N, T, IN), random(N, T, OUT)),
    "embedding": Factors(one_hot(), random(N, T, OUT)),
    "embedding padded": Factors(one_hot(weighted=True), random(N, T, OUT)),
    "tied": Factors(random(N, T, IN), one_hot(1)),
    "tied padded": Factors(random(N, T, IN), one_hot(1, weighted=True)),
}


def dense(side):
    if isinstance(side, torch.Tensor):
        return side
    out = torch.zeros(*side.index.shape, side.size, dtype=torch.float64)
    for n in range(N):
        for t in range(T):
            out[n, t, side.index[n, t]] = 1.0 if side.weight is None else side.weight[n, t]
    return out


def loop(factors):
    a, g = dense(factors.inputs), dense(factors.grads)
    return torch.stack([sum(torch.outer(g[n, t], a[n, t]) for t in range(T)) for n in range(N)])


@pytest.mark.parametrize("name", SIDES)
def test_blocks_inner_and_tokens(name):
    factors = SIDES[name]
    wanted = loop(factors)
    torch.testing.assert_close(factors.blocks(), wanted)
    torch.testing.assert_close(factors.inner(factors), wanted.flatten(1) @ wanted.flatten(1).T)
    tokens = factors.per_token().blocks()
    assert len(tokens) == N * T
    torch.testing.assert_close(tokens.reshape(N, T, *wanted.shape[1:]).sum(1), wanted)
    fixed = random(2, *wanted.shape[1:], seed=5)
    shares = factors.against(fixed)
    assert shares.shape == (2, N, T)
    torch.testing.assert_close(shares.sum(-1), torch.einsum("moi,noi->mn", fixed, wanted))
    torch.testing.assert_close(
        shares.reshape(2, -1), torch.einsum("moi,noi->mn", fixed, tokens), msg="a token is an example of length one"
    )


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("right", [True, False])
def test_a_projected_site_is_a_smaller_site(name, left, right):
    factors = SIDES[name]
    wanted = loop(factors)
    po = random(2, wanted.shape[1]) if left else None
    pi = random(3, wanted.shape[2]) if right else None
    mapped = factors.map(po, pi).blocks()
    wanted = wanted if po is None else po @ wanted
    torch.testing.assert_close(mapped, wanted if pi is None else wanted @ pi.T)


def test_uses_add_up():
    uses = [SIDES["dense"], Factors(random(N, T, IN, seed=3), random(N, T, OUT, seed=4))]
    torch.testing.assert_close(total_blocks(uses), loop(uses[0]) + loop(uses[1]))
    tied = [SIDES["tied"], Factors(random(N, T, IN, seed=1), random(N, T, V, seed=2))]
    torch.testing.assert_close(total_blocks(tied), loop(tied[0]) + loop(tied[1]))


def test_mapping_keeps_the_low_precision_of_a_side():
    side = random(N, T, IN).to(torch.bfloat16)
    assert map_side(side, random(2, IN).float()).dtype == torch.bfloat16
    assert map_side(side, None) is side


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 4), t=st.integers(1, 5), o=st.integers(1, 6), i=st.integers(1, 6), seed=st.integers(0, 99))
def test_any_shape(n, t, o, i, seed):
    factors = Factors(random(n, t, i, seed=seed), random(n, t, o, seed=seed + 1))
    other = Factors(random(2, t + 1, i, seed=seed + 2), random(2, t + 1, o, seed=seed + 3))
    assert factors.blocks().shape == (n, o, i)
    wanted = torch.einsum("noi,moi->nm", factors.blocks(), other.blocks())
    torch.testing.assert_close(factors.inner(other), wanted)
    torch.testing.assert_close(factors.per_token().blocks().reshape(n, t, o, i).sum(1), factors.blocks())

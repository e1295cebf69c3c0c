"""Factors of a stack of experts against plain loops over tokens, in float64; grouped products in every layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whence.curvature import Covariances, SiteCurvature, add_squares, fit_kfac, with_eigenvalues
from whence.curvature.experts import shrunk, trust
from whence.factors import Factors, Routed, block_pieces, group_ends, grouped_outer, grouped_product
from whence.interfaces import Site, Use

N, T, E, OUT, IN = 3, 4, 5, 6, 7


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def routed(seed=0, top_k=2, only=None):
    """Every token of N x T goes to `top_k` experts; all to expert `only` if given."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.stack([torch.randperm(E, generator=generator)[:top_k] for _ in range(N * T)])
    if only is not None:
        chosen = torch.full((N * T, 1), only)
    expert, order = torch.sort(chosen.reshape(-1), stable=True)
    flat = order // chosen.shape[1]
    rows = len(order)
    return Routed(random(rows, IN, seed=seed), random(rows, OUT, seed=seed), expert, flat // T, flat % T, E, (N, T))


def loop(use):
    out = torch.zeros(use.shape[0], E, use.grads.shape[1], use.inputs.shape[1], dtype=torch.float64)
    for row in range(len(use.expert)):
        out[use.example[row], use.expert[row]] += torch.outer(use.grads[row], use.inputs[row])
    return out


CASES = {"two each": routed(), "all experts": routed(1, top_k=E), "one expert": routed(2, only=3)}


@pytest.mark.parametrize("name", CASES)
def test_blocks_tokens_and_maps(name):
    use = CASES[name]
    wanted = loop(use)
    torch.testing.assert_close(use.blocks(), wanted)
    assert use.sizes == tuple(wanted.shape[1:])
    fixed = random(2, E, OUT, IN, seed=5)
    shares = use.against(fixed)
    assert shares.shape == (2, N, T)
    torch.testing.assert_close(shares.sum(-1), torch.einsum("meoi,neoi->mn", fixed, wanted))
    torch.testing.assert_close(use.shares(fixed)[1], torch.einsum("meoi,neoi->mne", fixed, wanted))
    left, right = random(E, 2, OUT), random(E, 3, IN)
    torch.testing.assert_close(use.map(left, right).blocks(), left @ wanted @ right.mT)
    torch.testing.assert_close(use.map(None, right).blocks(), wanted @ right.mT)


def test_examples_in_pieces(monkeypatch):
    use = CASES["two each"]
    torch.testing.assert_close(use.rows(slice(1, 3)).blocks(), loop(use)[1:3])
    monkeypatch.setattr("whence.factors.sums.PIECE", 2 * E * OUT * IN)
    pieces = list(block_pieces([use]))
    assert [len(piece) for piece in pieces] == [2, 1]
    torch.testing.assert_close(torch.cat(pieces), loop(use))


def test_packed_rows_are_taken_apart():
    """Row 0 holds two examples, row 1 one, row 2 one that leaves its last token to padding."""
    use = CASES["two each"]
    gather = torch.tensor([[0, 1, -1, -1], [2, 3, -1, -1], [4, 5, 6, 7], [8, 9, 10, -1]])
    apart = use.unpacked(gather)
    tokens = use.against(random(1, E, OUT, IN))[0].reshape(-1)
    wanted = torch.where(gather >= 0, tokens[gather.clamp_min(0)], 0.0)
    torch.testing.assert_close(apart.against(random(1, E, OUT, IN))[0], wanted)
    mask = torch.arange(N * T).reshape(N, T) % 3 == 0
    assert torch.equal(use.at(mask), (use.example * T + use.token) % 3 == 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.sampled_from([4, 5, 8, 16]),
    st.sampled_from([3, 8, 12]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_grouped_products(counts, inner, outer, dtype):
    groups = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ends = group_ends(groups, len(counts))
    rows, left = random(sum(counts), inner, dtype=dtype), random(sum(counts), outer, seed=1, dtype=dtype)
    matrices = random(len(counts), inner, outer, dtype=dtype)
    found = grouped_product(rows, matrices, ends)
    wanted = torch.stack([row @ matrices[g] for row, g in zip(rows, groups, strict=True)]) if len(rows) else found
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(grouped_product(rows, matrices.mT.contiguous().mT, ends), wanted)
    sums = torch.stack([left[groups == g].T @ rows[groups == g] for g in range(len(counts))])
    torch.testing.assert_close(grouped_outer(left, rows, ends), sums, rtol=1e-4, atol=1e-5)


def test_grouped_products_have_the_gradient_of_their_rows():
    rows = random(6, 8).requires_grad_(True)
    matrices, ends = random(3, 8, 4), torch.tensor([2, 2, 6], dtype=torch.int32)
    wide = torch.autograd.grad(grouped_product(rows, matrices, ends).square().sum(), rows)[0]
    narrow = torch.autograd.grad(grouped_product(rows.float(), matrices.float(), ends).square().sum(), rows)[0]
    torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-5)


STACK = Site("x.down_proj", OUT, IN, False, (Use("x"),), None, ("x.down_proj",), group="x.down_proj", experts=E)
PLAIN = Site("x", OUT, IN, False, (Use("x"),), None, ("x.weight",), group="x")


def summed(use, mask=None):
    sums = Covariances([STACK], 100, documents=N)
    sums.add(STACK, [use], [mask])
    return sums


def test_second_moments_by_expert_and_tokens_that_count():
    use = CASES["two each"]
    mask = torch.ones(N, T, dtype=torch.bool)
    mask[0, 1:] = False
    sums = summed(use, mask)
    kept = use.at(mask)
    for e in range(E):
        rows = use.inputs[kept & (use.expert == e)]
        torch.testing.assert_close(sums.totals["x.down_proj|inputs"][e], rows.T @ rows)
        assert sums.counts["x.down_proj|outputs"][e] == len(rows)
    halves = summed(use.rows(slice(0, 1)))
    halves.merge(summed(use.rows(slice(1, 3))).state())
    torch.testing.assert_close(halves.totals["x.down_proj|outputs"], summed(use).totals["x.down_proj|outputs"])


def test_an_expert_with_many_tokens_has_its_own_curvature():
    """With a billion times the tokens shrinking vanishes, and each expert is fitted as if it were a site of its own."""
    use, many = CASES["two each"], 1e9
    sums = summed(use)
    sums.totals = {name: many * total for name, total in sums.totals.items()}
    sums.counts = {name: many * count for name, count in sums.counts.items()}
    sums.documents = many * N
    stack = fit_kfac(STACK, sums, {})
    for e in range(E):
        here = use.expert == e
        alone = Covariances([PLAIN], 100, documents=N)
        alone.add(PLAIN, [Factors(use.inputs[here][None], use.grads[here][None])], [None])
        wanted = fit_kfac(PLAIN, alone, {})
        torch.testing.assert_close(stack.eigenvalues[e], wanted.eigenvalues, rtol=1e-4, atol=1e-6)
        block = random(2, OUT, IN)
        whole = torch.zeros(2, E, OUT, IN, dtype=torch.float64)
        whole[:, e] = block
        torch.testing.assert_close(stack.solve(whole, 0.3)[:, e], wanted.solve(block, 0.3), rtol=1e-4, atol=1e-5)


def test_an_expert_without_tokens_has_the_pooled_factor():
    use = CASES["one expert"]
    sums = summed(use)
    pooled = sums.totals["x.down_proj|inputs"].sum(0) / len(use.expert)
    moments = shrunk(sums.totals["x.down_proj|inputs"], sums.counts["x.down_proj|inputs"])
    torch.testing.assert_close(moments[0], pooled)
    torch.testing.assert_close(moments[3], pooled)
    fitted = fit_kfac(STACK, sums, {})
    assert fitted.trust[0] == 0
    assert fitted.trust[3] == N * T / (N * T + IN)
    assert (fitted.eigenvalues[0] >= 0).all()
    assert fitted.eigenvalues[0].max() > 0


def test_shrinking_brings_rare_experts_nearer_to_the_truth():
    """Experts that share most of their covariance, seen for four tokens each: shrunk moments err less."""
    d, tokens, experts = 16, 4, 24
    base = random(d, d)
    roots = [base + 0.2 * random(d, d, seed=10 + e) for e in range(experts)]
    totals, errors = [], []
    for e, root in enumerate(roots):
        rows = random(tokens, d, seed=100 + e) @ root.T
        totals.append(rows.T @ rows)
    moments = shrunk(torch.stack(totals), torch.full((experts,), float(tokens), dtype=torch.float64))
    for e, root in enumerate(roots):
        truth = root @ root.T
        errors.append([float((moment - truth).norm()) for moment in (moments[e], totals[e] / tokens)])
    near, far = torch.tensor(errors).mean(0)
    assert near < 0.7 * far


def test_measured_eigenvalues_count_by_what_the_expert_saw():
    use = CASES["one expert"]
    basis = fit_kfac(STACK, summed(use), {})
    squares = torch.zeros(E, OUT, IN, dtype=torch.float64)
    add_squares(squares, basis.rotate(use.blocks()))
    fitted = with_eigenvalues(basis, squares, N)
    torch.testing.assert_close(fitted.eigenvalues[0], basis.eigenvalues[0])
    own = float(trust(torch.tensor(float(N * T)), IN))
    measured = basis.rotate(use.blocks())[:, 3].square().sum(0) / N
    torch.testing.assert_close(fitted.eigenvalues[3], own * measured + (1 - own) * basis.eigenvalues[3])


def test_moving_keeps_everything():
    fitted = fit_kfac(STACK, summed(CASES["two each"]), {}).to("cpu", torch.float32)
    assert isinstance(fitted, SiteCurvature)
    assert {t.dtype for t in (fitted.outputs, fitted.inputs, fitted.eigenvalues, fitted.trust)} == {torch.float32}

"""Covariances, K-FAC, EK-FAC and damping against dense matrices built from autograd, with the same drawn labels."""

import math

import numpy as np
import pytest
import torch

from conftest import as_loaded, causal_lm, make_runner, sequences, shake
from oracle import (
    block,
    dense_ekfac,
    draw_labels,
    eigenvectors,
    fisher,
    gradients,
    kron,
    moments,
    relative,
    sequence_loss,
    sides,
)
from test_capture import Recurrent, expected, plain_examples, plain_runner
from test_projection import xxh64
from whence.curvature import (
    Covariances,
    Damping,
    SiteCurvature,
    add_squares,
    diagonal_sides,
    eigenbasis,
    exact_hessian,
    exact_solve,
    fit_kfac,
    identity_curvature,
    standard_error,
    with_eigenvalues,
)
from whence.data import batch_from_sequences
from whence.errors import InputError, NumericalError
from whence.gradients import (
    Examples,
    add_covariances,
    add_eigenvalue_squares,
    gradient_blocks,
    language_examples,
)
from whence.model import Classification
from whence.projection import uniforms

SEED = 11
LAYOUTS = {"right": {}, "left": {"side": "left"}, "packed": {"pack": 16}}
MODELS = {
    "llama": ("llama", {}),
    "gpt2 tied": ("gpt2", {}),
    "qwen3 tied padding_idx": ("qwen3", {"tie_word_embeddings": True, "pad_token_id": 3}),
}


def drawn(model, data, name):
    """Each example's labels, drawn as the specification says: by a hash of its tokens, and position."""
    out = []
    for tokens, _ in data:
        positions = np.arange(len(tokens), dtype=np.int64)
        key = xxh64(b"".join(int(token).to_bytes(8, "little") for token in tokens), 0)
        u = uniforms(SEED, name, np.full(len(tokens), key, dtype=np.uint64).view(np.int64), positions)
        out.append(draw_labels(model, torch.from_numpy(tokens), torch.from_numpy(u)))
    return out


def losses_of(model, data, labels):
    return [
        lambda t=t, m=m, y=y: sequence_loss(model, torch.from_numpy(t), torch.from_numpy(m), y)
        for (t, m), y in zip(data, labels)
    ]


def counted(mask, head):
    """Positions whose vectors count: those that predict a target, and for all but the head those before them."""
    predicting = np.flatnonzero(mask[1:])
    return predicting if head else np.arange(predicting[-1] + 1)


def elementwise_sides(module, use, a, g, tokens):
    """A constant and the gradient of a norm's scale or shift at each token, summed over the token's heads."""
    if isinstance(module, torch.nn.LayerNorm):
        plain = torch.nn.functional.layer_norm(a, a.shape[-1:], eps=module.eps)
    else:
        single = a.float()  # as the class computes
        plain = (single * (single.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()).to(a.dtype)
    vectors = (g if use.bias else g * plain).reshape(tokens, -1, g.shape[-1]).sum(1)
    return vectors.new_ones(tokens, 1), vectors


def dense_moments(model, site, data, labels):
    """By use: (sum of output vectors' products, of inputs', tokens) of all examples; one-hot sides as frequencies."""
    uses = []
    for use in site.uses:
        module = model.get_submodule(use.module)
        is_head = site.head and not use.flipped
        a_all, g_all = [], []
        for (_, mask), loss in zip(data, losses_of(model, data, labels)):
            a, g = sides(model, module, loss)
            a, g = elementwise_sides(module, use, a, g, len(mask)) if site.elementwise else (a, g)
            rows = torch.from_numpy(counted(mask, is_head))
            a_all.append(a[rows])
            g_all.append(g[rows])
        a, g = torch.cat(a_all), torch.cat(g_all)
        if not a.is_floating_point():
            hot = torch.nn.functional.one_hot(a, module.num_embeddings).double()
            a = hot * (1 if module.padding_idx is None else (a != module.padding_idx).double()[:, None])
        if use.bias and not site.elementwise:
            a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
        uses.append((a, g) if use.flipped else (g, a))
    return uses


def covariances(runner, loaded, data, how, head_limit=10**6):
    sums = Covariances(runner.sites, head_limit, documents=len(data))
    add_covariances(runner, language_examples(batch_from_sequences(data, **how), loaded), sums, SEED, "full")
    return sums


def against(moment, vectors):
    """Error of a moment, or of a diagonal one, against the sum of vectors' products."""
    truth = vectors.T @ vectors
    return relative(moment, truth.diagonal() if moment.ndim == 1 else truth)


@pytest.mark.parametrize("name", MODELS)
def test_covariances_of_language_models(name):
    kind, changes = MODELS[name]
    model = causal_lm(kind, **changes)
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = sequences()
    labels = drawn(model, data, "covariance")
    wanted = {site.name: dense_moments(model, site, data, labels) for site in runner.sites}
    for layout, how in LAYOUTS.items():
        sums = covariances(runner, loaded, data, how)
        for site in runner.sites:
            if len(site.uses) == 1:
                names = [(f"{site.name}|outputs", f"{site.group}|inputs")]
            else:
                names = [(f"{site.name}|outputs|{i}", f"{site.name}|inputs|{i}") for i in range(len(site.uses))]
            for outputs, inputs in wanted[site.name]:
                pair = min(names, key=lambda pair: against(sums.totals[pair[0]], outputs))
                assert against(sums.totals[pair[0]], outputs) < 1e-8, (layout, site.name, "outputs")
                assert against(sums.totals[pair[1]], inputs) < 1e-8, (layout, site.name, "inputs")
                assert {float(sums.counts[n]) for n in pair} == {len(outputs)}, (layout, site.name, "tokens counted")


def test_tokens_that_count():
    """Full documents: T-1 predicting positions, never the last and never padding; prompts count as inputs only."""
    model = causal_lm("llama")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    sums = covariances(runner, loaded, sequences((9, 5), prompts=False), {})
    assert {float(count) for count in sums.counts.values()} == {8 + 4}
    sums = covariances(runner, loaded, sequences((9, 5), prompts=True), {})
    assert sums.counts["lm_head|outputs"] == 4 + 4
    assert sums.counts["model.layers.0.mlp.down_proj|outputs"] == 8 + 4
    assert sums.documents == 2


def test_shared_inputs_are_added_once_a_batch():
    model = causal_lm("llama")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = sequences()
    once = covariances(runner, loaded, data, {})
    assert len([n for n in once.totals if n.endswith("|inputs")]) < len(runner.sites)
    sums = Covariances(runner.sites, 10**6)
    for start in (0, 2):  # the same examples in two batches
        rows = np.arange(start, min(start + 3, 5) if start else 2)
        batch = batch_from_sequences([data[i] for i in rows], rows.astype(np.int64))
        add_covariances(runner, language_examples(batch, loaded), sums, SEED, "full")
    for name, total in once.totals.items():
        assert relative(sums.totals[name], total) < 1e-9, name
        assert sums.counts[name] == once.counts[name]


def test_parts_merge_into_the_whole():
    model = causal_lm("gpt2")
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = sequences()
    whole, merged = covariances(runner, loaded, data, {}), Covariances(runner.sites, 10**6)
    for rows in (np.array([0, 1, 2]), np.array([3, 4])):
        part = Covariances(runner.sites, 10**6, documents=len(rows))
        batch = batch_from_sequences([data[i] for i in rows], rows)
        add_covariances(runner, language_examples(batch, loaded), part, SEED, "full")
        merged.merge(part.state())
    assert merged.documents == 5
    assert merged.totals.keys() == whole.totals.keys()
    for name, total in whole.totals.items():
        assert relative(merged.totals[name], total) < 1e-9
        assert merged.counts[name] == whole.counts[name]


# ------------------------------------------------------------------ K-FAC and EK-FAC


def fitted(name, head_limit=10**6, how=None):
    kind, changes = MODELS[name]
    model = causal_lm(kind, **changes)
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    data = sequences()
    sums = covariances(runner, loaded, data, how or {}, head_limit)
    shared: dict = {}
    kfac = {site.name: fit_kfac(site, sums, shared) for site in runner.sites}
    squares: dict = {}
    examples = language_examples(batch_from_sequences(data, **(how or {})), loaded)
    add_eigenvalue_squares(runner, examples, kfac, squares, SEED, "full")
    ekfac = {n: with_eigenvalues(kfac[n], squares[n], len(data)) for n in kfac}
    labels = drawn(model, data, "eigenvalues")
    blocks = gradients(model, losses_of(model, data, labels))
    exact = {site.name: expected(model, site, blocks) for site in runner.sites}
    return model, runner, data, kfac, ekfac, exact


@pytest.mark.parametrize("name", MODELS)
def test_kfac_is_the_kronecker_product_of_moments(name):
    model, runner, data, kfac, _, _ = fitted(name)
    labels = drawn(model, data, "covariance")
    for site in runner.sites:
        uses = dense_moments(model, site, data, labels)
        parts = [len(g) / len(data) * kron(moments(g), moments(a)) for g, a in uses]
        got = kfac[site.name]
        assert got.eigenvalues.dtype == torch.float64
        assert bool((got.eigenvalues >= 0).all())
        flat_out, flat_in = diagonal_sides(site, 10**6)
        assert (got.outputs is None, got.inputs is None) == (flat_out, flat_in)
        if len(uses) == 1 and not flat_out and not flat_in:
            assert relative(dense_ekfac(got.outputs, got.inputs, got.eigenvalues), parts[0]) < 1e-8, site.name
            continue
        # a sum of Kronecker products, or a diagonal factor: the best one can do is the diagonal in the basis
        basis = dense_ekfac(got.outputs, got.inputs, torch.ones_like(got.eigenvalues))
        assert relative(basis, torch.eye(len(basis), dtype=basis.dtype)) < 1e-10, "the basis is orthonormal"
        o, i = got.eigenvalues.shape
        q = kron(
            torch.eye(o, dtype=torch.float64) if got.outputs is None else got.outputs,
            torch.eye(i, dtype=torch.float64) if got.inputs is None else got.inputs,
        )
        total = sum(parts)
        if flat_in and not flat_out:  # a one-hot input has a diagonal moment by nature: nothing is lost
            assert relative(dense_ekfac(got.outputs, None, got.eigenvalues), total) < 1e-8, site.name
        wanted = (q.T @ total @ q).diagonal().reshape(o, i)
        assert relative(got.eigenvalues, wanted) < 1e-8, site.name


@pytest.mark.parametrize("how", [{}, {"pack": 16}])
@pytest.mark.parametrize("name", MODELS)
def test_ekfac_measures_the_diagonal_in_the_basis(name, how):
    _, runner, _, kfac, ekfac, exact = fitted(name, how=how)
    for site in runner.sites:
        basis = kfac[site.name]
        turned = exact[site.name]
        turned = turned if basis.outputs is None else basis.outputs.T @ turned
        turned = turned if basis.inputs is None else turned @ basis.inputs
        assert relative(ekfac[site.name].eigenvalues, turned.square().mean(0)) < 1e-8, site.name


@pytest.mark.parametrize("name", MODELS)
def test_ekfac_is_the_optimal_diagonal_and_beats_kfac(name):
    _, runner, _, kfac, ekfac, exact = fitted(name)
    generator = torch.Generator().manual_seed(0)
    for site in runner.sites:
        truth = fisher(exact[site.name])
        basis = ekfac[site.name]
        far = (dense_ekfac(basis.outputs, basis.inputs, kfac[site.name].eigenvalues) - truth).norm()
        near = (dense_ekfac(basis.outputs, basis.inputs, basis.eigenvalues) - truth).norm()
        assert near <= far * (1 + 1e-9), site.name
        noise = torch.randn(basis.eigenvalues.shape, generator=generator, dtype=torch.float64)
        for step in (1e-3, -1e-3):
            other = basis.eigenvalues + step * noise * basis.eigenvalues.mean()
            assert (dense_ekfac(basis.outputs, basis.inputs, other) - truth).norm() > near, site.name


def test_a_wide_head_is_diagonal_on_its_output_side():
    _, runner, _, kfac, _, _ = fitted("llama", head_limit=10)
    head = kfac["lm_head"]
    assert head.outputs is None
    assert head.inputs is not None
    others = [kfac[s.name] for s in runner.sites if not s.head and s.vocabulary is None and not s.elementwise]
    assert all(c.outputs is not None for c in others), "the limit is for the head alone"
    full = fitted("llama")[3]["lm_head"]
    assert full.outputs is not None
    assert float(head.eigenvalues.sum()) == pytest.approx(float(full.eigenvalues.sum()), rel=1e-9), "the trace is kept"


def test_a_group_is_decomposed_once_and_shared():
    _, runner, _, kfac, ekfac, _ = fitted("llama")
    for site in runner.sites:
        assert kfac[site.name].inputs is kfac[site.group].inputs
        assert ekfac[site.name].inputs is kfac[site.name].inputs


def test_solve_is_the_inverse_of_the_dense_matrix():
    _, runner, _, _, ekfac, exact = fitted("gpt2 tied")
    for site in runner.sites:
        curvature, blocks = ekfac[site.name], exact[site.name]
        dense = dense_ekfac(curvature.outputs, curvature.inputs, curvature.eigenvalues)
        damped = dense + 0.03 * torch.eye(len(dense), dtype=torch.float64)
        wanted = torch.linalg.solve(damped, blocks.flatten(1).T).T
        assert relative(curvature.solve(blocks, 0.03).flatten(1), wanted) < 1e-9
        assert relative(curvature.unrotate(curvature.rotate(blocks)), blocks) < 1e-10


def test_a_module_called_several_times():
    """Calls are more tokens of one example: moments pool them, eigenvalues see their sum."""
    model = shake(Recurrent())
    ids = torch.randint(0, 6, (5, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    runner = plain_runner(model, Classification(), ids, labels)
    numbers = np.arange(5)
    examples = Examples(
        (ids, labels), 5, 5, numbers, None,
        lambda name, seed: torch.from_numpy(uniforms(seed, name, numbers, np.zeros_like(numbers))),
    )  # fmt: skip
    sums = Covariances(runner.sites, 10**6, documents=5)
    add_covariances(runner, examples, sums, SEED, "full")
    assert sums.counts["cell|outputs"] == sums.counts["cell|inputs"] == 3 * 5 * 4
    shared: dict = {}
    bases = {site.name: fit_kfac(site, sums, shared) for site in runner.sites if site.name != "unused"}
    runner = type(runner)(model, [s for s in runner.sites if s.name != "unused"], runner.objective)
    squares: dict = {}
    add_eigenvalue_squares(runner, examples, bases, squares, SEED, "full")
    u = uniforms(SEED, "eigenvalues", numbers, np.zeros_like(numbers))
    cdf = model(ids).softmax(-1).cumsum(-1)
    drawn_labels = (cdf <= torch.from_numpy(u)[:, None]).sum(1)
    blocks, _ = gradient_blocks(runner, plain_examples(ids, drawn_labels))
    for site in runner.sites:
        wanted = bases[site.name].rotate(blocks[site.name]).square().sum(0)
        assert relative(squares[site.name], wanted) < 1e-8, site.name


# ------------------------------------------------------------------ low precision


def test_eigenvalues_of_a_bfloat16_model_do_not_stagnate():
    """Squares of thousands of examples are summed in float32: in bfloat16 a sum stops growing after some hundreds."""
    model = causal_lm("llama").to(torch.bfloat16)
    loaded = as_loaded(model)
    runner = make_runner(loaded, ["*.mlp.*"])
    data = sequences((6,) * 64, prompts=False)
    bases = {site.name: identity_curvature(site) for site in runner.sites}
    few: dict = {}
    many: dict = {}
    examples = language_examples(batch_from_sequences(data), loaded)
    add_eigenvalue_squares(runner, examples, bases, few, SEED, "full")
    for _ in range(30):
        add_eigenvalue_squares(runner, examples, bases, many, SEED, "full")
    for name in few:
        assert many[name].dtype == torch.float32
        assert relative(many[name] / 30, few[name]) < 1e-3, name


def test_gradients_of_a_bfloat16_model_are_not_rounded_again():
    """The sum over tokens of rounded factors, exactly; a bfloat16 product would keep 8 bits of it."""
    model = causal_lm("llama").to(torch.bfloat16)
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    factors: dict = {}
    examples = language_examples(batch_from_sequences(sequences()), loaded)
    runner.examples(examples, lambda site, uses: factors.update({site.name: uses[0]}))
    blocks, _ = gradient_blocks(runner, examples)
    for site in runner.sites:
        if site.vocabulary is None:
            a, g = factors[site.name].inputs.double(), factors[site.name].grads.double()
            assert torch.equal(a, a.bfloat16().double())
            assert relative(blocks[site.name], torch.einsum("nto,nti->noi", g, a)) < 1e-6


def test_covariances_of_a_bfloat16_model_are_summed_in_float32():
    model = causal_lm("llama").to(torch.bfloat16)
    loaded = as_loaded(model)
    sums = covariances(make_runner(loaded), loaded, sequences(), {})
    assert {total.dtype for total in sums.totals.values()} == {torch.float32}


# ------------------------------------------------------------------ damping and small pieces


def curvature_of(values):
    return SiteCurvature(None, None, torch.tensor(values))


def test_damping_rules():
    curvature = curvature_of([[1.0, 3.0], [5.0, 7.0]])
    assert Damping().of("s", curvature, 100.0) == pytest.approx(0.1 * 4.0)
    assert Damping(value=0.1).of("s", curvature, 100.0) == pytest.approx(0.4)
    assert Damping(kind="weight_decay", value=0.01).of("s", curvature, 100.0) == pytest.approx(1.0)
    assert Damping(kind="absolute", value=0.5).of("s", curvature, 100.0) == 0.5
    assert Damping().of("s", curvature_of([[0.0]]), 1.0) > 0, "a site without curvature can still be inverted"
    for bad in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"greater than 0|finite"):
            Damping(value=bad)
    for broken in ([[math.nan]], [[math.inf]]):
        with pytest.raises(NumericalError, match=r"--dtype"):
            Damping().of("s", curvature_of(broken), 1.0)


def test_eigenbasis_symmetrises_clamps_and_refuses():
    matrix = torch.randn(5, 5, dtype=torch.float64)
    values, vectors = eigenbasis(matrix, "x")
    torch.testing.assert_close(vectors.abs(), eigenvectors(matrix).abs())
    assert bool((values >= 0).all())
    assert eigenbasis(torch.eye(2), "x")[1].dtype == torch.float64
    with pytest.raises(NumericalError, match=r"covariance of site\.a is not finite"):
        eigenbasis(torch.tensor([[math.inf, 0.0], [0.0, 1.0]]), "site.a")


def test_standard_error_is_that_of_the_mean():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(400, 16, 2, 3, generator=generator, dtype=torch.float64).square()  # 400 trials of 16 parts
    estimates = []
    for trial in samples:
        parts = {str(i): (part * 5, 5.0) for i, part in enumerate(trial)}
        estimates.append(standard_error(parts))
    means = samples.mean(1)
    truth = float((means.var(0).sum()).sqrt() / samples.mean((0, 1)).norm())
    assert float(np.mean(estimates)) == pytest.approx(truth, rel=0.1)
    assert math.isnan(standard_error({"a": (torch.ones(1, 1), 1.0)}))
    assert standard_error({"a": (torch.ones(1, 1), 1.0), "b": (2 * torch.ones(1, 1), 2.0)}) == pytest.approx(
        0, abs=1e-12
    )


def test_add_squares_is_the_sum_of_squares():
    total = torch.zeros(2, 3)
    blocks = torch.randn(4, 2, 3)
    add_squares(total, blocks)
    torch.testing.assert_close(total, blocks.square().sum(0))


def test_exact_hessian_against_autograd_and_its_limits():
    x = torch.randn(4, dtype=torch.float64)
    function = lambda v: (v.sin() * v.flip(0)).sum() + v.pow(4).sum()  # noqa: E731
    torch.testing.assert_close(exact_hessian(function, x), torch.autograd.functional.hessian(function, x))
    hessian = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    solved = exact_solve(hessian, 1.0, torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(solved, torch.tensor([[1 / 2, 1 / 3]] * 3, dtype=torch.float64))
    with pytest.raises(NumericalError, match=r"smallest eigenvalue -2"):
        exact_solve(-hessian, 0.5, torch.ones(1, 2, dtype=torch.float64))
    with pytest.raises(InputError, match="20,001"):
        exact_hessian(lambda v: v.sum(), torch.zeros(20_001))


def test_block_oracle_orientation():
    """The oracle itself: a bias is the last column, Conv1D weights are transposed."""
    grads = {"w": torch.arange(6.0).reshape(1, 2, 3), "b": torch.tensor([[7.0, 8.0, 9.0]])}
    assert block(grads, "w", transposed=True, bias="b")[0].tolist() == [[0, 3, 7], [1, 4, 8], [2, 5, 9]]

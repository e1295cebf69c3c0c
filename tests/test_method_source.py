"""SOURCE: against matrix exponentials of dense curvature in float64, its fit against autograd, and against retraining.

The last test trains an output layer alone, which is convex, by full-batch gradient descent that is stopped early.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from checkpoint_world import RATES, make_checkpoints
from method_world import QUERIES, make_place, make_truth, open_run
from oracle import dense_ekfac, draw_labels, gradients, kron, relative, sequence_loss, sides
from test_capture import expected
from test_method_tracin import scored, truth_at
from test_projection import xxh64
from whence.attributor import Attributor, read_checkpoints, run_steps
from whence.attributor.steps import CorpusStep
from whence.curvature import SiteCurvature
from whence.errors import IncompleteError
from whence.methods import Work, method_scores, parse_method
from whence.methods.source import Flow, split
from whence.methods.source_fit import segment_curvatures, separable
from whence.model import StoredState, write_state
from whence.projection import uniforms

SEED = 0
DECAY = 0.1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("source"), "gpt2")
    owner = open_run(place, place / "run", seed=SEED)
    run_steps([CorpusStep(owner)])
    checkpoints = make_checkpoints(place)
    truths = [truth_at(place / f"truth-{each.step}", owner, each) for each in checkpoints]
    return SimpleNamespace(
        place=place, owner=owner, checkpoints=checkpoints, truths=truths, asked=make_truth(place, owner)
    )


def root_of(world, site, checkpoints):
    """P^1/2 of a site from the stored moments."""
    total = 0
    for checkpoint in checkpoints:
        stored = load_file(checkpoint.optimizer)
        values = {name: stored[f"exp_avg_sq:{name}"][None] for name in site.parameters}
        square = expected(world.owner.loaded.model, site, values)[0] / (1 - checkpoint.betas[1] ** checkpoint.step)
        root = square.sqrt()
        total = total + 1 / (root.clamp_min(1e-3 * root.square().mean().sqrt()) + checkpoint.eps)
    return (total / len(checkpoints)).sqrt()


def integral(matrix):
    """``int_0^1 exp(-M t) dt`` by the exponential of a block matrix."""
    size = len(matrix)
    whole = matrix.new_zeros(2 * size, 2 * size)
    whole[:size, :size], whole[:size, size:] = -matrix, torch.eye(size, dtype=matrix.dtype)
    return torch.linalg.matrix_exp(whole)[:size, size:]


@pytest.mark.parametrize("spec", ["source", "source:segments=1", "source:segments=2,metric=adam"])
def test_against_dense_exponentials(world, spec):
    """``theta' = -P (s H) theta - w theta`` through every segment, with explicit matrices; not one is symmetric."""
    owner, method = world.owner, parse_method(spec)
    found = scored(owner, spec, world.checkpoints)
    work, n = Work(owner, world.checkpoints), owner.corpus.documents
    segments = split(work, method.segments)
    edges = [0.0, *(RATES[segment.checkpoints[-1].step] for segment in segments)]
    wanted = np.zeros_like(found)
    for site in owner.sites:
        carried = world.asked.queries[:, world.asked.slices[site.name]].T
        for segment, first, last in reversed(list(zip(segments, edges, edges[1:], strict=False))):
            each = segment_curvatures(work.folder(method) / segment.name, owner, method.metric == "adam")[site.name]
            dense = dense_ekfac(
                *(None if basis is None else basis.double() for basis in (each.outputs, each.inputs)),
                each.eigenvalues.double(),
            )
            metric = torch.eye(len(dense), dtype=torch.float64)
            if method.metric == "adam":
                root = root_of(world, site, segment.checkpoints).flatten()
                metric, dense = torch.diag(root**2), dense / root[:, None] / root
            moved = (last - first) * n / owner.corpus.targets
            decay = 0.0 if site.elementwise else (last - first) * DECAY
            flow = moved * metric @ dense + decay * torch.eye(len(dense), dtype=torch.float64)
            pulled = (carried.T @ integral(flow) @ metric) * moved
            rows = [truth.documents[:, world.asked.slices[site.name]]
                    for truth, point in zip(world.truths, world.checkpoints, strict=True)
                    if point in segment.checkpoints]  # fmt: skip
            wanted += (pulled @ torch.stack(rows).mean(0).T / n).numpy()
            carried = torch.linalg.matrix_exp(-flow).T @ carried
    assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()


def labels_at(world, model, name):
    out = []
    for tokens, _ in world.asked.windows:
        key = xxh64(b"".join(int(token).to_bytes(8, "little") for token in tokens), 0)
        keys = np.full(len(tokens), key, dtype=np.uint64).view(np.int64)
        u = uniforms(SEED, name, keys, np.arange(len(tokens), dtype=np.int64))
        out.append(draw_labels(model, torch.from_numpy(np.array(tokens)), torch.from_numpy(u)))
    return out


@pytest.mark.parametrize("metric", ["sgd", "adam"])
def test_what_is_fitted_is_a_mean_over_checkpoints(world, metric):
    """Eigenvalues by autograd at each checkpoint, per document; eigenvectors diagonalise the summed second moments."""
    owner, method = world.owner, parse_method(f"source:segments=2,metric={metric}")
    work = Work(owner, world.checkpoints)
    run_steps(method.steps(work))
    segment = split(work, 2)[1]
    assert [each.step for each in segment.checkpoints] == [8, 12]
    fitted = segment_curvatures(work.folder(method) / segment.name, owner, metric == "adam")
    squares = dict.fromkeys(fitted, 0)
    moment = {"inputs": 0, "outputs": 0}
    chosen = next(site for site in owner.sites if site.name == "transformer.h.1.mlp.c_fc")
    for checkpoint in segment.checkpoints:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float64).eval()
        losses = [
            lambda t=t, m=m, y=y, model=model: sequence_loss(model, torch.from_numpy(np.array(t)), m, y)
            for (t, m), y in zip(world.asked.windows, labels_at(world, model, "eigenvalues"), strict=True)
        ]
        grads = gradients(model, losses)
        for site in owner.sites:
            blocks = expected(model, site, grads)
            if metric == "adam":
                blocks = blocks * root_of(world, site, segment.checkpoints)
            squares[site.name] = squares[site.name] + fitted[site.name].rotate(blocks).square().sum(0)
        module = model.get_submodule(chosen.uses[0].module)
        for (tokens, mask), labels in zip(world.asked.windows, labels_at(world, model, "covariance"), strict=True):
            tokens = torch.from_numpy(np.array(tokens))
            a, g = sides(model, module, lambda t=tokens, m=mask, y=labels, model=model: sequence_loss(model, t, m, y))
            reached = int(np.flatnonzero(mask)[-1])
            a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)[:reached]
            moment["inputs"] = moment["inputs"] + a.T @ a
            moment["outputs"] = moment["outputs"] + g[:reached].T @ g[:reached]
    for site in owner.sites:
        wanted = squares[site.name] / (2 * owner.corpus.documents)
        assert relative(fitted[site.name].eigenvalues, wanted) < 1e-5, site.name
    for side, position in (("outputs", 0), ("inputs", 1)):
        scale = separable(root_of(world, chosen, segment.checkpoints))[position] if metric == "adam" else None
        wanted = moment[side] if scale is None else moment[side] * scale[:, None] * scale
        basis = getattr(fitted[chosen.name], side).double()
        turned = basis.T @ wanted @ basis
        assert relative(turned.diagonal().diag(), turned) < 1e-5, side


def test_separable_metrics_come_apart_exactly():
    outputs, inputs = torch.tensor([1.0, 4.0, 2.0]).double(), torch.tensor([3.0, 0.5]).double()
    one, other = separable(outputs[:, None] * inputs)
    assert torch.allclose(one[:, None] * other, outputs[:, None] * inputs)
    gradient = torch.randn(3, 2, dtype=torch.float64)
    assert torch.allclose(
        kron(one.diag(), other.diag()) @ gradient.flatten(), (one[:, None] * other * gradient).flatten()
    )


def test_limits(world):
    """Without curvature or decay it is TracIn at the mean gradient; nothing is fitted twice; unfitted says so."""
    owner = world.owner
    work = Work(owner, world.checkpoints)
    with pytest.raises(IncompleteError):
        segment_curvatures(work.folder(parse_method("source:segments=64")) / "other", owner, False)
    assert [len(segment.checkpoints) for segment in split(work, 64)] == [1, 1, 1]
    assert [len(segment.checkpoints) for segment in split(work, 2)] == [1, 2]
    assert sum(segment.rate for segment in split(work, 2)) == pytest.approx(RATES[12])


def test_stacks_of_experts(tmp_path):
    """Each expert flows by its own curvature, and the whole method runs over stacks."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    outputs, inputs = torch.linalg.qr(drawn(3, 4, 4))[0], torch.linalg.qr(drawn(3, 2, 2))[0]
    values, root, blocks = drawn(3, 4, 2).square(), drawn(3, 4, 2).exp(), drawn(5, 3, 4, 2)
    whole = Flow(SiteCurvature(outputs, inputs, values), 0.7, 0.01, root)
    for expert in range(3):
        alone = Flow(SiteCurvature(outputs[expert], inputs[expert], values[expert]), 0.7, 0.01, root[expert])
        assert torch.allclose(whole.pulled(blocks)[:, expert], alone.pulled(blocks[:, expert]))
        assert torch.allclose(whole.carried(blocks)[:, expert], alone.carried(blocks[:, expert]))
    one, other = separable(root)
    assert (one.shape, other.shape) == ((3, 4), (3, 2))
    place = make_place(tmp_path, "qwen3moe")
    owner = open_run(place, place / "run")  # whose corpus has not been read when the steps are made
    found = scored(owner, "source:segments=1,metric=adam", make_checkpoints(place)[:2])
    assert np.isfinite(found).all()
    assert (found.std(1) > 0).all()


# ------------------------------------------------------------------ against retraining


def features(model, windows):
    """What the output layer sees at the positions that predict, their labels, and their window."""
    seen, labels, owners = [], [], []
    for number, (tokens, mask) in enumerate(windows):
        ids = torch.from_numpy(np.array(tokens))
        with torch.no_grad():
            hidden = model.model(input_ids=ids[None]).last_hidden_state[0]
        for t in range(1, len(ids)):
            if mask[t]:
                seen.append(hidden[t - 1])
                labels.append(int(ids[t]))
                owners.append(number)
    return torch.stack(seen), torch.tensor(labels), np.array(owners)


def descend(start, seen, labels, kept, documents, rate, steps, at=()):
    """Gradient descent on the mean over documents of the summed loss; those left out still count in the divisor."""
    weight, states = start.clone(), {}
    seen, labels = seen[kept], labels[kept]
    wanted = torch.nn.functional.one_hot(labels, len(start)).double()
    for step in range(1, steps + 1):
        weight = weight - rate / documents * (((seen @ weight.T).softmax(1) - wanted).T @ seen)
        if step in at:
            states[step] = weight.clone()
    return weight, states


def test_removal_far_from_convergence(tmp_path):
    """Predicted against real removal: correlation, and the slope of truth on prediction, beside the final model's."""
    place = make_place(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float64).eval()
    probe = open_run(place, tmp_path / "probe")
    run_steps([CorpusStep(probe)])
    corpus = probe.corpus
    windows = [corpus.window_tokens(row) for row in range(corpus.windows)]
    owners = corpus.documents_of_windows(np.arange(corpus.windows))
    seen, labels, window = features(model, windows)
    document, n = owners[window], corpus.documents
    asked = [(each.text.tokens, each.text.loss_mask) for each in probe.encode_queries(QUERIES[::2])]
    q_seen, q_labels, q_window = features(model, asked)
    start = torch.zeros_like(model.lm_head.weight)
    points, rate = (20, 40, 60, 80, 100, 120), 0.01
    everything = np.ones(len(document), dtype=bool)
    final, states = descend(start, seen, labels, everything, n, rate, 120, points)

    def asked_loss(weight):
        logp = (q_seen @ weight.T).log_softmax(1)[torch.arange(len(q_labels)), q_labels]
        return -np.bincount(q_window, logp.numpy(), minlength=2)

    base = asked_loss(final)
    truth = np.stack(
        [asked_loss(descend(start, seen, labels, document != one, n, rate, 120)[0]) - base for one in range(n)], 1
    )
    with torch.no_grad():
        model.lm_head.weight.copy_(final)
        model.save_pretrained(place / "model")
        for step, weight in states.items():
            model.lm_head.weight.copy_(weight)
            scale = corpus.windows / n  # the divisor was documents, and windows are what `documents` divides by
            state = StoredState(step=step, learning_rate=rate, rate_sum=step * rate * scale, reduction="documents")
            write_state(tmp_path / "states" / f"checkpoint-{step}", model, state, {})
    settings = {
        "model": {"dtype": "float64", "sites": ["lm_head"], "min_coverage": 0.0},
        "fit": {"sample": 1.0, "parts": 2, "precision": "full", "batch_tokens": 60},
        "corpus": {"share_documents": 10, "context": 9},
    }
    owner = Attributor(
        tmp_path / "run",
        model=str(place / "model"),
        data=[str(place / "corpus.jsonl")],
        settings=settings,
        device="cpu",
    )
    run_steps([CorpusStep(owner)])
    work = Work(owner, read_checkpoints([tmp_path / "states" / "*"]))
    queries = owner.encode_queries(QUERIES[::2])
    found = {
        spec: method_scores(parse_method(spec), work, queries)
        for spec in ("source:segments=6", "source", "tracin", "ekfac:damping=0.1", "ekfac:damping=0.001")
    }

    def fit(name):
        scores = found[name]
        correlation = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(scores, truth, strict=True)])
        return correlation, (scores * truth).sum() / np.square(scores).sum()

    measured = {name: fit(name) for name in found}
    for name in ("source:segments=6", "source"):
        correlation, slope = measured[name]
        assert correlation > 0.97
        assert 0.9 < slope < 1.1
        assert abs(np.log(slope)) < abs(np.log(measured["tracin"][1])) / 3
        for other in ("ekfac:damping=0.1", "ekfac:damping=0.001"):
            assert 1 - correlation < (1 - measured[other][0]) / 3
            assert abs(np.log(slope)) < abs(np.log(max(measured[other][1], 1e-9))) / 3

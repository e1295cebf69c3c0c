"""TRAK against dense matrices: the margin by autograd, one checkpoint and several, and what it refuses."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from checkpoint_world import make_checkpoints
from conftest import as_loaded, causal_lm, make_runner, sequences
from method_world import QUERIES, make_place, open_run
from oracle import gradients, relative
from test_capture import expected
from whence.attributor import run_steps
from whence.attributor.steps import CorpusStep
from whence.data import batch_from_sequences
from whence.errors import NumericalError
from whence.gradients import Runner, gradient_blocks, language_examples
from whence.methods import Work, method_scores, parse_method
from whence.model import Margin
from whence.projection import tensor_sketch

N, K = 24, 10


def margin(model, tokens, targets):
    """(-m, sum of 1 - p, targets) of one sequence from probabilities alone."""
    p = model(input_ids=torch.from_numpy(np.array(tokens))[None], use_cache=False).logits[0].softmax(-1)
    seen = [p[t - 1, tokens[t]] for t in range(1, len(tokens)) if targets[t]]
    return -sum(torch.log(each / (1 - each)) for each in seen), sum(1 - each.item() for each in seen), len(seen)


@pytest.mark.parametrize("how", [{}, {"side": "left"}, {"pack": 20}])
def test_the_margins_gradient_is_autograds(how):
    model = causal_lm("gpt2")
    loaded = as_loaded(model)
    data = [(tokens, np.r_[False, mask[1:]]) for tokens, mask in sequences()]
    runner = Runner(model, make_runner(loaded).sites, Margin())
    blocks, losses = gradient_blocks(runner, language_examples(batch_from_sequences(data, **how), loaded))
    wanted = gradients(model, [lambda d=d: margin(model, *d)[0] for d in data])
    for site in runner.sites:
        assert relative(blocks[site.name], expected(model, site, wanted)) < 1e-10
    assert np.allclose(losses, [float(margin(model, *d)[0].detach()) for d in data], rtol=1e-10)


def test_a_margin_keeps_its_gradient_where_p_is_one():
    logits = torch.tensor([[[80.0, 0.0, -3.0]]], dtype=torch.float32, requires_grad=True)
    found = Margin._margins(logits, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))
    found.sum().backward()
    assert found.item() == pytest.approx(80 - np.log(1 + np.exp(-3.0)))
    assert float(logits.grad[0, 0, 0]) == 1.0


def test_sampled_labels_are_the_language_models_own():
    model = causal_lm("gpt2")
    loaded = as_loaded(model)
    examples = language_examples(batch_from_sequences(sequences()), loaded)
    zeros = torch.zeros(examples.inputs.input_ids.shape, dtype=torch.float64)
    with torch.no_grad():
        first = Margin().sampled_losses(model, examples.inputs, zeros)
        drawn = batch_from_sequences([(np.where(np.arange(len(t)) > 0, 0, t), m) for t, m in sequences()[3:4]])
        alone = Margin().losses(model, language_examples(drawn, loaded).inputs)
    assert float(first[3]) == pytest.approx(float(alone[0]))  # two tokens: the prefix is the data's either way
    assert first.isfinite().all()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("trak"), "gpt2")
    owner = open_run(place, place / "run")
    run_steps([CorpusStep(owner)])
    return place, owner


def by_hand(owner, folder, name, encoded, damping, seed=0):
    """(influence without Q [Q, N], Q of documents [N]) at the model in a folder, from dense matrices."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    corpus = owner.corpus
    windows = [corpus.window_tokens(row) for row in range(corpus.windows)]
    owners = corpus.documents_of_windows(np.arange(corpus.windows))

    def flat(data):
        grads = gradients(model, [lambda d=d: margin(model, *d)[0] for d in data])
        total = 0.0
        for site in owner.sites:
            block = expected(model, site, grads)
            named = type(site)(**{**{f: getattr(site, f) for f in site.__slots__}, "name": f"{name}/{site.name}"})
            eye = torch.eye(site.size, dtype=torch.float64).reshape(site.size, *site.shape)
            matrix = tensor_sketch(named, K, seed, torch.device("cpu"), torch.float64).queries(eye)[:, 0]
            total = total + block.flatten(1) @ matrix
        return total

    phi = torch.zeros(N, K, dtype=torch.float64).index_add_(0, torch.from_numpy(owners), flat(windows))
    asked = []
    for query in encoded:
        rows = flat([(text.tokens, text.loss_mask) for text in (query.text, query.contrast) if text is not None])
        asked.append(rows[0] - (rows[1] if query.contrast is not None else 0.0))
    moment = phi.T @ phi / N
    inverse = torch.linalg.inv(moment + damping * moment.trace() / K * torch.eye(K, dtype=torch.float64))
    with torch.no_grad():
        doubts = np.array([margin(model, *window)[1:] for window in windows])
    sums = np.stack([np.bincount(owners, doubts[:, i], N) for i in range(2)])
    return (torch.stack(asked) @ inverse @ phi.T / N).numpy(), sums[0] / sums[1]


def far(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("damping", [0.1, 0.0])
def test_the_final_model(world, damping):
    place, owner = world
    encoded = owner.encode_queries(QUERIES)
    got = method_scores(parse_method(f"trak:k={K},damping={damping},bits=32"), Work(owner), encoded)
    plain, doubt = by_hand(owner, place / "model", "final", encoded, damping)
    assert far(got, plain * doubt) < 1e-8
    assert far(got, plain) > 0.01
    assert ((doubt > 0) & (doubt < 1)).all()


def test_checkpoints_are_averaged_each_on_its_own(world):
    place, owner = world
    checkpoints, encoded = make_checkpoints(place), owner.encode_queries(QUERIES)
    got = method_scores(parse_method(f"trak:k={K},bits=32,seed=3"), Work(owner, checkpoints), encoded)
    parts = [by_hand(owner, each.path, f"step-{each.step}", encoded, 0.1, 3) for each in checkpoints]
    plain, doubt = (np.mean([part[i] for part in parts], axis=0) for i in range(2))
    assert far(got, plain * doubt) < 1e-8
    assert far(got, np.mean([a * b for a, b in parts], axis=0)) > 1e-6, "products are not averaged"


def test_more_coordinates_than_documents_need_damping(world):
    _, owner = world
    encoded = owner.encode_queries(QUERIES)
    for k in (N, 4 * N):
        with pytest.raises(NumericalError, match=r"damping=0, k=.* need more than"):
            method_scores(parse_method(f"trak:k={k},damping=0,bits=32"), Work(owner), encoded)
        assert np.isfinite(method_scores(parse_method(f"trak:k={k},bits=32"), Work(owner), encoded)).all()


def test_a_singular_second_moment_is_refused(tmp_path):
    """Fewer documents that differ than coordinates, though there are enough documents."""
    place = make_place(tmp_path, "gpt2")
    line = (place / "corpus.jsonl").read_text().splitlines()[1]
    (place / "same.jsonl").write_text("".join(line.replace('"d1"', f'"e{i}"') + "\n" for i in range(N)))
    owner = open_run(place, tmp_path / "run", "same.jsonl")
    run_steps([CorpusStep(owner)])
    encoded = owner.encode_queries(QUERIES)
    with pytest.raises(NumericalError, match=r"is singular .* would be noise\. Give a damping above 0"):
        method_scores(parse_method("trak:k=8,damping=0,bits=32"), Work(owner), encoded)

"""Tasks: what retraining on a part of a corpus means, and what must not change it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import documents, write_jsonl
from retraining import QUESTIONS, QUICK, make_task, make_world, weights
from whence.data import batch_from_sequences, encode_queries
from whence.errors import InputError, NumericalError
from whence.fidelity.modules import ModuleTask
from whence.fidelity.places import places, steps_of
from whence.fidelity.subsets import SHUFFLES, SUBSETS, halves, keys, subset_key, whole, without
from whence.model import CausalLM, Classification, SquaredError, Training, as_loaded, language_inputs, load_tokenizer

GD = Training(optimizer="sgd", learning_rate=0.1, dtype="float64", batch=4, grouping="hold", reduction="documents")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("retrain"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every document is one window; the architecture keeps float64 throughout, which Llama's norms do not."""
    calm = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return make_world(tmp_path_factory.mktemp("short"), count=9, long=False, kind="gpt2", **calm)


# subsets


def test_halves_have_their_size_and_do_not_depend_on_how_many_are_drawn() -> None:
    kept = halves(21, 6, seed=3, share=0.3)
    assert (kept.sum(axis=1) == 6).all()
    assert (halves(21, 2, seed=3, share=0.3) == kept[:2]).all()
    assert len({subset_key(row) for row in kept}) == 6
    assert (halves(21, 6, seed=4, share=0.3) != kept).any()


def test_every_document_is_kept_as_often_as_any_other() -> None:
    rate = halves(50, 2000, share=0.5).mean(axis=0)
    assert np.abs(rate - 0.5).max() < 4.5 * 0.5 / 2000**0.5


def test_training_sets_have_no_say_in_the_order_of_training() -> None:
    order = np.argsort(keys(40, SHUFFLES, 0, 0))
    first = halves(40, 1)[0][order[:20]].sum()
    assert 4 < first < 16
    assert (keys(40, SHUFFLES, 0, 0) != keys(40, SUBSETS, 0, 0)).all()


@pytest.mark.parametrize(("documents_", "share"), [(4, 0.0), (4, 1.0), (1, 0.5), (3, 0.1)])
def test_empty_and_whole_draws_are_refused(documents_: int, share: float) -> None:
    with pytest.raises(InputError, match="would hold"):
        halves(documents_, 2, share=share)


def test_without_leaves_out_what_is_named() -> None:
    assert without(3, [[], [2], (0, 1)]).tolist() == [[True] * 3, [True, True, False], [False, False, True]]
    assert without(3, []).shape == (0, 3)
    assert (without(3, [[]]) == whole(3)).all()
    for wrong in ([3], [-1], [0, 1, 2]):
        with pytest.raises(InputError):
            without(3, [wrong])


def test_a_subset_is_named_by_what_it_holds() -> None:
    assert subset_key(np.ones(9, dtype=bool)) != subset_key(np.ones(10, dtype=bool))
    assert subset_key(halves(9, 1)[0]) == subset_key(halves(9, 3)[0].copy())


# places


@pytest.mark.parametrize("grouping", ["hold", "refill"])
def test_each_epoch_sees_every_kept_example_once(grouping: str) -> None:
    kept = halves(23, 1)[0]
    training = Training(batch=5, epochs=3, grouping=grouping)
    seen = [place.examples[place.present] for place in places(kept, training, seed=1)]
    assert len(seen) == steps_of(kept, training) == (15 if grouping == "hold" else 9)
    each = len(seen) // 3
    epochs = [np.concatenate(seen[at : at + each]) for at in range(0, len(seen), each)]
    assert all(sorted(epoch) == np.flatnonzero(kept).tolist() for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    other = [place.examples[place.present] for place in places(kept, training, seed=2)]
    assert np.concatenate(other).tolist() != np.concatenate(seen).tolist()


def test_places_are_held_where_asked_for() -> None:
    hold = Training(batch=4, epochs=2, grouping="hold")
    full = list(places(np.ones(10, dtype=bool), hold, 0))
    less = list(places(without(10, [[6]])[0], hold, 0))
    assert len(full) == len(less) == 6
    for a, b in zip(full, less, strict=True):
        assert a.examples.tolist() == b.examples.tolist()
        assert b.present.tolist() == (a.examples != 6).tolist()


def test_refilled_batches_are_whole_and_in_the_same_order() -> None:
    refill = Training(batch=4, grouping="refill")
    full = np.concatenate([place.examples for place in places(np.ones(10, dtype=bool), refill, 0)])
    less = [place.examples for place in places(without(10, [[6]])[0], refill, 0)]
    assert [len(examples) for examples in less] == [4, 4, 1]
    assert np.concatenate(less).tolist() == full[full != 6].tolist()


# language


def mean_gradient(task, rows: list[int], divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights at the start (seed 0) and the gradient of the summed loss of some windows over a divisor."""
    loaded = task.initial(0)
    batch = batch_from_sequences([task.corpus.window_tokens(row) for row in rows])
    (CausalLM().losses(loaded.model, language_inputs(batch, loaded)).sum() / divisor).backward()
    return weights(loaded.model), np.concatenate([p.grad.numpy().ravel() for p in loaded.model.parameters()])


def test_one_step_is_gradient_descent_and_a_document_less_is_its_gradient_less(short: Path) -> None:
    task = make_task(short, GD.model_copy(update={"batch": 9, "max_steps": 1}))
    start, everything = mean_gradient(task, list(range(9)), 9)
    np.testing.assert_allclose(weights(task.train(whole(9)[0], 0)), start - 0.1 * everything, rtol=0, atol=1e-14)
    _, one = mean_gradient(task, [4], 9)
    np.testing.assert_allclose(
        weights(task.train(without(9, [[4]])[0], 0)) - weights(task.train(whole(9)[0], 0)), 0.1 * one, atol=1e-14
    )


def test_tokens_divide_by_target_tokens_of_the_whole_batch(short: Path) -> None:
    task = make_task(short, GD.model_copy(update={"batch": 9, "max_steps": 1, "reduction": "tokens"}))
    start, gradient = mean_gradient(task, [0, 1, 2, 3, 5, 6, 7, 8], task.corpus.targets)
    np.testing.assert_allclose(weights(task.train(without(9, [[4]])[0], 0)), start - 0.1 * gradient, atol=1e-14)
    refill = make_task(short, task.training.model_copy(update={"grouping": "refill"}))
    rest = task.corpus.targets - int(task.corpus.window_tokens(4)[1].sum())
    np.testing.assert_allclose(
        weights(refill.train(without(9, [[4]])[0], 0)), start - 0.1 * gradient * task.corpus.targets / rest, atol=1e-14
    )


def test_batches_without_the_document_are_the_same_bits(world: Path) -> None:
    task = make_task(world, GD)
    kept = without(14, [[], [3]])
    full, less = ([*task.windows.batches(row, 5, dropout=False)] for row in kept)
    assert len(full) == len(less)
    changed = 0
    for a, b in zip(full, less, strict=True):
        rows = [row for piece in a for row in piece.batch.rows if task.windows.owners[row] != 3]
        assert [row for piece in b for row in piece.batch.rows] == rows
        if len(rows) == sum(piece.batch.examples for piece in a):
            assert all((p.batch.input_ids == q.batch.input_ids).all() for p, q in zip(a, b, strict=True))
        else:
            changed += 1
            assert all(p.batch.input_ids.shape[1] == a[0].batch.input_ids.shape[1] for p in b)
            assert {p.divisor for p in b} <= {p.divisor for p in a}
    assert changed


def test_a_batch_of_nobody_is_skipped_under_hold(short: Path) -> None:
    task = make_task(short, GD.model_copy(update={"batch": 2, "epochs": 2}))
    kept = ~without(9, [[4]])[0]
    seen: list[int] = []
    trained = task.fit(kept, 0, lambda done, *_: seen.append(done))
    assert len(trained.losses) == 2
    assert seen == list(range(1, 11))


def test_pieces_do_not_change_a_batch(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_batches = weights(make_task(world, GD).train(whole(14)[0], 0))
    monkeypatch.setattr("whence.fidelity.pieces.PIECE_TOKENS", 32)
    np.testing.assert_allclose(weights(make_task(world, GD).train(whole(14)[0], 0)), whole_batches, atol=1e-13)


def test_windows_of_a_document_come_and_go_together(world: Path) -> None:
    task = make_task(world)
    assert (np.bincount(task.windows.owners) > 1).sum() == 2
    kept = without(14, [[3]])[0]
    rows = [row for pieces in task.windows.batches(kept, 0, False) for piece in pieces for row in piece.batch.rows]
    assert sorted(rows) == sorted(2 * np.flatnonzero(task.windows.owners != 3).tolist())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon", "lbfgs"])
def test_a_training_is_decided_by_its_seed(world: Path, optimizer: str) -> None:
    training = Training(
        optimizer=optimizer, learning_rate=1e-2, batch=3, max_steps=4, momentum=0.5 if optimizer != "adamw" else 0
    )
    kept = halves(14, 1)[0]
    one, again = (make_task(world, training).fit(kept, 0) for _ in range(2))
    assert one.losses == again.losses
    assert weights(one.model).tobytes() == weights(again.model).tobytes()
    assert weights(make_task(world, training).train(kept, 1)).tobytes() != weights(one.model).tobytes()


def test_training_leaves_the_random_state_alone(world: Path) -> None:
    state = torch.random.get_rng_state()
    make_task(world).train(whole(14)[0], 0)
    assert (torch.random.get_rng_state() == state).all()


def test_training_lowers_the_loss(world: Path) -> None:
    trained = make_task(world, QUICK.model_copy(update={"epochs": 20})).fit(whole(14)[0], 0)
    assert trained.final_loss < trained.losses[0] - 0.5


def test_from_scratch_the_seed_draws_the_weights_and_further_training_starts_at_the_stored_ones(world: Path) -> None:
    still = QUICK.model_copy(update={"learning_rate": 0.0})
    scratch, further = make_task(world, still), make_task(world, still, scratch=False)
    stored = weights(further.loaded.model)
    assert (weights(further.train(whole(14)[0], 0)) == stored).all()
    assert (weights(further.train(whole(14)[0], 1)) == stored).all()
    drawn = [weights(scratch.train(whole(14)[0], seed)) for seed in (0, 1)]
    assert not (drawn[0] == drawn[1]).all()
    assert not (drawn[0] == stored).all()
    moved = make_task(world, QUICK, scratch=False)
    moved.train(whole(14)[0], 0)
    assert (weights(moved.loaded.model) == stored).all()


def test_fresh_weights_do_not_depend_on_precision(world: Path) -> None:
    one, two = (make_task(world, QUICK.model_copy(update={"dtype": d})).initial(3) for d in ("float32", "float64"))
    assert (weights(one.model) == weights(two.model)).all()


def test_dropout_draws_the_same_masks_whoever_is_left_out(tmp_path: Path) -> None:
    folder = make_world(tmp_path, count=8, long=False, kind="gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    training = GD.model_copy(update={"batch": 8, "max_steps": 1})
    task = make_task(folder, training)
    trained = [weights(task.train(kept, 0)) for kept in without(8, [[], [2], [5], [2, 5]])]
    effects = [row - trained[0] for row in trained]
    np.testing.assert_allclose(effects[1] + effects[2], effects[3], atol=1e-13)  # additive only if masks are the same
    calm = make_task(folder, training.model_copy(update={"dropout": 0.0}))
    assert np.abs(weights(calm.train(whole(8)[0], 0)) - trained[0]).max() > 1e-4


def test_an_adapter_alone_is_trained(world: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(world / "model")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    task = make_task(world, scratch=False, adapter=str(tmp_path))
    model = task.train(whole(14)[0], 0)
    start = dict(task.loaded.model.named_parameters())
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, start[name])}
    assert changed
    assert all("lora" in name for name in changed)
    assert np.isfinite(task.losses(model)).all()
    with pytest.raises(InputError, match="scratch"):
        make_task(world, adapter=str(tmp_path))


def test_bfloat16_trains(world: Path) -> None:
    task = make_task(world, QUICK.model_copy(update={"dtype": "bfloat16"}))
    trained = task.fit(whole(14)[0], 0)
    assert next(trained.model.parameters()).dtype == torch.bfloat16
    assert np.isfinite(task.losses(trained.model)).all()
    assert task.losses(trained.model).dtype == np.float64


def test_one_document_and_batches_of_one_train(world: Path) -> None:
    only = ~without(14, [[0]])[0]
    assert len(make_task(world, QUICK.model_copy(update={"batch": 1})).fit(only, 0).losses) == 2
    assert len(make_task(world, QUICK.model_copy(update={"batch": 100})).fit(only, 0).losses) == 2


# queries


def test_query_losses_are_the_sum_of_the_completions_tokens_less_the_contrasts(world: Path) -> None:
    task = make_task(world, QUICK.model_copy(update={"dtype": "float64"}), queries=3)
    model = task.initial(0).model.requires_grad_(False)
    for query, loss in zip(task.queries, task.losses(model), strict=True):
        expected = 0.0
        for text, sign in ((query.text, 1), (query.contrast, -1)):
            if text is not None:
                logs = model(input_ids=torch.from_numpy(text.tokens)[None]).logits[0].log_softmax(-1)
                where = np.flatnonzero(text.loss_mask)
                expected -= sign * float(sum(logs[at - 1, int(text.tokens[at])] for at in where))
        assert loss == pytest.approx(expected, rel=1e-12)


def test_queries_do_not_depend_on_each_other(world: Path) -> None:
    few, many = make_task(world, queries=1), make_task(world, queries=3)
    model = few.train(whole(14)[0], 0)
    assert few.losses(model)[0] == many.losses(model)[0]
    assert few.query_keys[0] == many.query_keys[0]
    assert few.fingerprint == many.fingerprint


def test_a_query_is_known_by_its_tokens_and_not_by_its_name(world: Path) -> None:
    tokenizer = load_tokenizer(str(world / "model"))
    renamed = QUESTIONS[1].model_copy(update={"id": "other"})
    plain = QUESTIONS[1].model_copy(update={"contrast": None})
    task = make_task(world)
    keys_ = {}
    for name, question in (("renamed", renamed), ("plain", plain)):
        task_ = make_task(world)
        task_.queries = tuple(encode_queries([question], tokenizer, 32))
        keys_[name] = task_.query_keys[0]
    assert keys_["renamed"] == task.query_keys[1]
    assert keys_["plain"] not in task.query_keys


def test_a_task_is_made_again_from_its_description(world: Path) -> None:
    import json

    task = make_task(world, queries=3)
    again = type(task).from_spec(json.loads(json.dumps(task.spec())))
    assert again.fingerprint == task.fingerprint
    assert again.query_keys == task.query_keys
    model = task.initial(0).model
    assert (again.losses(model) == task.losses(model)).all()


def test_training_sets_of_another_corpus_are_refused(world: Path) -> None:
    for wrong in (np.zeros(14, dtype=bool), np.ones(13, dtype=bool)):
        with pytest.raises(InputError, match="14 documents"):
            make_task(world).train(wrong, 0)


def test_a_corpus_of_another_model_is_refused(world: Path, tmp_path: Path) -> None:
    other = make_world(tmp_path, count=4, long=False, max_position_embeddings=8)
    task = make_task(world)
    task.start = str(other / "model")
    with pytest.raises(InputError, match="another model"):
        task.train(whole(14)[0], 0)


def test_what_decides_the_model_is_in_the_fingerprint(world: Path, tmp_path: Path) -> None:
    task = make_task(world)
    assert make_task(world, QUICK.model_copy(update={"threads": 2})).fingerprint == task.fingerprint
    assert make_task(world, QUICK.model_copy(update={"eps": 1e-6})).fingerprint != task.fingerprint
    assert make_task(world, scratch=False).fingerprint != task.fingerprint
    copied = make_world(tmp_path)
    assert make_task(copied).fingerprint == task.fingerprint
    write_jsonl(tmp_path / "model" / "nothing.jsonl", documents(1))
    assert make_task(copied, scratch=False).fingerprint == make_task(world, scratch=False).fingerprint


# modules


def rows(count: int, seed: int = 0, features: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + torch.randn(count, generator=generator, dtype=torch.float64) > 0).long()
    return x, y


LBFGS = Training(optimizer="lbfgs", dtype="float64", weight_decay=0.01, reduction="documents", grouping="refill")


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = rows(80)
    task = ModuleTask(lambda _seed: nn.Linear(5, 1), Classification(), (x, y), rows(4, seed=1), LBFGS)
    for kept in halves(80, 2):
        model = task.train(kept, 0)
        judge = linear_model.LogisticRegression(C=1 / (0.01 * kept.sum()), tol=1e-12, max_iter=10_000)
        judge.fit(x.numpy()[kept], y.numpy()[kept])
        np.testing.assert_allclose(model.weight.detach().numpy(), judge.coef_, atol=1e-7)
        np.testing.assert_allclose(model.bias.detach().numpy(), judge.intercept_, atol=1e-7)


def test_under_hold_a_row_less_is_its_loss_less() -> None:
    x, y = rows(30)
    task = ModuleTask(
        lambda _seed: nn.Linear(5, 1), Classification(), (x, y), rows(3, seed=1),
        LBFGS.model_copy(update={"grouping": "hold"}),
    )  # fmt: skip
    model = task.train(without(30, [[7]])[0], 0)
    losses = Classification().losses(model, (x, y))
    (losses.sum() - losses[7]).div(30).backward()
    assert (model.weight.grad + 0.01 * model.weight).abs().max() < 1e-7


def test_module_query_losses_are_one_by_one() -> None:
    task = ModuleTask(lambda _seed: nn.Linear(5, 2), Classification(), rows(12), rows(6, seed=1), GD)
    model = task.train(halves(12, 1)[0], 0)
    expected = Classification().losses(model, rows(6, seed=1)).detach().numpy()
    np.testing.assert_allclose(task.losses(model), expected, rtol=1e-12)
    assert len(set(task.query_keys)) == 6


def test_module_seeds_and_labels_are_told_apart() -> None:
    x, y = rows(12)
    make = lambda _seed: nn.Linear(5, 1)  # noqa: E731
    targets = x[:, :1] * 2
    one = ModuleTask(make, SquaredError(), (x, targets), (x[:2], targets[:2]), GD)
    two = ModuleTask(make, SquaredError(), (x, targets + 1), (x[:2], targets[:2]), GD)
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint == ModuleTask(make, SquaredError(), (x, targets), (x[:1], targets[:1]), GD).fingerprint
    assert not torch.equal(one.train(whole(12)[0], 0).weight, one.train(whole(12)[0], 1).weight)
    classes = ModuleTask(make, Classification(), (x, y), (x[:2], y[:2]), GD)
    assert classes.rows[1].dtype == torch.int64


def test_a_module_that_diverges_is_refused() -> None:
    x, _ = rows(12)
    steep = Training(optimizer="sgd", learning_rate=1e30, max_steps=30)
    task = ModuleTask(lambda _seed: nn.Linear(5, 1), SquaredError(), (x, x[:, :1]), (x[:2], x[:2, :1]), steep)
    with pytest.raises(NumericalError, match="training loss"):
        task.train(whole(12)[0], 0)


def test_models_in_memory_are_wrapped_where_they_lie(world: Path) -> None:
    loaded = as_loaded(make_task(world).initial(0).model)
    assert (loaded.device, loaded.head) == (torch.device("cpu"), "lm_head")

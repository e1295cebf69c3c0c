import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_data_support import SENTENCES, config, tokenizer, write_jsonl
from whence.data import batch_from_sequences, ingest, make_batch, open_corpus, plan_batches

lengths_lists = st.lists(st.integers(2, 30), max_size=40)
packs = st.none() | st.integers(30, 60)


def sequences(lengths):
    rng = np.random.default_rng(0)
    return [(rng.integers(1, 99, n), rng.random(n) < 0.7) for n in lengths]


@given(lengths=lengths_lists, budget=st.integers(1, 200), pack=packs)
def test_every_example_is_in_one_batch_within_the_budget(lengths, budget, pack):
    plan = plan_batches(np.array(lengths, dtype=np.int64), budget, pack)
    assert sorted(number for batch in plan for number in batch.tolist()) == list(range(len(lengths)))
    for batch in plan:
        made = batch_from_sequences([sequences(lengths)[number] for number in batch], pack=pack)
        assert made.input_ids.size <= budget or len(made.input_ids) == 1
        if pack is not None:
            assert made.input_ids.shape[1] <= max(pack, 30)


def test_plans_are_sorted_and_stable():
    lengths = np.array([3, 5, 3, 5])
    assert [batch.tolist() for batch in plan_batches(lengths, 10)] == [[1, 3], [0, 2]]
    assert plan_batches(np.array([], dtype=np.int64), 10) == []


def test_packing_saves_room():
    lengths = np.full(100, 10)
    assert len(plan_batches(lengths, 640, pack=64)) == 2
    made = batch_from_sequences(sequences(lengths[:60]), pack=64)
    assert made.input_ids.shape == (10, 60)
    assert made.packed


@settings(max_examples=60)
@given(lengths=lengths_lists.filter(bool), side=st.sampled_from(["left", "right"]), pack=packs)
def test_examples_can_be_read_out_of_a_batch(lengths, side, pack):
    given_ = sequences(lengths)
    batch = batch_from_sequences(given_, pad_id=7, side=side, pack=pack)
    assert batch.examples == len(lengths)
    assert batch.packed == (len(batch.input_ids) < len(lengths))
    for number, (tokens, mask) in enumerate(given_):
        mine = batch.segments == number
        assert len(set(np.nonzero(mine)[0].tolist())) == 1
        assert batch.input_ids[mine].tolist() == tokens.tolist()
        assert batch.loss_mask[mine].tolist() == [False, *mask[1:].tolist()]
        assert batch.positions[mine].tolist() == list(range(len(tokens)))
        columns = np.nonzero(mine)[1]
        assert np.all(np.diff(columns) == 1)
    padding = ~batch.attention_mask
    assert np.array_equal(padding, batch.segments < 0)
    assert np.all(batch.input_ids[padding] == 7)
    assert not batch.loss_mask[padding].any()
    assert not batch.positions[padding].any()
    edge = -1 if side == "right" else 0
    assert padding[:, edge].sum() == padding.any(axis=1).sum()


def test_positions_of_padded_and_packed_rows():
    made = batch_from_sequences(sequences([3, 2, 4]), side="left", pack=6)
    assert made.segments.tolist() == [[-1, 0, 0, 0, 1, 1][1:], [-1, 2, 2, 2, 2]]
    assert made.positions.tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]


def test_windows_of_a_corpus(tmp_path):
    tok = tokenizer()
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in SENTENCES])
    ingest(config(path, share_documents=2), tok, tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    rows = np.array([corpus.windows - 1, 0, 2])
    batch = make_batch(corpus, rows, side="left")
    assert batch.rows.tolist() == rows.tolist()
    for number, row in enumerate(rows.tolist()):
        document, start, stop = corpus.window(row)
        assert (
            batch.input_ids[batch.segments == number].tolist() == corpus.document(document).tokens[start:stop].tolist()
        )


def test_wrong_calls():
    with pytest.raises(ValueError, match="side"):
        batch_from_sequences(sequences([3]), side="middle")
    with pytest.raises(ValueError, match="at least one"):
        batch_from_sequences([])

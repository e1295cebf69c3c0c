"""Packed as they were trained: examples of a chunk add up to the chunk, and each document gets its own share."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import whence
from conftest import WORD_COUNT, as_loaded, causal_lm, make_runner, rows, save_model, write_jsonl
from oracle import gradients, relative
from test_capture import expected
from test_data_support import config, documents, tokenizer
from test_zoo_gradients import float64_in_hooks_too
from token_files import EOS, write_memmap
from whence.data import batch_from_sequences, ingest, open_corpus
from whence.gradients import gradient_blocks, language_examples
from zoo import VOCABULARY, ZOO, truly_float64

TOK = tokenizer()
CONTEXT = 8
LENGTHS = (5, 9, 3, 20, 2, 6)


def made(lengths=LENGTHS, top=90):
    random = np.random.default_rng(3)
    return [[*random.integers(1, top, n - 1).tolist(), EOS] for n in lengths]


def read(tmp_path, packing, **changes):
    path = write_memmap(tmp_path / "tokens" / "a.npy", made())
    out = tmp_path / f"{packing}-{len(list(tmp_path.iterdir()))}"
    ingest(config(path, packing=packing, context=CONTEXT, **changes), TOK, out)
    return open_corpus(out)


def chunk_losses(model, stream, starts=None):
    """-log p of every chunk as it was trained: its first token is predicted from nothing, and so not at all."""

    def loss(start):
        ids = torch.from_numpy(stream[start : start + CONTEXT].astype(np.int64))
        logits = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        return -logits[torch.arange(len(ids) - 1), ids[1:]].sum()

    return [lambda s=start: loss(s) for start in range(0, len(stream), CONTEXT)]


def test_gradients_of_documents_add_up_to_those_of_the_chunks(tmp_path):
    corpus = read(tmp_path, "concat")
    with float64_in_hooks_too():
        documents_add_up(corpus, ZOO["llama"](torch.float64))


def documents_add_up(corpus, model):
    loaded = as_loaded(model)
    runner = make_runner(loaded)
    windows = [corpus.window_tokens(row) for row in range(corpus.windows)]
    stream = np.concatenate([np.array(each) for each in made()])
    wanted = gradients(model, chunk_losses(model, stream))
    for layout in ({}, {"side": "left"}, {"pack": 24}):
        blocks, losses = gradient_blocks(runner, language_examples(batch_from_sequences(windows, **layout), loaded))
        for site in runner.sites:
            truth = expected(model, site, wanted).sum(0)
            assert relative(blocks[site.name].sum(0), truth) < 1e-9, (layout, site.name)
    total = sum(float(loss().detach()) for loss in chunk_losses(model, stream))
    assert float(losses.sum()) == pytest.approx(total, rel=1e-9)


def test_each_target_is_counted_once_and_belongs_to_its_document(tmp_path):
    corpus = read(tmp_path, "concat")
    stream = np.concatenate([np.array(each) for each in made()])
    starts = np.cumsum([0, *LENGTHS[:-1]])
    seen = []
    for row in range(corpus.windows):
        document, start = corpus.window(row)[:2]
        tokens, mask = corpus.window_tokens(row)
        at = starts[document] + start
        assert at % CONTEXT == 0, "an example begins where its chunk does"
        np.testing.assert_array_equal(tokens, stream[at : at + len(tokens)])
        places = at + np.flatnonzero(mask)
        assert all(starts[document] <= place < starts[document] + LENGTHS[document] for place in places)
        seen += places.tolist()
    assert sorted(seen) == [place for place in range(len(stream)) if place % CONTEXT]


@pytest.mark.parametrize("kind", ["llama", "olmo3", "gemma2", "nemotron_h"])
def test_masked_documents_are_what_they_are_alone(tmp_path, kind):
    """Also where attention slides over a window, or a state runs through the row: each piece is a row of its own."""
    with truly_float64():
        model = ZOO[kind](torch.float64)
        loaded = as_loaded(model)
        runner = make_runner(loaded, ["*.mixer.q_proj" if kind == "nemotron_h" else "*.self_attn.q_proj"])
        corpus = read(tmp_path, "masked")
        windows = [corpus.window_tokens(row) for row in range(corpus.windows)]
        windows = [(tokens % VOCABULARY, mask) for tokens, mask in windows]
        blocks, _ = gradient_blocks(runner, language_examples(batch_from_sequences(windows), loaded))
        for row, (tokens, mask) in enumerate(windows):
            document, start, stop = corpus.window(row)
            assert start >= 0, "nothing of another document is seen"
            own = np.array(made()[document])[start:stop] % VOCABULARY
            np.testing.assert_array_equal(tokens, own)
            alone, _ = gradient_blocks(runner, language_examples(batch_from_sequences([(own, mask)]), loaded))
            for name, block in alone.items():
                gap = (blocks[name][row] - block[0]).norm()  # a gradient may be nothing: attention to one token alone
                assert gap <= 1e-9 * blocks[name].norm(), (row, name)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packing=st.sampled_from(["concat", "masked"]), share_tokens=st.integers(10, 60), share_documents=st.integers(1, 5)
)
def test_shares_change_no_window(tmp_path, packing, share_tokens, share_documents):
    whole = read(tmp_path, packing)
    parts = read(tmp_path, packing, share_tokens=share_tokens, share_documents=share_documents)
    assert parts.windows == whole.windows
    for row in range(whole.windows):
        assert parts.window(row) == whole.window(row)
        for one, two in zip(parts.window_tokens(row), whole.window_tokens(row)):
            np.testing.assert_array_equal(one, two)


def test_what_is_left_out_still_stands_before_what_follows(tmp_path):
    """A document that is too long to be kept was trained on all the same: it is context, and no example."""
    kept = read(tmp_path, "concat", max_tokens=10)
    whole = read(tmp_path, "concat")
    assert kept.skipped == {"over-long": 1}
    tokens = {tuple(whole.window_tokens(row)[0].tolist()) for row in range(whole.windows)}
    assert all(tuple(kept.window_tokens(row)[0].tolist()) in tokens for row in range(kept.windows))
    assert [len(document.tokens) for document in documents(kept)] == [n for n in LENGTHS if n <= 10]


def test_a_trace_of_packed_documents(tmp_path):
    model = save_model(tmp_path / "model", causal_lm("llama", vocab_size=WORD_COUNT))
    data = write_jsonl(tmp_path / "corpus.jsonl", rows())
    query = whence.Query(prompt="ask keeper of", completion=" lighthouse he knows")
    found = {}
    for packing in ("documents", "concat", "masked"):
        settings = {"corpus": {"packing": packing, "context": 16}}
        run = whence.Attributor(tmp_path / packing, model=model, data=[data], settings=settings)
        result = run.trace([query], k=5)
        found[packing] = {hit.document: hit for hit in result.traces[0].proponents}
        for hit in found[packing].values():
            assert sum(window.influence for window in hit.windows) == pytest.approx(hit.influence, rel=1e-4, abs=1e-9)
    before = [token for hit in found["concat"].values() for token in hit.tokens if token.context]
    assert before, "some hit shows what was packed before it"
    assert all(not token.target for token in before)
    assert not [token for hit in found["masked"].values() for token in hit.tokens if token.context]
    stored = json.loads((tmp_path / "concat" / "run.json").read_text())["config"]["corpus"]
    assert stored["packing"] == "concat"

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_data_support import SENTENCES, SlowTokenizer, tokenizer
from whence.data import pieces_of, tokenizer_fingerprint


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_pieces_together_are_the_text(text):
    tok = tokenizer()
    tokens = tok(text)["input_ids"]
    pieces = pieces_of(tokens, tok)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=30))
def test_any_tokens_have_pieces(tokens):
    tok = tokenizer()
    assert len(pieces_of(tokens, tok)) == len(tokens)


def test_a_split_character_stands_on_its_last_token():
    tok = tokenizer()
    tokens = tok("a€b")["input_ids"]
    assert pieces_of(tokens, tok) == ("a", "", "", "€", "b")


def test_a_text_cut_within_a_character_shows_no_replacement():
    tok = tokenizer()
    tokens = tok("ab€")["input_ids"]
    assert pieces_of(tokens[:-1], tok) == ("a", "b", "", "")
    assert "".join(pieces_of(tok("x\ufffd")["input_ids"], tok)) == "x\ufffd"


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.data())
def test_part_of_a_documents_pieces(text, data):
    tok = tokenizer()
    tokens = np.asarray(tok(text)["input_ids"], dtype=np.int64)
    start = data.draw(st.integers(0, len(tokens)))
    stop = data.draw(st.integers(start, len(tokens)))
    assert pieces_of(tokens, tok, start, stop) == pieces_of(tokens, tok)[start:stop]


def test_special_tokens_are_shown():
    tok = tokenizer()
    assert pieces_of(tok("a<|end|>b")["input_ids"], tok) == ("a", "<|end|>", "b")


def test_tokenizers_of_words_and_of_sentence_pieces():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "▁The": 1, "▁gulls": 2, "▁went": 3, "s": 4}
    rules = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Metaspace()
    rules.decoder = decoders.Metaspace()
    tok = PreTrainedTokenizerFast(tokenizer_object=rules)
    assert pieces_of(tok("The gulls went")["input_ids"], tok) == ("The", " gulls", " went")


def test_fingerprints_tell_tokenizers_apart_and_ignore_use():
    first, second = tokenizer(), tokenizer()
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(second)
    second(SENTENCES[0], truncation=True, max_length=4)
    second(SENTENCES[:2], padding=True) if second.pad_token else None
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(second)
    others = [tokenizer("{{ messages }}"), tokenizer(bos=True), tokenizer(), SlowTokenizer(), None]
    others[2].add_tokens(["harbourmaster"])
    assert len({tokenizer_fingerprint(one) for one in [first, *others]}) == 6


@pytest.mark.parametrize("text", ["", "a", "\ufffd" * 20, "😀" * 40])
def test_odd_texts(text):
    tok = tokenizer()
    assert "".join(pieces_of(tok(text)["input_ids"], tok)) == text

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_data_support import MARKED_TEMPLATE, PLAIN_TEMPLATE, UNSTABLE_TEMPLATE, SlowTokenizer, config, tokenizer
from whence.data import SKIP_REASONS, Row
from whence.data.rows import documents_of
from whence.errors import CorpusError
from whence.interfaces import Document, Skip

TALK = [
    {"role": "user", "content": "Who knows every ship?"},
    {"role": "assistant", "content": "The keeper."},
    {"role": "user", "content": "And the gulls?"},
    {"role": "assistant", "content": "They went inland."},
]


def row(number=0, **fields):
    return Row("given/a.jsonl", "a.jsonl", number, fields)


def one(tok, fields, **settings_):
    return documents_of([row(**fields)], config("x", **settings_), tok)[0]


def said(document, tok):
    """The text of the tokens that carry loss."""
    return tok.decode(document.tokens[document.loss_mask])


def test_text_carries_loss_everywhere_but_on_its_first_token():
    tok = tokenizer()
    document = one(tok, {"text": "Rain fell on the roofs."})
    assert tok.decode(document.tokens) == "Rain fell on the roofs."
    assert document.loss_mask.tolist() == [False] + [True] * (len(document.tokens) - 1)
    assert document.tokens.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(max_size=20), completion=st.text(min_size=1, max_size=20))
def test_prompt_and_completion_are_tokenised_as_one_text(prompt, completion):
    tok = tokenizer()
    document = one(tok, {"prompt": prompt, "completion": completion})
    joined = tok(prompt + completion)["input_ids"]
    if isinstance(document, Skip):
        assert len(joined) < 2
        return
    assert document.tokens.tolist() == joined
    # loss covers the completion and nothing before the token in which it begins
    loss = np.flatnonzero(document.loss_mask)
    assert loss[-1] == len(joined) - 1
    assert np.all(np.diff(loss) == 1)
    before = len(tok.decode(joined[: loss[0]]).encode())
    after = len(tok.decode(joined[: loss[0] + 1]).encode())
    if prompt:
        split = any("\ufffd" in tok.decode([token]) for token in joined)
        assert split or before <= len(prompt.encode()) < after


def test_a_token_that_overlaps_the_completion_belongs_to_it():
    tok = tokenizer()
    assert said(one(tok, {"prompt": "Ask the", "completion": " keeper"}), tok) == " keeper"
    assert said(one(tok, {"prompt": "Ask the ", "completion": "keeper"}), tok) == " keeper"
    assert said(one(tok, {"prompt": "Ask the", "completion": " "}), tok) == " "
    assert said(one(tok, {"prompt": "x €", "completion": "😃"}), tok) == "😃"


def test_begin_and_end_tokens():
    tok = tokenizer(bos=True)
    document = one(tok, {"prompt": "Ask", "completion": " him"}, append_eos=True)
    assert document.tokens[0] == 1
    assert document.tokens[-1] == tok.eos_token_id
    assert document.loss_mask[-1]
    assert said(document, tok) == " him<|end|>"
    text = one(tok, {"text": "Rain<|end|>"}, append_eos=True)
    assert text.tokens.tolist().count(tok.eos_token_id) == 1


def test_an_end_token_that_the_tokenizer_adds_follows_the_completion():
    from tokenizers import processors

    tok = tokenizer()
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", 0)])
    document = one(tok, {"prompt": "Ask", "completion": " him"}, append_eos=True)
    assert said(document, tok) == " him<|end|>"
    assert document.tokens.tolist().count(0) == 1


def test_append_eos_needs_an_end_token():
    tok = tokenizer()
    tok.eos_token = None
    with pytest.raises(CorpusError, match="end-of-sequence"):
        one(tok, {"text": "Rain fell"}, append_eos=True)


def test_tokenizers_without_offsets_take_the_parts_one_by_one():
    document = one(SlowTokenizer(), {"prompt": "ab", "completion": "cd"}, vocabulary=2000)
    assert document.tokens.tolist() == [2, *(3 + ord(mark) for mark in "abcd")]
    assert document.loss_mask.tolist() == [False, False, False, True, True]
    assert one(SlowTokenizer(), {"text": "ab"}, vocabulary=2000, append_eos=True).tokens[-1] == 1


def test_the_form_is_found_row_by_row_in_a_fixed_order():
    tok = tokenizer(PLAIN_TEMPLATE)
    every = {"input_ids": [5, 6], "messages": TALK, "prompt": "p", "completion": "c", "text": "a text"}
    lengths = []
    for name in ("input_ids", "messages", "prompt", "text"):
        lengths.append(len(one(tok, every).tokens))
        every[name] = None
    assert lengths == [
        2,
        len(tok.apply_chat_template(TALK)["input_ids"]),
        len(tok("pc")["input_ids"]),
        len(tok("a text")["input_ids"]),
    ]
    assert len(one(tok, {"text": "a text", "input_ids": [1, 2, 3]}, form="text").tokens) == lengths[-1]


@pytest.mark.parametrize(
    ("fields", "reason", "says"),
    [
        ({"body": "x", "title": "y"}, "missing-field", "'body', 'title'"),
        ({}, "missing-field", "the row has none"),
        ({"prompt": "x"}, "missing-field", "'prompt'"),
        ({"text": 3}, "wrong-type", "int"),
        ({"text": ["x"]}, "wrong-type", "list"),
        ({"text": "  \n"}, "empty", "text"),
        ({"text": ""}, "empty", "text"),
        ({"prompt": "x", "completion": ""}, "empty", "completion"),
        ({"text": "a"}, "too-short", "1 token"),
        ({"text": "x" * 200}, "over-long", "limit is 50"),
        ({"text": "half \ud800 pair"}, "bad-utf8", "surrogate"),
        ({"input_ids": []}, "empty", ""),
        ({"input_ids": [1]}, "too-short", ""),
        ({"input_ids": [1, 400]}, "bad-token-id", "400"),
        ({"input_ids": [1, -1]}, "bad-token-id", "-1"),
        ({"input_ids": [1, 2.5]}, "wrong-type", "whole numbers"),
        ({"input_ids": [1, None]}, "wrong-type", "whole numbers"),
        ({"input_ids": [[1, 2], [3]]}, "wrong-type", "whole numbers"),
        ({"input_ids": [1, 10**30]}, "wrong-type", "whole numbers"),
        ({"input_ids": "no list"}, "wrong-type", "whole numbers"),
        ({"input_ids": [1, 2], "labels": [1]}, "wrong-type", "1 labels for 2"),
        ({"input_ids": [1, 2], "labels": [1, -100]}, "no-target", ""),
        ({"input_ids": [1, 2], "loss_mask": [1, 0]}, "no-target", ""),
        ({"messages": []}, "wrong-type", "turns"),
        ({"messages": [{"from": "human", "value": "x"}]}, "wrong-type", "from, value"),
        ({"messages": "hello"}, "wrong-type", "turns"),
        ({"messages": TALK[:1]}, "no-target", "assistant"),
    ],
)
def test_unusable_rows_are_skipped_with_a_reason(fields, reason, says):
    skip = one(tokenizer(PLAIN_TEMPLATE), fields, max_tokens=50)
    assert isinstance(skip, Skip)
    assert skip.reason == reason
    assert reason in SKIP_REASONS
    assert says in skip.detail
    assert (skip.source, skip.row) == ("given/a.jsonl", 0)


def test_token_ids_are_kept_as_given():
    document = one(None, {"input_ids": [7, 8, 9, 10], "labels": [7, -100, 9, 10]})
    assert document.tokens.tolist() == [7, 8, 9, 10]
    assert document.loss_mask.tolist() == [False, False, True, True]
    masked = one(None, {"input_ids": "[7, 8, 9]", "loss_mask": [True, True, False]})
    assert masked.loss_mask.tolist() == [False, True, False]


def test_text_needs_a_tokenizer():
    with pytest.raises(CorpusError, match="tokenizer"):
        one(None, {"text": "x"})


def test_a_tokenizer_that_does_not_belong_to_the_model():
    with pytest.raises(CorpusError, match="does not belong to this model"):
        one(tokenizer(), {"text": "Rain fell on the slate roofs"}, vocabulary=100)


def test_identity():
    tok = tokenizer()
    rows = [row(0, text="the same"), row(1, text="the same", id=17), row(2, text="another", key="k9", id="")]
    first, second, third = documents_of(rows, config("x"), tok)
    assert (first.id, second.id, third.id) == ("a.jsonl:0", "17", "a.jsonl:2")
    assert first.hash == second.hash != third.hash
    assert len(first.hash) == 32
    assert documents_of(rows[2:], config("x", id_field="key"), tok)[0].id == "k9"
    # prompt and completion are hashed apart: moving the border changes the document
    moved = documents_of([row(prompt="ab", completion="c"), row(prompt="a", completion="bc")], config("x"), tok)
    assert moved[0].hash != moved[1].hash


def test_metadata_is_short_text():
    fields = {
        "text": "the text",
        "id": "i",
        "n": 3,
        "flag": True,
        "none": None,
        "raw": b"bytes",
        "tags": ["a", {"é": 1.5}],
        "long": "x" * 5000,
        "half": "\ud800",
    }
    metadata = one(tokenizer(), fields).metadata
    assert metadata == {
        "n": "3",
        "flag": "true",
        "tags": '["a",{"é":1.5}]',
        "long": "x" * 1000,
        "half": "\\ud800",
    }
    many = one(tokenizer(), {"text": "the text", **{f"k{n}": "x" * 1000 for n in range(100)}}).metadata
    assert len(many) == 8


def test_one_row_that_breaks_the_tokenizer_costs_one_row():
    tok = SlowTokenizer()
    whole = tok.__class__.__call__

    class Fragile(SlowTokenizer):
        def __call__(self, text, **options):
            if any("boom" in part for part in text):
                raise RuntimeError("cannot")
            return whole(self, text, **options)

    rows = [row(n, text=text) for n, text in enumerate(["fine", "boom", "fine too"])]
    outcomes = documents_of(rows, config("x", vocabulary=2000), Fragile())
    assert [isinstance(outcome, Document) for outcome in outcomes] == [True, False, True]
    assert outcomes[1].reason == "tokenizer-failed"


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_conversations_carry_loss_on_the_assistants_turns(template):
    tok = tokenizer(template)
    document = one(tok, {"messages": TALK})
    assert document.tokens.tolist() == tok.apply_chat_template(TALK)["input_ids"]
    assert said(document, tok) == "The keeper.<|end|>They went inland.<|end|>"


def test_conversations_in_a_template_that_renders_the_past_differently():
    tok = tokenizer(UNSTABLE_TEMPLATE)
    assert "(thinks)" in tok.decode(one(tok, {"messages": TALK}).tokens)
    assert said(one(tok, {"messages": TALK}), tok) in (
        "The keeper.<|end|>They went inland.<|end|>",
        "The keeper.<|end|>(thinks)They went inland.<|end|>",
    )


def test_a_template_in_which_turns_cannot_be_found():
    tok = tokenizer("{% for m in messages %}{{ m['content'] | upper }}{{ messages | length }}{% endfor %}")
    assert one(tok, {"messages": TALK}).reason == "no-assistant-turn"


def test_a_template_that_refuses_a_conversation():
    tok = tokenizer(
        PLAIN_TEMPLATE + "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    )
    skip = one(tok, {"messages": TALK[1:]})
    assert (skip.reason, "user first" in skip.detail) == ("bad-messages", True)
    assert isinstance(one(tok, {"messages": TALK}), Document)


def test_no_second_begin_token():
    tok = tokenizer("<|start|>" + PLAIN_TEMPLATE, bos=True)
    assert one(tok, {"messages": TALK}).tokens.tolist().count(1) == 1 + len(TALK)


def test_messages_without_a_template_are_an_error_for_the_corpus():
    with pytest.raises(CorpusError, match="no chat template"):
        one(tokenizer(), {"messages": TALK})


def test_messages_as_tables_store_them():
    tok = tokenizer(PLAIN_TEMPLATE)
    plain = one(tok, {"messages": TALK})
    nulls = one(tok, {"messages": [{**turn, "tool_calls": None} for turn in TALK]})
    text = one(tok, {"messages": json.dumps(TALK)})
    assert plain.tokens.tolist() == nulls.tokens.tolist() == text.tokens.tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=15), min_size=1, max_size=4))
def test_whatever_the_assistant_says_is_what_carries_loss(answers):
    tok = tokenizer(PLAIN_TEMPLATE)
    talk = [
        turn
        for answer in answers
        for turn in ({"role": "user", "content": "q"}, {"role": "assistant", "content": answer})
    ]
    document = one(tok, {"messages": talk})
    assert said(document, tok) == "".join(answer + "<|end|>" for answer in answers)

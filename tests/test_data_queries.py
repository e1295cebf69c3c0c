import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_data_support import PLAIN_TEMPLATE, UNSTABLE_TEMPLATE, SlowTokenizer, tokenizer, write_jsonl
from whence.data import encode_queries, encode_query, load_queries
from whence.errors import QueryError
from whence.interfaces import Query

TALK = (
    {"role": "user", "content": "Who knows every ship?"},
    {"role": "assistant", "content": "The keeper."},
    {"role": "user", "content": "And the gulls?"},
    {"role": "assistant", "content": "They went inland."},
)


def said(text, tok):
    return tok.decode(text.tokens[text.loss_mask])


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1, max_size=20), completion=st.text(min_size=1, max_size=20))
def test_queries_are_tokenised_as_one_text(prompt, completion):
    tok = tokenizer(bos=True)
    encoded = encode_query(Query(prompt=prompt, completion=completion), tok, 500)
    assert encoded.text.tokens.tolist() == tok(prompt + completion)["input_ids"]
    assert "".join(encoded.text.pieces) == "<|start|>" + prompt + completion
    assert encoded.text.loss_mask[-1]
    assert not encoded.text.loss_mask[0]
    assert len(encoded.text.pieces) == len(encoded.text.tokens)


def test_the_completion_and_its_span_carry_loss():
    tok = tokenizer()
    plain = encode_query(Query(prompt="Ask the", completion=" keeper of the lighthouse"), tok, 64)
    assert said(plain.text, tok) == " keeper of the lighthouse"
    assert plain.contrast is None
    for span in ("keeper", (1, 7)):
        narrowed = encode_query(Query(prompt="Ask the", completion=" keeper of the keeper", span=span), tok, 64)
        assert said(narrowed.text, tok) == " keeper"
        assert narrowed.text.loss_mask.nonzero()[0].max() < len(narrowed.text.tokens) - 2


def test_contrast_shares_the_prompt_and_counts_whole():
    tok = tokenizer()
    encoded = encode_query(Query(prompt="Ask the", completion=" keeper now", contrast=" gulls", span="keeper"), tok, 64)
    assert said(encoded.text, tok) == " keeper"
    assert tok.decode(encoded.contrast.tokens) == "Ask the gulls"
    assert said(encoded.contrast, tok) == " gulls"


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, UNSTABLE_TEMPLATE])
def test_the_last_turn_of_a_conversation(template):
    tok = tokenizer(template)
    encoded = encode_query(Query(messages=TALK, contrast="They sleep.", span="inland"), tok, 200)
    assert encoded.text.tokens.tolist() == tok.apply_chat_template(list(TALK))["input_ids"]
    assert said(encoded.text, tok) == " inland"
    assert said(encoded.contrast, tok).endswith("They sleep.<|end|>")
    whole = encode_query(Query(messages=TALK), tok, 200)
    assert said(whole.text, tok).endswith("They went inland.<|end|>")
    assert "keeper" not in said(whole.text, tok)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": "x", "completion": ""}, "empty"),
        ({"prompt": "x", "completion": "y", "contrast": ""}, "contrast is empty"),
        ({"completion": "y"}, "predicted"),
        ({"prompt": "x", "completion": "y" * 100}, "101 tokens together, the context is 64"),
        ({"prompt": "x", "completion": "yes", "span": "no"}, "'no' is not in the completion"),
        ({"prompt": "x", "completion": "yes", "span": ""}, "not in the completion"),
        ({"prompt": "x", "completion": "yes", "span": (2, 9)}, "not in the completion"),
        ({"prompt": "x", "completion": "yes", "span": (2, 2)}, "not in the completion"),
        ({"prompt": "x", "completion": "\ud800"}, "surrogate"),
        ({"messages": TALK[:1]}, "ends with the assistant"),
        ({"messages": ()}, "turns"),
        ({"messages": ({"role": "user"}, {"role": "assistant", "content": ""})}, "empty|rendered"),
        ({"messages": ({"x": 1},)}, "role"),
    ],
)
def test_queries_that_cannot_be_asked(fields, says):
    with pytest.raises(QueryError, match=says) as caught:
        encode_query(Query(id="mine", **fields), tokenizer(PLAIN_TEMPLATE), 64)
    assert "'mine'" in str(caught.value)


def test_messages_without_a_template():
    with pytest.raises(QueryError, match="no chat template"):
        encode_query(Query(messages=TALK), tokenizer(), 64)


def test_tokenizers_without_offsets():
    encoded = encode_query(Query(prompt="ab", completion="cde", span="d"), SlowTokenizer(), 64)
    assert said(encoded.text, SlowTokenizer()) == "d"
    assert "".join(encoded.text.pieces) == "abcde"


def test_ids():
    queries = [Query(prompt="x", completion="y"), Query(prompt="x", completion="y", id="mine")]
    assert [encoded.id for encoded in encode_queries(queries, tokenizer(), 64)] == ["q1", "mine"]
    with pytest.raises(QueryError, match="several queries are called 'q1'"):
        encode_queries([queries[0], Query(prompt="x", completion="y", id="q1")], tokenizer(), 64)
    with pytest.raises(QueryError, match="no query"):
        encode_queries([], tokenizer(), 64)


def test_queries_from_files(tmp_path):
    rows = [
        {"prompt": "a", "completion": "b", "span": [0, 1], "metadata": {"k": [1]}},
        {"messages": list(TALK), "id": 7, "contrast": None},
    ]
    lines = load_queries(str(write_jsonl(tmp_path / "q.jsonl", rows)))
    (tmp_path / "q.json").write_text(json.dumps(rows, indent=1))
    assert load_queries(str(tmp_path / "q.json")) == lines
    assert [query.id for query in lines] == ["q1", "7"]
    assert lines[0].span == (0, 1)
    assert lines[0].metadata == {"k": [1]}
    (tmp_path / "q.csv").write_text("prompt,completion,contrast,topic\na,b,,birds\nc,d,e,\n")
    table = load_queries(str(tmp_path / "q.csv"))
    assert [(query.completion, query.contrast, dict(query.metadata)) for query in table] == [
        ("b", None, {"topic": "birds"}),
        ("d", "e", {}),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"prompt": "x"}', r"line 1: give either.*\n.*fields: 'prompt'"),
        ('{"prompt": "x", "completion": "y"}\n{"complition": "y"}', "line 2: 'complition' is not a field"),
        ('{"completion": "y", "messages": []}', "line 1: give either"),
        ('{"prompt": 3, "completion": "y"}', "line 1: 'prompt'"),
        ("nonsense", "line 1: bad-json"),
        ("[1]", "cannot be read|not-an-object"),
        ("", "empty-file"),
        ('{"completion": "y", "id": "a"}\n{"completion": "y", "id": "a"}', "several queries are called 'a'"),
    ],
)
def test_query_files_that_cannot_be_used(tmp_path, text, says):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(QueryError, match=says):
        load_queries(str(tmp_path / "q.jsonl"))


def test_a_query_file_that_is_not_there(tmp_path):
    with pytest.raises(QueryError, match="no such file"):
        load_queries(str(tmp_path / "q.jsonl"))

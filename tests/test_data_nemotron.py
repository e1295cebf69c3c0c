"""Post-training rows: which turns carry loss, what reaches the template, what becomes tags; JSON lines and Parquet."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from test_data_support import MARKED_TEMPLATE, PLAIN_TEMPLATE, config, documents, tokenizer, write_jsonl
from whence.data import ingest, open_corpus

# Thinks aloud in the last turn alone, as reasoning models' templates do, and writes calls as Hermes does.
THINKING = (
    "{% if tools %}<|start|>system\nTools: {{ tools | map(attribute='function.name') | join(',') }}<|end|>\n{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.reasoning_content and (loop.last or keep) %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}</call>{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
KEEPING = THINKING.replace("(loop.last or keep)", "true")
CALL = {"id": "1", "type": "function", "function": {"name": "find_ship", "arguments": '{"name": "Aurora"}'}}
TALK = [
    {"role": "system", "content": None},
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "", "reasoning_content": "I should look.", "tool_calls": [CALL]},
    {"role": "tool", "content": "in the harbour"},
    {"role": "assistant", "content": "In the harbour.", "reasoning_content": "The tool says so."},
]
TOOLS = [{"type": "function", "function": {"name": "find_ship", "parameters": {}}}]
ABOUT = {
    "uuid": "u-1", "license": "cc-by-4.0", "generator": "a-model", "category": "chat", "reasoning": "on",
    "used_in": ["nano_v3", "ultra_v3"],
}  # fmt: skip


def read(rows, folder, template=KEEPING):
    made = tokenizer(template)
    ingest(config(write_jsonl(folder / "a.jsonl", rows), context=512), made, folder / "run")
    return open_corpus(folder / "run"), made


def target(document, made):
    """What carries loss, stretches apart."""
    out, last = [], False
    for token, loss in zip(document.tokens.tolist(), document.loss_mask.tolist(), strict=True):
        if loss and not last:
            out.append([])
        if loss:
            out[-1].append(token)
        last = loss
    return [made.decode(part) for part in out]


def whole(document, made):
    return made.decode(document.tokens.tolist())


FINAL = "<think>The tool says so.</think>In the harbour.<|end|>"
FIRST = "<think>I should look.</think><call>find_ship name=Aurora</call><|end|>"


def test_reasoning_and_tool_calls_reach_the_template(tmp_path):
    corpus, made = read([{"messages": TALK, "tools": TOOLS, **ABOUT}], tmp_path)
    document = corpus.document(0)
    assert target(document, made) == [FIRST, FINAL]
    assert whole(document, made).startswith("<|start|>system\nTools: find_ship<|end|>\n<|start|>system\n<|end|>")
    assert "None" not in whole(document, made)
    assert corpus.notes == {}
    assert document.id == "u-1"
    assert document.metadata == {
        "license": "cc-by-4.0", "generator": "a-model", "category": "chat", "reasoning": "on",
        "used_in": '["nano_v3","ultra_v3"]',
    }  # fmt: skip


def test_a_template_that_forgets_earlier_reasoning_keeps_the_row_and_says_so(tmp_path):
    corpus, made = read([{"messages": TALK}], tmp_path, THINKING)
    assert target(corpus.document(0), made) == ["<call>find_ship name=Aurora</call><|end|>", FINAL]
    assert corpus.notes == {"reasoning-dropped": 1}


def test_a_template_that_knows_neither_keeps_the_row_and_says_so(tmp_path):
    rows = [{"messages": TALK}, {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}]
    corpus, made = read(rows, tmp_path, PLAIN_TEMPLATE)
    assert target(corpus.document(0), made) == ["<|end|>", "In the harbour.<|end|>"]
    assert corpus.notes == {"reasoning-dropped": 1, "tool-calls-dropped": 1}


@pytest.mark.parametrize("template", [KEEPING, THINKING])
@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("flags", [[False] * 4 + [True], [False, True]])
def test_loss_is_on_the_trained_turns_alone(tmp_path, template, as_text, flags):
    about = {"train_turns": flags, "tools": TOOLS, "seed_dataset": "wild"}
    row = {"messages": TALK, "metadata": json.dumps(about) if as_text else about}
    corpus, made = read([row], tmp_path, template)
    assert target(corpus.document(0), made) == [FINAL]
    assert corpus.notes == {}  # what the template left out is of a turn that is not trained on
    assert corpus.document(0).metadata == {"seed_dataset": "wild"}
    assert "Tools: find_ship" in whole(corpus.document(0), made)


@pytest.mark.parametrize("flag", ["train", "trainable", "weight", "loss"])
@pytest.mark.parametrize("template", [KEEPING, PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_turns_may_be_marked_one_by_one(tmp_path, flag, template):
    talk = [
        {"role": "user", "content": "a?"}, {"role": "assistant", "content": "First.", flag: 0},
        {"role": "user", "content": "b?"}, {"role": "assistant", "content": "Second.", flag: 1.0},
        {"role": "user", "content": "c?"}, {"role": "assistant", "content": "Third.", flag: None},
    ]  # fmt: skip
    corpus, made = read([{"messages": talk}], tmp_path, template)
    assert target(corpus.document(0), made) == ["Second.<|end|>", "Third.<|end|>"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": {"train_turns": [True]}}, "wrong-type"),
        ({"metadata": {"train_turns": 7}}, "wrong-type"),
        ({"metadata": {"train_turns": "yes"}}, "wrong-type"),
        ({"metadata": {"train_turns": [False] * 5}}, "no-target"),
        ({"train_turns": [0, 0, 0, 0, 2]}, "wrong-type"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}, "wrong-type"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no-target"),
        ({"messages": []}, "wrong-type"),
        ({"messages": "[{"}, "wrong-type"),
        ({"messages": {"role": "user"}}, "wrong-type"),
        ({"messages": [{"content": "x"}]}, "wrong-type"),
        ({"messages": [None]}, "wrong-type"),
    ],
)
def test_rows_that_cannot_be_used_are_listed(tmp_path, change, reason):
    good = {"messages": TALK}
    corpus, _ = read([good, {**good, **change}], tmp_path)
    assert (corpus.documents, corpus.skipped) == (1, {reason: 1})


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": "{broken"}, {"metadata": [1]}, {"metadata": None}, {"tools": "none"}, {"tools": []},
        {"messages": [*TALK[:2], {**TALK[2], "tool_calls": []}, *TALK[3:]]},
        {"messages": [*TALK[:2], {**TALK[2], "content": None, "tool_calls": json.dumps([CALL])}, *TALK[3:]]},
        {"messages": json.dumps(TALK)},
    ],
)  # fmt: skip
def test_odd_but_usable_rows(tmp_path, change):
    corpus, made = read([{"messages": TALK, **change}], tmp_path)
    assert corpus.documents == 1
    assert target(corpus.document(0), made)[-1] == FINAL


def test_arguments_that_are_no_object_are_given_as_stored(tmp_path):
    """A template that wants text gets text: the object is tried first."""
    template = KEEPING.replace("{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}",
                               "{{ ' ' + c.function.arguments }}")  # fmt: skip
    corpus, made = read([{"messages": TALK}], tmp_path, template)
    assert '<call>find_ship {"name": "Aurora"}</call>' in whole(corpus.document(0), made)


def test_withheld_prompts_are_counted(tmp_path):
    corpus, _ = read([{"messages": [TALK[0], {"role": "user", "content": None}, TALK[4]]}], tmp_path)
    assert corpus.notes == {"no-prompt": 1}


def test_parquet_says_what_json_lines_say(tmp_path):
    """A table gives every turn every key."""
    rows = [
        {"messages": TALK, **ABOUT, "metadata": json.dumps({"train_turns": [False] * 4 + [True], "q": 1})},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], **ABOUT,
         "uuid": "u-2", "metadata": "{}"},
    ]  # fmt: skip
    apart = [tmp_path / "lines", tmp_path / "table", tmp_path / "both"]
    made = tokenizer(KEEPING)
    write_jsonl(apart[0] / "a.jsonl", rows)
    for folder in apart[1:]:
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    write_jsonl(apart[2] / "b.jsonl.zst", rows)
    found = []
    for folder in apart:
        ingest(config(folder, context=512), made, folder / "run")
        found.append(documents(open_corpus(folder / "run")))
    assert len(found[2]) == 4
    for lines, table in zip(found[0] * 2, [*found[1], *found[2][:2]], strict=True):
        assert (lines.id, dict(lines.metadata)) == (table.id, dict(table.metadata))
        assert lines.tokens.tolist() == table.tokens.tolist()
        assert lines.loss_mask.tolist() == table.loss_mask.tolist()
    assert target(found[1][0], made) == [FINAL]


def test_several_formats_in_one_folder(tmp_path):
    write_jsonl(tmp_path / "d/chat/a.jsonl", [{"messages": TALK, "uuid": "c"}])
    write_jsonl(tmp_path / "d/text/documents/b.gz", [{"text": "The harbour.", "id": "t"}])
    (tmp_path / "d/x.csv").write_text("id,text\ncsv,Rain fell.\n")
    pq.write_table(pa.table({"id": ["p"], "text": ["Gulls went inland."]}), tmp_path / "d/p.parquet")
    write_jsonl(tmp_path / "d/ids.ndjson", [{"id": "i", "input_ids": [5, 6, 7]}])
    ingest(config(tmp_path / "d", context=512), tokenizer(KEEPING), tmp_path / "run")
    corpus = open_corpus(tmp_path / "run")
    assert {document.id for document in documents(corpus)} == {"c", "t", "csv", "p", "i"}
    assert not corpus.skipped

"""A hit leads back: the named row of the named file, cut at the named characters, reads as the shown tokens."""

import csv
import gzip
import json

import numpy as np
import pytest

import whence
from conftest import causal_lm
from test_data_support import SENTENCES, config, documents, tokenizer, write_jsonl
from token_files import EOS, write_memmap
from whence.data import characters_of, ingest, open_corpus

TOK = tokenizer()
TEXTS = [
    " ".join(SENTENCES[n % 4] for n in range(start, start + 1 + start % 3)) + f" Number {start}." for start in range(9)
]
QUERY = whence.Query(prompt="The harbour was", completion=" built before the town had a name.")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    causal_lm("llama", vocab_size=400).float().save_pretrained(folder)
    TOK.save_pretrained(folder)
    return str(folder)


def traced(tmp_path, model, data, **corpus):
    run = whence.Attributor(
        tmp_path / "run", model=model, data=[str(data)], settings={"corpus": {"context": 24, **corpus}}
    )
    result = run.trace([QUERY], k=9)
    return run, result


def hits(result):
    trace = result.traces[0]
    return [*trace.proponents, *trace.opponents]


def as_jsonl(folder):
    path = write_jsonl(folder / "d" / "a.jsonl.gz", [{"text": text} for text in TEXTS])
    return path, lambda: [json.loads(line)["text"] for line in gzip.open(path, "rt", encoding="utf-8")]


def as_csv(folder):
    path = folder / "d" / "a.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerows([["text", "other"], *([text, "x"] for text in TEXTS)])
    return path, lambda: TEXTS


def as_parquet(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "d" / "a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=2)
    return path, lambda: pq.read_table(path)["text"].to_pylist()


@pytest.mark.parametrize("kind", [as_jsonl, as_csv, as_parquet])
@pytest.mark.parametrize("packing", ["documents", "concat"])
def test_the_file_and_the_row_and_the_characters(tmp_path, model, kind, packing):
    path, rows = kind(tmp_path)
    run, result = traced(tmp_path, model, path, packing=packing)
    texts = rows()
    found = hits(result)
    assert len(found) >= len(TEXTS)
    for hit in found:
        place = hit.provenance
        assert place.file == str(path)
        assert place.fields == ("text",)
        assert place.checked == "hash"
        own = [token for token in hit.tokens if not token.context]
        start, stop = place.window.characters
        assert place.row == run.corpus.document(hit.document).row
        spelled = "".join(token.text for token in own)
        assert "\ufffd" in spelled or spelled.strip() == texts[place.row][start:stop].strip()
        assert len(own) == place.window.tokens[1] - place.window.tokens[0]
        first, last = place.peak.characters
        assert start <= first < last <= stop


def test_every_token_reads_as_its_characters(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    settings = config(path)
    ingest(settings, TOK, tmp_path / "run")
    for number, document in enumerate(documents(open_corpus(tmp_path / "run"))):
        found = characters_of(document, TOK, settings)
        for start in range(0, len(document.tokens), 3):
            low, high = found.range(start, start + 3)
            spelled = TOK.decode(document.tokens[start : start + 3])
            if "\ufffd" not in spelled:  # a character may be several tokens
                assert spelled.strip() == TEXTS[number][low:high].strip()
        assert found.range(0, len(document.tokens)) == (0, len(TEXTS[number]))


def test_prompts_and_completions_are_counted_one_behind_the_other(tmp_path, model):
    rows = [{"prompt": text[:20], "completion": text[20:]} for text in TEXTS]
    path = write_jsonl(tmp_path / "d" / "a.jsonl", rows)
    _, result = traced(tmp_path, model, path)
    for hit in hits(result):
        place = hit.provenance
        assert place.fields == ("prompt", "completion")
        start, stop = place.window.characters
        spelled = "".join(token.text for token in hit.tokens)
        assert "\ufffd" in spelled or spelled.strip() == TEXTS[place.row][start:stop].strip()


def token_file(tmp_path, source):
    ids = [[*TOK(text)["input_ids"], EOS] for text in TEXTS]
    return write_memmap(tmp_path / "tokens" / "part.npy", ids, source=source), ids


def test_a_token_file_leads_through_its_sidecar_to_the_text(tmp_path, model):
    original = write_jsonl(tmp_path / "documents" / "a.jsonl.gz", [{"text": text} for text in TEXTS])
    path, ids = token_file(tmp_path, str(original))
    stream = np.concatenate(ids)
    _, result = traced(tmp_path, model, path, token_dtype="uint16")
    for hit in hits(result):
        place = hit.provenance
        assert (place.file, place.checked) == (str(original), "row")
        with gzip.open(place.file, "rt", encoding="utf-8") as lines:
            text = json.loads(list(lines)[place.row])["text"]
        assert text == TEXTS[hit.row]
        start, stop = place.window.characters
        low, high = place.window.file_tokens
        spelled = TOK.decode([token for token in stream[low:high] if token != EOS])
        assert "\ufffd" in spelled or spelled.strip() == text[start:stop].strip()


def test_a_row_that_is_gone_or_has_changed_gives_no_wrong_place(tmp_path, model):
    path, _ = token_file(tmp_path, str(tmp_path / "gone.jsonl"))
    _, result = traced(tmp_path / "one", model, path, token_dtype="uint16")
    assert {hit.provenance.checked for hit in hits(result)} == {"tokenizer"}
    write_jsonl(tmp_path / "gone.jsonl", [{"text": "another text altogether"}] * len(TEXTS))
    _, result = traced(tmp_path / "two", model, path, token_dtype="uint16")
    for hit in hits(result):
        assert hit.provenance.checked is None
        assert hit.provenance.window.characters is None
        assert hit.provenance.window.tokens[1] > hit.provenance.window.tokens[0]


def test_the_page_and_the_terminal_say_where(tmp_path, model, capsys):
    from command_line import launch

    path = write_jsonl(tmp_path / "d" / "a.jsonl", [{"text": text} for text in TEXTS])
    given = ("--model", model, "--data", path, "--prompt", QUERY.prompt, "--completion", QUERY.completion)
    assert launch("trace", "--run", tmp_path / "run", *given, "--out", tmp_path / "out", "--context", 24) == 0
    told = capsys.readouterr().out.replace("\n", "")
    trace = json.loads((tmp_path / "out" / "result.json").read_text())["traces"][0]
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    first = trace["proponents"][0]
    row, (start, stop) = first["provenance"]["row"], first["provenance"]["window"]["characters"]
    assert f"a.jsonl:{row}[{start}:{stop}]" in told
    assert f"row {row}" in page
    assert f"characters {start}–{stop} of text" in page

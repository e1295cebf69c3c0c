"""Token files become documents with the very same tokens, and damage is told by name."""

import gzip
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test_data_support import config, documents, tokenizer, write_jsonl
from token_files import EOS, sidecar_text, write_megatron, write_memmap
from whence.data import find_files, ingest, open_corpus
from whence.errors import CorpusError

TOK = tokenizer()
DOCUMENTS = [[5, 6, 7, EOS], [8, 9, EOS], [10, 11, 12, 13, 14, EOS], [15, 16, EOS]]

ended = st.lists(st.integers(1, 399), min_size=2, max_size=40).map(lambda ids: [*ids, EOS])
many = st.lists(ended, min_size=1, max_size=12)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(data, out, **changes):
    ingest(config(data, **changes), TOK, out)
    return open_corpus(out)


def tokens(corpus):
    return [document.tokens.tolist() for document in documents(corpus)]


def fresh(tmp_path):
    return tmp_path / str(len(list(tmp_path.iterdir())))


# ------------------------------------------------------------------ round trips


@quick
@given(made=many, dtype=st.sampled_from(["uint16", "uint32"]), sidecar=st.booleans())
def test_a_memmap_gives_its_documents_back(tmp_path, made, dtype, sidecar):
    place = fresh(tmp_path)
    write_memmap(place / "part-0.npy", made, dtype, sidecar)
    corpus = read(place / "part-0.npy", place / "run", token_dtype=dtype, share_tokens=50)
    assert tokens(corpus) == made
    assert not corpus.skipped
    assert corpus.notes == ({} if sidecar else {"no-sidecar": len(made)})
    at = 0
    for number, document in enumerate(documents(corpus)):
        assert (document.origin.start, document.origin.stop) == (at, at + len(made[number]))
        at = document.origin.stop
        if sidecar:
            assert (document.id, document.origin.file, document.origin.row) == (
                f"doc-{number}", "/somewhere/a.jsonl.gz", number,
            )  # fmt: skip


@quick
@given(
    made=st.lists(st.lists(ended, min_size=1, max_size=3), min_size=1, max_size=8),
    dtype=st.sampled_from(["uint16", "int32", "int64", "int16"]),
)
def test_a_megatron_dataset_gives_its_documents_back(tmp_path, made, dtype):
    place = fresh(tmp_path)
    write_megatron(place / "text_document.bin", made, dtype)
    corpus = read(place, place / "run")
    assert tokens(corpus) == [[token for part in document for token in part] for document in made]
    assert not corpus.skipped


@pytest.mark.parametrize("rows", [False, True])
def test_arrays_that_numpy_saved(tmp_path, rows):
    array = np.array([[5, 6, 7, EOS], [8, 9, 10, EOS]], dtype=np.int32)
    np.save(tmp_path / "a.npy", array if rows else array.reshape(-1))
    assert tokens(read(tmp_path / "a.npy", tmp_path / "run")) == array.tolist()


def test_tokens_of_no_document_are_listed(tmp_path):
    path = write_memmap(tmp_path / "a.npy", DOCUMENTS)
    lines = sidecar_text(DOCUMENTS).splitlines()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress("\n".join([lines[0], *lines[2:]]).encode()))
    corpus = read(path, tmp_path / "run")
    assert tokens(corpus) == [DOCUMENTS[0], *DOCUMENTS[2:]]
    assert corpus.skipped == {"no-document": 1}
    assert [skip.detail for skip in corpus.skips()] == ["tokens 4 to 7 of the file"]


def test_a_label_mask_says_what_is_trained_on(tmp_path):
    write_memmap(tmp_path / "d/token_ids_part_0.npy", DOCUMENTS, sidecar=False)
    mask = np.zeros(sum(map(len, DOCUMENTS)), dtype=bool)
    mask[[2, 5, 9, 10, 15]] = True
    mask.tofile(tmp_path / "d/labels_mask_part_0.npy")
    corpus = read(tmp_path / "d", tmp_path / "run")
    assert np.concatenate([document.loss_mask for document in documents(corpus)]).tolist() == mask.tolist()
    np.zeros(3, dtype=bool).tofile(tmp_path / "d/labels_mask_part_0.npy")
    with pytest.raises(CorpusError, match=r"labels_mask_part_0\.npy does not go with .* 3 entries for 16 tokens"):
        read(tmp_path / "d", tmp_path / "run2")


def test_a_run_beside_the_data_is_not_read_as_data(tmp_path):
    write_memmap(tmp_path / "a.npy", DOCUMENTS)
    (tmp_path / "whence-run/corpus/f00000-s00000").mkdir(parents=True)
    (tmp_path / "whence-run/run.json").write_text("{}")
    np.save(tmp_path / "whence-run/corpus/f00000-s00000/tokens.npy", np.arange(9, dtype=np.uint32))
    assert [file.name for file in find_files([str(tmp_path)]).files] == ["a.npy"]


def test_formats_side_by_side(tmp_path):
    write_memmap(tmp_path / "d/a.npy", DOCUMENTS)
    write_megatron(tmp_path / "d/b.bin", [[each] for each in DOCUMENTS[:2]])
    write_jsonl(tmp_path / "d/c.jsonl.gz", [{"text": "The harbour was built before the town."}])
    (tmp_path / "d/model.bin").write_bytes(b"weights, and no index beside them")
    assert read(tmp_path / "d", tmp_path / "run").documents == len(DOCUMENTS) + 3


def test_one_document_and_none(tmp_path):
    assert tokens(read(write_memmap(tmp_path / "one.npy", DOCUMENTS[:1]), tmp_path / "one")) == DOCUMENTS[:1]
    write_memmap(tmp_path / "none/a.npy", [], sidecar=False)
    with pytest.raises(CorpusError, match="no usable row"):
        read(tmp_path / "none", tmp_path / "nothing")


def test_a_document_of_a_million_tokens(tmp_path):
    long = np.random.default_rng(0).integers(1, 400, 2**20)
    corpus = read(write_memmap(tmp_path / "a.npy", [long, *DOCUMENTS]), tmp_path / "run", context=2048)
    assert corpus.documents == 5
    np.testing.assert_array_equal(corpus.document(0).tokens, long)
    assert tokens(corpus)[1:] == DOCUMENTS


# ------------------------------------------------------------------ damage


def refused(data, tmp_path, says, **changes):
    with pytest.raises(CorpusError, match=says):
        read(data, tmp_path / "refused", **changes)


def test_the_wrong_type_is_told_and_what_to_type(tmp_path):
    wide = write_memmap(tmp_path / "wide.npy", DOCUMENTS * 4, "uint32", sidecar=False)
    refused(wide, tmp_path, "0 after every token: its tokens are uint32.*--token-dtype uint32")
    narrow = write_memmap(tmp_path / "narrow.npy", DOCUMENTS * 4, "uint16", sidecar=False)
    refused(narrow, tmp_path, "vocabulary has 400 tokens.*--token-dtype uint16", token_dtype="uint32")
    other = write_memmap(tmp_path / "other.npy", [[5, 6, 9000, EOS]], sidecar=False)
    refused(other, tmp_path, "holds token 9000.*made for another model")


def test_odd_bytes_are_told(tmp_path):
    path = write_memmap(tmp_path / "a.npy", DOCUMENTS, sidecar=False)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, tmp_path, r"a\.npy.*31 bytes")


SIDECARS = {
    "cut off": (lambda data: data[:-9], "damaged or cut off"),
    "no gzip after all": (lambda data: b"\x1f\x8b\x08 and then nothing of the kind", "damaged or cut off"),
    "overlapping": (lambda data: gzip.compress(b"0,4,a,f,1\n3,7,b,f,2\n"), "line 2 begins at token 3, before the end"),
    "longer than the tokens": (lambda data: gzip.compress(b"0,4\n4,99\n"), "ends at token 99, and there are 16"),
    "half of it": (lambda data: gzip.compress(b"0,4\n4,8\n"), "the middle of the file"),
    "empty": (lambda data: gzip.compress(b""), "names no document"),
    "words": (lambda data: gzip.compress(b"once,upon\n"), "line 1 is no entry of a sidecar"),
    "other columns": (lambda data: gzip.compress(b"0,4,a\n"), "3 columns, expected"),
    "not text": (lambda data: gzip.compress(b"0,4,\xff,f,1\n"), "damaged or cut off"),
    "of other tokens": (
        lambda data: gzip.compress(b"0,3,a,f,1\n3,6,b,f,2\n6,11,c,f,3\n11,14,d,f,4\n14,15,e,f,5\n"),
        "does not go with its sidecar: none of the first 4",
    ),
}


@pytest.mark.parametrize("kind", SIDECARS)
def test_a_sidecar_that_does_not_match(tmp_path, kind):
    damage, says = SIDECARS[kind]
    path = write_memmap(tmp_path / "a.npy", DOCUMENTS)
    beside = tmp_path / "a.csv.gz"
    beside.write_bytes(damage(beside.read_bytes()))
    refused(path, tmp_path, rf"(?s)a\.csv\.gz.*{says}|{says}")
    beside.unlink()
    assert tokens(read(path, tmp_path / "without")) == DOCUMENTS, "as the message says: without it, cut at the ends"


INDICES = {
    "cut off": (lambda data: data[:-8], "is cut off"),
    "cut off in its header": (lambda data: data[:12], "cut off within its header"),
    "longer": (lambda data: data + b"\0" * 64, "longer than it says"),
    "something else": (lambda data: b"PK\x03\x04" + data, "begins with"),
    "a later version": (lambda data: data[:9] + b"\x02" + data[10:], "version 2, and only 1"),
    "of numbers with points": (lambda data: data[:17] + b"\x07" + data[18:], "float32.*not whole numbers"),
}


@pytest.mark.parametrize("kind", INDICES)
def test_a_damaged_index(tmp_path, kind):
    damage, says = INDICES[kind]
    path = write_megatron(tmp_path / "a.bin", [[each] for each in DOCUMENTS])
    index = tmp_path / "a.idx"
    index.write_bytes(damage(index.read_bytes()))
    refused(path, tmp_path, rf"a\.idx is no usable index of a Megatron dataset: .*{says}")


def test_tokens_that_are_cut_off_behind_their_index(tmp_path):
    path = write_megatron(tmp_path / "a.bin", [[each] for each in DOCUMENTS])
    path.write_bytes(path.read_bytes()[:-6])
    refused(path, tmp_path, "cut off, or .* is not its index")


def test_a_bin_without_its_index(tmp_path):
    path = write_megatron(tmp_path / "a.bin", [[each] for each in DOCUMENTS])
    path.with_suffix(".idx").unlink()
    refused(path, tmp_path, r"a\.bin")


def test_compressed_tokens_are_refused_with_the_reason(tmp_path):
    path = write_memmap(tmp_path / "a.npy", DOCUMENTS, sidecar=False)
    (tmp_path / "a.npy.gz").write_bytes(gzip.compress(path.read_bytes()))
    refused(tmp_path / "a.npy.gz", tmp_path, "decompressed")


def test_a_mask_alone_is_no_corpus(tmp_path):
    np.zeros(16, dtype=bool).tofile(tmp_path / "labels_mask_part_0.npy")
    refused(tmp_path / "labels_mask_part_0.npy", tmp_path, "label mask")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = write_memmap(tmp_path / "a.npy", DOCUMENTS)
    path.chmod(0)
    refused(path, tmp_path, r"a\.npy")


def test_a_gzip_of_text_that_was_cut_off(tmp_path):
    rows = "".join(json.dumps({"text": f"{n} The harbour was built, number {n}."}) + "\n" for n in range(400))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(rows.encode())[:-20])
    refused(path, tmp_path, r"a\.jsonl\.gz: the compressed file is damaged or cut off")

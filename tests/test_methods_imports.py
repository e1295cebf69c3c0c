"""Scores of other tools, from files written here as those tools write them."""

import json
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save_file

from whence.errors import InputError
from whence.fidelity.imports import fingerprint, read_scores
from whence.fidelity.methods import MethodSpec

Q, N = 3, 5
WINDOWS = np.array([0, 0, 1, 2, 3, 3, 3, 4])
SCORES = np.random.default_rng(0).normal(size=(Q, N)).astype(np.float32)
BY_WINDOW = np.random.default_rng(1).normal(size=(Q, len(WINDOWS))).astype(np.float32)


def read(path, shape=(Q, N), windows=WINDOWS, n=10, **settings):
    return read_scores(MethodSpec(scores=str(path), **settings), shape, windows, n)


def write_bergson(folder, scores, dtype="float32", offsets=None, written=True):
    """info.json and scores.bin: rows of interleaved (score, written) pairs, aligned."""
    folder.mkdir(parents=True, exist_ok=True)
    count, rows = len(scores), scores.shape[1]
    wide = {"float32": 8, "float16": 4, "bfloat16": 4, "float64": 16}[dtype]
    flag = wide // 2
    names = [f"{kind}_{i}" for i in range(count) for kind in ("score", "written")]
    spec = {
        "names": names,
        "formats": [dtype, "bool"] * count,
        "offsets": [wide * i + part for i in range(count) for part in (0, flag)],
        "itemsize": -(-wide * count // 8) * 8,
    }
    stored = {**spec, "formats": ["<u2" if each == "bfloat16" else each for each in spec["formats"]]}
    table = np.zeros(rows, dtype=np.dtype(stored))
    for i, row in enumerate(scores):
        bits = (row.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        table[f"score_{i}"] = bits if dtype == "bfloat16" else row
        table[f"written_{i}"] = written
    table.tofile(folder / "scores.bin")
    info = {"num_rows": rows, "num_scores": count, "dtype": spec, "attribute_tokens": offsets is not None}
    (folder / "info.json").write_text(json.dumps({**info, "num_items": rows if offsets is None else len(offsets) - 1}))
    if offsets is not None:
        np.save(folder / "offsets.npy", offsets)
    return folder


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "safetensors"])
def test_plain_arrays(tmp_path, suffix):
    path = tmp_path / f"s.{suffix}"
    if suffix == "npy":
        np.save(path, SCORES)
    elif suffix == "npz":
        np.savez(path, anything=SCORES)
    elif suffix == "csv":
        np.savetxt(path, SCORES, delimiter=",")
    else:
        save_file({"anything": SCORES}, path)
    got = read(path)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, SCORES, rtol=1e-6)
    np.testing.assert_allclose(read(path, sign=-1, divide=True), -SCORES / 10, rtol=1e-6)


def test_one_of_several_arrays(tmp_path):
    np.savez(tmp_path / "s.npz", first=SCORES, second=2 * SCORES)
    np.testing.assert_allclose(read(tmp_path / "s.npz", array="second"), 2 * SCORES)
    with pytest.raises(InputError, match=r"first \(3, 5\), second \(3, 5\); name one with array ="):
        read(tmp_path / "s.npz")
    with pytest.raises(InputError, match="none is named 'third'"):
        read(tmp_path / "s.npz", array="third")


def test_windows_are_added_to_documents(tmp_path):
    np.save(tmp_path / "s.npy", BY_WINDOW)
    wanted = np.stack([BY_WINDOW[:, document == WINDOWS].sum(1) for document in range(N)], 1)
    np.testing.assert_allclose(read(tmp_path / "s.npy"), wanted, rtol=1e-6)


def test_kronfluence(tmp_path):
    folder = tmp_path / "scores_mine"
    folder.mkdir()
    save_file({"all_modules": SCORES}, folder / "pairwise_scores.safetensors", metadata={"damping_factor": "None"})
    for path in (folder, folder / "pairwise_scores.safetensors"):
        np.testing.assert_allclose(read(path), SCORES)
    parts = {"h.0.mlp": SCORES, "h.1.mlp": BY_WINDOW[:, :N].copy()}
    save_file(parts, folder / "pairwise_scores.safetensors")
    np.testing.assert_allclose(read(folder, sign=-1), -(SCORES + BY_WINDOW[:, :N]), rtol=1e-6)
    save_file({"all_modules": np.stack([SCORES, 2 * SCORES], -1)}, folder / "pairwise_scores.safetensors")
    np.testing.assert_allclose(read(folder), 3 * SCORES, rtol=1e-6)
    save_file({"all_modules": SCORES}, tmp_path / "renamed.safetensors")
    np.testing.assert_allclose(read(tmp_path / "renamed.safetensors", format="kronfluence"), SCORES)


def test_kronfluence_in_half_precision(tmp_path):
    import torch
    from safetensors.torch import save_file

    half = torch.from_numpy(SCORES).bfloat16()
    save_file({"all_modules": half}, tmp_path / "pairwise_scores.safetensors")
    np.testing.assert_array_equal(read(tmp_path), half.double().numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_bergson(tmp_path, dtype):
    got = read(write_bergson(tmp_path / "scores", SCORES, dtype))
    np.testing.assert_allclose(got, SCORES, rtol=1e-2 if "16" in dtype else 1e-6)
    if dtype == "float32":
        np.testing.assert_array_equal(got, SCORES)


def test_bergson_by_token(tmp_path):
    offsets = np.array([0, 2, 2, 5, 7, 8])
    got = read(write_bergson(tmp_path / "scores", BY_WINDOW, offsets=offsets))
    wanted = np.stack([BY_WINDOW[:, a:b].sum(1) for a, b in pairwise(offsets)], 1)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="there are no scores at"):
        read(tmp_path / "none.npy")
    with pytest.raises(InputError, match="there are no scores at"):
        read(tmp_path)
    np.save(tmp_path / "s.npy", SCORES.T)
    with pytest.raises(InputError, match=r"shape \(5, 3\); this run needs \(3, 5\) .*or \(3, 8\) .*looks transposed"):
        read(tmp_path / "s.npy")
    np.save(tmp_path / "flat.npy", SCORES[0])
    with pytest.raises(InputError, match=r"shape \(5,\)"):
        read(tmp_path / "flat.npy")
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="could not read"):
        read(tmp_path / "objects.npy")
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    with pytest.raises(InputError, match="not numbers"):
        read(tmp_path / "words.npy")
    (tmp_path / "damaged.npz").write_bytes(b"no")
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    (tmp_path / "s.txt").write_text("1 2")
    (tmp_path / "s.csv").write_text("query,d0\na,1\n")
    for name in ("damaged.npz", "zip.npz", "damaged.safetensors", "s.txt", "s.csv"):
        with pytest.raises(InputError, match="could not read"):
            read(tmp_path / name)


def test_unfinished_scores_are_refused(tmp_path):
    with pytest.raises(InputError, match="15 of its scores have not been written"):
        read(write_bergson(tmp_path / "a", SCORES, written=False))
    np.save(write_bergson(tmp_path / "b", SCORES) / "candidates.npy", np.arange(N))
    with pytest.raises(InputError, match="candidates only"):
        read(tmp_path / "b")
    folder = write_bergson(tmp_path / "c", SCORES)
    (folder / "scores.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="could not read"):
        read(folder)
    (folder / "info.json").write_text("{}")
    with pytest.raises(InputError, match="could not read"):
        read(folder)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "pairwise_scores_data_partition0_module_partition0.safetensors").touch()
    with pytest.raises(InputError, match="aggregate them first"):
        read(tmp_path / "d", format="kronfluence")


def test_the_content_decides(tmp_path):
    np.save(tmp_path / "s.npy", SCORES)
    before = fingerprint(tmp_path / "s.npy")
    assert before == fingerprint(tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", SCORES + 1)
    assert fingerprint(tmp_path / "s.npy") != before
    assert fingerprint(write_bergson(tmp_path / "b", SCORES)) != before
    with pytest.raises(InputError, match="no scores"):
        fingerprint(tmp_path / "none")


def test_the_lab_reads_them(tmp_path, shop):
    from whence import Attributor, Query
    from whence.fidelity.scorers import run_methods

    run = Attributor(tmp_path / "run", model=str(shop / "llama"), data=[str(shop / "corpus.jsonl")], device="cpu")
    np.save(tmp_path / "s.npy", np.arange(24.0)[None])
    query, spec = Query(completion="rain fell"), MethodSpec(name="peer", scores=str(tmp_path / "s.npy"))
    (scored,) = run_methods(run, [query], [spec], tmp_path / "lab")
    np.testing.assert_array_equal(scored.scores, np.arange(24.0)[None])
    assert (scored.summary.kind, scored.summary.cost) == ("imported", None)
    np.save(tmp_path / "s.npy", -np.arange(24.0)[None])
    (scored,) = run_methods(run, [query], [spec], tmp_path / "lab")
    assert scored.scores[0, 1] == -1.0, "the file changed"
    np.save(tmp_path / "s.npy", np.full((1, 24), np.nan))
    with pytest.raises(InputError, match="'peer' gives 24 scores that are not finite"):
        run_methods(run, [query], [spec], tmp_path / "lab")

"""Random numbers against a generator written here in plain Python; rotations, sketches, layouts and codings."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whence.projection import (
    block_size,
    code_dtype,
    decode,
    encode,
    hadamard_matrix,
    layout_sites,
    rotate_blocks,
    signs,
    srht,
    uniforms,
    words,
)

MASK = (1 << 64) - 1
P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5,
)  # fmt: skip


def _left(x, r):
    return ((x << r) | (x >> (64 - r))) & MASK


def _round(acc, lane):
    return _left((acc + lane * P2) & MASK, 31) * P1 & MASK


def xxh64(data: bytes, seed: int) -> int:
    """The published XXH64, one step a line."""
    at, h = 0, (seed + P5) & MASK
    if len(data) >= 32:
        v = [(seed + P1 + P2) & MASK, (seed + P2) & MASK, seed & MASK, (seed - P1) & MASK]
        while at + 32 <= len(data):
            v = [_round(v[k], int.from_bytes(data[at + 8 * k : at + 8 * k + 8], "little")) for k in range(4)]
            at += 32
        h = (_left(v[0], 1) + _left(v[1], 7) + _left(v[2], 12) + _left(v[3], 18)) & MASK
        for lane in v:
            h = ((h ^ _round(0, lane)) * P1 + P4) & MASK
    h = (h + len(data)) & MASK
    while at + 8 <= len(data):
        h = (_left(h ^ _round(0, int.from_bytes(data[at : at + 8], "little")), 27) * P1 + P4) & MASK
        at += 8
    if at + 4 <= len(data):
        h = (_left(h ^ (int.from_bytes(data[at : at + 4], "little") * P1 & MASK), 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        h = _left(h ^ (byte * P5 & MASK), 11) * P1 & MASK
    h = (h ^ (h >> 33)) * P2 & MASK
    h = (h ^ (h >> 29)) * P3 & MASK
    return h ^ (h >> 32)


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def word(key, i):
    return mix((key + (i + 1) * 0x9E3779B97F4A7C15) & MASK)


NAMES = ["", "site", "lm_head", "model.layers.31.mlp.down_proj/outputs", "ünïcödé 東京", "x" * 100]


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
@pytest.mark.parametrize("name", NAMES)
def test_words_signs_and_uniforms_are_those_of_the_specification(name, seed):
    key = xxh64(name.encode(), seed)
    assert words(seed, name, 0, 5).tolist() == [word(key, i) for i in range(5)]
    assert words(seed, name, 10**6, 3).tolist() == [word(key, 10**6 + i) for i in range(3)]
    assert signs(seed, name, 70).tolist() == [-1 if word(key, i) >> 63 else 1 for i in range(70)]
    rows, positions = np.array([0, 3, 2**40]), np.array([0, 7, 5])
    wanted = [(word(word(key, r), p) >> 11) * 2.0**-53 for r, p in zip(rows.tolist(), positions.tolist())]
    assert uniforms(seed, name, rows, positions).tolist() == wanted


def test_fixed_vectors_that_must_never_change():
    """An index outlives the version that made it; these are literal so that both sides cannot drift together."""
    assert xxh64(b"", 0) == 0xEF46DB3751D8E999  # published by XXH64
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # SplitMix64 seeded with 0, as in Java's and Vigna's
    assert xxh64(b"site", 0) == 0x7AA56383A054E8BA
    assert words(0, "site", 0, 2).tolist() == [0xB9DDF4B267D9BC9E, 0x1D9D2292FA469A9F]
    assert words(7, "model.layers.0.mlp.up_proj", 2, 1).tolist() == [0x0E2B7A0B082E4869]
    assert uniforms(0, "covariance", np.array([5]), np.array([3])).tolist() == [0.8837307467781629]
    assert signs(0, "site", 8).tolist() == [-1, 1, -1, -1, 1, 1, -1, -1]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), start=st.integers(0, 10**9), count=st.integers(0, 50), cut=st.integers(0, 50))
def test_streams_can_be_entered_anywhere(seed, start, count, cut):
    whole = words(seed, "s", start, count)
    cut = min(cut, count)
    parts = np.concatenate([words(seed, "s", start, cut), words(seed, "s", start + cut, count - cut)])
    assert np.array_equal(whole, parts)
    assert np.array_equal(signs(seed, "s", count)[cut:], signs(seed, "s", count - cut, cut))


def test_draws_are_uniform_and_independent():
    rows, positions = np.meshgrid(np.arange(200), np.arange(50), indexing="ij")
    u = uniforms(3, "covariance", rows, positions)
    assert u.shape == (200, 50)
    assert 0 <= u.min() < u.max() < 1
    histogram = np.histogram(u, 20, (0, 1))[0]
    assert np.abs(histogram - 500).max() < 5 * np.sqrt(500)
    centred = u - 0.5
    for a, b in [(centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])]:
        assert abs((a * b).mean() * 12) < 5 / np.sqrt(a.size)
    assert len(np.unique(u)) == u.size
    assert abs((centred * (uniforms(3, "eigenvalues", rows, positions) - 0.5)).mean() * 12) < 5 / np.sqrt(u.size)


# ------------------------------------------------------------------ rotations


def sylvester(size):
    return np.array([[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)]) / np.sqrt(size)


@pytest.mark.parametrize("size", [1, 2, 64, 128])
def test_hadamard_matrix(size):
    np.testing.assert_allclose(hadamard_matrix(size, torch.float64).numpy(), sylvester(size), atol=1e-15)
    with pytest.raises(ValueError, match="power of two"):
        hadamard_matrix(size + 2 if size > 2 else 3)


@pytest.mark.parametrize("block", [64, 128, 512, 4096])
def test_rotating_blocks_is_the_hadamard_matrix_and_orthonormal(block):
    values = torch.randn(3, 2 * block, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotated = rotate_blocks(values, block)
    if block <= 512:
        wanted = values.reshape(3, 2, block) @ torch.from_numpy(sylvester(block))
        torch.testing.assert_close(rotated, wanted.reshape(3, -1))
    torch.testing.assert_close(rotated @ rotated.T, values @ values.T)
    torch.testing.assert_close(rotate_blocks(rotated, block), values, msg="a Hadamard rotation is its own inverse")
    only = torch.zeros(1, 2 * block, dtype=torch.float64)
    only[0, 3] = 1
    assert not rotate_blocks(only, block)[0, block:].any(), "blocks do not mix"


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 10**8))
def test_block_size_pads_by_at_most_an_eighth(count):
    block = block_size(count)
    assert block in (64, 128, 256, 512, 1024, 2048, 4096)
    assert -count % block <= count / 8 or block == 64
    if block < 4096:
        assert -count % (2 * block) > count / 8, "the largest that does"


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (4, 7), (16, 16), (8, 40), (64, 33)])
def test_srht_preserves_inner_products_on_average(rows, size):
    total, seeds = torch.zeros(size, size, dtype=torch.float64), 600
    for seed in range(seeds):
        p = srht(rows, size, seed, "s").double()
        assert p.shape == (rows, size)
        total += p.T @ p
    deviation = (total / seeds - torch.eye(size)).abs().max()
    assert float(deviation) < 5 / np.sqrt(seeds * rows) + 1e-6
    p = srht(rows, size, 0, "s").double()
    torch.testing.assert_close(p.abs(), torch.full_like(p, rows**-0.5), rtol=1e-6, atol=0)


def test_srht_rows_are_distinct_and_orthogonal_and_its_limits():
    p = srht(32, 32, 0, "s").double()
    torch.testing.assert_close(p @ p.T, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-6)
    assert not torch.equal(srht(4, 8, 0, "a"), srht(4, 8, 0, "b"))
    assert not torch.equal(srht(4, 8, 0, "a"), srht(4, 8, 1, "a"))
    for rows in (0, 65):
        with pytest.raises(ValueError, match=r"1 to 64 rows; got"):
            srht(rows, 40, 0, "s")


# ------------------------------------------------------------------ layout and coding

SITES = st.lists(st.tuples(st.integers(1, 20_000), st.sampled_from([0, 1, 2])), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sites=SITES, bits=st.sampled_from([1, 8, 16]))
def test_layouts_tile_a_row_without_overlap(sites, bits):
    counts = {}
    for number, (count, shrink) in enumerate(sites):
        block = block_size(count)
        counts[f"s{number}"] = (count, block, max(block >> shrink, 64))
    layouts = layout_sites(counts, bits)
    assert [layout.name for layout in layouts] == list(counts)
    at = scale = 0
    for layout in layouts:
        assert (layout.first, layout.first_scale) == (at, scale)
        assert layout.blocks * layout.block >= layout.count > (layout.blocks - 1) * layout.block
        assert layout.stored * bits == 8 * layout.elements * code_dtype(bits).itemsize
        assert layout.bytes == layout.elements * code_dtype(bits).itemsize + 4 * layout.blocks
        at, scale = layout.last, layout.last_scale


VALUES = st.lists(
    st.one_of(st.floats(-1024, 1024, width=32), st.just(0.0), st.floats(-(2.0**-30), 2.0**-30, width=32)),
    min_size=64,
    max_size=64,
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(VALUES, min_size=1, max_size=3), bits=st.sampled_from([1, 8, 16]))
def test_coding_round_trips(rows, bits):
    values = torch.tensor(rows, dtype=torch.float32).repeat(1, 2)
    (layout,) = layout_sites({"s": (128, 64, 64)}, bits)
    codes, scales = encode(values, layout)
    assert codes.dtype == code_dtype(bits)
    assert (codes.shape, scales.shape) == ((len(rows), layout.elements), (len(rows), 2))
    assert np.isfinite(scales).all()
    back = decode(codes, scales, layout)
    blocks, restored = values.numpy().reshape(-1, 64).astype(np.float64), back.reshape(-1, 64).astype(np.float64)
    top = np.abs(blocks).max(1, keepdims=True)
    if bits == 1:
        # signs are kept, and the code's inner product with the vector itself is its squared length
        agree = (restored > 0) == (blocks > 0)
        assert agree[np.abs(restored) > 0].all()
        np.testing.assert_allclose((restored * blocks).sum(1), np.square(blocks).sum(1), rtol=1e-4, atol=1e-30)
    else:
        step = top / 127 * 0.501 if bits == 8 else top * 2.0**-11 + 1e-7 * top
        tiny = 1e-36  # below that a float32 scale has no inverse
        assert (np.abs(restored - blocks) <= step + tiny).all()
    again = encode(torch.from_numpy(back), layout)
    if bits != 16:
        np.testing.assert_array_equal(again[0][scales.repeat(layout.elements // 2, 1) > 0],
                                      codes[scales.repeat(layout.elements // 2, 1) > 0])  # fmt: skip


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_zero_and_huge_values(bits):
    (layout,) = layout_sites({"s": (64, 64, 64)}, bits)
    codes, scales = encode(torch.zeros(2, 64), layout)
    assert not decode(codes, scales, layout).any()
    huge = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * 1e12
    back = decode(*encode(huge, layout), layout)
    assert np.isfinite(back).all(), "fp16 alone would overflow at 65504"
    error = np.linalg.norm(back - huge.numpy()) / np.linalg.norm(huge.numpy())
    assert error < {1: 0.8, 8: 0.01, 16: 1e-3}[bits]


def test_bits_are_little_endian():
    (layout,) = layout_sites({"s": (64, 64, 64)}, 1)
    values = -torch.ones(1, 64)
    values[0, [0, 9]] = 1
    codes, scales = encode(values, layout)
    assert codes[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert scales.tolist() == [[1.0]]

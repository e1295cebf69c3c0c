"""Inner products of stored codes against a float64 oracle, for every kernel that runs on this machine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whence.scoring.kernels import FALLBACK, kernel_name, kernel_names, score_codes

BITS = (1, 8, 16)
KERNELS = kernel_names()


def make(rng, rows, coordinates, block, bits, queries):
    if bits == 1:
        codes = rng.integers(0, 256, (rows, coordinates // 8), dtype=np.uint8)
    elif bits == 8:
        codes = rng.integers(-128, 128, (rows, coordinates), dtype=np.int8)
    else:
        codes = rng.standard_normal((rows, coordinates)).astype(np.float16)
    scales = rng.random((rows, coordinates // block), dtype=np.float32)
    return codes, scales, rng.standard_normal((queries, coordinates), dtype=np.float32)


def values(codes, scales, block, bits):
    numbers = np.unpackbits(codes, axis=1, bitorder="little") * 2.0 - 1.0 if bits == 1 else codes.astype(np.float64)
    return numbers * np.repeat(scales.astype(np.float64), block, axis=1)


def assert_right(scores, codes, scales, queries, block, bits):
    """Errors are compared with the norms: an inner product near zero is a difference of large sums."""
    dense = values(codes, scales, block, bits)
    truth = queries.astype(np.float64) @ dense.T
    assert scores.dtype == np.float32
    assert scores.shape == truth.shape
    size = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(dense, axis=1)
    assert (np.abs(scores - truth) <= 1e-6 * size).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("rows", "coordinates", "block", "queries"),
    [
        (1, 64, 64, 1),
        (3, 64, 64, 2),
        (3, 192, 64, 7),
        (1, 1024, 1024, 17),
        (33, 4096 + 64, 64, 1),
        (40, 3 * 256, 256, 5),
        (17, 1536, 512, 3),
        (65, 8192, 2048, 6),
        (3, 131072, 65536, 1),
        (5, 36864, 4096, 2),
        (1000, 512, 128, 4),
    ],
)
def test_agrees_with_the_oracle(kernel, bits, rows, coordinates, block, queries):
    codes, scales, q = make(np.random.default_rng(rows), rows, coordinates, block, bits, queries)
    assert_right(score_codes(codes, scales, q, block, bits, kernel=kernel), codes, scales, q, block, bits)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bits", BITS)
def test_every_number_of_queries(kernel, bits):
    codes, scales, q = make(np.random.default_rng(0), 35, 1280, 256, bits, 130)
    for count in [*range(1, 71), 97, 130]:
        assert_right(
            score_codes(codes, scales, q[:count], 256, bits, kernel=kernel), codes, scales, q[:count], 256, bits
        )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 90),
    st.integers(0, 40),
    st.sampled_from([64, 128, 512, 1024]),
    st.sampled_from(BITS),
    st.integers(0, 9),
)
def test_any_shape(rows, blocks, block, bits, queries):
    codes, scales, q = make(np.random.default_rng(rows), rows, blocks * block, block, bits, queries)
    for kernel in KERNELS:
        assert_right(score_codes(codes, scales, q, block, bits, kernel=kernel), codes, scales, q, block, bits)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("queries", [1, 20])
def test_a_row_does_not_depend_on_the_rows_beside_it(kernel, bits, queries):
    codes, scales, q = make(np.random.default_rng(1), 211, 4096, 256, bits, queries)
    together = score_codes(codes, scales, q, 256, bits, kernel=kernel)
    for start, stop in ((0, 1), (5, 6), (0, 64), (17, 50), (100, 211), (210, 211)):
        alone = score_codes(codes[start:stop], scales[start:stop], q, 256, bits, kernel=kernel)
        assert (alone == together[:, start:stop]).all()
    order = np.random.default_rng(2).permutation(211)
    assert (score_codes(codes[order], scales[order], q, 256, bits, kernel=kernel) == together[:, order]).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bits", BITS)
def test_threads_change_nothing(kernel, bits):
    codes, scales, q = make(np.random.default_rng(3), 700, 2048, 512, bits, 8)
    one = score_codes(codes, scales, q, 512, bits, threads=1, kernel=kernel)
    for threads in (2, 3, 16):
        assert (score_codes(codes, scales, q, 512, bits, threads=threads, kernel=kernel) == one).all()


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != FALLBACK])
@pytest.mark.parametrize("bits", BITS)
def test_a_query_does_not_depend_on_the_queries_beside_it(kernel, bits):
    codes, scales, q = make(np.random.default_rng(4), 50, 2048, 512, bits, 37)
    together = score_codes(codes, scales, q, 512, bits, kernel=kernel)
    for start, stop in ((0, 1), (3, 9), (20, 37)):
        assert (score_codes(codes, scales, q[start:stop], 512, bits, kernel=kernel) == together[start:stop]).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bits", BITS)
def test_column_slices_of_a_read_only_memory_map(kernel, bits, tmp_path):
    rng = np.random.default_rng(5)
    codes, scales, q = make(rng, 37, 3 * 1024, 512, bits, 3)
    per = codes.shape[1] // 3
    np.save(tmp_path / "codes.npy", codes)
    np.save(tmp_path / "scales.npy", scales)
    codes = np.load(tmp_path / "codes.npy", mmap_mode="r")[::-2, per : 2 * per]
    scales = np.load(tmp_path / "scales.npy", mmap_mode="r")[::-2, 2:4]
    q = q[:, 1024:2048]
    assert_right(score_codes(codes, scales, q, 512, bits, kernel=kernel), codes, scales, q, 512, bits)


@pytest.mark.parametrize("kernel", KERNELS)
def test_unaligned_rows(kernel):
    codes, scales, q = make(np.random.default_rng(6), 7, 256, 64, 16, 2)
    raw = np.zeros((7, 513), dtype=np.uint8)
    raw[:, 1:] = codes.view(np.uint8)
    shifted = np.ndarray((7, 256), dtype=np.float16, buffer=raw.data, offset=1, strides=(513, 2))
    assert not shifted.flags.aligned
    assert_right(score_codes(shifted, scales, q, 64, 16, kernel=kernel), codes, scales, q, 64, 16)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bits", BITS)
def test_zero_scales_and_nothing(kernel, bits):
    codes, scales, q = make(np.random.default_rng(7), 70, 512, 128, bits, 3)
    assert (score_codes(codes, np.zeros_like(scales), q, 128, bits, kernel=kernel) == 0).all()
    assert score_codes(codes[:0], scales[:0], q, 128, bits, kernel=kernel).shape == (3, 0)
    assert score_codes(codes, scales, q[:0], 128, bits, kernel=kernel).shape == (0, 70)
    none = score_codes(codes[:, :0], scales[:, :0], q[:, :0], 128, bits, kernel=kernel)
    assert none.shape == (3, 70)
    assert (none == 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_half_precision_number(kernel):
    with np.errstate(all="ignore"):
        codes = np.arange(65536, dtype=np.uint16).view(np.float16)[:, None] * np.eye(1, 64, dtype=np.float16)
    codes[:, 1:] = 0
    q = np.zeros((1, 64), dtype=np.float32)
    q[0, 0] = 1
    scores = score_codes(codes, np.ones((65536, 1), np.float32), q, 64, 16, kernel=kernel)[0]
    expected = codes[:, 0].astype(np.float32)
    finite = np.isfinite(expected)
    assert (scores[finite] == expected[finite]).all()
    assert not np.isfinite(scores[~finite]).any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_that_is_not_finite_spoils_only_itself(kernel):
    codes, scales, q = make(np.random.default_rng(8), 40, 256, 64, 1, 2)
    clean = score_codes(codes, scales, q, 64, 1, kernel=kernel)
    scales[39] = np.nan
    spoilt = score_codes(codes, scales, q, 64, 1, kernel=kernel)
    assert np.isnan(spoilt[:, 39]).all()
    assert (spoilt[:, :39] == clean[:, :39]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 4}, "bits must be 1, 8 or 16, got 4"),
        ({"block": 96}, "power of two from 64 to 65536, got 96"),
        ({"block": 32}, "got 32"),
        ({"block": 131072}, "got 131072"),
        ({"block": 64.5}, "got 64.5"),
        ({"codes": np.zeros((3, 64), np.int8)}, "codes must be a matrix of uint8 for 1-bit codes, got int8"),
        ({"codes": np.zeros(64, np.uint8)}, r"got uint8 of shape \(64,\)"),
        ({"codes": np.zeros((3, 63), np.uint8)}, r"must be 64 wide, got shape \(3, 63\)"),
        ({"codes": np.zeros((2, 64), np.uint8)}, r"scales must have shape \(2, 4\)"),
        ({"scales": np.zeros((3, 4))}, "scales must be a matrix of float32 .* got float64"),
        ({"scales": np.zeros((3, 5), np.float32)}, r"scales must have shape \(3, 4\) .* got \(3, 5\)"),
        ({"queries": np.zeros((1, 500), np.float32)}, r"multiple of block = 128 coordinates, got shape \(1, 500\)"),
        ({"queries": np.zeros((1, 512), np.float16)}, "queries must be a matrix of float32 .* got float16"),
        ({"queries": np.zeros(512, np.float32)}, r"got float32 of shape \(512,\)"),
        ({"codes": np.zeros((3, 128), np.uint8)[:, ::2]}, r"row of codes must be contiguous .* strides \(128, 2\)"),
        ({"scales": np.zeros((4, 3), np.float32).T}, "row of scales must be contiguous"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"kernel": "mmx"}, "kernel must be one of .*fallback on this machine, got 'mmx'"),
    ],
)
def test_refuses_what_does_not_fit(change, words):
    good = {
        "codes": np.zeros((3, 64), np.uint8),
        "scales": np.zeros((3, 4), np.float32),
        "queries": np.zeros((1, 512), np.float32),
        "block": 128,
        "bits": 1,
    }
    score_codes(**good)
    with pytest.raises(ValueError, match=words):
        score_codes(**{**good, **change})


@pytest.mark.skipif(kernel_name() == FALLBACK, reason="the extension was not built")
class TestExtension:
    """The C side checks sizes itself: nothing the Python side forgets may read out of bounds."""

    def call(self, **change):
        from whence.scoring import _native

        good = {
            "out": np.zeros((1, 3), np.float32),
            "codes": np.zeros((3, 64), np.uint8),
            "scales": np.zeros((3, 4), np.float32),
            "queries": np.zeros((1, 512), np.float32),
            "block": 128,
            "bits": 1,
            "kernel": "portable",
        }
        _native.score(*{**good, **change}.values())

    def test_accepts(self):
        self.call()

    @pytest.mark.parametrize(
        "change",
        [
            {"out": np.zeros((1, 2), np.float32)},
            {"out": np.zeros((2, 3), np.float32)},
            {"out": np.zeros((1, 3))},
            {"codes": np.zeros((3, 63), np.uint8)},
            {"codes": np.zeros((3, 64), np.int8)},
            {"codes": np.zeros((3, 64), np.float32)},
            {"codes": np.zeros((3, 128), np.uint8)[:, ::2]},
            {"codes": np.zeros((3, 64, 1), np.uint8)},
            {"scales": np.zeros((2, 4), np.float32)},
            {"scales": np.zeros((3, 3), np.float32)},
            {"queries": np.zeros((1, 511), np.float32)},
            {"block": 32},
            {"block": 0},
            {"block": -128},
            {"block": 192},
            {"bits": 2},
            {"kernel": "none"},
        ],
    )
    def test_refuses(self, change):
        with pytest.raises(ValueError):
            self.call(**change)

    def test_refuses_to_write_to_what_is_read_only(self):
        out = np.zeros((1, 3), np.float32)
        out.flags.writeable = False
        with pytest.raises(ValueError):
            self.call(out=out)

    def test_refuses_other_objects(self):
        with pytest.raises(TypeError):
            self.call(codes=[1, 2, 3])


def test_works_without_the_extension(monkeypatch):
    monkeypatch.setattr("whence.scoring.kernels._native", None)
    assert kernel_names() == [FALLBACK]
    codes, scales, q = make(np.random.default_rng(10), 3, 512, 128, 1, 1)
    assert_right(score_codes(codes, scales, q, 128, 1), codes, scales, q, 128, 1)

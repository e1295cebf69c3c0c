"""How near the scan of codes comes to what this machine can do: memory bandwidth for one query, GEMM peak for many.

    python benchmarks/scan_kernels.py [--threads N] [--megabytes 256] [--repeats 7] [--kernels avx512,fallback]

Both ceilings are measured in the same run, between the kernels' own repeats, so that other work on the machine slows
both alike. Every figure is the best of `repeats`, with the median behind it. Rows lie an odd number of cache lines
apart, as `score_codes` advises; `--stride power` shows rows a power of two apart.
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch

from whence.scoring.kernels import FALLBACK, kernel_names, score_codes

COORDINATES = 1 << 19
BLOCK = 1024
ROWS = 512  # where there are many queries


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_codes(rng, bits, megabytes, padding):
    """Codes [M, D] of the wanted size in rows `padding` bytes longer than they need be."""
    width = COORDINATES * bits // 8
    rows = megabytes * (1 << 20) // width
    raw = rng.integers(0, 120, (rows, width + padding), dtype=np.uint8)  # below 0x7c: finite as float16
    dtype = {1: np.uint8, 8: np.int8, 16: np.float16}[bits]
    return raw.view(dtype)[:, : width // np.dtype(dtype).itemsize]


def ceilings(array, size=2048):
    flat, a, b = torch.from_numpy(array), torch.randn(size, size), torch.randn(size, size)
    return {"read": lambda: flat.sum(), "gemm": lambda: a @ b}, {"read": array.nbytes, "gemm": 2 * size**3}


def measure(works, repeats):
    times = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: (min(taken), statistics.median(taken)) for name, taken in times.items()}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--megabytes", type=int, default=256, help="of codes")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--kernels", default=f"{kernel_names()[0]},{FALLBACK}")
    parser.add_argument("--queries", default="1,8,64,256")
    parser.add_argument("--stride", choices=("odd", "power"), default="odd")
    return parser.parse_args()


def report(args, memory, rng, bits, count):
    megabytes = args.megabytes if count <= 8 else ROWS * COORDINATES * bits >> 23  # seconds, not minutes
    codes = make_codes(rng, bits, megabytes, 64 if args.stride == "odd" else 0)
    scales = rng.random((len(codes), COORDINATES // BLOCK), dtype=np.float32)
    queries = rng.standard_normal((count, COORDINATES), dtype=np.float32)
    works, sizes = ceilings(memory)
    for name in args.kernels.split(","):
        options = {"threads": args.threads, "kernel": name}
        works[name] = partial(score_codes, codes, scales, queries, BLOCK, bits, **options)
    taken = measure(works, args.repeats)
    read, gemm = (sizes[name] / taken[name][0] / 1e9 for name in ("read", "gemm"))
    for name in args.kernels.split(","):
        best, middle = taken[name]
        rate, flops = codes.nbytes / best / 1e9, 2 * count * codes.shape[0] * COORDINATES / best / 1e9
        print(
            f"{bits:>4} {count:>4} {name:>9} {rate:7.2f} ({rate * best / middle:6.2f}) {rate / read:8.2f} "
            f"{rate * 8 / bits:9.1f} {flops:7.0f} ({flops * best / middle:5.0f}) {flops / gemm:8.2f}"
            f"   [read {read:.1f} GB/s, GEMM {gemm:.0f} GFLOP/s]",
            flush=True,
        )


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    memory = np.ones(args.megabytes << 18, dtype=np.float32)
    print(f"{args.threads} threads, D = {COORDINATES}, block {BLOCK}, best of {args.repeats} (median)")
    print("bits    Q    kernel    GB/s of codes  of read  Gcoord/s         GFLOP/s  of GEMM")
    for bits in (1, 8, 16):
        for count in map(int, args.queries.split(",")):
            report(args, memory, rng, bits, count)


if __name__ == "__main__":
    main()

"""The projection room: from a whitened gradient to the bytes of a code. Decided by seed, shape and site name alone.

random.py    the specified counter-based generator
hadamard.py  random-sign Hadamard rotations and sketches
coding.py    one bit, int8, fp16, with scales
sketches.py  maps of a site's factors to few coordinates
"""

from whence.projection.coding import Bits, SiteLayout, code_dtype, decode, encode, layout_sites
from whence.projection.hadamard import LARGEST_BLOCK, SMALLEST_BLOCK, block_size, hadamard_matrix, rotate_blocks, srht
from whence.projection.random import signs, uniforms, words
from whence.projection.sketches import (
    SketchMap,
    SparseSketch,
    TensorSketch,
    TwoSided,
    rademacher,
    sides_kept,
    sparse_sketch,
    subset,
    tensor_sketch,
    two_sided,
)

__all__ = [
    "LARGEST_BLOCK",
    "SMALLEST_BLOCK",
    "Bits",
    "SiteLayout",
    "SketchMap",
    "SparseSketch",
    "TensorSketch",
    "TwoSided",
    "block_size",
    "code_dtype",
    "decode",
    "encode",
    "hadamard_matrix",
    "layout_sites",
    "rademacher",
    "rotate_blocks",
    "sides_kept",
    "signs",
    "sparse_sketch",
    "srht",
    "subset",
    "tensor_sketch",
    "two_sided",
    "uniforms",
    "words",
]

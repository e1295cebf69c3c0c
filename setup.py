"""The optional C extension; everything else about the package is in pyproject.toml."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "whence.scoring._native",
            sources=sorted(glob("src/whence/scoring/_native*.c")),
            depends=sorted(glob("src/whence/scoring/_native*.h")),
            extra_compile_args=["-O3"],
            optional=True,  # without a compiler the numpy kernels do the same work, slower
        )
    ]
)

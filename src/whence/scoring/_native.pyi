from typing import Any

from numpy.typing import NDArray

def kernels() -> list[str]: ...
def score(
    out: NDArray[Any],
    codes: NDArray[Any],
    scales: NDArray[Any],
    queries: NDArray[Any],
    block: int,
    bits: int,
    kernel: str,
    /,
) -> None: ...

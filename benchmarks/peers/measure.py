"""Measures what a piece of work costs: wall time, CPU time, peak memory, bytes on disk.

Two sides that meet in one JSON line. Outside, `run_isolated` runs a command as its own process and reports what the
kernel accounted to it. Inside, a benchmark script uses `Stages` to split its own time, and `report` to print its one
line on stdout. Standard library only; knows nothing about models, peers or whence.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class BenchmarkFailed(RuntimeError):
    """A measured command did not succeed, so there is nothing to report about it."""


def run_isolated(
    cmd: Sequence[str | os.PathLike[str]],
    *,
    threads: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = True,
) -> dict[str, Any]:
    """Runs a command to its end in a process of its own and measures it from outside.

    A small process (this file) stands between the caller and the command: the kernel books a child with the memory
    its parent had at the fork, so a command started straight from a large process would be reported as at least as
    large. What remains is a floor of about 15 MB.

    Args:
        cmd: program and arguments.
        threads: sets the thread variables of OpenMP, MKL and OpenBLAS; None leaves them.
        env: variables added to the environment.
        cwd: folder to run in.
        check: raise when the command fails.

    Returns:
        `wall_seconds`, `user_seconds`, `system_seconds`, `cpu_seconds` (user + system), all of them for the process
        and the descendants it waited for; `peak_rss_bytes`, the largest resident size of any one of those processes;
        `returncode`, negative for a signal; `result`, the last line of stdout read as JSON, or None; `stderr_tail`,
        the last 4,000 characters.

    Raises:
        BenchmarkFailed: the command failed and `check` is set; the message ends with its last output.

    >>> row = run_isolated([sys.executable, "-c", "print('{\\"n\\": 1}')"])
    >>> row["result"], row["returncode"], row["cpu_seconds"] > 0
    ({'n': 1}, 0, True)
    """
    words = [os.fspath(word) for word in cmd]
    environment = {**os.environ, **thread_environment(threads), **(env or {})}
    with tempfile.TemporaryDirectory() as folder:
        usage, out, err = (Path(folder, name) for name in ("usage.json", "out", "err"))
        launcher = [sys.executable, "-I", "-S", __file__, os.fspath(usage), *words]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            subprocess.run(launcher, stdout=stdout, stderr=stderr, env=environment, cwd=cwd, check=False)
        tail = err.read_text("utf-8", "replace")[-4000:]
        row = json.loads(usage.read_text()) if usage.exists() else {"returncode": 127}
        row |= {"result": last_json(out.read_text("utf-8", "replace")), "stderr_tail": tail}
    if check and row["returncode"] != 0:
        raise BenchmarkFailed(f"{' '.join(words)} ended with {row['returncode']}. Its last output:\n{tail}")
    return row


def thread_environment(threads: int | None) -> dict[str, str]:
    """Returns the variables that hold numerical libraries to so many threads."""
    return {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))


def last_json(text: str) -> Any:
    """Returns the last line that is not empty as JSON, or None where it is not JSON."""
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        return json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None


def launch(usage: str, words: Sequence[str]) -> None:
    """Runs one command as the only child of this small process and writes what the kernel booked to it."""
    start = time.perf_counter()
    pid = os.posix_spawnp(words[0], words, os.environ)
    _, status, booked = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    row = {
        "returncode": os.waitstatus_to_exitcode(status),
        "wall_seconds": wall,
        "user_seconds": booked.ru_utime,
        "system_seconds": booked.ru_stime,
        "cpu_seconds": booked.ru_utime + booked.ru_stime,
        "peak_rss_bytes": booked.ru_maxrss * rss_unit(),
    }
    Path(usage).write_text(json.dumps(row))


def rss_unit() -> int:
    """Returns the bytes in one unit of `ru_maxrss`, which differs between Linux and macOS."""
    return 1 if sys.platform == "darwin" else 1024


def cpu_seconds() -> float:
    """Returns user + system seconds of this process, its threads, and the children it has waited for."""
    booked = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in booked)


def peak_rss_bytes() -> int:
    """Returns the largest resident size that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # free of what ru_maxrss inherits from the parent
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * rss_unit()


def tree_bytes(folder: str | os.PathLike[str]) -> int:
    """Returns the bytes in all files under a folder, 0 where there is none."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


class Stages:
    """Seconds per named stage; a name used twice adds up.

    >>> stages = Stages()
    >>> with stages("work"):
    ...     total = sum(range(1000))
    >>> sorted(stages.rows["work"])
    ['cpu_seconds', 'peak_rss_bytes', 'wall_seconds']
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Books the block under `name`: wall, CPU, and the peak of the process until the block ended."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        yield
        row = self.rows.setdefault(name, {"wall_seconds": 0.0, "cpu_seconds": 0.0, "peak_rss_bytes": 0})
        row["wall_seconds"] += time.perf_counter() - wall
        row["cpu_seconds"] += cpu_seconds() - cpu
        row["peak_rss_bytes"] = peak_rss_bytes()

    def total(self, names: Sequence[str]) -> dict[str, float]:
        """Returns the summed wall and CPU seconds of those stages that ran."""
        ran = [self.rows[name] for name in names if name in self.rows]
        return {key: sum(row[key] for row in ran) for key in ("wall_seconds", "cpu_seconds")}


def report(row: Mapping[str, Any]) -> None:
    """Prints the one JSON line of measurements that `run_isolated` reads, with this process's peak memory."""
    print(json.dumps({**row, "peak_rss_bytes": peak_rss_bytes()}), flush=True)


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2:])

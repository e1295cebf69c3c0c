"""What every command does first: open a run, find its shares, do the work with a progress bar."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whence.cli import options as o
from whence.errors import InputError

if TYPE_CHECKING:
    from whence.attributor import Attributor, Step

__all__ = [
    "DEFAULT_RUN",
    "console_of",
    "open_run",
    "refuse_missing",
    "refuse_unusable",
    "say_size",
    "shares_of",
    "work",
]

DEFAULT_RUN = Path("whence-run")


def console_of(stderr: bool = False) -> Any:
    """A console for results, or for remarks."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def open_run(run: Path, model: str | None, data: list[str] | None, values: dict[str, Any], device: str) -> "Attributor":
    """Open or make a run, and say how much of the model is attributed."""
    from transformers.utils import logging

    from whence.attributor import Attributor

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    owner = Attributor(
        run, model=model, data=data or (), settings=o.settings(values), device=device, placement=_placement(values)
    )
    got = owner.coverage
    console_of(stderr=True).print(
        f"{owner.loaded.name}: {len(owner.sites)} sites, {got.share:.1%} of {got.parameters:,} parameters attributed "
        f"(coverage.json lists the rest)",
        style="dim",
        markup=False,
    )
    if owner.invariance is not None and owner.invariance.verdict in ("leak", "routing"):
        console_of(stderr=True).print(f"Note: {owner.invariance.words}.", style="yellow", markup=False)
    return owner


def _placement(values: dict[str, Any]) -> Any:
    """How the model is laid out, from a command's options."""
    from whence.model import Placement

    offload = values.get("offload")
    return Placement(
        device_map=values.get("device_map"),
        offload=None if offload is None else str(offload),
        parallel=values.get("parallel"),
        checkpointing=bool(values.get("checkpointing")),
    )


def shares_of(text: str | None) -> tuple[int, int]:
    """Read --shares."""
    from whence.runs import parse_shares

    try:
        return parse_shares(text)
    except ValueError as error:
        raise InputError(str(error)) from error


def work(owner: "Attributor", steps: "list[Step]", shares: str | None) -> bool:
    """Do this worker's share; whether everything is over."""
    from whence.launch import run_here, waiting

    console = console_of(stderr=True)
    left = run_here(steps, console, shares_of(shares))
    if left is None:
        return True
    done, total = waiting(left)
    console.print(
        f"This worker's share of '{left.name}' is done; {done} of {total} items are there. When the other workers have "
        f"finished theirs, run the same command again (or `whence merge --run {owner.run.path}`).",
        markup=False,
    )
    return False


def refuse_missing(given: Mapping[str, str | Path | None]) -> None:
    """Refuse files that were given and are not there, or are folders, before anything is loaded.

    Args:
        given: Option -> path as typed; URLs and globs are left to who reads them.

    Raises:
        InputError: Names the option.
    """
    from whence.data.hub import hub_id

    for option, path in given.items():
        text = str(path)
        if path is None or "://" in text or any(sign in text for sign in "*?["):
            continue
        if Path(path).is_dir():
            if not any((Path(path) / name).exists() for name in _DATASETS):
                raise InputError(f"{option} {text} is a folder; give a file: JSON lines, CSV or Parquet.")
        elif not Path(path).exists() and hub_id(text) is None:
            raise InputError(f"{option} {text}: there is no such file.")


_DATASETS = ("dataset_info.json", "state.json", "dataset_dict.json")  # of a dataset that datasets saved


def refuse_unusable(out: Path | None) -> None:
    """Refuse a result folder that is a file, or could not be made, before hours of work.

    Raises:
        InputError: See above; says which part of the path is in the way.
    """
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder, which is made if it does not exist.")
    there = next(each for each in (out.absolute(), *out.absolute().parents) if each.exists())
    if not there.is_dir():
        raise InputError(f"--out {out}: {there} is a file, so no folder can be made in it; give another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: no permission to write in {there}; give a folder you may write to.")


def _bytes(size: float) -> str:
    """A size for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def say_size(owner: "Attributor", recipe: Any) -> None:
    """Say what an index will take before it is paid for, and refuse if the disk cannot hold it."""
    import shutil

    from whence.errors import StorageError
    from whence.runs import is_done

    size = recipe.bytes_per_row(owner.sites) * owner.corpus.windows
    free = shutil.disk_usage(owner.run.path).free
    if all(is_done(owner.run.index / recipe.name / share.name) for share in owner.corpus.shares):
        return
    there = sum(file.stat().st_size for file in (owner.run.index / recipe.name).glob("*/codes.npy"))
    console_of(stderr=True).print(
        f"Index {recipe.name}: {_bytes(size)} for {owner.corpus.windows:,} windows ({_bytes(free)} free)",
        style="dim",
        markup=False,
    )
    if size - there > free:
        raise StorageError(
            f"the index would take {_bytes(size)} and {_bytes(free)} are free in {owner.run.path}. "
            "Store less with --coordinates 1024, or name a folder on a larger disk with --run."
        )

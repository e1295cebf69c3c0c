"""Run by torchrun: gradients of models that the processes share, against files of those of one process."""

import json
import sys
from pathlib import Path

import torch

from conftest import sequences
from whence.attributor.core import sites_of
from whence.data import batch_from_sequences
from whence.errors import ModelError
from whence.gradients import Runner, gradient_blocks, language_examples
from whence.launch import follow_leader
from whence.model import Placement, dismiss, load_model, parallel


def gradients(loaded):
    examples = language_examples(batch_from_sequences(sequences((9, 5, 7))), loaded)
    return gradient_blocks(Runner(loaded.model, sites_of(loaded, ())), examples)


def held(model) -> float:
    """Share of the parameters that this process has."""
    parameters = list(model.parameters())
    here = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in parameters)
    return here / sum(p.numel() for p in parameters)


def compare(folder: Path, name: str, how: str, adapter: str | None, checkpointing: bool) -> dict:
    placement = Placement(parallel=how, checkpointing=checkpointing)
    loaded = load_model(str(folder / name), adapter=adapter and str(folder / adapter), placement=placement)
    blocks, losses = gradients(loaded)
    wanted = torch.load(folder / f"{adapter or name}.pt")
    errors = {site: float((blocks[site] - wanted[site]).norm() / wanted[site].norm()) for site in blocks}
    try:
        load_model(str(folder / name), placement=placement)
        second = ""
    except ModelError as error:
        second = str(error)
    found = {"error": max(errors.values()), "missing": sorted(set(wanted) - set(blocks)), "held": held(loaded.model)}
    parallel.release()
    return {**found, "second": second, "losses": losses.tolist()}


def main() -> None:
    torch.set_num_threads(1)
    if follow_leader():
        return
    folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    results = {"/".join(map(str, case)): compare(folder, *case) for case in cases}
    (folder / "results.json").write_text(json.dumps(results))
    dismiss()


if __name__ == "__main__":
    main()

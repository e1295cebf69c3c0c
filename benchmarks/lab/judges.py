"""Judges that nobody here wrote: their numbers beside whence's, one JSON line each.

    benchmarks/peers/install.sh                                                      # once
    .venv/bin/python benchmarks/lab/setup.py llama-docs bench-out/llama-docs
    .venv/bin/python benchmarks/lab/judges.py bench-out/llama-docs bench-out/llama-docs-run

kronfluence, bergson   EK-FAC of their own, on the same model, documents, queries and damping; read from the files they
                       leave and scored by whence's lab, beside whence's own EK-FAC on the same sites
quanda                 its linear datamodelling score of all of these scores, beside whence's
curvlinops             exact and approximate curvature of a tiny classifier: influence by its matrices, beside whence's

Runs in the project's environment and starts the judges in theirs, .bench-venv; the two meet in files. The bank of
retrained models is the run's own, which ``whence evaluate`` extends. SETUP/judges/methods.toml lists the imported
scores for ``whence evaluate --pareto``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = HERE.parent / "peers"
PYTHON = ROOT / ".bench-venv" / "bin" / "python"
DAMPING = 0.1

METHODS = f"""# Scores that other tools made with SETUP's model, documents and queries; paths are relative to this file.

[[method]]
name = "kronfluence EK-FAC"
scores = "kronfluence/run/scores_scores/pairwise_scores.safetensors"
divide = true

[[method]]
name = "bergson EK-FAC"
scores = "bergson/scores"
divide = true

[[method]]
name = "whence EK-FAC"
curvature = "ekfac"
sites = ["blocks"]
damping = {DAMPING}
sample = 1.0
"""

if TYPE_CHECKING:
    import numpy as np

    from whence.fidelity.experiments import Lab


def ask(script: Path, *words: object) -> dict[str, Any]:
    """Runs a script in the judges' environment and returns the JSON object on its last line.

    Raises:
        SystemExit: There is no such environment, or the script failed; shows what it said.
    """
    if not PYTHON.exists():
        raise SystemExit(f"{PYTHON} is not there: run benchmarks/peers/install.sh first.")
    command = [str(PYTHON), str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}


def open_lab(setup: Path, run: Path, subsets: int, seeds: int) -> Lab:
    """Returns the laboratory of a set-up's run, which is made if it is not there."""
    from whence import Attributor
    from whence.attributor import run_steps
    from whence.attributor.steps import CorpusStep
    from whence.data import load_queries
    from whence.fidelity.experiments import Lab, Start
    from whence.fidelity.lab_settings import LabSettings
    from whence.model import Training

    made = run.exists()
    where = {} if made else {"model": str(setup / "model"), "data": [str(setup / "corpus.jsonl")]}
    owner = Attributor(run, **where)
    run_steps([CorpusStep(owner)])
    queries = load_queries(str(setup / "queries.jsonl"))
    training = Training.model_validate_json((setup / "training.json").read_text(encoding="utf-8"))
    scratch = json.loads((setup / "meta.json").read_text(encoding="utf-8"))["from_scratch"]
    return Lab(
        owner=owner,
        queries=queries,
        encoded=owner.encode_queries(queries),
        training=training,
        start=Start(str(setup / "start"), scratch),
        settings=LabSettings(measures=("lds",), subsets=subsets, seeds=seeds),
    )


def run_peers(lab: Lab, folder: Path) -> dict[str, str]:
    """Lets kronfluence and bergson score the set-up, each into a folder of its own; returns their versions."""
    from peer_inputs import export

    export(lab.owner, lab.encoded, folder / "inputs")
    (folder / "methods.toml").write_text(METHODS, encoding="utf-8")
    found = {}
    for name, batch in (("kronfluence", 8), ("bergson", 1)):  # bergson refuses batches longer than the model's context
        words = ("--setup", folder / "inputs", "--out", folder / name, "--damping-factor", DAMPING)
        found[name] = ask(PEERS / f"run_{name}.py", *words, "--batch-size", batch)["version"]
    return found


def compare(lab: Lab, folder: Path, versions: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yields one line per set of scores: whence's LDS of it, quanda's, and how far it agrees with whence's scores."""
    import numpy as np
    from agree import agreement

    from whence.fidelity.lds import lds
    from whence.fidelity.methods import load_methods
    from whence.fidelity.scorers import run_methods

    scored = run_methods(lab.owner, lab.queries, load_methods(folder / "methods.toml"), lab.owner.run.fidelity)
    kept, losses = lab.halves
    own = scored[-1].scores
    for each in scored:
        truth = folder / "truth.npz"
        np.savez(truth, scores=each.scores, kept=kept, losses=losses)
        estimate = lds(each.scores, kept, losses)
        yield {
            "judge": "quanda's LDS",
            "scores": each.spec.name,
            "version": versions.get(each.spec.name.split()[0], ""),
            "whence_lds": estimate.value,
            "interval": [estimate.low, estimate.high],
            "quanda_lds": ask(HERE / "judge_quanda.py", truth)["score"],
            "against_whence": agreement(each.scores, own),
        }


def curvature(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields one line per model and method: relative error of whence's influence against curvlinops' matrices."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    ask(HERE / "judge_curvlinops.py", folder / "curvlinops.npz")
    with np.load(folder / "curvlinops.npz") as found:
        for model, method in (("linear", "exact"), ("linear", "ekfac"), ("network", "kfac"), ("network", "ekfac")):
            theirs, ours = influences(found, model, method)
            yield {
                "judge": "curvlinops",
                "model": model,
                "method": method,
                "curvlinops_norm": float(np.linalg.norm(theirs)),
                "whence_norm": float(np.linalg.norm(ours)),
                "relative_error": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
            }


def influences(found: Mapping[str, np.ndarray], name: str, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns influence of every example on every example by curvlinops' matrix and by whence, both [N, N].

    The exact curvature of a linear classifier is its Gauss-Newton matrix. Damping is absolute, so that it is the same
    number on both sides.
    """
    import numpy as np
    import torch

    from whence.attributor.modules import attribute
    from whence.curvature import Damping
    from whence.model import Classification

    class OwnLabels(Classification):
        """Curvature with the data's own labels, as curvlinops was asked for."""

        def sampled_losses(self, model: Any, batch: Any, uniforms: Any) -> Any:
            return self.losses(model, batch)

    model = rebuilt(found, name)
    batch = (torch.from_numpy(found["features"]), torch.from_numpy(found["labels"]))
    gradients = np.stack([flat_gradient(model, batch[0][i : i + 1], batch[1][i : i + 1]) for i in range(len(batch[0]))])
    matrix = found[f"{name}:{'ggn' if method == 'exact' else method}"]
    damping = DAMPING * float(np.trace(matrix)) / len(matrix)
    theirs = gradients @ np.linalg.solve(matrix + damping * np.eye(len(matrix)), gradients.T) / len(gradients)
    rule = Damping(kind="absolute", value=damping)
    return theirs, attribute(model, OwnLabels(), [batch], [batch], method=method, damping=rule)


def rebuilt(found: Mapping[str, np.ndarray], name: str) -> Any:
    """Returns the model whose weights the file holds: linear layers with tanh between them."""
    import torch
    from torch import nn

    weights = {key.split(".", 1)[1]: torch.from_numpy(found[key]) for key in found if key.startswith(f"{name}.")}
    layers: list[nn.Module] = []
    for key in sorted(key for key in weights if key.endswith(".weight")):
        outputs, inputs = weights[key].shape
        layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    model.load_state_dict(weights)
    return model


def flat_gradient(model: Any, features: Any, label: Any) -> np.ndarray:
    """Returns the gradient of one example's loss over all parameters, flattened in the model's order."""
    import torch

    loss = torch.nn.functional.cross_entropy(model(features), label)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts]).numpy()


def main() -> None:
    """Prints every judge's line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setup", type=Path, help="folder that setup.py llama-docs wrote")
    parser.add_argument("run", type=Path, help="run folder; made if it is not there")
    parser.add_argument("--subsets", type=int, default=64, help="random halves of the corpus to retrain on")
    parser.add_argument("--seeds", type=int, default=2, help="models trained on each")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    sys.path.append(str(PEERS))
    folder = args.setup / "judges"
    for line in curvature(folder):
        print(json.dumps(line), flush=True)
    lab = open_lab(args.setup, args.run, args.subsets, args.seeds)
    for line in compare(lab, folder, run_peers(lab, folder)):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
